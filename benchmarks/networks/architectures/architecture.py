"""An architecture: what makes the model, what it takes, and what it is explained with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from benchmarks.networks.architectures.inputs import Input
from benchmarks.networks.architectures.weights import MAP_GAIN, calibrate, draw_parameters


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Args:
        title: what the paper or its authors call it.
        module: `(width, depth, attention)` → the model, before its weights are drawn.
        takes: its inputs by argument name.
        composite: what it is mostly explained with.
        width: the published width is divided by this unless something else is asked for.
        sizes: dynamic dim → the size of the example, then those of fresh inputs.
        calibrated: every map and batch norm is brought to unit variance (networks without normalisation need it).
        unscaled: end of the name of the query maps of attention that does not divide by √d, and that d.
        position: where in an output with more dims than batch and classes, as `lrp.Target` takes it.
        longest: what dynamic dims end at, be it for a table of positions.
        gain: scale of the maps' weights; 1 keeps the variance.
        paper: one of the fifteen of the paper's Table 5.
    """

    title: str
    module: Callable[[int, int | None, str | None], nn.Module] = field(repr=False)
    takes: Mapping[str, Input] = field(repr=False)
    composite: str = "attnlrp"
    width: int = 8
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    calibrated: bool = False
    unscaled: tuple[str, int] | None = None
    position: str | None = None
    longest: int = 512
    gain: float = MAP_GAIN
    paper: bool = False

    def build(
        self, *, width: int | None = None, depth: int | None = None, attention: str | None = None, seed: int = 0
    ) -> nn.Module:
        """The model in eval mode.

        Args:
            width: divides the published width; default: the architecture's own.
            depth: number of layers; default: as published.
            attention: "eager" or "sdpa", for models of transformers.
            seed: of the weights.
        """
        with torch.random.fork_rng():
            model = self.module(width or self.width, depth, attention)
        draw_parameters(model.eval(), seed, self.gain)
        if self.unscaled:
            ending, size = self.unscaled
            for name, parameter in model.named_parameters():
                if name.endswith(ending):
                    parameter.data /= math.sqrt(max(1, size // (width or self.width)))
        if self.calibrated:
            calibrate(model, self.inputs(8, seed=seed + 1000), seed)
        return model

    def inputs(self, batch: int, which: int = 0, seed: int = 1) -> dict[str, Tensor]:
        """Inputs of that batch size; `which` of `sizes` the other dynamic dims have."""
        generator = torch.Generator().manual_seed(seed)
        known = {"batch": batch} | {name: sizes[which] for name, sizes in self.sizes.items()}
        return {
            name: draw(tuple(known[size] if isinstance(size, str) else size for size in shape), generator)
            for name, (draw, shape) in self.takes.items()
        }

    @property
    def dynamic_shapes(self) -> dict[str, dict[int, Any]]:
        """As torch.export takes it."""
        names = {size for _, shape in self.takes.values() for size in shape if isinstance(size, str)}
        dims = {name: self.dim(name) for name in sorted(names)}
        return {
            name: {index: dims[size] for index, size in enumerate(shape) if isinstance(size, str)}
            for name, (_, shape) in self.takes.items()
        }

    def dim(self, name: str) -> Any:
        """A dynamic dim; windows must fit into it."""
        if name == "batch":
            return Dim(name)
        sizes = self.sizes[name]
        return Dim(name, min=max(2, min(sizes) // 4), max=max(self.longest, 3 * max(sizes)))
