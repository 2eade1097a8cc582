"""Calls of selecting ops: what is tried on each of them stands in the tests of the rules."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrp_compiler.rules import Op, Values

aten = torch.ops.aten


def tensor(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class Call(NamedTuple):
    """A call; `active` names the operands that carry relevance."""

    target: Any
    args: tuple[Any, ...]
    active: tuple[str, ...] = ("self",)
    kwargs: dict[str, Any] = {}  # noqa: RUF012  # a NamedTuple default that nobody changes

    def op(self, **books: Any) -> Op:
        op = Op.eager(self.target, *self.args, active=self.active, **self.kwargs)
        return Op(self.target, op.arguments, op.output, Values(lambda handle: handle, **books), active=self.active)


A, B = tensor(2, 3, 4), tensor(2, 3, 4, seed=1)
MASK = torch.tensor([[True, False, True, False]])
PLACES = torch.tensor([[[0, 1, 2, 0], [1, 2, 0, 1], [2, 0, 1, 2]]] * 2)
ROWS, COLUMNS = torch.tensor([1, 0, 1]), torch.tensor([2, 2, 0])

CALLS: dict[str, Call] = {
    "view": Call(aten.view.default, (A, [6, 4])),
    "view, size inferred": Call(aten.view.default, (A, [2, -1])),
    "_unsafe_view": Call(aten._unsafe_view.default, (A, [24])),
    "reshape": Call(aten.reshape.default, (A.transpose(0, 1), [2, -1])),
    "_reshape_copy": Call(aten._reshape_copy.default, (A, [4, 6])),
    "flatten": Call(aten.flatten.using_ints, (A, 1)),
    "flatten, negative dims": Call(aten.flatten.using_ints, (A, -3, -2)),
    "unflatten": Call(aten.unflatten.int, (A, -1, [2, -1])),
    "squeeze of all": Call(aten.squeeze.default, (tensor(1, 3, 1, 2),)),
    "squeeze of dims": Call(aten.squeeze.dims, (tensor(1, 3, 1, 2), [0, -2])),
    "squeeze": Call(aten.squeeze.dim, (tensor(2, 1, 3), 1)),
    "squeeze, negative dim": Call(aten.squeeze.dim, (tensor(2, 3, 1), -1)),
    "squeeze of a longer dim": Call(aten.squeeze.dim, (A, 1)),
    "unsqueeze": Call(aten.unsqueeze.default, (A, 1)),
    "unsqueeze at the end": Call(aten.unsqueeze.default, (A, -1)),
    "permute": Call(aten.permute.default, (A, [2, 0, 1])),
    "permute, negative dims": Call(aten.permute.default, (A, [-1, 0, -2])),
    "transpose": Call(aten.transpose.int, (A, 0, 2)),
    "transpose, negative dims": Call(aten.transpose.int, (A, -1, -3)),
    "t": Call(aten.t.default, (tensor(2, 5),)),
    "t of a vector": Call(aten.t.default, (tensor(5),)),
    "numpy_T": Call(aten.numpy_T.default, (tensor(2, 5),)),
    "numpy_T of three dims": Call(aten.numpy_T.default, (A,)),
    "expand": Call(aten.expand.default, (tensor(2, 1, 4), [2, 3, 4])),
    "expand, sizes kept": Call(aten.expand.default, (tensor(2, 1, 4), [-1, 3, -1])),
    "expand to more dims": Call(aten.expand.default, (tensor(1, 4), [5, 3, 4])),
    "repeat": Call(aten.repeat.default, (tensor(2, 3), [2, 3])),
    "repeat to more dims": Call(aten.repeat.default, (tensor(2, 3), [2, 1, 3])),
    "slice": Call(aten.slice.Tensor, (A, 1, 1, 3)),
    "slice, default dim": Call(aten.slice.Tensor, (A,)),
    "slice, negative dim and start": Call(aten.slice.Tensor, (A, -1, -3, -1)),
    "slice, no start": Call(aten.slice.Tensor, (A, 2, None, 2)),
    "slice, no end": Call(aten.slice.Tensor, (A, 2, 2)),
    "slice, end beyond": Call(aten.slice.Tensor, (A, 2, 1, 1 << 62)),
    "slice, start before": Call(aten.slice.Tensor, (A, 2, -9, 2)),
    "slice, stepped": Call(aten.slice.Tensor, (tensor(2, 9), 1, 1, 8, 3)),
    "slice, stepped, negative": Call(aten.slice.Tensor, (tensor(9, 2), -2, -8, None, 2)),
    "slice, empty": Call(aten.slice.Tensor, (A, 2, 3, 3)),
    "select": Call(aten.select.int, (A, 1, 2)),
    "select, negative": Call(aten.select.int, (A, -1, -2)),
    "select, first": Call(aten.select.int, (A, 0, 0)),
    "cat": Call(aten.cat.default, ([A, B], 1), ("tensors.0", "tensors.1")),
    "cat, negative dim": Call(aten.cat.default, ([A, tensor(2, 3, 2), B], -1), ("tensors.0", "tensors.1", "tensors.2")),
    "cat with a constant": Call(aten.cat.default, ([A, B, tensor(1, 3, 4)],), ("tensors.2", "tensors.0")),
    "cat with an empty tensor": Call(
        aten.cat.default, ([torch.zeros(0, dtype=torch.float64), A, B], 1), ("tensors.1", "tensors.2")
    ),
    "stack": Call(aten.stack.default, ([A, B],), ("tensors.0", "tensors.1")),
    "stack, negative dim": Call(aten.stack.default, ([A, B, A + 1], -1), ("tensors.0", "tensors.1", "tensors.2")),
    "stack, inner dim": Call(aten.stack.default, ([A, B], 2), ("tensors.1",)),
    "flip": Call(aten.flip.default, (A, [0, -1])),
    "roll": Call(aten.roll.default, (A, [1, -2], [0, -1])),
    "roll of all": Call(aten.roll.default, (A, [5])),
    "pad": Call(aten.constant_pad_nd.default, (A, [1, 2, 0, 3])),
    "pad, cropping": Call(aten.constant_pad_nd.default, (A, [-1, 2, 1, -1])),
    "pad by mode": Call(aten.pad.default, (A, [1, 2])),
    "index": Call(aten.index.Tensor, (A, [ROWS])),
    "index, two": Call(aten.index.Tensor, (A, [ROWS, COLUMNS])),
    "index, negative": Call(aten.index.Tensor, (A, [ROWS - 1])),
    "index, second dim": Call(aten.index.Tensor, (A, [None, COLUMNS])),
    "index, first and last": Call(aten.index.Tensor, (A, [ROWS, None, COLUMNS])),
    "index, broadcast": Call(aten.index.Tensor, (A, [ROWS[:2, None], COLUMNS[None]])),
    "index, mask": Call(aten.index.Tensor, (A, [A[..., 0] > 0])),
    "index, mask of inner dim": Call(aten.index.Tensor, (A, [None, A[0, :, 0] > 0])),
    "index, mask of nothing": Call(aten.index.Tensor, (A, [A > 99])),
    "index, mask and places": Call(aten.index.Tensor, (A, [A[:, 0, 0] < 99, COLUMNS[1:]])),
    "masked_select": Call(aten.masked_select.default, (A, A > 0)),
    "masked_select, broadcast": Call(aten.masked_select.default, (tensor(3, 1), A[0] > 0)),
    "index_select": Call(aten.index_select.default, (A, 1, COLUMNS)),
    "index_select, negative dim": Call(aten.index_select.default, (A, -1, COLUMNS)),
    "gather": Call(aten.gather.default, (A, 2, torch.tensor([[[0, 0], [3, 1], [2, 2]]] * 2))),
    "gather, negative dim": Call(aten.gather.default, (A, -2, torch.tensor([[[0, 2, 2, 1]]]))),
    "where": Call(aten.where.self, (MASK, A, B), ("self", "other")),
    "where, broadcast": Call(aten.where.self, (A > 0, tensor(3, 1), tensor(4)), ("self", "other")),
    "where, one active": Call(aten.where.self, (MASK, A, torch.zeros((), dtype=torch.float64)), ("self",)),
    "where, other active": Call(aten.where.self, (MASK, torch.zeros((), dtype=torch.float64), A), ("other",)),
    "masked_fill": Call(aten.masked_fill.Scalar, (A, MASK, 0.0)),
    "masked_fill, broadcast": Call(aten.masked_fill.Scalar, (tensor(1, 4), A[0] > 0, 0.0)),
    "masked_fill by a tensor": Call(aten.masked_fill.Tensor, (A, MASK, torch.zeros((), dtype=torch.float64))),
    "masked_fill by an activation": Call(aten.masked_fill.Tensor, (A, MASK, A.mean()), ("self", "value")),
    "masked_fill of a constant": Call(aten.masked_fill.Tensor, (torch.zeros_like(A), MASK, A.mean()), ("value",)),
    "diagonal": Call(aten.diagonal.default, (tensor(3, 4),)),
    "diagonal, of inner dims": Call(aten.diagonal.default, (tensor(2, 3, 4, 3), -1, 1, 3)),
    "unfold": Call(aten.unfold.default, (tensor(2, 7), 1, 3, 2)),
    "unfold, first dim": Call(aten.unfold.default, (tensor(5, 2), 0, 2, 1)),
    "embedding, its table": Call(aten.embedding.default, (tensor(5, 3), PLACES[0]), ("weight",)),
    "scatter": Call(aten.scatter.src, (A, 1, PLACES, B), ("self", "src")),
    "scatter, source larger than its index": Call(aten.scatter.src, (A, 2, PLACES[:, :2, :2], B), ("self", "src")),
    "scatter into a constant": Call(aten.scatter.src, (torch.zeros_like(A), 1, PLACES, B), ("src",)),
    "scatter of a constant": Call(aten.scatter.src, (A, 1, PLACES, torch.zeros_like(A)), ("self",)),
    "scatter of a number": Call(aten.scatter.value, (A, -2, PLACES, 0.0)),
    "index_put": Call(aten.index_put.default, (A, [ROWS[:2], COLUMNS[1:]], tensor(2, 4)), ("self", "values")),
    "index_put, one value for all": Call(
        aten.index_put.default, (A, [None, COLUMNS[1:]], A.mean()), ("self", "values")
    ),
    "index_put, inner dims": Call(aten.index_put.default, (A, [None, COLUMNS[1:], ROWS[:2]], tensor(2, 2)), ("self",)),
}
WINNERS: dict[str, Call] = {
    "max_pool1d": Call(aten.max_pool1d.default, (tensor(2, 3, 9), [3], [2], [1])),
    "max_pool1d, dilated, ceiled": Call(aten.max_pool1d.default, (tensor(2, 3, 10), [2], [3], [0], [2], True)),
    "max_pool2d": Call(aten.max_pool2d.default, (tensor(2, 3, 6, 6), [2, 2])),
    "max_pool2d, overlapping": Call(aten.max_pool2d.default, (tensor(2, 3, 7, 6), [3, 2], [2, 1], [1, 1])),
    "max_pool2d, ceiled": Call(aten.max_pool2d.default, (tensor(1, 2, 7, 8), [3, 3], [2, 2], [0, 0], [1, 1], True)),
    "max_pool2d, stride beyond the kernel": Call(aten.max_pool2d.default, (tensor(1, 2, 8, 8), [2, 2], [3, 3])),
    "max_pool3d": Call(aten.max_pool3d.default, (tensor(1, 2, 4, 5, 6), [2, 2, 3], [2, 2, 2], [1, 0, 1])),
    "amax": Call(aten.amax.default, (A, [1])),
    "amax, kept dim": Call(aten.amax.default, (A, [-1], True)),
    "amax, two dims": Call(aten.amax.default, (A, [2, 0])),
    "amax, two dims kept": Call(aten.amax.default, (A, [0, -1], True)),
    "amax of all": Call(aten.amax.default, (A,)),
    "amin": Call(aten.amin.default, (A, [-1])),
    "maximum": Call(aten.maximum.default, (A, B), ("self", "other")),
    "maximum, broadcast": Call(aten.maximum.default, (tensor(3, 1), A), ("self", "other")),
    "maximum with a constant": Call(aten.maximum.default, (A, B), ("other",)),
    "minimum": Call(aten.minimum.default, (A, B), ("self", "other")),
    "largest of what is sent": Call(aten.scatter_reduce.two, (A, 1, PLACES, B, "amax"), ("self", "src")),
    "smallest, equals among it": Call(
        aten.scatter_reduce.two, (A.round(), 1, PLACES % 2, B.round(), "amin"), ("self", "src")
    ),
    "largest, into a constant": Call(aten.scatter_reduce.two, (torch.zeros_like(A), -1, PLACES, B, "amax"), ("src",)),
    "largest, sent by a constant": Call(aten.scatter_reduce.two, (A, 1, PLACES, B, "amax")),
    "clamp above 0": Call(aten.clamp.default, (A, 0.3, 1.0)),
    "clamp_min above 0": Call(aten.clamp_min.default, (A, 0.3)),
    "clamp_max below 0": Call(aten.clamp_max.default, (A, -0.3)),
    "hardtanh below 0": Call(aten.hardtanh.default, (A, -1.0, -0.3)),
}
"""Ops whose choice depends on the values."""
