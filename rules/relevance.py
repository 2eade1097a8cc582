"""Relevance of a tensor, in one of its two forms, and the few tensor helpers that rules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lrp_compiler.torch_private import statically_known_true

Form = Literal["total", "unit"]

TOTAL_STABILISER = 1e-6
"""ε used where a rule in its limit ε → 0 must still divide, because relevance reached it in total form."""


@dataclass(frozen=True)
class Relevance:
    """Relevance of a tensor `a`: its total `R`, or the unit form `g` with `R = a ⊙ g`.

    `tensor` has the shape and dtype of `a`. A rule that keeps `R` while it changes `g` may hand both on: `as_total`
    gives `R` without the value of `a`, and whoever needs the total form takes it from there.
    """

    tensor: Tensor
    form: Form
    as_total: Callable[[], Tensor] | None = None

    def total_of(self, value: Callable[[], Tensor], multiply: Callable[[Tensor, Tensor], Tensor] = torch.mul) -> Tensor:
        """`R`, whatever the form; `value` gives `a`, and is asked only where there is no other way.

        Args:
            value: gives `a`.
            multiply: `(g, a)` → `g ⊙ a`.
        """
        if self.form == "total":
            return self.tensor
        return multiply(self.tensor, value()) if self.as_total is None else self.as_total()

    def map(
        self, function: Callable[[Tensor], Tensor], of_total: Callable[[Tensor], Tensor] | None = None
    ) -> Relevance:
        """The same form of what the linear map `function` makes of the tensor.

        Args:
            function: the map.
            of_total: the same map, as `R` takes it: of an infinite value `R` is NaN where `g` is 0.
        """
        of_total, as_total = of_total or function, self.as_total
        if self.form == "total":
            return total(of_total(self.tensor))
        return unit(function(self.tensor), None if as_total is None else MappedTotal(as_total, of_total))

    def rescaled(self, function: Callable[[Tensor], Tensor]) -> Relevance:
        """The same `R`, of a tensor whose `g` is what `function` makes of this one."""
        return self if self.form == "total" else Relevance(function(self.tensor), "unit", self.as_total)


@dataclass(frozen=True)
class MappedTotal:
    """What a linear map makes of a total that another gives. Maps may follow each other for as long as a graph is deep:
    they are taken in a loop."""

    given: Callable[[], Tensor]
    function: Callable[[Tensor], Tensor]

    def __call__(self) -> Tensor:
        """The total."""
        functions, given = [self.function], self.given
        while isinstance(given, MappedTotal):
            functions.append(given.function)
            given = given.given
        tensor = given()
        for function in reversed(functions):
            tensor = function(tensor)
        return tensor


def total(tensor: Tensor) -> Relevance:
    """Relevance given as `R`."""
    return Relevance(tensor, "total")


def unit(tensor: Tensor, as_total: Callable[[], Tensor] | None = None) -> Relevance:
    """Relevance given as `g`, with `R = a ⊙ g`."""
    return Relevance(tensor, "unit", as_total)


def sign(z: Tensor) -> Tensor:
    """`sgn z` with `sgn 0 = +1`, in z's dtype.

    Written without `where`, whose scalar branches are slow in onnxruntime on CPU.
    """
    return (z >= 0).to(z.dtype) * 2 - 1


def signum(x: Tensor, size: float = 1.0) -> Tensor:
    """`size · sgn x` with `sgn 0 = 0`; a subnormal x may get less.

    A product and a clamp: `sign` takes onnxruntime on CPU seven times as long as either.
    """
    return (x * torch.finfo(x.dtype).max).clamp(-size, size)


def divide(numerator: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """`numerator / s(z)` with the signed stabiliser `s(z) = z + ε·sgn z`, sgn 0 = +1."""
    return numerator / (z + ((z >= 0).to(z.dtype) * (2 * epsilon) - epsilon))


def difference(here: Tensor, there: Tensor) -> Tensor:
    """`here − there`, 0 where they are equal, be they infinite (a masked score); flags count 0 and 1."""
    if here.dtype == torch.bool:
        here, there = here.to(torch.int8), there.to(torch.int8)
    return torch.where(here == there, 0.0, here - there)


def times(share: Tensor, value: Tensor) -> Tensor:
    """`share ⊙ value` with 0 · ∞ = 0 · NaN = 0: what is masked and got no share gives nothing, not NaN.

    For the books, and for values in which something is missing; in unit form no rule multiplies by a masked score.
    """
    return torch.where(share == 0, torch.zeros_like(share), share * value)


def has_shape(tensor: Tensor, shape: Sequence[int | torch.SymInt]) -> bool:
    """Whether the tensor is known to be of this shape, whatever its open sizes are."""
    return tensor.dim() == len(shape) and all(
        statically_known_true(one == other) for one, other in zip(tensor.shape, shape, strict=True)
    )


def sum_to_shape(tensor: Tensor, shape: Sequence[int | torch.SymInt]) -> Tensor:
    """Transpose of broadcasting: sum `tensor` over the dims along which `shape` was broadcast to it."""
    lead = tensor.dim() - len(shape)
    if lead:
        tensor = tensor.sum(dim=tuple(range(lead)))
    stretched = [
        dim
        for dim, size in enumerate(shape)
        if statically_known_true(size == 1) and not statically_known_true(tensor.shape[dim] == 1)
    ]
    return tensor.sum(dim=stretched, keepdim=True) if stretched else tensor


def normalise_dims(dims: int | Sequence[int] | None, rank: int) -> list[int]:
    """Non-negative dims; `None` or an empty list means all of them."""
    if dims is None or (not isinstance(dims, int) and not len(dims)):
        return list(range(rank))
    return [dim % rank if rank else 0 for dim in ([dims] if isinstance(dims, int) else dims)]
