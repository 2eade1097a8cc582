"""What masks cost: nothing where none is given, and of fifty conditions in one run the backward alone.

    python -m benchmarks.speed.latent
    python -m benchmarks.speed.latent --only vgg16 --rounds 5

The published networks with random weights, `epsilon-plus`, float32, one picture, compiled without masks and with masks
of two layers. Seconds of the processor on one thread, in turn, medians. Writes `benchmarks/results/latent.md`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import lrp_compiler as lrp
from benchmarks.base.reporting import console, progress, write
from benchmarks.networks.architectures import ARCHITECTURES
from lrp_compiler.runtime import OnnxExplainer

RESULT = Path(__file__).parents[1] / "results" / "latent.md"
LAYERS = {"vgg16": ["features.28", "features.17"], "resnet50": ["layer4.0.conv2", "layer2.0.conv3"]}
CONDITIONS, MOST = 50, 1.03


@dataclass(frozen=True)
class Measured:
    """Of one network: ratios of the rounds, and whether relevance was the same.

    Args:
        equal: bit for bit, in torch and in onnxruntime.
        torch, onnxruntime: masks not given, as a multiple of the explainer without any.
        conditions: all of them in one run, as a multiple of `CONDITIONS` backwards and one forward.
    """

    equal: tuple[bool, bool]
    torch: list[float]
    onnxruntime: list[float]
    conditions: list[float]


def measured(name: str, width: int, rounds: int) -> Measured:
    """Compile it twice, and take the time in turn."""
    architecture, paths = ARCHITECTURES[name], LAYERS[name]
    model, x = architecture.build(width=width), architecture.inputs(2)
    (argument,) = x
    options: dict[str, Any] = {"composite": "epsilon-plus", "target": 1, "kwargs": x}
    options["dynamic_shapes"] = {argument: {0: torch.export.Dim("batch")}}
    plain, masked = lrp.compile(model, **options), lrp.compile(model, masks=paths, **options)
    one = x[argument][:1]
    array = one.numpy()
    channels = int(masked.about.seed_inputs[0].shape[1])
    masks = {paths[0]: (torch.rand(CONDITIONS, 1, channels, generator=torch.Generator().manual_seed(0)) < 0.5).float()}
    forward = masked.artefact.parts[0]
    lean = onnxruntime.SessionOptions()
    lean.intra_op_num_threads, lean.log_severity_level = 1, 3
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        files = [Path(folder) / f"{kind}.lrp.onnx" for kind in ("plain", "masked")]
        for explainer, path in zip((plain, masked), files, strict=True):
            explainer.to_onnx(path)
        with (
            OnnxExplainer(files[0], session_options=lean) as first,
            OnnxExplainer(files[1], session_options=lean) as second,
        ):
            equal = (
                torch.equal(plain(one).relevance[argument], masked(one).relevance[argument]),
                np.array_equal(first(array).relevance[argument], second(array).relevance[argument]),
            )
            here = [_ratio(lambda: masked(one), lambda: plain(one)) for _ in range(rounds)]
            there = [_ratio(lambda: second(array), lambda: first(array)) for _ in range(rounds)]
        many = []
        for _ in range(max(3, rounds // 6)):
            whole, start = _seconds(lambda: masked(one)), _seconds(lambda: forward(one))
            many.append(_seconds(lambda: masked(one, masks=masks)) / (CONDITIONS * (whole - start) + start))
    return Measured(equal, here, there, many)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _ratio(one: Callable[[], Any], other: Callable[[], Any]) -> float:
    return _seconds(one) / _seconds(other)


def _cell(found: list[float]) -> str:
    return f"{statistics.median(found):.3f} ({min(found):.2f} to {max(found):.2f})"


def page(found: dict[str, Measured], width: int, rounds: int) -> str:
    """The results as a page."""
    rows = [
        f"| {ARCHITECTURES[name].title} | {', '.join(f'`{path}`' for path in LAYERS[name])} | "
        f"{'yes' if all(one.equal) else f'torch {one.equal[0]}, onnxruntime {one.equal[1]}'} | {_cell(one.torch)} | "
        f"{_cell(one.onnxruntime)} | {_cell(one.conditions)} |"
        for name, one in found.items()
    ]
    head = f"| network | masks | bit for bit | not given, torch | not given, onnxruntime | {CONDITIONS} conditions |"
    return (
        "# What masks cost\n\n"
        f"`python -m benchmarks.speed.latent`: `epsilon-plus`, float32, one picture, 1/{width} of the published width, "
        f"random weights. Seconds of the processor on one thread, in turn, medians of {rounds} rounds, least and most "
        f"in brackets; {datetime.date.today()}, load {os.getloadavg()[0]:.0f} at the end. *Not given*: the explainer "
        "with masks of these layers, none given, as a multiple of the one without; at most "
        f"{MOST} is wanted. *{CONDITIONS} conditions*: in one run in torch, as a multiple of {CONDITIONS} backwards "
        "and one forward (a backward is an explanation less its forward); at most 1 is wanted. In onnxruntime several "
        "conditions run the file once for each, the forward included.\n\n"
        f"{head}\n|---|---|---|---:|---:|---:|\n" + "\n".join(rows) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--width", type=int, default=4, help="divides the published width (4)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    with progress(console()) as bar:
        task = bar.add_task("", total=len(options.only))
        for name in options.only:
            bar.update(task, description=name)
            found[name] = measured(name, options.width, options.rounds)
            bar.advance(task)
    text = page(found, options.width, options.rounds)
    if options.only == list(LAYERS):
        write(RESULT, text)
    console().print(text, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
