"""Shape and indexing ops: which element of its operand each element of the result is."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lrp_compiler.rules.conditions import predicate
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.relevance import normalise_dims, sum_to_shape
from lrp_compiler.rules.selection import FILLED, Selection, Transpose, selection
from lrp_compiler.rules.traits import Arguments, Call, always, declare, keeps_sign
from lrp_compiler.torch_private import schema, statically_known_true

aten = torch.ops.aten

# Whatever only moves elements keeps their signs.
SAME_SIGN = keeps_sign()


def place(r: Tensor, size: int | torch.SymInt, dim: int, start: Any) -> Tensor:
    """Zeros of length `size` along `dim`, with `r` at `start`: the transpose of a slice."""
    dim %= r.dim()
    before, after = start, size - start - r.shape[dim]
    if statically_known_true(before == 0) and statically_known_true(after == 0):
        return r
    return functional.pad(r, [0, 0] * (r.dim() - 1 - dim) + [before, after])


def slice_along(r: Tensor, dim: int, start: int | torch.SymInt, end: int | torch.SymInt | None) -> Tensor:
    """`r[start:end]` along `dim`."""
    taken: Tensor = aten.slice.Tensor(r, dim, start, end)
    return taken


@selection(aten.reshape.default, aten.flatten.using_ints, free=True, sign=SAME_SIGN)
@selection(aten.squeeze.default, aten.squeeze.dims, free=True, may_do_nothing=always, sign=SAME_SIGN)
@selection(aten.view.default, aten.unflatten.int, free=True)
@selection(aten._unsafe_view.default, aten._reshape_copy.default)
def reshaped(op: Op) -> Selection:
    """The same elements in another shape."""
    return {"self": lambda r: r.reshape(op.shape("self"))}


@selection(aten.unsqueeze.default, free=True, sign=SAME_SIGN, arithmetic=True)
def unsqueeze(op: Op) -> Selection:
    """A new dim of size 1."""
    return {"self": lambda r: r.squeeze(op.option("dim"))}


@selection(aten.squeeze.dim, free=True, may_do_nothing=always, sign=SAME_SIGN)
def squeeze(op: Op) -> Selection:
    """A dim of size 1 less (nothing happens to a longer one)."""
    return {"self": lambda r: r.unsqueeze(op.option("dim")) if r.dim() < op.rank("self") else r}


def _in_order(given: Arguments) -> bool:
    return list(given["dims"]) == list(range(len(given["dims"])))


def _every_element(given: Arguments) -> bool:
    return bool(given["step"] == 1)


def _no_border(given: Arguments) -> bool:
    # A border on one side may come with a cut on the other, and the shape stays.
    return all(isinstance(amount, int) and amount == 0 for amount in given["pad"])


@selection(aten.permute.default, free=True, may_do_nothing=_in_order, sign=SAME_SIGN)
def permute(op: Op) -> Selection:
    """Dims in another order."""
    dims = normalise_dims(op.option("dims"), op.rank("self"))
    return {"self": lambda r: r.permute([dims.index(dim) for dim in range(len(dims))])}


@selection(aten.transpose.int, free=True, sign=SAME_SIGN)
def transpose(op: Op) -> Selection:
    """Two dims swapped."""
    return {"self": lambda r: r.transpose(op.option("dim0"), op.option("dim1"))}


@selection(aten.t.default, free=True)
@selection(aten.numpy_T.default)
def t(op: Op) -> Selection:
    """Dims reversed."""
    return {"self": lambda r: r.permute(list(reversed(range(r.dim()))))}


@selection(aten.expand.default, free=True, may_do_nothing=always, sign=SAME_SIGN, arithmetic=True)
def expand(op: Op) -> Selection:
    """Repeated without copying."""
    return {"self": lambda r: sum_to_shape(r, op.shape("self"))}


@selection(aten.repeat.default, sign=SAME_SIGN)
def repeat(op: Op) -> Selection:
    """Repeated with copying: every copy's relevance is summed."""
    repeats = op.option("repeats")

    def transposed(r: Tensor) -> Tensor:
        shape = (1,) * (len(repeats) - op.rank("self")) + tuple(op.shape("self"))
        interleaved = [size for pair in zip(repeats, shape, strict=True) for size in pair]
        return r.reshape(interleaved).sum(list(range(0, 2 * len(repeats), 2))).reshape(op.shape("self"))

    return {"self": transposed}


@selection(aten.slice.Tensor, free=True, may_do_nothing=_every_element, sign=SAME_SIGN)
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


def _clamped(start: int | torch.SymInt | None, size: int | torch.SymInt) -> Any:
    """A slice's start as torch reads it: `None` is 0, negative ones count from the end."""
    if start is None or statically_known_true(start == 0):
        return 0
    if statically_known_true(start < 0):
        return torch.sym_max(start + size, 0)
    return start if statically_known_true(start <= size) else torch.sym_min(start, size)


@selection(aten.select.int, free=True, sign=SAME_SIGN)
def select(op: Op) -> Selection:
    """One position along a dim."""
    dim = op.option("dim") % op.rank("self")
    size = op.shape("self")[dim]
    index = op.option("index")

    def transposed(r: Tensor) -> Tensor:
        return place(r.unsqueeze(dim), size, dim, index + size if statically_known_true(index < 0) else index)

    return {"self": transposed}


@selection(aten.cat.default, sign=SAME_SIGN)
def cat(op: Op) -> Selection:
    """Several tensors one after the other."""
    dim, rank = op.option("dim"), len(op.output_shape)
    selections: dict[str, Transpose] = {}
    start: int | torch.SymInt = 0
    for index in range(len(op.option("tensors"))):
        name = f"tensors.{index}"
        if op.rank(name) < rank:  # torch skips empty tensors of rank 1, whatever the rank of the others
            selections[name] = _nothing
            continue
        end = start + op.shape(name)[dim]
        selections[name] = partial(slice_along, dim=dim, start=start, end=end)
        start = end
    return selections


def _nothing(relevance: Tensor) -> Tensor:
    return relevance.flatten()[:0]


@selection(aten.stack.default, sign=SAME_SIGN)
def stack(op: Op) -> Selection:
    """Several tensors along a new dim."""
    return {
        f"tensors.{index}": partial(Tensor.select, dim=op.option("dim"), index=index)
        for index in range(len(op.option("tensors")))
    }


@selection(aten.flip.default, sign=SAME_SIGN)
def flip(op: Op) -> Selection:
    """Dims reversed."""
    return {"self": lambda r: r.flip(op.option("dims"))}


@selection(aten.roll.default, sign=SAME_SIGN)
def roll(op: Op) -> Selection:
    """Shifted around."""
    return {"self": lambda r: r.roll([-shift for shift in op.option("shifts")], op.option("dims"))}


def _filling_keeps_sign(call: Call) -> bool:
    value = call.arguments.get("value")
    return call.known(call.arguments["self"]) and (value if isinstance(value, (int, float)) else 0) >= 0


with_a_constant = predicate(lambda op: op.arguments.get("mode", "constant") == "constant")
"""A border that is one value everywhere."""


@selection(
    aten.constant_pad_nd.default,
    aten.pad.default,
    when=with_a_constant,
    pads=True,
    may_do_nothing=_no_border,
    sign=_filling_keeps_sign,
)
def pad(op: Op) -> Selection:
    """A constant border; negative amounts crop. The border's relevance is absorbed."""
    amounts = op.option("pad")

    def transposed(r: Tensor) -> Tensor:
        return functional.pad(r, [-amount for amount in amounts])

    def border(r: Tensor) -> Tensor:
        return r * functional.pad(torch.zeros(op.shape("self"), dtype=r.dtype, device=r.device), amounts, value=1.0)

    return {"self": transposed, FILLED: border}


@selection(aten.diagonal.default, aten.unfold.default, sign=SAME_SIGN)
def picked(op: Op) -> Selection:
    """Elements picked by an op that knows nothing but places: run on the numbers of the places, it says which ones."""
    names = [argument.name for argument in schema(op.target).arguments[1:]]

    def transposed(r: Tensor) -> Tensor:
        shape = op.shape("self")
        places = torch.arange(math.prod(shape), device=r.device).reshape(shape)
        taken = op.target(places, *(op.option(name) for name in names))
        flat = torch.zeros([math.prod(shape)], dtype=r.dtype, device=r.device)
        return flat.index_add(0, taken.flatten(), r.flatten()).reshape(shape)

    return {"self": transposed}


declare(aten.view.default, aten.reshape.default, aten._unsafe_view.default, may_do_nothing=always)
declare(aten.reshape.default, arithmetic=True)
