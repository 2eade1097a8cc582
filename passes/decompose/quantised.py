"""Quantisation, as the rounding that it is.

    fake_quantize(x, s, z, low, high)          →    clamp(round(x · 1/s), low − z, high − z) · s
    dequantize(quantize(x, s, z, low, high))   →    the same: the whole numbers in between stay floats

    choose_qparams(x)                          →    (max x − min x) / (high − low), and where 0 then lies
    int8 @ int8                                →    the product of floats, which is exact

Whole numbers of that size are exact in floating point, so that the zero point, which is added before the clamp and
taken away again, need not be there. Each step has a rule then, and the identity rule goes by values. Weights that are
stored as whole numbers are written out as well. Of float64 the results are torch's to single precision, in which its
kernel has the scale.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from ctypes import c_float
from enum import Enum, auto
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph import Result, constant_of, inline, is_tensor
from lrp_compiler.rules import Arguments, bind

from .slices import along

aten = torch.ops.aten

Number = Tensor | float
"""A plain number, or a tensor of them where they differ or are computed."""


class Does(Enum):
    """What an operator does."""

    FAKES = auto()
    """x → quantised x; of several results the first."""
    STORES = auto()
    """x → whole numbers."""
    RESTORES = auto()
    """Whole numbers → x."""
    CHOOSES = auto()
    """x → (scale, zero point), from the extremes of x."""
    CHOOSES_SYMMETRIC = auto()
    """The same, 0 in the middle."""
    MULTIPLIES = auto()
    """Matrices of whole numbers → their product."""


ATEN: dict[object, Does] = {
    aten.fake_quantize_per_tensor_affine_cachemask.default: Does.FAKES,
    aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default: Does.FAKES,
    aten.fake_quantize_per_channel_affine_cachemask.default: Does.FAKES,
    aten._fake_quantize_learnable_per_tensor_affine.default: Does.FAKES,
    aten._fake_quantize_learnable_per_channel_affine.default: Does.FAKES,
    aten._int_mm.default: Does.MULTIPLIES,
}
STORED = (("per_tensor", "default"), ("per_tensor", "tensor"), ("per_tensor", "tensor2"), ("per_channel", "default"))
IMPORTED = {
    **{(f"quantize_{kind}", overload): Does.STORES for kind, overload in STORED},
    **{(f"dequantize_{kind}", overload): Does.RESTORES for kind, overload in STORED},
    ("choose_qparams", "tensor"): Does.CHOOSES,
    ("choose_qparams_symmetric", "tensor"): Does.CHOOSES_SYMMETRIC,
}
"""The same in `torch.ops.quantized_decomposed`, where there is nothing until torch's converters are imported."""
WITHOUT_BOUNDS = (Does.MULTIPLIES, Does.CHOOSES, Does.CHOOSES_SYMMETRIC)
"""They are not told between which numbers they stay."""
EXACT = 1 << 24
"""Up to here single precision has every whole number."""
LARGEST = 1 << 14
"""Of two whole numbers of 8 bits, the product."""


def chosen(x: Tensor, low: int, high: int, eps: float, dtype: torch.dtype, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The size of a step and the zero point, as torch chooses them: float64 and int64 `[1]`."""
    least, most = x.amin().clamp(max=0), x.amax().clamp(min=0)
    if symmetric:
        scale = (torch.maximum(-least, most) / (float(high - low) / 2)).clamp(min=single(eps))
        zero = torch.full_like(scale, 128 if dtype is torch.uint8 else 0)
    else:
        scale = ((most - least) / float(high - low)).clamp(min=single(eps))
        zero = (low - torch.round(least / scale)).clamp(low, high)
    return scale.to(torch.float64).reshape(1), zero.to(torch.int64).reshape(1)


def _chosen_one(*given: Any, symmetric: bool, number: int) -> Tensor:
    return chosen(*given, symmetric=symmetric)[number]


def multiplied(a: Tensor, b: Tensor) -> Tensor:
    """A product of matrices of int8, in the precision that holds its sums."""
    fits = isinstance(a.shape[1], int) and a.shape[1] * LARGEST < EXACT
    dtype = torch.float32 if fits else torch.float64
    return torch.matmul(a.to(dtype), b.to(dtype)).to(torch.int32)


def rounded(x: Tensor, inverse: Number, low: Number, high: Number) -> Tensor:
    """`round(x / s)` within bounds, in float."""
    x = x if x.dtype == torch.float64 else x.to(torch.float32)
    whole = torch.round(x * (inverse.to(x.dtype) if isinstance(inverse, Tensor) else inverse))
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        low, high = (torch.as_tensor(bound).to(whole.dtype) for bound in (low, high))
        return torch.minimum(torch.maximum(whole, low), high)
    return whole.clamp(low, high)


def faked(x: Tensor, scale: Number, zero: Number, low: int, high: int) -> Tensor:
    """Quantised as torch's kernels do it: they multiply by the reciprocal in single precision."""
    inverse = scale.reciprocal() if isinstance(scale, Tensor) else single(1 / single(scale))
    result: Tensor = rounded(x, inverse, low - zero, high - zero) * (
        scale if isinstance(scale, Tensor) else single(scale)
    )
    return result.to(x.dtype)


def quantised(x: Tensor, scale: Number, zero: Number, low: int, high: int) -> Tensor:
    """The whole numbers less the zero point."""
    return rounded(x, 1.0 / scale, low - zero, high - zero)


def stored(x: Tensor, scale: Number, zero: Number, low: int, high: int, *, dtype: torch.dtype) -> Tensor:
    """The whole numbers as such."""
    whole: Tensor = quantised(x, scale, zero, low, high) + zero
    return whole.to(dtype)


def restored(whole: Tensor, scale: Number, zero: Number, *unused: object, dtype: torch.dtype) -> Tensor:
    """From whole numbers."""
    values = whole.to(dtype)
    less: Tensor = values - (zero.to(dtype) if isinstance(zero, Tensor) else zero)
    return less * (scale.to(dtype) if isinstance(scale, Tensor) else scale)


def rescaled(whole: Tensor, scale: Number, *unused: object, dtype: torch.dtype) -> Tensor:
    """From whole numbers less the zero point."""
    result: Tensor = whole.to(dtype) * (scale.to(dtype) if isinstance(scale, Tensor) else scale)
    return result


def single(value: float) -> float:
    """The number in single precision."""
    return c_float(value).value


def write_out_quantised(module: fx.GraphModule) -> Result:
    """Rewrite the forward graph in place."""
    known = _known()
    found = [(node, known[node.target]) for node in module.graph.nodes if node.target in known]
    floats: set[fx.Node] = set()
    plain = [(node, does) for node, does in found if does in WITHOUT_BOUNDS]
    for node, does in plain:
        if does is Does.MULTIPLIES:
            node.replace_all_uses_with(inline(node, multiplied))
            continue
        for picked in list(node.users):
            which = partial(_chosen_one, symmetric=does is Does.CHOOSES_SYMMETRIC, number=picked.args[1])
            picked.replace_all_uses_with(inline(node, which))
            module.graph.erase_node(picked)
    for node, does in found:
        if does in WITHOUT_BOUNDS:
            continue
        given = bind(node.target, node.args, node.kwargs)
        write: Callable[..., Tensor] = faked
        if does is Does.STORES:
            paired = all(known.get(user.target) is Does.RESTORES and _undoes(user, given) for user in node.users)
            write = quantised if paired else partial(stored, dtype=given["dtype"])
        elif does is Does.RESTORES:
            dtype = given["out_dtype"] or torch.float32
            write = partial(rescaled if given["input"] in floats else restored, dtype=dtype)
        result = _write(module, node, given, write)
        if does is Does.STORES and paired:
            floats.add(result)
        if is_tensor(node):
            node.replace_all_uses_with(result)
            continue
        for picked in list(node.users):
            if picked.target is operator.getitem and picked.args[1] == 0:
                picked.replace_all_uses_with(result)
                module.graph.erase_node(picked)
    removed = module.graph.eliminate_dead_code()
    return Result(module, bool(found or removed))


def _known() -> dict[object, Does]:
    """The operators that there are → what each does."""
    imported = {
        getattr(getattr(torch.ops.quantized_decomposed, name), overload): does
        for (name, overload), does in IMPORTED.items()
        if hasattr(torch.ops.quantized_decomposed, name)
    }
    return {**ATEN, **imported}


def _undoes(node: fx.Node, quantised: Arguments) -> bool:
    """Whether the node restores what was quantised so."""
    given = bind(node.target, node.args, node.kwargs)
    return all(given.get(name) == quantised.get(name) for name in ("scale", "zero_point", "scales", "zero_points"))


def _write(module: fx.GraphModule, node: fx.Node, given: Arguments, function: Callable[..., Tensor]) -> fx.Node:
    """What the function does with the node's operands; constants that are one number are given as that."""
    x = given.get("input", given.get("self"))
    scale, zero = (given.get(name, given.get(f"{name}s")) for name in ("scale", "zero_point"))
    low, high = (given[name] for name in ("quant_min", "quant_max"))
    scale, zero, low, high = (_number(module, value) for value in (scale, zero, low, high))
    axis, switch = given.get("axis"), _number(module, given.get("fake_quant_enabled", 1))

    def written(x: Tensor, scale: Number, zero: Number, low: Number, high: Number, switch: Number) -> Tensor:
        scale, zero = (
            along(value, axis, x.dim()) if axis is not None and isinstance(value, Tensor) and value.dim() else value
            for value in (scale, zero)
        )
        result = function(x, scale, zero, low, high)
        return torch.where(switch != 0, result, x) if isinstance(switch, Tensor) else result if switch else x

    return inline(node, written, (x, scale, 0 if zero is None else zero, low, high, switch))


def _number(module: fx.GraphModule, value: object) -> Any:
    """The number that all elements of a constant are."""
    tensor = constant_of(module, value)
    if tensor is None or not tensor.numel() or not bool((tensor == tensor.flatten()[0]).all()):
        return value
    number: Any = tensor.flatten()[0].item()
    return number
