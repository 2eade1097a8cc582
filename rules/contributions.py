"""A linear map's contributions by sign, in two forms that say the same.

`P = W⁺x⁺ + W⁻x⁻ + b⁺` are those for, `N = W⁻x⁺ + W⁺x⁻ + b⁻` those against. *Direct* takes W⁺ and W⁻ one by one.
*Half-sums* takes `P = ½(z + A)` and `N = ½(z − A)` from the result and `A = |W||x| + |b|`: one map instead of four, but
in floating point they cancel where one sign dominates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .linear_map import (
    Constant,
    LinearMap,
    Message,
    Part,
    Weight,
    add_up,
    clamp_sign,
    scaled,
    sign_parts,
    without_constants,
)
from .op import Op
from .relevance import signum

SIGNS = (+1, -1)
Pair = tuple[Tensor | None, Weight, Tensor | None]
"""x, W, and which elements of the input x is; `None` for all."""


class Direct:
    """Contributions map by map: for are W⁺x⁺ and W⁻x⁻, against are W⁻x⁺ and W⁺x⁻.

    `split` says what stands for W⁺ and W⁻: the parts themselves, or (γ) the weights with one part stressed.
    """

    multiple = 1
    """The contributions are this many times P and N."""

    def __init__(
        self,
        op: Op,
        linear: LinearMap,
        constants: Sequence[Constant],
        split: Callable[[Weight], Mapping[int, Weight]] = sign_parts,
    ) -> None:
        self.op = op
        self.parts = linear.parts(constants)
        self.split = split
        self._pairs: dict[Part, dict[int, list[Pair]]] = {}

    def pairs(self, part: Part) -> dict[int, list[Pair]]:
        """By sign of the contribution: what makes it."""
        if part not in self._pairs:
            inputs: dict[int, tuple[Tensor | None, Tensor | None]] = {+1: (None, None)}
            if not part.is_nonnegative(self.op):
                value = part.value(self.op)
                inputs = {side: (clamp_sign(value, side), (value * side > 0).to(value.dtype)) for side in SIGNS}
            pairs: dict[int, list[Pair]] = {+1: [], -1: []}
            weights = self.split(part.weight())
            for input_side, (x, ratio) in inputs.items():
                for weight_side, weight in weights.items():
                    pairs[input_side * weight_side].append((x, weight, ratio))
            self._pairs[part] = pairs
        return self._pairs[part]

    def summands(self, side: int) -> list[Tensor | float]:
        """What P or N is the sum of."""
        return [
            part.apply(part.value(self.op) if x is None else x, weight)
            for part in self.parts
            for x, weight, _ in self.pairs(part)[side]
        ]

    def contributions(self, side: int) -> Tensor | float | None:
        """P for +1, N for −1: a tensor, a number (of constants alone), `None` if there is nothing of that sign."""
        summands = self.summands(side)
        return add_up(summands) if summands else None

    def drop_noise(self, share: Tensor, z: Tensor, side: int) -> Tensor:
        """Nothing to drop: an empty part is exactly 0 here, and so is what it passes on."""
        return share

    def messages(self, part: Part, q: Mapping[int, Tensor]) -> list[Message]:
        """`x⁺ ⊙ (W⁺ᵀq₊ + W⁻ᵀq₋) + x⁻ ⊙ (W⁻ᵀq₊ + W⁺ᵀq₋)`."""
        return [Message(q[side], weight, x, ratio) for side in q for x, weight, ratio in self.pairs(part)[side]]


class HalfSums:
    """Contributions from W and |W|: `2P = z + A`, `2N = z − A`.

    Args:
        op: the operation.
        linear: its map.
        constants: those of its constants that are reckoned with.
        scale: A is `scale` times |W||x| + |b|, in `size` and in `pair` alike.
    """

    multiple = 2
    """The contributions are this many times P and N; so are the messages."""

    def __init__(self, op: Op, linear: LinearMap, constants: Sequence[Constant], scale: float = 1.0) -> None:
        self.op, self.scale = op, scale
        kept = len(constants) == len(linear.constants)
        self.z = op.output if kept else without_constants(op, linear)
        parts = linear.parts(constants)
        self.size = add_up([part.apply(self._magnitude(part), self._strength(part)) for part in parts])

    def _ratio(self, part: Part) -> Tensor | float:
        """What x is multiplied by."""
        return self.scale if part.is_nonnegative(self.op) else signum(part.value(self.op), self.scale)

    def _magnitude(self, part: Part) -> Any:
        """`scale · |x|`."""
        x = part.value(self.op)
        return abs(x) if self.scale == 1 and not part.is_nonnegative(self.op) else scaled(x, self._ratio(part))

    def _strength(self, part: Part) -> Weight:
        """`|W|`; a constant has no x that would bring the scale with it."""
        strength = abs(part.weight())
        return strength * self.scale if isinstance(part, Constant) and self.scale != 1 else strength

    def contributions(self, side: int) -> Tensor:
        """2P or 2N."""
        return self.z + self.size if side > 0 else self.z - self.size

    def drop_noise(self, share: Tensor, z: Tensor, side: int) -> Tensor:
        """`share`, with 0 where z and A cancel to within 8 roundings of A: there is no such part."""
        noise = 8 * torch.finfo(z.dtype).eps * self.size
        return share * (z > noise if side > 0 else z < -noise)

    def messages(self, part: Part, q: Mapping[int, Tensor]) -> list[Message]:
        """`x ⊙ Wᵀ(q₊ + q₋) + |x| ⊙ |W|ᵀ(q₊ − q₋)`."""
        both = add_up(list(q.values()))
        sizes = q[+1] if -1 not in q else q[+1] - q[-1] if +1 in q else -q[-1]
        return self.pair(part, both, sizes)

    def pair(self, part: Part, q: Tensor, q_size: Tensor) -> list[Message]:
        """`x ⊙ Wᵀq + scale · |x| ⊙ |W|ᵀq_size`."""
        whole = self.scale == 1 and part.is_nonnegative(self.op)
        by_size = Message(q_size, self._strength(part))
        if not whole:
            by_size = replace(by_size, x=self._magnitude(part), ratio=self._ratio(part))
        return [Message(q, part.weight()), by_size]
