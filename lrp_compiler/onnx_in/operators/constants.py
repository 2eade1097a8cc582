"""Constants that are nodes."""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_compiler.base.errors import FormatError

from ..registry import onnx_op


@onnx_op("Constant")
def constant(
    *,
    value: Tensor | None = None,
    sparse_value: Tensor | None = None,
    value_float: float | None = None,
    value_floats: list[float] | None = None,
    value_int: int | None = None,
    value_ints: list[int] | None = None,
    value_string: str | None = None,
    value_strings: list[str] | None = None,
) -> Tensor:
    """A tensor, a number or a list of numbers."""
    held = value if value is not None else sparse_value
    if held is not None:
        return held
    for number, dtype in ((value_float, torch.float32), (value_floats, torch.float32)):
        if number is not None:
            return torch.tensor(number, dtype=dtype)
    whole = value_int if value_int is not None else value_ints
    if whole is None and value_string is None and value_strings is None:
        raise FormatError("A Constant holds no value.")
    if whole is None:
        raise FormatError("A Constant holds text, which carries no relevance.")
    return torch.tensor(whole, dtype=torch.int64)
