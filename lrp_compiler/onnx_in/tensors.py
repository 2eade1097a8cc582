"""Tensors of ONNX files as torch's, by a table of dtypes."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from lrp_compiler.base.errors import FormatError

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool,
    TensorProto.COMPLEX64: torch.complex64,
    TensorProto.COMPLEX128: torch.complex128,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT2: torch.int8,
    TensorProto.UINT2: torch.uint8,
}
"""ONNX's number of a dtype → torch's; whole numbers of 4 and 2 bits lie in 8."""
BITS = {torch.bfloat16: np.uint16, **dict.fromkeys((torch.float8_e4m3fn, torch.float8_e5m2), np.uint8)}
BITS |= dict.fromkeys((torch.float8_e4m3fnuz, torch.float8_e5m2fnuz), np.uint8)
"""dtypes that numpy does not have → those whose bits torch reads as them."""
MOST_DENSE = 1 << 30
"""Elements of a sparse tensor that is written out."""
SMALL: dict[int, Any] = {
    TensorProto.INT4: np.int8,
    TensorProto.UINT4: np.uint8,
    TensorProto.INT2: np.int8,
    TensorProto.UINT2: np.uint8,
}


def dtype_of(number: int, what: str) -> torch.dtype:
    """torch's dtype; raises `FormatError` where torch has none, `what` being named by it."""
    if number == TensorProto.STRING:
        raise FormatError(
            f"{what} is text, which carries no relevance: give the model the numbers that are made of it."
        )
    if number not in DTYPES:
        known = number in TensorProto.DataType.values()
        name = TensorProto.DataType.Name(number) if known else str(number)
        raise FormatError(f"{what} is of dtype {name}, for which there is no arithmetic here.")
    return DTYPES[number]


def tensor_of(proto: TensorProto, what: str = "A tensor") -> Tensor:
    """A tensor whose values are in the file itself.

    Raises:
        FormatError: a dtype that torch does not have, or fewer bytes than the shape says.
    """
    dtype = dtype_of(proto.data_type, what)
    check_shape(proto.dims, what)
    try:
        array = numpy_helper.to_array(proto)
    except Exception as error:
        raise FormatError(f"{what} does not hold as many values as its shape says.") from error
    return as_tensor(array, dtype, proto.data_type)


def as_dtype(values: Tensor, dtype: torch.dtype, saturate: int = 1) -> Tensor:
    """Values in another dtype; of 8 bits those beyond its ends are these, unless that is not wanted."""
    if saturate and dtype in BITS and dtype is not torch.bfloat16:
        ends = torch.finfo(dtype)
        values = values.clamp(ends.min, ends.max)
    return values.to(dtype)


def check_shape(dims: Iterable[int], what: str) -> None:
    """Raise `FormatError` for a shape with a negative size."""
    if any(size < 0 for size in dims):
        raise FormatError(f"{what} has the shape {list(dims)}.")


def as_tensor(array: np.ndarray, dtype: torch.dtype, number: int = 0) -> Tensor:
    """An array as a tensor of this dtype, bit for bit; it may share the array's memory."""
    if number in SMALL:
        array = array.astype(SMALL[number])
    if dtype in BITS:
        bits: np.ndarray[Any, Any] = np.ascontiguousarray(array).view(BITS[dtype]).reshape(array.shape)
        return torch.from_numpy(np.array(bits)).view(dtype)
    # What is read from the file's own bytes cannot be written to, of which torch warns.
    whole = array if array.flags.writeable else np.array(array)
    return torch.from_numpy(np.ascontiguousarray(whole).reshape(array.shape))


def dense(sparse: onnx.SparseTensorProto, what: str) -> Tensor:
    """A sparse tensor, written out.

    Raises:
        FormatError: places that are not of its shape, or not as many as values; or it is too large to be written out.
    """
    values = tensor_of(sparse.values, what)
    places = tensor_of(sparse.indices, what)
    shape = list(sparse.dims)
    check_shape(shape, what)
    if prod(shape) > MOST_DENSE:
        raise FormatError(f"{what} is sparse and has {prod(shape):,} elements, too many to be written out.")
    whole = places.dtype == torch.int64 and places.dim() in (1, 2) and values.dim() == 1
    if not whole or len(places) != len(values) or (places.dim() == 2 and places.shape[1] != len(shape)):
        raise FormatError(f"{what} is sparse, and its places are not those of its values.")
    limits = torch.tensor([prod(shape)] if places.dim() == 1 else shape)
    if bool(((places < 0) | (places >= limits)).any()):
        raise FormatError(f"{what} is sparse, and has values at places outside the shape {shape}.")
    if places.dim() == 1:
        return torch.zeros(prod(shape), dtype=values.dtype).index_put((places,), values).reshape(shape)
    return torch.zeros(shape, dtype=values.dtype).index_put(tuple(places.T), values)
