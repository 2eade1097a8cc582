"""The stages of one architecture: nodes with a rule, books, ONNX, parity; each tells what it found."""

from __future__ import annotations

import json
import re
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.base.places import ROOT
from benchmarks.sound.runs import classes, in_float64, median_error, run_explainer, run_session

STAGES = ("coverage", "compile", "onnx", "parity")
BATCHES = (1, 3, 5)
"""Fresh batch sizes; the n-th goes with the n-th fresh length. The example's is 2."""


def measure(name: str, width: int | None, until: str, threads: int) -> None:
    """Print what is found out as lines of JSON, each as soon as it is known."""
    import warnings

    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    stage = "weights"
    try:
        for stage, found in measurements(name, width, until, threads):
            print(json.dumps({"stage": stage, "found": found}), flush=True)
    except Exception as error:
        traceback.print_exc()
        reason = without_paths(f"{type(error).__name__}: {error}")[:400]
        print(json.dumps({"stage": stage, "found": {"failure": {"stage": stage, "reason": reason}}}), flush=True)


def measurements(
    name: str, width: int | None, until: str, threads: int, depth: int | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stage by stage: first an empty finding that tells its start, then what was found."""
    import lrp_compiler as lrp
    from benchmarks.networks.architectures import ARCHITECTURES
    from lrp_compiler.capture.capture import capture

    architecture = ARCHITECTURES[name]
    wanted = STAGES[: STAGES.index(until) + 1]
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        start = time.process_time()
        yield
        seconds[what] = round(time.process_time() - start, 2)

    yield "weights", {}
    model = architecture.build(width=width, depth=depth)
    yield "weights", {"width": width or architecture.width, "parameters": sum(p.numel() for p in model.parameters())}

    yield "coverage", {}
    with timed("export"):
        program = capture(model, (), architecture.inputs(2), architecture.dynamic_shapes).program
    exported = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    report = lrp.coverage(program)
    missing = Counter(node.op for node in report.uncovered)
    covered = sum(missing[op] < count for op, count in report.ops.items())
    yield (
        "coverage",
        {
            "exported": [len(exported), len(set(exported))],
            "on_path": [report.on_path, len(report.ops)],
            "covered": [report.covered, covered],
            "uncovered": dict(missing),
            "cpu_seconds": dict(seconds),
        },
    )
    if "compile" not in wanted or missing:
        return

    yield "compile", {}

    target = lrp.Target("index", position=architecture.position)
    with timed("compile"):
        explainer = lrp.compile(program, composite=architecture.composite, target=target)
    example = architecture.inputs(2, seed=5)
    exact = explainer.audit(**example, target=classes(2))
    books = explainer.audit(**example, target=classes(2), precision="model")
    explained = explainer(**example, target=classes(2))
    sums = {key: float(value.double().sum()) for key, value in explained.relevance.items()}
    off = sum(abs(sums[key] - exact.inputs[key]) for key in sums)
    worst = max(books.entries, key=lambda entry: abs(entry.error))
    yield (
        "compile",
        {
            "balance": abs(books.error) / books.magnitude,
            "balance_float64": abs(exact.error) / exact.magnitude,
            "balance_of_worst_node": abs(worst.error) / books.magnitude,
            "worst_node": f"{worst.op} {worst.module}",
            "float32_sum": off / exact.magnitude,
            "cpu_seconds": dict(seconds),
        },
    )
    if "onnx" not in wanted:
        return

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "explainer.lrp.onnx"
        yield "onnx", {}
        with timed("onnx"):
            explainer.to_onnx(path)
        yield "onnx", {"onnx": plain_onnx(path), "cpu_seconds": dict(seconds)}
        if "parity" not in wanted:
            return

        yield "parity", {}
        fresh = [architecture.inputs(batch, which, seed=20 + which) for which, batch in enumerate(BATCHES, start=1)]
        runs = {"onnxruntime": run_session(path, fresh, threads), "torch": run_explainer(explainer, fresh)}
        exact = run_explainer(explainer, fresh, in_float64)
        parity = {key: {runtime: median_error(key, run, exact) for runtime, run in runs.items()} for key in exact[0]}
        yield "parity", {"parity": parity, "cpu_seconds": dict(seconds)}


def plain_onnx(path: Path) -> dict[str, Any]:
    """What the file is made of, after the checker has passed it."""
    import onnx

    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    nodes, queue = [], [model.graph]
    while queue:
        for node in queue.pop().node:
            nodes.append(node)
            queue.extend(attribute.g for attribute in node.attribute if attribute.HasField("g"))
    return {
        "opsets": [[opset.domain, opset.version] for opset in model.opset_import],
        "foreign": sorted({f"{node.domain}::{node.op_type}" for node in nodes if node.domain}),
        "functions": len(model.functions),
        "nodes": len(nodes),
        "megabytes": round(sum(file.stat().st_size for file in path.parent.iterdir()) / 2**20, 1),
    }


def without_paths(text: str) -> str:
    """Paths from the package on, on one line."""
    text = re.sub(r"[^\s'\"(]*/(?:site-packages|lib/python[\d.]+)/", "", text)
    return " ".join(text.replace(f"{ROOT}/", "").split())
