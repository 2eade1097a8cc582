"""Fashion-MNIST, and the two networks that are trained on it here: no vision transformer lies in any package.

The data are those of the Debian package dataset-fashion-mnist (MIT), fetched by apt and unpacked into build/packages,
never installed. The weights lie in build/faithfulness; where there are none, the training runs: seeded, an epoch at a
time, and taken up where it was left.
"""

from __future__ import annotations

import argparse
import gzip
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.base.places import BUILD
from benchmarks.networks import pretrained
from lrp_compiler.base.files import atomic_path

PACKAGE = "dataset-fashion-mnist"
FOLDER = BUILD / "faithfulness"
MEAN, DEVIATION = 0.2860, 0.3530
"""Of the training images' grey values in [0, 1]."""
LOW, HIGH = -MEAN / DEVIATION, (1 - MEAN) / DEVIATION
"""Black and white after `images`' scaling."""
SIZE, CLASSES = 28, 10
SEED = 0
BATCH = 128
Report = Callable[[str], None]

# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def unpacked() -> Path:
    """The folder with the package's content; apt fetches it the first time.

    Raises:
        UnavailableError: apt cannot get it.
    """
    folder = pretrained.UNPACKED / PACKAGE
    if folder.is_dir():
        return folder
    pretrained.UNPACKED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=pretrained.UNPACKED) as scratch:
        content = Path(scratch) / "content"
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise pretrained.UnavailableError(f"The package {PACKAGE} is Debian's, and there is no apt-get here.")
        done = subprocess.run(["apt-get", "download", PACKAGE], cwd=scratch, capture_output=True, text=True)
        archives = list(Path(scratch).glob("*.deb"))
        if done.returncode or not archives:
            raise pretrained.UnavailableError(
                f"The package {PACKAGE} cannot be had from Debian's registry; `apt-get update` as root, then try again."
            )
        subprocess.run(["dpkg-deb", "-x", archives[0], content], check=True)
        with suppress(OSError):  # whoever else unpacked it meanwhile put the same there
            content.rename(folder)
    return folder


def images(part: str) -> tuple[Tensor, Tensor]:
    """All of a part ("train", "t10k"): float32 `[n, 1, 28, 28]`, scaled by `MEAN` and `DEVIATION`; int64 `[n]`."""
    folder = unpacked() / "usr" / "share" / "datasets" / "fashion-mnist"
    pixels = _array(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, SIZE, SIZE)
    labels = _array(folder / f"{part}-labels-idx1-ubyte.gz", 8)
    scaled = (pixels.astype(np.float32) / 255 - MEAN) / DEVIATION
    return torch.from_numpy(scaled), torch.from_numpy(labels.astype(np.int64))


def _array(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


# ── networks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def cnn() -> nn.Module:
    """Four convolutions of which the last three are normalised, two max pools, two dense layers: 234,000 weights."""

    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(*block(16, 32), nn.MaxPool2d(2)),
        *(*block(32, 32), *block(32, 64), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 49, 64), nn.ReLU(), nn.Linear(64, CLASSES)),
    )


def vit() -> nn.Module:
    """torchvision's vision transformer: patches of 4 × 4 (49 tokens and the class token), 4 layers of 64, 4 heads."""
    from torchvision.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        image_size=SIZE, patch_size=4, num_layers=4, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=CLASSES
    )
    model.conv_proj = nn.Conv2d(1, 64, 4, stride=4)
    # torchvision starts from a head of zeros.
    nn.init.trunc_normal_(model.heads.head.weight, std=0.02)
    return model


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW, one cycle of learning rate, images mirrored at random, the first so many."""

    build: Callable[[], nn.Module]
    epochs: int
    peak: float
    decay: float = 0.05
    images: int = 60_000


RECIPES = {
    "cnn_fashion_mnist": Recipe(cnn, epochs=4, peak=3e-3),
    "vit_fashion_mnist": Recipe(vit, epochs=8, peak=2e-3),
    "cnn_fashion_mnist_quick": Recipe(cnn, epochs=1, peak=3e-3, images=30_000),
}

# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def trained(name: str, report: Report = lambda _: None, recipe: Recipe | None = None) -> nn.Module:
    """The network of a recipe with its weights, in eval mode; trained where build/faithfulness has none.

    Args:
        name: of the recipe, and of the file that the weights lie in.
        report: told how far the training is.
        recipe: one that is not among `RECIPES`.
    """
    recipe = recipe or RECIPES[name]
    path = FOLDER / f"{name}.safetensors"
    torch.manual_seed(SEED)
    model = recipe.build()
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        train(model, recipe, path.with_suffix(".training.pt"), report)
        with atomic_path(path) as temporary:
            save_file(model.state_dict(), temporary)
        path.with_suffix(".training.pt").unlink()
    model.load_state_dict(load_file(path))
    return model.eval()


def train(model: nn.Module, recipe: Recipe, checkpoint: Path, report: Report) -> None:
    """All epochs that the checkpoint has not seen."""
    x, labels = (part[: recipe.images] for part in images("train"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0, betas=(0.9, 0.98), weight_decay=recipe.decay)
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["epochs"]
    batches = len(x) // BATCH
    for epoch in range(start, recipe.epochs):
        generator = torch.Generator().manual_seed(SEED + epoch)
        order = torch.randperm(len(x), generator=generator)
        model.train()
        for batch in range(batches):
            chosen = order[batch * BATCH : (batch + 1) * BATCH]
            optimizer.param_groups[0]["lr"] = rate(epoch * batches + batch, recipe.epochs * batches, recipe.peak)
            mirrored = torch.rand(BATCH, 1, 1, 1, generator=generator) < 0.5
            rows = torch.where(mirrored, x[chosen].flip(-1), x[chosen])
            loss = functional.cross_entropy(model(rows), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if batch % 50 == 0:
                report(f"train, epoch {epoch + 1} of {recipe.epochs}, {batch} of {batches}, loss {loss.item():.3f}")
        with atomic_path(checkpoint) as temporary:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1}
            torch.save(state, temporary)
    model.eval()


def rate(step: int, steps: int, peak: float, rise: float = 0.15) -> float:
    """One cycle: up along a line, down along a cosine."""
    share = step / steps
    if share < rise:
        return peak * share / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (share - rise) / (1 - rise)))


@torch.inference_mode()
def accuracy(model: nn.Module) -> float:
    """Share of the 10,000 test images that are classified as labelled."""
    x, labels = images("t10k")
    return sum(
        int((model(rows).argmax(1) == truth).sum()) for rows, truth in zip(x.split(500), labels.split(500), strict=True)
    ) / len(x)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    for name in RECIPES:
        print(f"{name}: {accuracy(trained(name, print)):.4f}")
