"""Perturbation curves: features are replaced in order of relevance, and the model is asked again after each step.

MoRF replaces the most relevant features first, LeRF the least relevant first. The area between the two curves (ABPC) is
large where relevance tells what the model relies on, and 0 on average where the order is by chance. Sources: Samek et
al., "Evaluating the visualization of what a deep neural network has learned", 2017; Blücher et al., "Decoupling pixel
flipping and occlusion strategy for consistent XAI benchmarks", 2024 (area between both orders).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lrp_compiler.base.errors import InputError

NEVER = -1
"""As a feature's number: elements that stay as they are (padding)."""
BLUR = 1 / 8
"""σ of the Gaussian of `baseline="blur"`, as a share of the image's shorter side."""

# ── features: which elements go together ─────────────────────────────────────────────────────────────────────────────


def feature_map(x: Tensor, features: str | int | Tensor | None) -> Tensor:
    """The number of the feature that each element of the input belongs to: int64, shaped like `x`, 0 to features − 1.

    Args:
        x: the input, `[inputs, …]`.
        features: "elements"; "tokens" (everything at one position of dim 1); "pixels" (of `[inputs, channels, height,
            width]`: all channels of one); a number k (patches of k × k pixels); or a tensor of integers that `x`'s
            shape, or that of one row, takes by broadcasting, negative where an element stays as it is. None: pixels of
            images (4 dims), tokens of integers, else elements.

    Raises:
        InputError: features that do not fit the input.
    """
    if features is None:
        features = "pixels" if x.dim() == IMAGE else "elements" if x.is_floating_point() else "tokens"
    if isinstance(features, Tensor):
        return _given(x, features)
    if features == "pixels":
        features = 1
    if isinstance(features, int) and not isinstance(features, bool):
        return _patches(x, features)
    if features == "elements":
        return torch.arange(x[0].numel()).view(x.shape[1:]).expand(x.shape)
    if features == "tokens" and x.dim() > 1:
        return torch.arange(x.shape[1]).view(-1, *[1] * (x.dim() - 2)).expand(x.shape)
    raise InputError(
        f"features={features!r} does not fit an input of shape {list(x.shape)}: choose 'elements', 'tokens', 'pixels', "
        "a patch size, or a tensor of numbers."
    )


IMAGE = 4
"""Dims of a batch of images."""


def _patches(x: Tensor, side: int) -> Tensor:
    if x.dim() != IMAGE or side < 1:
        raise InputError(
            f"Pixels and patches need an input [batch, channels, height, width] and a size of 1 or more, not "
            f"{list(x.shape)} and {side}: group its elements by a tensor of numbers in features."
        )
    rows, columns = (torch.arange(size) // side for size in x.shape[2:])
    return (rows[:, None] * (int(columns[-1]) + 1) + columns).expand(x.shape)


def _given(x: Tensor, features: Tensor) -> Tensor:
    try:
        groups = features.detach().cpu().expand(x.shape)
    except RuntimeError:
        groups = None
    if groups is None or features.is_floating_point() or features.dtype is torch.bool:
        raise InputError(
            f"The tensor of features has shape {list(features.shape)} and dtype {features.dtype}: integers are wanted "
            f"that broadcast to {list(x.shape)}."
        )
    names, numbers = torch.unique(features.detach().cpu().to(torch.int64).clamp(min=NEVER), return_inverse=True)
    if int(names[-1]) == NEVER:
        raise InputError("The tensor of features has negative numbers only: there is nothing to replace.")
    return (numbers - int(names[0] == NEVER)).expand(x.shape)


# ── baselines: what a replaced element shows ─────────────────────────────────────────────────────────────────────────


def replacement(x: Tensor, baseline: str | float | Tensor | None) -> Tensor:
    """What replaced elements show: shaped like `x`, of its dtype.

    Args:
        x: the input, `[inputs, …]`.
        baseline: a number (of an integer input: a token id); a tensor that broadcasts to `x`; "mean" (of all inputs,
            for each index of dim 1: the mean colour of images); or "blur" (images behind a Gaussian of an eighth of
            their shorter side). None: "blur" for images, "mean" for other floats.

    Raises:
        InputError: a baseline that does not fit, or none for token ids.
    """
    if baseline is None:
        baseline = "blur" if x.dim() == IMAGE else "mean"
        if x.dim() != IMAGE and not x.is_floating_point():
            raise InputError(
                "The input holds integers: say which one replaces a token, as in baseline=tokenizer.mask_token_id."
            )
    if isinstance(baseline, str):
        if baseline not in BASELINES or (baseline == "blur" and x.dim() != IMAGE):
            raise InputError(
                f"baseline={baseline!r} does not fit an input of shape {list(x.shape)}: choose 'mean', a number, a "
                "tensor, or, for images [batch, channels, height, width], 'blur'."
            )
        made = BASELINES[baseline](x.double())
    else:
        made = torch.as_tensor(baseline, device=x.device)
    if not x.is_floating_point():
        made = made.round() if isinstance(baseline, str) else made
        if made.is_floating_point() and not torch.equal(made, made.round()):
            raise InputError(f"The input holds integers ({x.dtype}): its baseline must too.")
    try:
        return made.to(x.dtype).expand(x.shape)
    except RuntimeError as error:
        raise InputError(
            f"The baseline has shape {list(made.shape)}, which does not broadcast to {list(x.shape)}."
        ) from error


def mean(x: Tensor) -> Tensor:
    """The mean over all inputs that are finite, and over what follows dim 1."""
    finite = x.flatten(1).isfinite().all(1)
    return (x[finite] if finite.any() else x).mean(dim=(0, *range(2, x.dim())), keepdim=True)


def blurred(x: Tensor) -> Tensor:
    """Images `[batch, channels, height, width]` behind a Gaussian of σ = `BLUR` × the shorter side, edges mirrored."""
    sigma = BLUR * min(x.shape[2:])
    for dim, size in ((2, x.shape[2]), (3, x.shape[3])):
        radius = min(round(3 * sigma), size - 1)
        offsets = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        rows = x.movedim(dim, -1)
        padded = functional.pad(rows.flatten(0, 1), (radius, radius), mode="reflect").flatten(0, 1).unsqueeze(1)
        smooth = functional.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1))
        x = smooth.view(rows.shape).movedim(-1, dim)
    return x


BASELINES: dict[str, Callable[[Tensor], Tensor]] = {"mean": mean, "blur": blurred}

# ── what is measured ─────────────────────────────────────────────────────────────────────────────────────────────────


def probability(logits: Tensor, classes: Tensor) -> Tensor:
    """Each row's probability of its class, float64: softmax; of a single logit, its sigmoid."""
    logits = logits.double()
    return (logits.softmax(-1) if logits.shape[-1] > 1 else logits.sigmoid()).gather(1, classes[:, None])[:, 0]


def logit(logits: Tensor, classes: Tensor) -> Tensor:
    """Each row's logit of its class, float64."""
    return logits.double().gather(1, classes[:, None])[:, 0]


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"probability": probability, "logit": logit}


@dataclass(frozen=True, eq=False)
class Curves:
    """What the model says while features are replaced, float64, `[inputs, points]` each.

    Args:
        fractions: the share of an input's features that is replaced, 0 to 1.
        morf: the measure, most relevant features first.
        lerf: the same, least relevant first.
    """

    fractions: Tensor
    morf: Tensor
    lerf: Tensor

    @property
    def abpc(self) -> Tensor:
        """Area between perturbation curves of each input, LeRF − MoRF by trapezoids: float64 `[inputs]`."""
        return torch.trapezoid(self.lerf - self.morf, self.fractions, dim=1)


class Flipping:
    """Replaces features of one input by order of relevance, and asks the model after each step.

    Args:
        predict: the inputs by name, `batch_size` rows of each → logits `[batch_size, classes]`.
        inputs: all inputs by name, a row of each for every sample.
        name: the input whose features are replaced.
        classes: the class of each row that is measured: int64 `[rows]`.
        groups: of `feature_map`, for that input.
        baseline: of `replacement`.
        measure: a key of `MEASURES`.
        steps: into how many steps the features are cut; fewer where there are fewer features.
        batch_size: rows that `predict` takes.
        seed: of the order among features of equal relevance.
    """

    def __init__(
        self,
        predict: Callable[[Mapping[str, Tensor]], Tensor],
        inputs: Mapping[str, Tensor],
        name: str,
        classes: Tensor,
        groups: Tensor,
        baseline: Tensor,
        *,
        measure: str = "probability",
        steps: int = 20,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        self._predict, self._inputs, self._name = predict, inputs, name
        self._classes, self._baseline = classes, baseline
        self._measure, self._batch_size = MEASURES[measure], batch_size
        device, count = classes.device, int(groups.max()) + 1
        shared = groups[:1] if groups.stride(0) == 0 else groups
        # The last number stands for the elements that are never replaced.
        own = torch.where(shared == NEVER, count, shared).to(device).flatten(1)
        self._groups = own.expand(len(groups), -1)
        present = torch.zeros(len(groups), count + 1, dtype=torch.bool, device=device)
        self._present = present.scatter_(1, self._groups, True)[:, :count]
        self._sizes = self._present.sum(1)
        shares = torch.linspace(0, 1, min(steps, count) + 1, dtype=torch.float64, device=device)
        self._counts = (shares * self._sizes[:, None]).round().to(torch.int64)
        self._shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(device)
        # Both curves begin and end alike, whatever the relevance.
        rows, ranks = torch.arange(len(groups), device=device), torch.arange(count + 1, device=device) // count * count
        ends = [torch.stack((rows, 0 * rows, size), 1) for size in (0 * rows, self._sizes)]
        self._ends = self._measured(torch.cat(ends), ranks.expand(len(groups), -1)).view(2, -1)

    @property
    def sound(self) -> Tensor:
        """Which inputs can be measured, bool `[inputs]`: finite answers with all features and with none, and any to
        replace."""
        return self._ends.isfinite().all(0) & (self._sizes > 0)

    def curves(self, relevance: Tensor) -> Curves:
        """Both curves of every input; NaN on inputs whose relevance is not finite.

        Args:
            relevance: of the input, shaped like it.
        """
        scores = relevance.double().flatten(1)
        finite = scores.isfinite().all(1)
        count = self._present.shape[1]
        totals = torch.zeros(len(scores), count + 1, dtype=torch.float64, device=scores.device)
        totals = totals.scatter_add_(1, self._groups, scores)[:, :count].masked_fill(~self._present, -torch.inf)
        order = self._shuffled[totals[:, self._shuffled].argsort(dim=1, descending=True, stable=True)]
        ranks = torch.empty_like(order).scatter_(1, order, torch.arange(count, device=order.device).expand_as(order))
        ranks = functional.pad(ranks, (0, 1), value=count)
        rows, points = torch.nonzero((self._counts > 0) & (self._counts < self._sizes[:, None]), as_tuple=True)
        inner = self._counts[rows, points]
        both = [torch.stack((rows, first, inner), 1) for first in (0 * inner, self._sizes[rows] - inner)]
        values = self._measured(torch.cat(both), ranks).view(2, len(inner))
        curves = torch.where(self._counts > 0, self._ends[1][:, None], self._ends[0][:, None]).repeat(2, 1, 1)
        curves[:, rows, points] = values
        curves[:, ~finite] = torch.nan
        return Curves(self._counts.double() / self._sizes[:, None], *curves)

    def _measured(self, tasks: Tensor, ranks: Tensor) -> Tensor:
        """The measure of each task (row, first rank that is replaced, how many ranks), float64 `[tasks]`."""
        original, found = self._inputs[self._name], []
        # Inputs with few features have fewer steps than others.
        tasks, places = torch.unique(tasks, dim=0, return_inverse=True)
        for part, taken in batches(tasks, self._batch_size):
            rows, first, count = part.unbind(1)
            rank = ranks[rows].gather(1, self._groups[rows])
            replaced = (rank >= first[:, None]) & (rank < (first + count)[:, None])
            x = torch.where(replaced.view(-1, *original.shape[1:]), self._baseline[rows], original[rows])
            given = {name: x if name == self._name else tensor[rows] for name, tensor in self._inputs.items()}
            found.append(self._measure(self._predict(given), self._classes[rows])[:taken])
        return torch.cat(found)[places] if found else torch.empty(0, dtype=torch.float64, device=tasks.device)


def batches(rows: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
    """Parts of exactly `size` rows, and how many of them count: the last one is filled up with its last row."""
    for part in rows.split(size) if len(rows) else ():
        yield torch.cat((part, part[-1:].expand(size - len(part), *part.shape[1:]))), len(part)
