"""One network at one budget, in torch or in onnxruntime: bytes, seconds, errors."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.base import processes
from benchmarks.base.places import BUILD


def in_torch(name: str, budget: float, repeat: int) -> dict[str, Any]:
    """Compile, and run forward and explainer as graphs of torch."""
    import numpy
    import torch

    explainer, inputs = compiled(name, budget)
    tensors = list(inputs.values())
    run = measured(lambda: explainer.forward(*tensors), lambda: explainer.module(*tensors), repeat)
    plan = explainer.plan
    row = {"kept": plan.kept_bytes, "held": plan.held_bytes, "promised": plan.promised_bytes, "reached": plan.reached}
    row |= {"again": plan.rebuilt_share}
    with torch.no_grad():
        relevance = explainer.module(*tensors)[-1]
    numpy.save(relevance_file(name, budget), relevance.numpy())
    return {"plan": row, "torch": run, "error": error(name, budget, explainer, tensors, relevance)}


def error(name: str, budget: float, explainer: Any, tensors: list[Any], relevance: Any) -> dict[str, float]:
    import numpy

    from lrp_compiler.passes.graph import Float64

    exact_file = relevance_file(name, "exact")
    if budget == 1.0 or not exact_file.exists():
        numpy.save(exact_file, Float64(explainer.module).run(*tensors)[-1].numpy())
    found = {"float64": off(relevance.numpy(), numpy.load(exact_file))}
    if relevance_file(name, 1.0).exists():
        found["budget 1"] = off(relevance.numpy(), numpy.load(relevance_file(name, 1.0)))
    return found


def off(relevance: Any, expected: Any) -> float:
    """The largest difference, as a share of the largest relevance."""
    return float(abs(relevance - expected).max() / abs(expected).max())


def relevance_file(name: str, which: float | str) -> Path:
    folder = BUILD / "memory"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{which}.npy"


def compiled(name: str, budget: float) -> tuple[Any, dict[str, Any]]:
    import lrp_compiler as lrp
    from benchmarks.networks.published import PUBLISHED

    network = PUBLISHED[name]
    inputs = network.inputs(1)
    options: dict[str, Any] = {"composite": network.composite, "target": lrp.Target(0), "memory_budget": budget}
    return lrp.compile(network.build(), kwargs=inputs, **options), inputs


def in_onnxruntime(name: str, budget: float, repeat: int) -> dict[str, Any]:
    """Write the files in a process of their own, then run them in this one, which never imports torch."""
    import numpy
    import onnxruntime

    from lrp_compiler.runtime import lean_options

    with tempfile.TemporaryDirectory(dir=relevance_file(name, budget).parent) as folder:
        command = processes.command("benchmarks.memory.budgets", "--write", name, budget, folder, quiet=True)
        subprocess.run(command, check=True, stdout=sys.stderr, env=processes.environment())
        inputs = dict(numpy.load(Path(folder) / "inputs.npz"))
        options = lean_options()
        options.enable_cpu_mem_arena = False
        options.intra_op_num_threads = 2

        def session(kind: str) -> Any:
            path = Path(folder) / f"{kind}.onnx"
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        forward, explainer = session("forward"), session("explainer")
        found = measured(lambda: forward.run(None, inputs), lambda: explainer.run(None, inputs), repeat)
        exact = relevance_file(name, "exact")  # which the run in torch wrote
        if exact.exists():
            found["error"] = off(explainer.run(None, inputs)[-1], numpy.load(exact))
        return {"onnxruntime": found}


def write_files(name: str, budget: float, folder: Path) -> None:
    import numpy
    import torch

    from benchmarks.networks.published import PUBLISHED

    explainer, inputs = compiled(name, budget)
    numpy.savez(folder / "inputs.npz", **{name: value.numpy() for name, value in inputs.items()})
    explainer.to_onnx(folder / "explainer.onnx")
    options: dict[str, Any] = {"dynamo": True, "opset_version": 20, "verbose": False}
    torch.onnx.export(PUBLISHED[name].build(), kwargs=inputs, f=folder / "forward.onnx", **options)


def measured(forward: Callable[[], Any], explain: Callable[[], Any], repeat: int) -> dict[str, Any]:
    """Peaks above the resting process, MB, and seconds."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_grad_enabled(False)
    peaks = {}
    for key, run in (("forward", forward), ("explain", explain)):
        run()
        rest()
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        run()
        peaks[key] = (status("VmHWM") - before) / 1e3
    seconds: dict[str, list[tuple[float, float]]] = {"forward": [], "explain": []}
    for _ in range(repeat):
        for key, run in (("forward", forward), ("explain", explain)):
            start = time.perf_counter(), time.process_time()
            run()
            seconds[key].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    found: dict[str, Any] = {"peak": peaks, "load": os.getloadavg()[0]}
    for place, clock in enumerate(("seconds", "cpu")):
        found[clock] = {key: statistics.median(run[place] for run in runs) for key, runs in seconds.items()}
    return found


def rest() -> None:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def status(key: str) -> int:
    """kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])
