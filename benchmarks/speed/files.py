"""The files of a case: the plain model, our explainers, inputs; written by a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.base import processes
from benchmarks.base.places import BUILD
from benchmarks.speed.cases import LEAST, Case
from benchmarks.speed.worker import WorkerError

FOLDER = BUILD / "speed"


def prepare(case: Case, folder: Path, alone: bool = False) -> dict[str, Any]:
    """Write model, explainers and inputs into `folder`; return what that took. `alone`: one explainer, nothing else."""
    import warnings

    import numpy as np
    import torch

    import lrp_compiler as lrp
    from benchmarks.speed.floor import count
    from benchmarks.speed.peers.networks import batch_of, network
    from benchmarks.speed.peers.ours import EXPLAINER, FILES
    from lrp_compiler.base.quiet import quiet
    from lrp_compiler.compiler import resolve_composite
    from lrp_compiler.export.onnx import tidy

    warnings.filterwarnings("ignore")
    for batch in case.batches:
        inputs = batch_of(network(case.network), batch)
        np.savez(folder / f"inputs.{batch}.npz", **{name: value.numpy() for name, value in inputs.items()})
    for file in FILES.values():
        (folder / file).parent.mkdir()
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[what] = round(time.perf_counter() - start, 2)

    example = batch_of(network(case.network), 2)
    shapes = {name: {0: torch.export.Dim("batch")} for name in example} if case.open_batch else None
    model = network(case.network).build()
    composite = resolve_composite(case.composite, case.options)
    phases: dict[str, float] = {}
    clock = [("", time.perf_counter())]

    def begins(phase: str) -> None:
        before, since = clock[-1]
        clock.append((phase, time.perf_counter()))
        if before:
            phases[before] = round(phases.get(before, 0.0) + clock[-1][1] - since, 2)

    with timed("compile"):
        explainer = lrp.compile(
            model, kwargs=example, composite=composite, dynamic_shapes=shapes, progress=begins if alone else None
        )
    begins("")
    with timed("onnx"):
        explainer.to_onnx(folder / FILES["explainer"])
    nodes = [len(explainer.forward.graph.nodes), len(explainer.module.graph.nodes)]
    if alone:
        return {"seconds": seconds, "phases": phases, "nodes": nodes}
    small = explainer
    if case.least:
        small = lrp.compile(model, kwargs=example, composite=composite, dynamic_shapes=shapes, memory_budget=LEAST)
    small.to_onnx(folder / FILES["small"], profile="small")
    explainer.save(folder / EXPLAINER)
    with timed("plain"), quiet(output=True):
        options: dict[str, Any] = {"dynamo": True, "opset_version": 20, "verbose": False, "dynamic_shapes": shapes}
        plain = torch.onnx.export(model, kwargs=example, optimize=case.rewritten, **options)
        if not case.rewritten:
            tidy(plain.model)
        plain.save(folder / FILES["forward"])
    counted = count(explainer.forward)
    return {
        "seconds": seconds,
        "megabytes": {name: round(size_of((folder / file).parent), 2) for name, file in FILES.items()},
        "floor": round(counted.floor, 3),
        "products": {f"{times:g}": round(share, 4) for times, share in counted.products.items()},
        "gigaflops": round(2 * counted.multiplications / 2 / 1e9, 3),  # of one row of the two
        "nodes": nodes,
    }


def size_of(folder: Path) -> float:
    """MB of a file and what lies beside it."""
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


@contextmanager
def prepared(case: Case, keep: bool = False, alone: bool = False) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The case's files while the block lasts, and what making them took."""
    folder = FOLDER / case.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    asked = [json.dumps(case.to_dict()), folder, *["alone"] * alone]
    command = processes.command("benchmarks.speed.files", *asked, quiet=True)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=processes.environment())
        if done.returncode:
            raise WorkerError(f"compiling ended with {done.returncode}")
        yield folder, json.loads(done.stdout.splitlines()[-1])
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    # The answer must be the last line, whatever libraries print.
    print(json.dumps(prepare(Case.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), "alone" in sys.argv[3:])))
