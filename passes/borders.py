"""Zeros that an op of its own puts around a value: no pixels, just as those that a convolution puts there itself."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import torch

from .graph_tools import arguments, is_tensor

aten = torch.ops.aten
PADS = {aten.pad.default, aten.constant_pad_nd.default}


def zero_border(value: Any) -> tuple[int, ...]:
    """How many zeros lie around a value of the graph, as `torch.nn.functional.pad` counts; empty: none.

    Borders around borders are added up. A border of another value, a crop, or one whose width depends on the input is
    none.
    """
    amounts: tuple[int, ...] = ()
    while is_tensor(value) and value.target in PADS:
        inner, added, *rest = arguments(value)
        if value.kwargs or any(fill not in ("constant", 0, None) for fill in rest):
            break
        if not all(isinstance(amount, int) and amount >= 0 for amount in added):
            break
        amounts = tuple(first + second for first, second in zip_longest(amounts, added, fillvalue=0))
        value = inner
    return amounts
