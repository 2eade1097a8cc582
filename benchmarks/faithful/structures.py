"""Which composite is the most faithful, by a network's structure: small networks of one data set, one thing different.

Rows of convolutions on Fashion-MNIST, two to eighteen, with dense layers or a mean behind the last map, with more or
less of the map's size kept, and dense layers alone; and SqueezeNet on its photographs made small. Images, flipping and
figures are those of `run.py`. It answers whether `auto` may go by depth, by size of maps or by what lies behind them.

Rows are kept as they come in results/structures.json: what is there is not measured again. The table is part of
results/chosen.md (`python -m benchmarks.faithful.chosen`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.base.places import RESULTS
from benchmarks.faithful import flipping, images, training
from benchmarks.faithful.methods import OURS
from benchmarks.faithful.metrics import abpc, interval

PATH = RESULTS / "structures.json"
METHODS = (
    "epsilon",
    *(f"attnlrp-gamma({gammas})" for gammas in ("0.05, 0.01", "0.1, 0.01", "0.25, 0.05", "1, 0.05")),
    *("epsilon-plus", "epsilon-gamma-box(0.1)"),
)
"""Of `methods.py`."""
INPUTS = 200


def convolutional(plan: str, head: str) -> nn.Module:
    """3 × 3 convolutions, each with a batch norm and a ReLU.

    Args:
        plan: a word each: how many maps it makes, "/" behind it if its stride is 2; "P": a max pool.
        head: "dense" (two dense layers on the last map, 7 × 7) or "mean" (one on its mean).
    """
    layers: list[nn.Module] = []
    before = 1
    for word in plan.split():
        if word == "P":
            layers.append(nn.MaxPool2d(2))
            continue
        after, stride = int(word.rstrip("/")), 2 if word.endswith("/") else 1
        layers += [nn.Conv2d(before, after, 3, padding=1, stride=stride, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        before = after
    dense = (nn.Flatten(), nn.Linear(49 * before, 64), nn.ReLU(), nn.Linear(64, training.CLASSES))
    mean = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, training.CLASSES))
    return nn.Sequential(*layers, *(dense if head == "dense" else mean))


def dense() -> nn.Module:
    """Three dense layers."""
    first, second = nn.Linear(training.SIZE**2, 256), nn.Linear(256, 128)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), nn.Linear(128, training.CLASSES))


@dataclass(frozen=True)
class Network:
    """A network by its title, and how it is had with its images."""

    title: str
    load: Callable[[], images.Loaded]


def _trained(name: str, build: Callable[[], nn.Module] | None = None) -> images.Loaded:
    """Two epochs over half of the training images, but for the network of `run.py`."""
    recipe = None if build is None else training.Recipe(build, epochs=2, peak=3e-3, images=30_000)
    model = training.trained(name, recipe=recipe)
    x, labels = (part[:INPUTS] for part in training.images("t10k"))
    right = labels[:, None] == torch.arange(training.CLASSES)
    about = f"{training.accuracy(model):.1%} of all test images right"
    bounds = (training.LOW,), (training.HIGH,)
    return images.Loaded(model, x, right, *bounds, 1, training.SIZE / 8, (100, 4), about, x[:0])


def _photographs(model: str, side: int) -> images.Loaded:
    """A pretrained network on its photographs, made small."""
    loaded = images.MODELS[model].load(False)
    x = functional.interpolate(loaded.x, (side, side), mode="bilinear", antialias=True)
    return replace(loaded, x=x, sigma=side / 16, rows=(4, 1))


def _rows(name: str, title: str, plan: str, head: str) -> tuple[str, Network]:
    return name, Network(title, partial(_trained, name, partial(convolutional, plan, head)))


NETWORKS: dict[str, Network] = {
    "chain_mlp": Network("three dense layers", partial(_trained, "chain_mlp", dense)),
    **dict(
        (
            _rows("chain_2", "2 convolutions, dense layers", "16 P P 64", "dense"),
            _rows("chain_4", "4 convolutions, dense layers", "16 P 32 32 P 64", "dense"),
            _rows("chain_8", "8 convolutions, dense layers", "16 16 P 32 32 32 32 P 64 64", "dense"),
            _rows("chain_pooled8", "8 convolutions, mean of 7 × 7", "16 16 P 32 32 32 32 P 64 64", "mean"),
            _rows("chain_down8", "8 convolutions, mean of 2 × 2", "16 16/ 32 32/ 64 64/ 64 64/", "mean"),
            _rows("chain_deep18", "18 convolutions, mean of 7 × 7", f"16/ {'32 ' * 8}64/ {'64 ' * 8}", "mean"),
        )
    ),
    "cnn_fashion_mnist": Network(
        "4 convolutions, dense layers; that of `run.py`", partial(_trained, "cnn_fashion_mnist")
    ),
    "squeezenet_64": Network("SqueezeNet 1.1, photographs of 64 × 64", partial(_photographs, "squeezenet1_1", 64)),
}


def measured(network: Network) -> dict[str, Any]:
    """ABPC of every composite, with its interval, and what `auto` chooses."""
    loaded = network.load()
    subject = images.subject_of(loaded)
    about = lrp.compile(loaded.model, (loaded.x[:2],), composite="auto").about
    row: dict[str, Any] = {"title": network.title, "about": loaded.about, "inputs": len(loaded.x), "auto": about.name}
    for name in METHODS:
        times = flipping.flip_times(OURS[name].explain(subject), loaded.patch, seed=images.SEED)
        curves, _ = flipping.curves(loaded.model, loaded.x, subject.replacement, times, loaded.right, loaded.rows[1])
        gaps = abpc(curves)
        row[name] = [round(float(value), 4) for value in (gaps.mean(), *interval(gaps))]
    return row


def rows() -> dict[str, Any]:
    """What was measured so far."""
    return json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}


def main() -> None:
    """Measure what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="these networks")
    parser.add_argument("--again", action="store_true", help="measure also what has a row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = reporting.console()
    with reporting.progress(console) as bar:
        todo = [name for name in options.only if options.again or name not in rows()]
        task = bar.add_task("", total=len(todo))
        for name in todo:
            bar.update(task, description=NETWORKS[name].title)
            found = rows() | {name: measured(NETWORKS[name])}
            reporting.write_rows(PATH, {each: found[each] for each in NETWORKS if each in found})
            bar.advance(task)


if __name__ == "__main__":
    main()
