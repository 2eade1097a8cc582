"""Sums, means, extremes over dims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..registry import onnx_op
from ..sizes import Sizes

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _mean(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.mean(dims, keepdim=keep) if x.is_floating_point() else x.double().mean(dims, keepdim=keep).to(x.dtype)


def _sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.sum(dims, keepdim=keep, dtype=x.dtype)


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = x.prod(dim, keepdim=keep, dtype=x.dtype)
    return x


def _largest(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if _is_empty(x, dims):
        return _sum(x, dims, keep) + _lowest(x.dtype)
    return x.any(dims, keepdim=keep) if x.dtype == torch.bool else x.amax(dims, keepdim=keep)


def _smallest(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if _is_empty(x, dims):
        return _sum(x, dims, keep) + _highest(x.dtype)
    return x.all(dims, keepdim=keep) if x.dtype == torch.bool else x.amin(dims, keepdim=keep)


def _is_empty(x: Tensor, dims: list[int]) -> bool:
    return any(isinstance(x.shape[dim], int) and x.shape[dim] == 0 for dim in dims)


def _lowest(dtype: torch.dtype) -> Any:
    return float("-inf") if dtype.is_floating_point else False if dtype == torch.bool else torch.iinfo(dtype).min


def _highest(dtype: torch.dtype) -> Any:
    return float("inf") if dtype.is_floating_point else True if dtype == torch.bool else torch.iinfo(dtype).max


def _length(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if not x.is_floating_point():
        return x.double().square().sum(dims, keepdim=keep).sqrt().to(x.dtype)
    return x.square().sum(dims, keepdim=keep).sqrt()


def _log_sum_exp(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if not x.is_floating_point():
        return torch.logsumexp(x.double(), dims, keepdim=keep).to(x.dtype)
    return torch.logsumexp(x, dims, keepdim=keep)


REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": lambda x, dims, keep: _sum(x.abs(), dims, keep),
    "ReduceL2": _length,
    "ReduceLogSum": lambda x, dims, keep: _sum(x, dims, keep).log().to(x.dtype),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _largest,
    "ReduceMean": _mean,
    "ReduceMin": _smallest,
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda x, dims, keep: _sum(x * x, dims, keep),
}
"""Operator → what it makes of a tensor, over these dims."""


def _reduction(function: Reduction) -> Callable[..., Tensor]:
    def run(
        x: Tensor,
        axes_input: Sizes | None = None,
        *,
        axes: list[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        given = axes if axes_input is None else axes_input.list()
        dims = [dim % x.dim() for dim in given or [] if x.dim()] or list(range(x.dim()))
        if (not given and noop_with_empty_axes) or not x.dim():
            return function(x.unsqueeze(-1), [x.dim()], False)  # over nothing: of each element alone
        return function(x, dims, bool(keepdims))

    return run


for _name, _function in REDUCTIONS.items():
    onnx_op(_name)(_reduction(_function))


@onnx_op("ArgMax")
def argmax(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where along an axis the largest element is: the first of those, or the last."""
    return _place(torch.argmax, x, axis, bool(keepdims), bool(select_last_index))


@onnx_op("ArgMin")
def argmin(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where along an axis the smallest element is: the first of those, or the last."""
    return _place(torch.argmin, x, axis, bool(keepdims), bool(select_last_index))


def _place(function: Callable[..., Tensor], x: Tensor, axis: int, keep: bool, last: bool) -> Tensor:
    return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep) if last else function(x, axis, keepdim=keep)


@onnx_op("CumSum")
def cumulative_sum(x: Tensor, axis: Sizes, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Of what stands before each element along an axis, and itself unless `exclusive`."""
    return _cumulative(lambda value, dim: torch.cumsum(value, dim, dtype=x.dtype), x, axis, exclusive, reverse, 0)


@onnx_op("CumProd")
def cumulative_product(x: Tensor, axis: Sizes, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Product of what stands before each element along an axis, and itself unless `exclusive`."""
    return _cumulative(lambda value, dim: torch.cumprod(value, dim, dtype=x.dtype), x, axis, exclusive, reverse, 1)


def _cumulative(
    function: Callable[[Tensor, int], Tensor], x: Tensor, axis: Sizes, exclusive: int, reverse: int, start: int
) -> Tensor:
    dim = axis.one() % x.dim()
    along = x.flip(dim) if reverse else x
    if exclusive:
        first = torch.full_like(along.narrow(dim, 0, 1), start)
        along = torch.cat([first, along.narrow(dim, 0, along.shape[dim] - 1)], dim)
    result = function(along, dim)
    return result.flip(dim) if reverse else result
