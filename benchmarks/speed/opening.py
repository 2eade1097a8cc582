"""How long an explainer's ONNX file takes to open, beside the plain model's file in onnxruntime, in turn.

    python -m benchmarks.speed.opening
    python -m benchmarks.speed.opening --only resnet50 --rounds 9

Seconds of the processor on one thread, medians; all files are in the memory of the operating system. Writes
`benchmarks/results/opening.md`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnxruntime
import torch

import lrp_compiler as lrp
from benchmarks.base.reporting import console, progress, write
from benchmarks.networks.published import PUBLISHED
from lrp_compiler.runtime import OnnxExplainer

RESULT = Path(__file__).parents[1] / "results" / "opening.md"
NETWORKS = ("resnet50", "efficientnet_v2_m", "vit_b_16", "bert")
TITLES = {
    "plain": "the model's file, `InferenceSession`",
    "default": "`OnnxExplainer(path)`",
    "unchecked": "`check=False`",
    "optimised": "`optimised=True`",
    "both": "`optimised=True, check=False`",
}


def measured(name: str, rounds: int) -> tuple[dict[str, float], int, int]:
    """Contender → median seconds; MB of the explainer's file, and of what is kept of it."""
    network = PUBLISHED[name]
    model, inputs = network.build(), network.inputs(0)
    with tempfile.TemporaryDirectory() as folder:
        plain, ours = Path(folder) / "plain.onnx", Path(folder) / "m.lrp.onnx"
        program = torch.export.export(model, (), inputs)
        torch.onnx.export(program, dynamo=True, verbose=False).save(plain)
        lrp.compile(model, kwargs=inputs, composite=network.composite).to_onnx(ours)
        OnnxExplainer(ours, optimised=True).close()
        opens: dict[str, Callable[[], object]] = {
            "plain": partial(onnxruntime.InferenceSession, plain),
            "default": partial(OnnxExplainer, ours),
            "unchecked": partial(OnnxExplainer, ours, check=False),
            "optimised": partial(OnnxExplainer, ours, optimised=True),
            "both": partial(OnnxExplainer, ours, optimised=True, check=False),
        }
        seconds: dict[str, list[float]] = {contender: [] for contender in opens}
        for _ in range(rounds):
            for contender, opened in opens.items():
                start = time.process_time()
                session = opened()
                seconds[contender].append(time.process_time() - start)
                del session
        kept = sum(file.stat().st_size for file in Path(f"{ours}.optimised").rglob("*") if file.is_file())
        medians = {contender: statistics.median(each) for contender, each in seconds.items()}
        return medians, os.path.getsize(ours) >> 20, kept >> 20


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="these networks")
    parser.add_argument("--rounds", type=int, default=5, help="of each; default 5")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shown, lines = console(), []
    with progress(shown) as bar:
        task = bar.add_task("", total=len(options.only))
        for name in options.only:
            bar.update(task, description=PUBLISHED[name].title)
            row, size, kept = measured(name, options.rounds)
            cells = [f"{row[each]:.2f} ({row[each] / row['plain']:.1f} ×)" for each in TITLES]
            lines.append(f"| {PUBLISHED[name].title} | " + " | ".join(cells) + f" | {size} | {kept} |")
            bar.advance(task)
    text = (
        "# Opening a file in onnxruntime\n\n"
        f"`python -m benchmarks.speed.opening`: onnxruntime {onnxruntime.__version__}, seconds of the processor on one "
        f"thread, medians of {options.rounds} rounds in turn; in brackets multiples of the plain model's session.\n\n"
        f"| network | {' | '.join(TITLES.values())} | file, MB | kept, MB |\n|---|" + "---:|" * 7 + "\n"
    )
    text += "\n".join(lines) + "\n"
    shown.print(text, markup=False)
    if list(options.only) == list(NETWORKS):
        write(RESULT, text)


if __name__ == "__main__":
    main()
