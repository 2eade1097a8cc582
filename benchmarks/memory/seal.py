"""What comparing a file's seal costs on loading: with and without, in turn, on a file of weights.

    python -m benchmarks.memory.seal

Writes `benchmarks/results/seal.md`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import lrp_compiler as lrp

ROUNDS = 5
WIDTH = 8192
RESULT = Path(__file__).parents[1] / "results" / "seal.md"


def seconds(path: Path, check: bool) -> float:
    """Of loading the file once."""
    start = time.perf_counter()
    lrp.load(path, check=check)
    return time.perf_counter() - start


def main() -> None:
    """Measure and write the table."""
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.lrp.pt2"
        lrp.compile(model.eval(), (torch.randn(2, WIDTH),)).save(path)
        gigabytes = path.stat().st_size / 1e9
        lrp.load(path, check=False)  # read into the page cache
        timed = [(seconds(path, True), seconds(path, False)) for _ in range(ROUNDS)]
    checked, unchecked = (statistics.median(column) for column in zip(*timed, strict=True))
    more = statistics.median(with_check - without for with_check, without in timed) / gigabytes
    text = (
        "# The seal on loading\n\n"
        f"Written by `python -m benchmarks.memory.seal`: medians of {ROUNDS} rounds, with and without in turn, the "
        "file in the page cache.\n\n"
        "| file | checked | `check=False` | more for each GB |\n|---:|---:|---:|---:|\n"
        f"| {gigabytes:.2f} GB | {checked:.2f} s | {unchecked:.2f} s | {more:.2f} s |\n"
    )
    RESULT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
