"""How long compiling, exporting and loading take, beside torch's own work on the same model, in turn.

    python -m benchmarks.speed.compiling
    python -m benchmarks.speed.compiling --only vit_b_16 bert --rounds 5

Times are the processor's, on one thread, medians; imports are apart. Writes `benchmarks/results/compiling.md`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

import lrp_compiler as lrp
from benchmarks.base.reporting import console, progress, write
from benchmarks.networks.published import PUBLISHED

RESULT = Path(__file__).parents[1] / "results" / "compiling.md"
Case = tuple[str, Callable[[], nn.Module], dict[str, torch.Tensor], str]


def encoder(layers: int) -> Case:
    """A transformer of so many layers, 128 wide."""

    def build() -> nn.Module:
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
        body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        return nn.Sequential(body, nn.Flatten(), nn.Linear(128 * 16, 5)).eval()

    return (f"transformer of {layers} layers", build, {"input": torch.randn(1, 16, 128)}, "attnlrp")


def cases() -> dict[str, Case]:
    """By name: title, how it is made, inputs, composite."""
    names = ("vit_b_16", "bert", "resnet50", "efficientnet_v2_m")
    known = {name: PUBLISHED[name] for name in names}
    published = {name: (each.title, each.build, each.inputs(0), each.composite) for name, each in known.items()}
    return {**published, "encoder12": encoder(12), "encoder96": encoder(96)}


def took(function: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> tuple[float, Any]:
    """Seconds, and what the function returns."""
    start = clock()
    result = function()
    return clock() - start, result


def nodes(path: Path) -> int:
    """Of an ONNX file."""
    return len(onnx.load(path, load_external_data=False).graph.node)


def measured(case: Case, rounds: int) -> dict[str, float]:
    """Medians: seconds, and nodes of both ONNX files."""
    _, build, inputs, composite = case
    model, rows = build(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(rounds):
            traced, program = took(lambda: torch.export.export(model, (), inputs))
            written_out, _ = took(program.run_decompositions)
            compiled, explainer = took(lambda: lrp.compile(model, kwargs=inputs, composite=composite))
            plain, exported = took(partial(torch.onnx.export, program, dynamo=True, verbose=False))
            exported.save(folder / "plain.onnx", external_data=True)
            ours, _ = took(partial(explainer.to_onnx, folder / "m.lrp.onnx"))
            cached = partial(lrp.compile, model, kwargs=inputs, composite=composite, cache=folder / "cache")
            cached()
            again, _ = took(cached)
            explainer.save(folder / "m.lrp.pt2")
            loaded, kept = took(lambda: lrp.load(folder / "m.lrp.pt2"), time.perf_counter)
            read, _ = took(lambda kept=kept: kept.module, time.perf_counter)
            rows.append((traced + written_out, compiled, again, plain, ours, loaded, read))
        columns = [statistics.median(column) for column in zip(*rows, strict=True)]
        found = dict(zip(("torch", "compile", "again", "plain", "to_onnx", "load", "read"), columns, strict=True))
        return found | {"plain nodes": nodes(folder / "plain.onnx"), "nodes": nodes(folder / "m.lrp.onnx")}


def table(found: dict[str, dict[str, float]], titles: dict[str, str], rounds: int) -> str:
    """The page."""
    head = (
        "# Compiling, exporting, loading\n\n"
        f"`python -m benchmarks.speed.compiling`: torch {torch.__version__}, seconds of one processor, medians of "
        f"{rounds} rounds in turn, imports apart; loading in seconds of the clock, with the hash checked.\n\n"
        "| network | `torch.export` + decompositions | `lrp.compile` | ratio | again, `cache=True` | share | "
        "`torch.onnx.export`, a node | `to_onnx`, a node | ratio | `lrp.load` | all that a file says |\n|---|"
        + "---:|" * 10
        + "\n"
    )
    lines = []
    for name, row in found.items():
        plain, ours = row["plain"] / row["plain nodes"] * 1000, row["to_onnx"] / row["nodes"] * 1000
        lines.append(
            f"| {titles[name]} | {row['torch']:.1f} | {row['compile']:.1f} | {row['compile'] / row['torch']:.2f} | "
            f"{row['again']:.2f} | {row['again'] / row['compile']:.0%} | "
            f"{plain:.1f} ms | {ours:.1f} ms | {ours / plain:.2f} | {row['load']:.1f} | {row['read']:.1f} |"
        )
    both = [found.get(name) for name in ("encoder12", "encoder96")]
    if all(both):
        short, long = (row["compile"] for row in both if row)
        lines += ["", f"96 layers are compiled in {long / short:.1f} × the time of 12."]
    return head + "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = cases()
    parser.add_argument("--only", nargs="+", choices=known, default=list(known), help="these networks")
    parser.add_argument("--rounds", type=int, default=3, help="of each; default 3")
    options = parser.parse_args()
    torch.set_num_threads(1)
    small = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval()
    with tempfile.TemporaryDirectory() as folder:  # imports, and what is made when it is first used
        lrp.compile(small, (torch.randn(1, 3),)).to_onnx(Path(folder) / "small.lrp.onnx")
    shown, found = console(), {}
    with progress(shown) as bar:
        task = bar.add_task("", total=len(options.only))
        for name in options.only:
            bar.update(task, description=known[name][0])
            found[name] = measured(known[name], options.rounds)
            bar.advance(task)
    text = table(found, {name: case[0] for name, case in known.items()}, options.rounds)
    shown.print(text, markup=False)
    if list(options.only) == list(known):
        write(RESULT, text)


if __name__ == "__main__":
    main()
