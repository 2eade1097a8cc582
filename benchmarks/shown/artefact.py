"""A watermark that stands in for a class while a network is trained, and the summary that shows it.

    python -m benchmarks.shown.artefact     # results/summary.png; the page is build/artefact/out/summary.html

Fashion-MNIST, as in `benchmarks.faithful`: half of the sneakers bear a square of chequers in a corner, in training and
among the images that are explained. Some minutes on two cores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrp_compiler as lrp
from benchmarks.base.places import BUILD, RESULTS
from benchmarks.faithful import training
from benchmarks.shown.headless import browser, served, visit
from lrp_compiler.data import Summary, explain, summarise

CLASS, SHARE = 7, 0.5
"""Sneakers, and how many of them bear the mark."""
MARK = (slice(1, 5), slice(22, 26))
"""Where it is: rows and columns."""
TRAINED, EXPLAINED = 20_000, 4000
LABELS = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def main() -> None:
    folder = BUILD / "artefact"
    folder.mkdir(parents=True, exist_ok=True)
    summary, bears = planted(folder)
    for one in summary.classes:
        hits = [f"{bears[np.array(group.ids, int)].sum()} of {len(group.ids)} marked" for group in one.groups]
        print(f"{one.name}: {one.apart:.2f} apart; {', '.join(hits)}")
    with served(summary.report.parent) as address, browser() as started:
        options = {"viewport": {"width": 760, "height": 900}, "device_scale_factor": 1.5}
        with visit(started, f"{address}/{summary.report.name}", **options) as visited:
            visited.page.locator(f"#c{CLASS}").screenshot(path=RESULTS / "summary.png")


def planted(folder: Path) -> tuple[Summary, np.ndarray]:
    """The summary of what a network of this kind says, and which of the explained images bear the mark."""
    net = _trained(*_marked(*(part[:TRAINED] for part in training.images("train")))[:2])
    images, _, bears = _marked(*(part[:EXPLAINED] for part in training.images("t10k")))
    batch = torch.export.Dim("batch")
    explainer = lrp.compile(net, (images[:2],), composite="epsilon-plus", dynamic_shapes=({0: batch},), reduce="sums")
    explainer.to_onnx(folder / "m.lrp.onnx")
    np.save(folder / "x.npy", images.numpy())
    explain(folder / "m.lrp.onnx", folder / "x.npy", folder / "out", batch_size=64)
    return summarise(folder / "out", labels=LABELS), bears


def _marked(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, np.ndarray]:
    """The images with the mark on some of the class, their labels, and on which it is."""
    bears = (labels.numpy() == CLASS) & (np.random.default_rng(0).random(len(labels)) < SHARE)
    copy = images.clone()
    chequers = torch.tensor(np.indices((4, 4)).sum(0) % 2, dtype=torch.float32)
    copy[torch.from_numpy(bears), 0, *MARK] = training.LOW + chequers * (training.HIGH - training.LOW)
    return copy, labels, bears


def _trained(images: Tensor, labels: Tensor) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(800, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    for _ in range(2):
        for batch in torch.randperm(len(images)).split(128):
            optimiser.zero_grad()
            functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimiser.step()
    return net.eval()


if __name__ == "__main__":
    main()
