"""Pixel flipping: which places of an image go at which step, and what a model says after each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.faithful.metrics import Curves

STEPS = 49
Predict = Callable[[Tensor], Tensor]
"""`[batch, channels, height, width]` → logits `[batch, classes]`."""


def blurred(x: Tensor, sigma: float) -> Tensor:
    """The images behind a Gaussian blur of `sigma` pixels, edges mirrored: what flipped places show."""
    radius = min(int(3 * sigma + 0.5), min(x.shape[-2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    rows = functional.pad(x, (radius, radius, 0, 0), mode="reflect")
    x = functional.conv2d(rows, kernel, groups=kernel.shape[0])
    columns = functional.pad(x, (0, 0, radius, radius), mode="reflect")
    return functional.conv2d(columns, kernel.transpose(2, 3), groups=kernel.shape[0])


def flip_times(relevance: Tensor, patch: int, steps: int = STEPS, seed: int = 0) -> Tensor:
    """The step (1 … `steps`) at which each place goes when the most relevant go first: int64 `[n, rows, columns]`.

    A place is a square of `patch` pixels (1: a pixel), its relevance the sum over its pixels and channels. Places are
    sorted and cut into `steps` groups of the same size (±1). Ties are broken by chance, the same for every method.
    """
    totals = functional.avg_pool2d(relevance.double().sum(1, keepdim=True), patch)[:, 0] if patch > 1 else None
    totals = relevance.double().sum(1) if totals is None else totals
    count = totals[0].numel()
    generator = np.random.default_rng(seed)
    step_of_rank = np.arange(count) * steps // count + 1
    times = np.empty((len(totals), count), np.int64)
    for row, values in zip(times, totals.flatten(1).numpy(), strict=True):
        shuffled = generator.permutation(count)
        order = shuffled[np.argsort(-values[shuffled], kind="stable")]
        row[order] = step_of_rank
    return torch.from_numpy(times).reshape(totals.shape)


def flipped(x: Tensor, replacement: Tensor, times: Tensor) -> Tensor:
    """One image `[channels, height, width]` after each step: `[steps + 1, channels, height, width]`."""
    scale = x.shape[-1] // times.shape[-1]
    times = times.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    gone = times <= torch.arange(int(times.max()) + 1).view(-1, 1, 1)
    return torch.where(gone[:, None], replacement, x)


@torch.inference_mode()
def curves(
    predict: Predict, x: Tensor, replacement: Tensor, times: Tensor, right: Tensor, rows: int = 1
) -> tuple[Curves, Curves]:
    """Probability of the class predicted for the intact image, and whether the prediction is right, at every step.

    Args:
        predict: the model.
        x: the images, `[n, channels, height, width]`.
        replacement: what flipped places show, shaped like `x`.
        times: of `flip_times`.
        right: which classes count as right, bool `[n, classes]`.
        rows: how many images go through the model at once, each with all its steps in both orders.
    """
    steps = int(times.max())
    probability, accuracy = np.empty((2, len(x), steps + 1)), np.empty((2, len(x), steps + 1))
    for at in range(0, len(x), rows):
        here = range(at, min(at + rows, len(x)))
        both = [order for i in here for order in (times[i], steps + 1 - times[i])]
        stack = [flipped(x[at + i // 2], replacement[at + i // 2], order) for i, order in enumerate(both)]
        # Both orders begin with the same image and end with the same: once is enough.
        stack = [images if i % 2 == 0 else images[1:-1] for i, images in enumerate(stack)]
        said = iter(predict(torch.cat(stack)).softmax(-1).split([len(images) for images in stack]))
        for i in here:
            morf, inner = next(said), next(said)
            lerf = torch.cat((morf[:1], inner, morf[-1:]))
            predicted = morf[0].argmax()
            for order, each in enumerate((morf, lerf)):
                probability[order, i] = each[:, predicted]
                accuracy[order, i] = right[i][each.argmax(-1)]
    return Curves(*probability), Curves(*accuracy)
