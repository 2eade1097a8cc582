"""Values written to given places.

Where they overwrite, it is a selection: the base keeps the relevance of the places that were not written to, the source
takes that of the places that it was written to. Where they are added, it is a sum; where the largest stays, what won
takes the relevance; where they are multiplied, every factor takes the same share. Places that are written to more than
once by an op that overwrites have no defined value in torch, and no defined relevance here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lrp_compiler.rules.conditions import Condition, predicate
from lrp_compiler.rules.linear_map import Constant, LinearMap, Term, scaled
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.product import Factors
from lrp_compiler.rules.registry import operator
from lrp_compiler.rules.relevance import has_shape, sum_to_shape
from lrp_compiler.rules.selection import FILLED, Selection, Transpose, selection
from lrp_compiler.rules.traits import declare, keeps_sign
from lrp_compiler.torch_private import statically_known_true

aten = torch.ops.aten

declare(
    aten.scatter.src,
    aten.scatter.value,
    aten.scatter_add.default,
    aten.scatter_reduce.two,
    picks_by=("index",),
)
declare(aten.index_put.default, picks_by=("indices",))


def _fitted(r: Tensor, shape: torch.Size) -> Tensor:
    """`r` with zeros behind it along every dim: a source may be larger than the index that picks from it."""
    if has_shape(r, shape):
        return r
    missing = [want - size for want, size in zip(shape, r.shape, strict=True)]
    return functional.pad(r, [amount for more in reversed(missing) for amount in (0, more)])


def _picked(op: Op) -> Callable[[Tensor], Tensor]:
    """Transpose for the source of a scatter: what lies at its places."""
    return lambda r: _fitted(r.gather(op.option("dim"), op.tensor("index")), op.shape("src"))


def _cleared(op: Op) -> Callable[[Tensor], Tensor]:
    """Transpose for the base of a scatter: zeros at the places that were written to."""

    def transposed(r: Tensor) -> Tensor:
        index = op.tensor("index")
        return r.scatter(op.option("dim"), index, torch.zeros(index.shape, dtype=r.dtype, device=r.device))

    return transposed


@selection(aten.scatter.src, sign=keeps_sign())
def scatter(op: Op) -> Selection:
    """A tensor written to places along one dim."""
    return {"self": _cleared(op), "src": _picked(op)}


@selection(aten.scatter.value, sign=keeps_sign("self", "value"))
def scatter_value(op: Op) -> Selection:
    """One value written to places along one dim."""
    cleared = _cleared(op)
    return {"self": cleared, FILLED: lambda r: r - cleared(r)}


def _indices(op: Op) -> list[Tensor | None]:
    given = enumerate(op.option("indices"))
    return [None if item is None else op.tensor(f"indices.{position}") for position, item in given]


accumulates = predicate(lambda op: bool(op.option("accumulate")))
"""Values are added to what is there."""


@selection(aten.index_put.default, when=~accumulates, sign=keeps_sign())
def index_put(op: Op) -> Selection:
    """A tensor written to places given dim by dim."""
    return {
        "self": lambda r: aten.index_put.default(r, _indices(op), torch.zeros((), dtype=r.dtype, device=r.device)),
        "values": lambda r: sum_to_shape(aten.index.Tensor(r, _indices(op)), op.shape("values")),
    }


def addition_at(
    op: Op, source: str, add: Callable[[Tensor, Tensor], Tensor], pick: Callable[[Tensor], Tensor]
) -> LinearMap:
    """`base + Σ source at its places`; an operand that carries no relevance is a constant.

    Args:
        op: the operation.
        source: name of the operand that is added.
        add: (base, source) → their sum.
        pick: the transpose for the source.
    """

    def placed(x: Tensor) -> Tensor:
        return add(torch.zeros_like(op.output), x)

    terms = {
        "self": Term("self", apply=scaled, transpose=scaled),
        source: Term(
            source,
            apply=lambda x, weight: scaled(placed(x), weight),
            transpose=lambda q, weight: pick(scaled(q, weight)),
        ),
    }
    constants = {
        "self": Constant("constant", lambda: op.tensor("self"), "self"),
        source: Constant("constant", lambda: placed(op.tensor(source))),
    }
    return LinearMap(
        tuple(term for name, term in terms.items() if op.is_active(name)),
        tuple(constant for name, constant in constants.items() if not op.is_active(name)),
    )


@operator(aten.scatter_add.default, kind="addition", family="linear map", rule="epsilon", sign=keeps_sign())
def scatter_add(op: Op) -> LinearMap:
    """A tensor added at places along one dim."""
    dim = op.option("dim")
    return addition_at(op, "src", lambda base, x: base.scatter_add(dim, op.tensor("index"), x), _picked(op))


@operator(aten.index_put.default, kind="addition", family="linear map", rule="epsilon", when=accumulates)
def index_put_add(op: Op) -> LinearMap:
    """A tensor added at places given dim by dim."""
    return addition_at(
        op,
        "values",
        lambda base, x: aten.index_put.default(base, _indices(op), x, True),
        lambda q: sum_to_shape(aten.index.Tensor(q, _indices(op)), op.shape("values")),
    )


def reduces_by(*names: str) -> Condition:
    """The op reduces by one of these."""
    return predicate(lambda op: op.option("reduce") in names)


is_extreme, is_product = reduces_by("amax", "amin"), reduces_by("prod")


@selection(aten.scatter_reduce.two, when=is_extreme & ~is_product, sign=keeps_sign())
def extreme_at(op: Op) -> Selection:
    """The largest (smallest) of what is sent to each place and what was there; of equals each takes the same share.

    That is the only choice here which needs no order among what is sent, and autograd's.
    """
    dim = op.option("dim")

    def base_wins() -> Tensor:
        return op.tensor("self") == op.output

    def source_wins() -> Tensor:
        index = op.tensor("index")
        return _cut(op.tensor("src"), index.shape) == op.output.gather(dim, index)

    def each(r: Tensor) -> Tensor:
        return r / base_wins().to(r.dtype).scatter_add(dim, op.tensor("index"), source_wins().to(r.dtype))

    return {
        "self": lambda r: each(r) * base_wins().to(r.dtype),
        "src": lambda r: _fitted(each(r).gather(dim, op.tensor("index")) * source_wins().to(r.dtype), op.shape("src")),
    }


def _cut(source: Tensor, shape: torch.Size) -> Tensor:
    """The part of a source that an index of this shape picks."""
    for dim, size in enumerate(shape):
        part = source.narrow(dim, 0, size)
        if not statically_known_true(part.shape[dim] == size):  # nobody knows that it is no larger than the source
            part = source.index_select(dim, torch.arange(size, device=source.device))
        source = part
    return source


@operator(
    aten.scatter_reduce.two,
    kind="factors",
    family="factors",
    rule="uniform",
    when=is_product & ~is_extreme,
)
def product_at(op: Op) -> Factors:
    """The product of what is sent to each place and, perhaps, of what was there: of what carries relevance of these."""
    dim = op.option("dim")

    def own(R: Tensor) -> Tensor:
        factors = torch.full_like(R, float(op.is_active("self")))
        return factors if op.option("include_self") else factors.scatter(dim, op.tensor("index"), 0.0)

    def count(R: Tensor) -> Tensor:
        index = op.tensor("index")
        sent = torch.full(index.shape, float(op.is_active("src")), dtype=R.dtype, device=R.device)
        return own(R).scatter_add(dim, index, sent)

    def each(R: Tensor) -> Tensor:
        return R / count(R).clamp(min=1)

    shares: dict[str, Transpose] = {
        "self": lambda R: each(R) * own(R),
        "src": lambda R: _fitted(each(R).gather(dim, op.tensor("index")), op.shape("src")),
    }
    return Factors({FILLED: lambda R: R * (count(R) == 0).to(R.dtype), **{name: shares[name] for name in op.active}})
