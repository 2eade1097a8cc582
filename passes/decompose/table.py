"""Ops that are written out in simpler ones before any rule sees them.

The level that the rules speak keeps linear, convolution, layer norm, softmax, matmul, pooling and activations whole
(torch.export keeps them so by itself). What is a composition of those, or hands out several results, is written out
here: then its rule is the composition of the parts' rules, and needs no line of its own. Torch's own decompositions
serve for all that no rule speaks of (`glu`, `einsum`, `pixel_shuffle`, `meshgrid`, …); this project's stand where
another spelling gives relevance a better way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lrp_compiler.rules import OPERATORS, USERS
from lrp_compiler.torch_private import OpOverload, core_decompositions, op_name

from . import attention, experts, indexing, recurrent, resizing, sampling, slices, statistics, windows
from .scatters import WRITTEN_OUT

aten = torch.ops.aten


def lerp(start: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """`(1 − w) · start + w · end`."""
    between: Tensor = start * (1 - weight) + end * weight
    return between


def bilinear(left: Tensor, right: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`y_k = a W_k bᵀ + bias`: a linear map of a, then a product with b, summed."""
    outputs, features, others = weight.shape
    mixed = functional.linear(left, weight.transpose(1, 2).reshape(outputs * others, features))
    result: Tensor = (mixed.unflatten(-1, (outputs, others)) * right.unsqueeze(-2)).sum(-1)
    return result if bias is None else result + bias


def clamp(tensor: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:
    """Bounds that are tensors."""
    tensor = tensor if min is None else torch.maximum(tensor, min)
    return tensor if max is None else torch.minimum(tensor, max)


def rrelu(tensor: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *rest: object) -> Tensor:
    """Evaluated, a leaky ReLU with the mean slope."""
    return functional.leaky_relu(tensor, (lower + upper) / 2)


def baddbmm(tensor: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`β · input + α · A B`: the product may be one of two activations, as of queries and keys."""
    product = torch.bmm(batch1, batch2)
    return (tensor if beta == 1 else tensor * beta) + (product if alpha == 1 else product * alpha)


def addbmm(tensor: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`β · input + α · Σ A B`, summed over the batch."""
    product = torch.bmm(batch1, batch2).sum(0)
    return (tensor if beta == 1 else tensor * beta) + (product if alpha == 1 else product * alpha)


def full_like(tensor: Tensor, value: float, *, dtype: torch.dtype | None = None, **options: object) -> Tensor:
    """A constant, made of nothing but the tensor's shape."""
    return torch.full(tensor.shape, value, dtype=dtype or tensor.dtype, device=tensor.device)


def empty(
    size: Sequence[int | torch.SymInt],
    *layout: object,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    **options: object,
) -> Tensor:
    """Memory that is written to before anyone reads it, which a graph of values has none of: zeros."""
    return torch.zeros(size, dtype=dtype, device=device)


def empty_like(
    tensor: Tensor, *size: Sequence[int | torch.SymInt], dtype: torch.dtype | None = None, **options: object
) -> Tensor:
    """The same, of the dtype of a tensor, and of its shape where no other is given."""
    return torch.zeros(size[0] if size else tensor.shape, dtype=dtype or tensor.dtype, device=tensor.device)


def hypotenuse(left: Tensor, right: Tensor) -> Tensor:
    """`√(a² + b²)`."""
    return (left * left + right * right).sqrt()


def fmax(left: Tensor, right: Tensor) -> Tensor:
    """The larger one, that which is a number if the other is none; of equals the first."""
    return torch.where((left >= right) | right.isnan(), left, right)


def fmin(left: Tensor, right: Tensor) -> Tensor:
    """The smaller one, likewise."""
    return torch.where((left <= right) | right.isnan(), left, right)


def ldexp(tensor: Tensor, exponent: Tensor) -> Tensor:
    """`a · 2^b`."""
    result: Tensor = tensor * 2.0**exponent
    return result


def copysign(tensor: Tensor, other: Tensor) -> Tensor:
    """The size of one, the sign of the other; −0, which is not below 0, has one, too: 1/−0 is −∞."""
    positive = (other > 0) | ((other == 0) & (other.reciprocal() > 0))
    dtype = torch.result_type(tensor, other)
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    return tensor.abs() * (positive.to(dtype) * 2 - 1)


def copysign_of_number(tensor: Tensor, other: float) -> Tensor:
    """The size of a tensor, the sign of a number."""
    return tensor.abs() * math.copysign(1.0, other)


def dist(left: Tensor, right: Tensor, p: float = 2) -> Tensor:
    """The p-norm of the difference."""
    norm: Tensor = torch.linalg.vector_norm(left - right, p)
    return norm


COPIES = (
    "view",
    "permute",
    "narrow",
    "expand",
    "squeeze",
    "unsqueeze",
    "select",
    "slice",
    "t",
    "transpose",
    "diagonal",
)
"""Views that have a twin which copies, `view_copy`; nothing is written into either here."""


def _of_view(view: OpOverload) -> Callable[..., object]:
    def written_out(*args: object, **kwargs: object) -> object:
        return view(*args, **kwargs)

    return written_out


def _copies() -> dict[OpOverload, Callable[..., object]]:
    pairs = [(getattr(aten, f"{name}_copy"), getattr(aten, name)) for name in COPIES]
    return {
        getattr(copy, overload): _of_view(getattr(view, overload))
        for copy, view in pairs
        for overload in copy.overloads()
        if overload in view.overloads()
    }


DECOMPOSITIONS: dict[OpOverload, Callable[..., object]] = {
    **_copies(),
    **attention.DECOMPOSITIONS,
    **experts.DECOMPOSITIONS,
    **indexing.DECOMPOSITIONS,
    **recurrent.DECOMPOSITIONS,
    **resizing.DECOMPOSITIONS,
    **sampling.DECOMPOSITIONS,
    **slices.DECOMPOSITIONS,
    **statistics.DECOMPOSITIONS,
    **windows.DECOMPOSITIONS,
    aten.lerp.Scalar: lerp,
    aten.lerp.Tensor: lerp,
    aten.bilinear.default: bilinear,
    aten.clamp.Tensor: clamp,
    aten.clamp_min.Tensor: clamp,
    aten.clamp_max.Tensor: lambda tensor, max: clamp(tensor, None, max),
    aten.rrelu.default: rrelu,
    aten.addbmm.default: addbmm,
    aten.baddbmm.default: baddbmm,
    aten.dist.default: dist,
    aten.full_like.default: full_like,
    aten.empty.memory_format: empty,
    aten.empty_permuted.default: empty,
    aten.empty_strided.default: empty,
    aten.empty_like.default: empty_like,
    aten.new_empty.default: empty_like,
    aten.new_empty_strided.default: empty_like,
    aten.hypot.default: hypotenuse,
    aten.fmax.default: fmax,
    aten.fmin.default: fmin,
    aten.ldexp.Tensor: ldexp,
    aten.copysign.Tensor: copysign,
    aten.copysign.Scalar: copysign_of_number,
}
"""This project's own."""
BEYOND_CORE = [aten.grid_sampler_2d.default, aten.aminmax.default]
"""Ops of core ATen that torch can write out in others."""


def decomposition_table() -> dict[OpOverload, Callable[..., object]]:
    """What `run_decompositions` takes. An op with a rule of the user's own stays whole."""
    torchs = core_decompositions(BEYOND_CORE)
    whole = OPERATORS.keys() | WRITTEN_OUT.keys()
    table = {op: function for op, function in torchs.items() if op not in whole and not _checks(op)}
    table |= DECOMPOSITIONS | _of_libraries()
    return {op: function for op, function in table.items() if not _has_rule_of_user(op)}


def _of_libraries() -> dict[OpOverload, Callable[..., object]]:
    """Ops of other libraries, as far as these are there."""
    found: dict[OpOverload, Callable[..., object]] = {}
    for name, function in experts.OF_LIBRARIES.items():
        namespace, packet = name.split("::")
        op = getattr(getattr(torch.ops, namespace), packet, None)
        if op is not None:
            found[op.default] = function
    return found


def _checks(op: object) -> bool:
    """Whether the op is written out with a check of its result (a matrix that cannot be inverted): an effect."""
    name = op_name(op) or ""
    return name == "inverse" or hasattr(aten, f"{name}_ex")


def _has_rule_of_user(op: object) -> bool:
    return any(entry.family == USERS for entry in OPERATORS.get(op, ()))
