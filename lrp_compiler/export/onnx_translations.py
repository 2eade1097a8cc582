"""Operators whose translation by the exporter is slow to run, loses digits, or that have none: ours instead.

`torch.onnx.export(custom_translation_table=TRANSLATIONS)`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops.core import aten_pixel_unshuffle, aten_sort

aten = torch.ops.aten


def max_pool_with_indices(
    x: Any, kernel_size: Sequence[int], stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Any:
    """`MaxPool`, whose indices count from the first element of the batch: torch's count from that of the map.

    The exporter finds the difference by another pool of the whole input, of windows of 1.
    """
    dims = len(kernel_size)
    pads, dilations = (list(value) if isinstance(value, Sequence) else [value] * dims for value in (padding, dilation))
    # Without a batch dim the channels stand for one: indices are taken modulo the size of a map either way.
    alone = len(x.shape) == dims + 1
    first: Any = op.Constant(value_ints=[0])
    pooled, indices = op.MaxPool(
        op.Unsqueeze(x, first) if alone else x,
        ceil_mode=int(ceil_mode),
        dilations=dilations,
        kernel_shape=list(kernel_size),
        pads=[*pads, *pads],
        strides=list(stride or kernel_size),
    )
    indices = op.Mod(indices, op.ReduceProd(op.Shape(x, start=-dims), keepdims=0))
    if alone:
        pooled, indices = (op.Squeeze(value, first) for value in (pooled, indices))
    return pooled, indices


def pixel_unshuffle(x: Any, downscale_factor: int) -> Any:
    """`SpaceToDepth`, which orders the channels of one map as torch does, and those of several otherwise."""
    if len(x.shape) == 4 and x.shape[1] == 1:
        return op.SpaceToDepth(x, blocksize=downscale_factor)
    return aten_pixel_unshuffle(x, downscale_factor)


def masked_select(x: Any, mask: Any) -> Any:
    """`Compress` of both, broadcast to one another and flattened."""
    x = op.Expand(x, op.Shape(mask))
    line: Any = op.Constant(value_ints=[-1])
    return op.Compress(x, op.Reshape(op.Expand(mask, op.Shape(x)), line))


def product(x: Any, dims: Sequence[int], output_dtype: Any = None) -> Any:
    """`ReduceProd`, of what torch's own decompositions make of a product."""
    axes: Any = op.Constant(value_ints=list(dims))
    return op.ReduceProd(x, axes, keepdims=0)


def _number(value: float, like: Any) -> Any:
    constant: Any = op.Constant(value_float=value)
    return op.CastLike(constant, like)


def log1p(x: Any) -> Any:
    """`log(1 + x)` to the last digit: of a small x, 1 + x keeps few digits, and u = 1 + x says itself which.

    W. Kahan: `log(u) · x / (u − 1)`, and x where u is 1.
    """
    one = _number(1.0, x)
    u = op.Add(x, one)
    rest = op.Sub(u, one)
    ratio = op.Where(op.Equal(u, x), one, op.Div(x, rest))
    return op.Where(op.Equal(u, one), x, op.Mul(op.Log(u), ratio))


def expm1(x: Any) -> Any:
    """`exp(x) − 1` to the last digit, as `tanh(x/2) · (exp(x) + 1)`: of a small x, exp(x) keeps few digits of it."""
    one = _number(1.0, x)
    half = _number(0.5, x)
    return op.Mul(op.Tanh(op.Mul(x, half)), op.Add(op.Exp(x), one))


def log_sigmoid(x: Any) -> Any:
    """`min(x, 0) − log(1 + exp(−|x|))`: the exporter's logarithm of the sigmoid is −∞ where that is 0."""
    return op.Sub(op.Min(x, _number(0.0, x)), log1p(op.Exp(op.Neg(op.Abs(x)))))


def safe_softmax(x: Any, dim: int, dtype: Any = None) -> Any:
    """`Softmax`, and zeros where all elements are −∞, as a mask leaves them.

    Such a row is made one of zeros first, and its result multiplied by 0: what decides is one number a row, where the
    exporter compares, counts and chooses element by element, which takes several times as long as the softmax.
    """
    x = x if dtype is None else op.Cast(x, to=dtype)
    dims: Any = op.Constant(value_ints=[dim])
    largest = op.ReduceMax(x, dims, keepdims=1)
    lowest, zero, one = (_number(number, x) for number in (-np.inf, 0.0, 1.0))
    is_empty = op.Equal(largest, lowest)
    result = op.Softmax(op.Max(x, op.Where(is_empty, zero, lowest)), axis=dim)
    return op.Mul(result, op.Where(is_empty, zero, one))


def stable_sort(x: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """`TopK` of all: of equals the one that comes first is first, in either direction."""
    return aten_sort(x, dim, descending)


def sorted_place(
    sequence: Any, x: Any, out_int32: bool = False, right: bool = False, side: str | None = None, sorter: Any = None
) -> Any:
    """How many of the sorted numbers lie in front of each element; all of them in front of NaN.

    Raises:
        NotImplementedError: the numbers are sorted by indices only.
    """
    if sorter is not None:
        raise NotImplementedError("searchsorted by a sorter")
    last: Any = op.Constant(value_ints=[-1])
    dim: Any = op.Constant(value_ints=[-2 if len(sequence.shape) > 1 else 0])
    numbers = op.Unsqueeze(op.CastLike(sequence, x), dim)
    element = op.Unsqueeze(x, last)
    behind = op.Less(element, numbers) if right or side == "right" else op.LessOrEqual(element, numbers)
    in_front: Any = op.Cast(op.Not(behind), to=TensorProto.INT64)
    count: Any = op.ReduceSum(in_front, last, keepdims=0)
    return op.Cast(count, to=TensorProto.INT32) if out_int32 else count


def atan2(y: Any, x: Any) -> Any:
    """The angle of `|y| / |x|`, put into its quadrant by the signs, also those of zeros.

    The exporter's own is −π where y is 0 and x below it, and NaN at the origin.
    """
    zero, one, four = (_number(number, y) for number in (0.0, 1.0, 4.0))
    pi = op.Mul(op.Atan(one), four)  # in y's own precision

    def is_negative(value: Any) -> Any:
        return op.Or(op.Less(value, zero), op.And(op.Equal(value, zero), op.Less(op.Div(one, value), zero)))

    origin = op.And(op.Equal(x, zero), op.Equal(y, zero))
    angle = op.Atan(op.Div(op.Abs(y), op.Where(origin, one, op.Abs(x))))
    angle = op.Where(is_negative(x), op.Sub(pi, angle), angle)
    return op.Where(is_negative(y), op.Neg(angle), angle)


def extreme(reduce: Callable[..., Any]) -> Callable[..., Any]:
    """`ReduceMax` or `ReduceMin` over some dims, or over all where none is named: the exporter asks for one."""

    def translated(x: Any, dim: Sequence[int] | int = (), keepdim: bool = False) -> Any:
        dims = [dim] if isinstance(dim, int) else list(dim)
        return reduce(x, op.Constant(value_ints=dims) if dims else None, keepdims=int(keepdim))

    return translated


def nearest(middle: float) -> Callable[..., Any]:
    """Every result element is the input element at `⌊(place + middle) · scale⌋`, scale in float32, as torch has it.

    `Resize` divides by the reciprocal: where places and elements meet, as in 14 elements to 8, it takes the one before.
    Whole factors are no matter of rounding and are left to it.
    """

    def translated(x: Any, output_size: Any = None, scale_factors: Sequence[float] | None = None) -> Any:
        if scale_factors is not None and all(factor == int(factor) for factor in scale_factors):
            scales: Any = op.Constant(value_floats=[1.0, 1.0, *scale_factors])
            return op.Resize(
                x, None, scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
            )
        dims = len(x.shape) - 2
        wanted: Any = None if scale_factors is not None else op.Cast(output_size, to=TensorProto.INT64)
        for dim in range(dims):
            one: Any = op.Constant(value_ints=[1])
            size: Any = op.Shape(x, start=2 + dim, end=3 + dim)
            if scale_factors is None:
                place: Any = op.Constant(value_ints=[dim])
                count: Any = op.Slice(wanted, place, op.Add(place, one))
                old: Any = op.Cast(size, to=TensorProto.FLOAT)
                scale: Any = op.Div(old, op.Cast(count, to=TensorProto.FLOAT))
            else:
                factor: Any = op.Constant(value=_double(scale_factors[dim]))
                count = op.Cast(op.Floor(op.Mul(op.Cast(size, to=TensorProto.DOUBLE), factor)), to=TensorProto.INT64)
                scale = op.Constant(value_floats=[1.0 / scale_factors[dim]])
            first: Any = op.Constant(value_int=0)
            step: Any = op.Constant(value_int=1)
            places: Any = op.Cast(op.Range(first, op.Squeeze(count), step), to=TensorProto.FLOAT)
            offset: Any = op.Constant(value_floats=[middle])
            nearest_one = op.Cast(op.Floor(op.Mul(op.Add(places, offset), scale)), to=TensorProto.INT64)
            x = op.Gather(x, op.Min(nearest_one, op.Sub(size, one)), axis=2 + dim)
        return x

    return translated


def smooth(mode: str) -> Callable[..., Any]:
    """`Resize`, to as many elements as torch makes.

    Runtimes round size · factor in float32, and torch in float64: of 90 elements by 0.7 they make 63, and torch 62. The
    factor is taken a little too large, and what is too much is cut off: where elements lie says the factor alone.
    """

    def translated(x: Any, output_size: Any, align_corners: bool, scale_factors: Sequence[float] | None = None) -> Any:
        def resize(scales: Any, sizes: Any = None) -> Any:
            mapped = "align_corners" if align_corners else "half_pixel"
            return op.Resize(x, None, scales, sizes, mode=mode, coordinate_transformation_mode=mapped)

        first: Any = op.Shape(x, end=2)
        if scale_factors is None:
            wanted: Any = op.Cast(output_size, to=TensorProto.INT64)
            return resize(None, op.Concat(first, wanted, axis=0))
        if all(factor == int(factor) for factor in scale_factors):
            return resize(op.Constant(value_floats=[1.0, 1.0, *scale_factors]))
        given: Any = op.Cast(op.Shape(x, start=2), to=TensorProto.DOUBLE)
        factors: Any = op.Constant(value=_double(*scale_factors))
        counts: Any = op.Cast(op.Floor(op.Mul(given, factors)), to=TensorProto.INT64)
        if align_corners:  # elements lie as the sizes say
            return resize(None, op.Concat(first, counts, axis=0))
        above = [float(np.nextafter(np.float32(factor), np.float32(np.inf))) for factor in scale_factors]
        dims: Any = op.Constant(value_ints=list(range(2, 2 + len(above))))
        starts: Any = op.Constant(value_ints=[0] * len(above))
        return op.Slice(resize(op.Constant(value_floats=[1.0, 1.0, *above])), starts, counts, dims)

    return translated


def _double(*values: float) -> TensorProto:
    return helper.make_tensor("", TensorProto.DOUBLE, [len(values)], values)


OPEN_LENGTH = 2**31
"""More than any length that is not known comes to."""


def running_extreme(wins: Callable[..., Any]) -> Callable[..., Any]:
    """The largest (smallest) of all elements up to each place and where it stands; of equals the last, as in torch.

    In each step every place compares what it has found with what the place has that stands as far in front of it as
    its own search has come, and so has looked through twice as many: log₂ n steps. A length that is not known takes as
    many as the longest, of which the last compare nothing.

    Args:
        wins: the comparison by which a later element takes the place of an earlier one.
    """

    def translated(x: Any, dim: int) -> Any:
        rank = len(x.shape)
        if not rank:
            only: Any = op.Constant(value_int=0)
            return op.Identity(x), only
        dim %= rank
        size: Any = op.Shape(x, start=dim, end=dim + 1)
        ends: list[Any] = [op.Constant(value_int=number) for number in (0, 1)]
        along: Any = op.Constant(value_ints=[-1 if place == dim else 1 for place in range(rank)])
        places: Any = op.Range(ends[0], op.Squeeze(size), ends[1])
        found: Any = op.Expand(op.Reshape(places, along), op.Shape(x))
        numbers: list[Any] = [op.Constant(value_ints=[number]) for number in (0, np.iinfo(np.int64).max, dim)]
        start, end, axis = numbers
        length, reach = x.shape[dim] if isinstance(x.shape[dim], int) else OPEN_LENGTH, 1
        while reach < length:
            behind: Any = op.Constant(value_ints=[reach])
            back: Any = op.Constant(value_ints=[-reach])
            later, earlier = op.Slice(found, behind, end, axis), op.Slice(found, start, back, axis)
            later_wins = wins(*(op.GatherElements(x, places, axis=dim) for places in (later, earlier)))
            first = op.Slice(found, start, behind, axis)
            found = op.Concat(first, op.Where(later_wins, later, earlier), axis=dim)
            reach *= 2
        return op.GatherElements(x, found, axis=dim), found

    return translated


def number(s: Any, dtype: int = TensorProto.FLOAT, **options: Any) -> Any:
    """A tensor of one number, known or calculated from sizes; where it is to lie does not matter in a file."""
    if isinstance(s, bool | int | float):
        return op.Constant(value=helper.make_tensor("", dtype, [], [s]))
    return op.Cast(s, to=dtype)


def square_root(x: Any) -> Any:
    """Of a number that is made of sizes."""
    number: Any = op.Cast(x, to=TensorProto.FLOAT)
    return op.Sqrt(number)


TRANSLATIONS: Mapping[Any, Callable[..., Any]] = {
    aten.max_pool1d_with_indices.default: max_pool_with_indices,
    aten.max_pool2d_with_indices.default: max_pool_with_indices,
    aten.max_pool3d_with_indices.default: max_pool_with_indices,
    aten.masked_select.default: masked_select,
    torch.ops.prims.prod.default: product,
    torch.ops.prims.scalar_tensor.default: number,
    aten.pixel_unshuffle.default: pixel_unshuffle,
    aten._safe_softmax.default: safe_softmax,
    aten.sort.stable: stable_sort,
    aten.searchsorted.Tensor: sorted_place,
    aten.amax.default: extreme(op.ReduceMax),
    aten.amin.default: extreme(op.ReduceMin),
    aten.upsample_nearest1d.vec: nearest(0.0),
    aten._upsample_nearest_exact1d.vec: nearest(0.5),
    aten.upsample_nearest2d.vec: nearest(0.0),
    aten._upsample_nearest_exact2d.vec: nearest(0.5),
    aten.upsample_nearest3d.vec: nearest(0.0),
    aten._upsample_nearest_exact3d.vec: nearest(0.5),
    aten.upsample_bilinear2d.vec: smooth("linear"),
    aten.upsample_trilinear3d.vec: smooth("linear"),
    aten.upsample_bicubic2d.vec: smooth("cubic"),
    aten.log1p.default: log1p,
    aten.log_sigmoid.default: log_sigmoid,
    aten.expm1.default: expm1,
    aten.atan2.default: atan2,
    aten.cummax.default: running_extreme(op.GreaterOrEqual),
    aten.cummin.default: running_extreme(op.LessOrEqual),
    torch.sym_sqrt: square_root,
}
