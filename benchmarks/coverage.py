"""The paper's Table 5 for this project: which nodes have a rule, and what the explainers are worth.

For every architecture of `architectures.py`, in a process of its own:

    coverage   nodes and op kinds as exported, on the relevance path, with a rule
    compile    the books, kept in float32 and in float64: what is not accounted for, as a share of Σ|R|; and how far
               the sum of relevance in float32 is from that in float64
    onnx       checker, domains, opset
    parity     onnxruntime's and torch's float32 error against the same graph in float64, on fresh inputs of other batch
               sizes and lengths: median over rows of the largest difference, as a share of the row's largest value

Times are seconds of CPU, so that a busy machine does not show in them.
Rows are kept in results/coverage.json, the table in results/coverage.md and, shorter, in the README. A failure is a row
with its reason.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import reporting

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
STAGES = ("coverage", "compile", "onnx", "parity")
BATCHES = (1, 3, 5)
"""Fresh batch sizes; the n-th goes with the n-th fresh length. The example's is 2."""
EXAMPLES = """examples:
  python benchmarks/coverage.py                              every architecture that has no complete row yet
  python benchmarks/coverage.py --models gpt2 llama          these, again
  python benchmarks/coverage.py --paper --until coverage     the fifteen of the paper, coverage alone
  python benchmarks/coverage.py --models vgg16 --width published
"""

# ── one architecture, in a process of its own ────────────────────────────────────────────────────────────────────────


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
    from architectures import ARCHITECTURES

    import lrp_compiler as lrp
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


def classes(batch: int) -> Any:
    import torch

    return (torch.arange(batch) + 2) % 5


Run = list[dict[str, Any]]
"""For each batch: `output` and `relevance.<input>`."""


def run_explainer(explainer: Any, batches: list[dict[str, Any]], run: Callable[..., Any] | None = None) -> Run:
    """`run(module, tensors)` → flat results; default: the module is called."""
    import torch

    metadata = explainer.metadata
    own = len(metadata["outputs"])
    names = [f"relevance.{entry['input']}" for entry in metadata["relevance"]]
    order = [entry["name"] for entry in metadata["inputs"]]
    results = []
    for inputs in batches:
        tensors = [*(inputs[name] for name in order), classes(batch_size(inputs))]
        with torch.no_grad():
            flat = explainer.module(*tensors) if run is None else run(explainer.module, tensors)
        results.append({"output": flat[explained_output(metadata)], **dict(zip(names, flat[own:], strict=True))})
    return results


def in_float64(module: Any, tensors: list[Any]) -> Any:
    """The same graph with the same weights, all in double precision."""
    from lrp_compiler.views.audit import Float64

    return Float64(module).run(*tensors)


def run_session(path: Path, batches: list[dict[str, Any]], threads: int) -> Run:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["lrp_compiler"])
    output = metadata["outputs"][explained_output(metadata)]["name"]
    names = [output, *(value.name for value in session.get_outputs() if value.name.startswith("relevance."))]
    taken = {value.name for value in session.get_inputs()}
    results = []
    for inputs in batches:
        given = inputs | {"target": classes(batch_size(inputs))}
        values = session.run(names, {name: given[name].numpy() for name in given if name in taken})
        results.append(dict(zip(["output", *names[1:]], map(torch.from_numpy, values), strict=True)))
    return results


def explained_output(metadata: dict[str, Any]) -> int:
    number = metadata["explained"]
    assert isinstance(number, int)
    return number


def batch_size(inputs: dict[str, Any]) -> int:
    """Images are the rows where a model takes images and texts."""
    value = inputs.get("pixel_values", next(iter(inputs.values())))
    return int(value.shape[0])


def median_error(key: str, run: Run, exact: Run) -> float:
    """Median over all rows of all batches of the largest difference, as a share of the row's largest value."""
    import torch

    errors = []
    for ours, reference in zip(run, exact, strict=True):
        assert ours[key].shape == reference[key].shape, f"{key}: {ours[key].shape} instead of {reference[key].shape}"
        value = reference[key].flatten(1) if reference[key].ndim > 1 else reference[key][:, None]
        difference = (ours[key].double().reshape(value.shape) - value).abs().amax(1)
        largest = value.abs().amax(1)
        errors.append(difference[largest > 0] / largest[largest > 0])
        assert not difference[largest == 0].any(), f"{key}: relevance where there is none"
    return float(torch.cat(errors).median())


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
    return " ".join(text.replace(f"{HERE.parent}/", "").split())


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────


def row_of(name: str, options: argparse.Namespace, report: Callable[[str], None]) -> dict[str, Any]:
    """The architecture's row, whatever becomes of its process."""
    command = [sys.executable, __file__, "--row", name, "--until", options.until, "--threads", str(options.threads)]
    command += ["--width", str(options.width)] if options.width else []
    row: dict[str, Any] = {"name": name}
    log = HERE.parent / "build" / "coverage" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    start, stage = time.perf_counter(), "start"
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        timer = threading.Timer(options.timeout, process.kill)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith('{"stage"'):
                continue
            message = json.loads(line)
            stage = message["stage"]
            row |= message["found"]
            report(f"{name}, {stage}")
        code = process.wait()
        timer.cancel()
    if code and "failure" not in row:
        late = time.perf_counter() - start >= options.timeout
        reason = f"not done after {options.timeout} s" if late else f"the process ended with {code}"
        row["failure"] = {"stage": stage, "reason": reason}
    return row


def complete(row: dict[str, Any], until: str) -> bool:
    known = ("covered", "balance_float64", "onnx", "parity")[: STAGES.index(until) + 1]
    return all(key in row for key in known) and "failure" not in row


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """Both tables, failures below."""
    from architectures import ARCHITECTURES

    parts = [
        "# Coverage",
        "Written by `python benchmarks/coverage.py`; its docstring says what the columns mean. "
        "Full depth, random weights, published width divided by *width*. "
        "Errors of onnxruntime / of torch in float32, both against float64.",
    ]
    for title, paper in (("The fifteen architectures of the paper", True), ("Relatives", False)):
        chosen = [(name, a) for name, a in ARCHITECTURES.items() if a.paper is paper and name in rows]
        lines = [f"## {title}", "", "| " + " | ".join(COLUMNS) + " |", "|---" * 3 + "|---:" * (len(COLUMNS) - 3) + "|"]
        lines += ["| " + " | ".join(cells(rows[name], a.title, a.composite)) + " |" for name, a in chosen]
        done = [rows[name] for name, _ in chosen if "covered" in rows[name]]
        have, need = (sum(row[key][0] for row in done) for key in ("covered", "on_path"))
        lines += ["", f"{have:,} of {need:,} nodes on the relevance path have a rule ({len(done)} architectures)."]
        parts.append("\n".join(lines))
    failures = [
        f"- {ARCHITECTURES[name].title}, {row['failure']['stage']}: {row['failure']['reason']}"
        for name, row in rows.items()
        if "failure" in row
    ]
    failures += [
        f"- {ARCHITECTURES[name].title}, no rule: " + ", ".join(f"{op} × {n}" for op, n in row["uncovered"].items())
        for name, row in rows.items()
        if row.get("uncovered")
    ]
    if failures:
        parts.append("\n".join(["## What failed", "", *failures]))
    return "\n\n".join(parts) + "\n"


MARKS = ("<!-- coverage: written by benchmarks/coverage.py -->", "<!-- end of coverage -->")


def with_summary(readme: str, rows: dict[str, dict[str, Any]]) -> str:
    """The README with its short table made anew."""
    before, _, rest = readme.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return "\n\n".join((before + MARKS[0], summary_table(rows), MARKS[1] + after))


def summary_table(rows: dict[str, dict[str, Any]]) -> str:
    """The paper's fifteen in a table, their relatives in a sentence."""
    from architectures import ARCHITECTURES

    titles = (
        "architecture",
        "composite",
        "width",
        "nodes",
        "with a rule",
        "balance, float32 / float64",
        "onnxruntime / torch",
        "seconds",
    )
    lines = ["| " + " | ".join(titles) + " |", "|---" * 3 + "|---:" * (len(titles) - 3) + "|"]
    relatives = []
    for name, architecture in ARCHITECTURES.items():
        row = rows.get(name, {})
        if not architecture.paper and "covered" in row:
            relatives.append((architecture.title, row))
        if not architecture.paper or "covered" not in row:
            continue
        _, composite, width, _, _, _, balance, _, _, error, *_ = cells(row, architecture.title, architecture.composite)
        seconds = f"{sum(row.get('cpu_seconds', {}).values()):.0f}"
        counted = [f"{row[key][0]:,}" for key in ("on_path", "covered")]
        lines.append(
            "| " + " | ".join((architecture.title, composite, width, *counted, balance, error, seconds)) + " |"
        )
    parts = ["\n".join(lines)]
    if relatives:
        have, need = (sum(row[key][0] for _, row in relatives) for key in ("covered", "on_path"))
        names = ", ".join(title for title, _ in relatives)
        text = f"{len(relatives)} relatives, narrower: {have:,} of {need:,} nodes have a rule: {names}."
        left = [title for title, row in relatives if "parity" not in row]
        text += f" Not run in onnxruntime yet: {', '.join(left)}." if left else " All of them ran in onnxruntime too."
        parts.append(text)
    return "\n\n".join(parts)


COLUMNS = (
    "architecture",
    "composite",
    "width",
    "nodes (kinds) exported",
    "on the path",
    "covered",
    "balance error / Σ\\|R\\|, float32 / float64",
    "float32 sum off / Σ\\|R\\|",
    "output error",
    "relevance error",
    "plain ONNX",
    "export, CPU s",
    "compile, CPU s",
    "ONNX, CPU s",
)


def cells(row: dict[str, Any], title: str, composite: str) -> list[str]:
    def counts(key: str) -> str:
        return "{:,} ({})".format(*row[key]) if key in row else "–"

    def small(key: str) -> str:
        return f"{row[key]:.0e}" if key in row else "–"

    def errors(pick: Callable[[str], bool]) -> str:
        found = [value for key, value in row.get("parity", {}).items() if pick(key)]
        pair = max(found, key=lambda value: value["onnxruntime"] / max(value["torch"], 1e-12), default=None)
        return f"{pair['onnxruntime']:.1e} / {pair['torch']:.1e}" if pair else "–"

    def seconds(key: str) -> str:
        return f"{row['cpu_seconds'][key]:.1f}" if key in row.get("cpu_seconds", {}) else "–"

    onnx = row.get("onnx")
    plain = onnx and not onnx["foreign"] and not onnx["functions"] and [domain for domain, _ in onnx["opsets"]] == [""]
    return [
        title,
        composite,
        f"1/{row['width']}" if row.get("width", 1) != 1 else "1",
        counts("exported"),
        counts("on_path"),
        counts("covered"),
        f"{small('balance')} / {small('balance_float64')}",
        small("float32_sum"),
        errors(lambda key: key == "output"),
        errors(lambda key: key != "output"),
        "–" if onnx is None else f"yes, opset {onnx['opsets'][0][1]}" if plain else "no",
        seconds("export"),
        seconds("compile"),
        seconds("onnx"),
    ]


def width_of(text: str) -> int:
    return 1 if text == "published" else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", metavar="NAME", help="these, whether or not they have a row")
    parser.add_argument("--paper", action="store_true", help="only the fifteen architectures of the paper")
    parser.add_argument("--until", choices=STAGES, default="parity", help="the last thing that is measured")
    parser.add_argument("--width", type=width_of, help="divide the published width by this; 'published' is 1")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one architecture (1800)")
    parser.add_argument("--threads", type=int, default=2, help="of torch and onnxruntime (2)")
    parser.add_argument("--list", action="store_true", help="name the architectures")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        measure(options.row, options.width, options.until, options.threads)
        return
    from architectures import ARCHITECTURES

    console = reporting.console()
    if options.list:
        for name, architecture in ARCHITECTURES.items():
            console.print(f"{name:22} {architecture.title}", highlight=False)
        return
    unknown = [name for name in options.models or () if name not in ARCHITECTURES]
    if unknown:
        parser.error(f"no architecture {unknown[0]!r}: choose from {', '.join(ARCHITECTURES)}")
    path = RESULTS / "coverage.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    wanted = options.models or [name for name in ARCHITECTURES if not complete(rows.get(name, {}), options.until)]
    wanted = [name for name in wanted if ARCHITECTURES[name].paper or not options.paper]
    with reporting.progress(console) as progress:
        task = progress.add_task("", total=len(wanted))
        for name in wanted:
            row = row_of(name, options, lambda stage: progress.update(task, description=stage))
            rows = json.loads(path.read_text()) if path.exists() else {}  # another run may have written meanwhile
            rows = {key: (rows | {name: row})[key] for key in ARCHITECTURES if key in rows or key == name}
            reporting.write_rows(path, rows)
            reporting.write(path.with_suffix(".md"), markdown(rows))
            reporting.write(README, with_summary(README.read_text(), rows))
            progress.advance(task)
            progress.console.print(summary(row), highlight=False)


def summary(row: dict[str, Any]) -> str:
    if "failure" in row:
        return f"{row['name']}: failed at {row['failure']['stage']}: {row['failure']['reason']}"
    text = f"{row['name']}: {row['covered'][0]} of {row['on_path'][0]} nodes"
    if "balance" in row:
        text += f", balance {row['balance']:.0e}, compile {row['cpu_seconds']['compile']} s"
    for key, value in row.get("parity", {}).items():
        text += f", {key} {value['onnxruntime']:.1e}/{value['torch']:.1e}"
    return text


if __name__ == "__main__":
    main()
