"""Shape and indexing ops: relevance returns to the element that each value came from.

Every op here picks elements and puts them somewhere: a linear map of zeros and ones. Its transpose takes `R` to `R`
and `g` to `g` alike, so both forms pass and no forward value is needed (indices and masks apart). An operator of this
family gives the transpose for each tensor operand; what lands on an operand that carries no relevance is absorbed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .op import Op, only
from .registry import Flow, family_rule, operator
from .relevance import Relevance, normalise_dims, statically_known_true, sum_to_shape, times

aten = torch.ops.aten

Transpose = Callable[[Tensor], Tensor]
Selection = Mapping[str, Transpose]
"""By operand name: the transpose that brings relevance of the result back to that operand. Under `FILLED`, where an op
puts in values of its own (a border, a mask's value): relevance of the result → the part of it that lies there."""

FILLED = "filled"


@family_rule("selection", "route")
def route(op: Op, selection: Selection, relevance: Relevance) -> Flow:
    """Relevance goes to the element that the value came from; what lies on values put in is absorbed."""
    for name in selection:
        if name == FILLED:
            op.absorb("constant", partial(_filled_share, op, selection[FILLED], relevance))
        elif not op.is_active(name) and op.has(name):
            op.absorb("constant", partial(_constant_share, op, name, selection[name], relevance))
    return {name: relevance.map(selection[name]) for name in (*op.active, *op.wanted)}


def _filled_share(op: Op, part: Transpose, relevance: Relevance) -> Tensor:
    share = part(relevance.tensor)
    return share if relevance.form == "total" else times(share, op.output)


def _constant_share(op: Op, name: str, transpose: Transpose, relevance: Relevance) -> Tensor:
    routed = transpose(relevance.tensor)
    if relevance.form == "total":
        return routed
    return times(routed, torch.as_tensor(op.factor(name), dtype=routed.dtype))


def selection(*targets: Any, kind: str = "selection", when: Any = None) -> Any:
    """Register the transposes of selecting ops."""
    return operator(*targets, kind=kind, family="selection", rule="route", when=when)


def place(r: Tensor, size: int | torch.SymInt, dim: int, start: Any) -> Tensor:
    """Zeros of length `size` along `dim`, with `r` at `start`: the transpose of a slice."""
    dim %= r.dim()
    before, after = start, size - start - r.shape[dim]
    if statically_known_true(before == 0) and statically_known_true(after == 0):
        return r
    return functional.pad(r, [0, 0] * (r.dim() - 1 - dim) + [before, after])


def slice_along(r: Tensor, dim: int, start: Any, end: Any) -> Tensor:
    """`r[start:end]` along `dim`."""
    return aten.slice.Tensor(r, dim, start, end)


@selection(aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.flatten.using_ints)
@selection(aten.unflatten.int, aten.squeeze.default, aten.squeeze.dims, aten._reshape_copy.default)
def reshaped(op: Op) -> Selection:
    """The same elements in another shape."""
    return {"self": lambda r: r.reshape(op.shape("self"))}


@selection(aten.unsqueeze.default)
def unsqueeze(op: Op) -> Selection:
    """A new dim of size 1."""
    return {"self": lambda r: r.squeeze(op.option("dim"))}


@selection(aten.squeeze.dim)
def squeeze(op: Op) -> Selection:
    """A dim of size 1 less (nothing happens to a longer one)."""
    return {"self": lambda r: r.unsqueeze(op.option("dim")) if r.dim() < op.rank("self") else r}


@selection(aten.permute.default)
def permute(op: Op) -> Selection:
    """Dims in another order."""
    dims = normalise_dims(op.option("dims"), op.rank("self"))
    return {"self": lambda r: r.permute([dims.index(dim) for dim in range(len(dims))])}


@selection(aten.transpose.int)
def transpose(op: Op) -> Selection:
    """Two dims swapped."""
    return {"self": lambda r: r.transpose(op.option("dim0"), op.option("dim1"))}


@selection(aten.t.default, aten.numpy_T.default)
def t(op: Op) -> Selection:
    """Dims reversed."""
    return {"self": lambda r: r.permute(list(reversed(range(r.dim()))))}


@selection(aten.expand.default)
def expand(op: Op) -> Selection:
    """Repeated without copying."""
    return {"self": lambda r: sum_to_shape(r, op.shape("self"))}


@selection(aten.repeat.default)
def repeat(op: Op) -> Selection:
    """Repeated with copying: every copy's relevance is summed."""
    repeats = op.option("repeats")

    def transposed(r: Tensor) -> Tensor:
        shape = (1,) * (len(repeats) - op.rank("self")) + tuple(op.shape("self"))
        interleaved = [size for pair in zip(repeats, shape, strict=True) for size in pair]
        return r.reshape(interleaved).sum(list(range(0, 2 * len(repeats), 2))).reshape(op.shape("self"))

    return {"self": transposed}


@selection(aten.slice.Tensor)
def slice_(op: Op) -> Selection:
    """A stretch along one dim, perhaps with a step."""
    dim, step = op.option("dim"), op.option("step")
    size = op.shape("self")[dim]
    start = _clamped(op.option("start"), size)

    def transposed(r: Tensor) -> Tensor:
        if step == 1:
            return place(r, size, dim, start)
        positions = torch.arange(r.shape[dim], device=r.device) * step + start
        return torch.zeros(op.shape("self"), dtype=r.dtype, device=r.device).index_add(dim, positions, r)

    return {"self": transposed}


def _clamped(start: Any, size: Any) -> Any:
    """A slice's start as torch reads it: `None` is 0, negative ones count from the end."""
    if start is None or statically_known_true(start == 0):
        return 0
    if statically_known_true(start < 0):
        return torch.sym_max(start + size, 0)
    return start if statically_known_true(start <= size) else torch.sym_min(start, size)


@selection(aten.select.int)
def select(op: Op) -> Selection:
    """One position along a dim."""
    dim = op.option("dim") % op.rank("self")
    size = op.shape("self")[dim]
    index = op.option("index")

    def transposed(r: Tensor) -> Tensor:
        return place(r.unsqueeze(dim), size, dim, index + size if statically_known_true(index < 0) else index)

    return {"self": transposed}


@selection(aten.cat.default)
def cat(op: Op) -> Selection:
    """Several tensors one after the other."""
    dim = op.option("dim")
    selections: dict[str, Transpose] = {}
    start: Any = 0
    for index in range(len(op.option("tensors"))):
        name = f"tensors.{index}"
        if op.shape(name) == (0,):  # torch skips empty tensors of rank 1
            continue
        end = start + op.shape(name)[dim]
        selections[name] = partial(slice_along, dim=dim, start=start, end=end)
        start = end
    return selections


@selection(aten.stack.default)
def stack(op: Op) -> Selection:
    """Several tensors along a new dim."""
    return {
        f"tensors.{index}": partial(Tensor.select, dim=op.option("dim"), index=index)
        for index in range(len(op.option("tensors")))
    }


@selection(aten.flip.default)
def flip(op: Op) -> Selection:
    """Dims reversed."""
    return {"self": lambda r: r.flip(op.option("dims"))}


@selection(aten.roll.default)
def roll(op: Op) -> Selection:
    """Shifted around."""
    return {"self": lambda r: r.roll([-shift for shift in op.option("shifts")], op.option("dims"))}


@selection(
    aten.constant_pad_nd.default, aten.pad.default, when=lambda op: op.arguments.get("mode", "constant") == "constant"
)
def pad(op: Op) -> Selection:
    """A constant border; negative amounts crop. The border's relevance is absorbed."""
    amounts = op.option("pad")

    def transposed(r: Tensor) -> Tensor:
        return functional.pad(r, [-amount for amount in amounts])

    def border(r: Tensor) -> Tensor:
        return r * functional.pad(torch.zeros(op.shape("self"), dtype=r.dtype, device=r.device), amounts, value=1.0)

    return {"self": transposed, FILLED: border}


@selection(aten.index.Tensor, when=only("self"))
def index(op: Op) -> Selection:
    """Advanced indexing: every value's relevance is added where it came from."""

    def transposed(r: Tensor) -> Tensor:
        indices = [
            None if item is None else op.tensor(f"indices.{position}")
            for position, item in enumerate(op.option("indices"))
        ]
        zeros = torch.zeros(op.shape("self"), dtype=r.dtype, device=r.device)
        return aten.index_put.default(zeros, indices, r, True)

    return {"self": transposed}


@selection(aten.index_select.default, when=only("self"))
def index_select(op: Op) -> Selection:
    """Rows by number."""

    def transposed(r: Tensor) -> Tensor:
        zeros = torch.zeros(op.shape("self"), dtype=r.dtype, device=r.device)
        return zeros.index_add(op.option("dim"), op.tensor("index"), r)

    return {"self": transposed}


@selection(aten.gather.default, when=only("self"))
def gather(op: Op) -> Selection:
    """One element for each index."""

    def transposed(r: Tensor) -> Tensor:
        zeros = torch.zeros(op.shape("self"), dtype=r.dtype, device=r.device)
        return zeros.scatter_add(op.option("dim"), op.tensor("index"), r)

    return {"self": transposed}


@selection(aten.diagonal.default, aten.unfold.default)
def picked(op: Op) -> Selection:
    """Elements picked by an op that knows nothing but places: run on the numbers of the places, it says which ones."""
    names = [argument.name for argument in op.target._schema.arguments[1:]]

    def transposed(r: Tensor) -> Tensor:
        shape = op.shape("self")
        places = torch.arange(math.prod(shape), device=r.device).reshape(shape)
        taken = op.target(places, *(op.option(name) for name in names))
        flat = torch.zeros([math.prod(shape)], dtype=r.dtype, device=r.device)
        return flat.index_add(0, taken.flatten(), r.flatten()).reshape(shape)

    return {"self": transposed}
