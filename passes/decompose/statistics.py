"""Norms, variances and the normalisations made of them, products over a dim.

A normalisation is left with its statistic as a factor of its own, which `freeze_statistics` finds by its structure, or
becomes a layer norm over reshaped dims, which has a rule that freezes its statistic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from lrp_compiler.passes.graph import Result, write_out
from lrp_compiler.torch_private import OpOverload, statically_known_true

aten = torch.ops.aten

Dims = int | Sequence[int] | None


def rms_norm(
    tensor: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """`x / √(mean x² + ε) ⊙ w`."""
    dims = list(range(-len(normalized_shape), 0))
    epsilon = torch.finfo(tensor.dtype).eps if eps is None else eps
    normalised = tensor * torch.rsqrt((tensor * tensor).mean(dims, keepdim=True) + epsilon)
    return normalised if weight is None else normalised * weight


def group_norm(
    tensor: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """A layer norm over each group of channels, then the affine part of each channel."""
    batch, channels, *spatial = tensor.shape
    shape = [channels // num_groups, *spatial]
    grouped = tensor.reshape([batch, num_groups, *shape])
    normalised = functional.layer_norm(grouped, shape, eps=eps).reshape(tensor.shape)
    return _affine(normalised, weight, bias)


def _affine(tensor: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = [1, -1, *[1] * (tensor.dim() - 2)]
    if weight is not None:
        tensor = tensor * weight.reshape(shape)
    return tensor if bias is None else tensor + bias.reshape(shape)


def native_group_norm(
    tensor: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, hxw: int, group: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's spelling, with mean and 1/σ of each group."""
    rows = tensor.reshape(n, group, -1)
    mean, variance = _moments(rows, [-1], 0, keepdim=False)
    return group_norm(tensor, group, weight, bias, eps), mean, torch.rsqrt(variance + eps)


def native_layer_norm(
    tensor: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's spelling, with mean and 1/σ of each row."""
    mean, variance = _moments(tensor, list(range(-len(normalized_shape), 0)), 0, keepdim=True)
    return functional.layer_norm(tensor, normalized_shape, weight, bias, eps), mean, torch.rsqrt(variance + eps)


def layer_norm(
    tensor: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """Its primitives, for rules in which the deviation takes part."""
    dims = list(range(-len(normalized_shape), 0))
    centred = tensor - tensor.mean(dims, keepdim=True)
    normalised = centred * torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)
    normalised = normalised if weight is None else normalised * weight
    return normalised if bias is None else normalised + bias


def write_out_layer_norms(module: fx.GraphModule) -> Result:
    """Rewrite the forward graph in place."""
    found = module.graph.find_nodes(op="call_function", target=aten.layer_norm.default)
    for node in found:
        write_out(node, layer_norm)
    return Result(module, bool(found))


def instance_norm(
    tensor: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """A group norm with one channel a group, or with kept statistics a batch norm."""
    if use_input_stats:
        return group_norm(tensor, tensor.shape[1], weight, bias, eps)
    assert running_mean is not None
    assert running_var is not None
    return functional.batch_norm(tensor, running_mean, running_var, weight, bias, False, momentum, eps)


def batch_norm_of_batch(
    tensor: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch norm without kept statistics: those of the batch."""
    dims = [0, *range(2, tensor.dim())]
    mean, variance = _moments(tensor, dims, 0, keepdim=True)
    scale = torch.rsqrt(variance + eps)
    return _affine((tensor - mean) * scale, weight, bias), mean.flatten(), scale.flatten()


def vector_norm(
    tensor: Tensor, ord: float = 2, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    """`(Σ |x|ᵖ)^(1/p)`."""
    tensor = tensor if dtype is None else tensor.to(dtype)
    tensor = tensor.abs() if tensor.is_complex() else tensor
    dims = list(range(tensor.dim())) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    if abs(ord) == float("inf"):
        return (torch.amax if ord > 0 else torch.amin)(tensor.abs(), dims, keepdim)
    if ord == 0:
        return (tensor != 0).to(tensor.dtype).sum(dims, keepdim)
    if ord == 1:
        return tensor.abs().sum(dims, keepdim)
    if ord == 2:
        return (tensor * tensor).sum(dims, keepdim).sqrt()
    return (tensor.abs() ** ord).sum(dims, keepdim) ** (1 / ord)


def variance(tensor: Tensor, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False) -> Tensor:
    """`Σ (x − mean x)² / (n − correction)`."""
    return _moments(tensor, dim, 1 if correction is None else correction, keepdim)[1]


def variance_and_mean(
    tensor: Tensor, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """Both."""
    mean, variance = _moments(tensor, dim, 1 if correction is None else correction, keepdim)
    return variance, mean


def standard_deviation(
    tensor: Tensor, dim: Dims = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """The variance's root."""
    return variance(tensor, dim, correction=correction, keepdim=keepdim).sqrt()


def _moments(tensor: Tensor, dim: Dims, correction: float, keepdim: bool) -> tuple[Tensor, Tensor]:
    dims = [dim] if isinstance(dim, int) else list(dim or range(tensor.dim()))
    mean = tensor.mean(dims, keepdim=True)
    centred = tensor - mean
    squares = centred * centred
    if correction == 0:
        variance = squares.mean(dims, keepdim=keepdim)
    else:
        count: Any = 1
        for reduced in dims:
            count = count * tensor.shape[reduced]
        freedom = torch.sym_max(count - correction, 0)
        variance = squares.sum(dims, keepdim=keepdim)
        # Of too few elements it is infinite, of equal ones NaN.
        variance = variance * math.inf if statically_known_true(freedom == 0) else variance / freedom
    return (mean if keepdim else mean.squeeze(dims)), variance


def largest(tensor: Tensor) -> Tensor:
    """The largest element of all."""
    return torch.amax(tensor, list(range(tensor.dim())))


def smallest(tensor: Tensor) -> Tensor:
    """The smallest element of all."""
    return torch.amin(tensor, list(range(tensor.dim())))


def kth_smallest(tensor: Tensor, k: int | torch.SymInt, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The k-th smallest element and its index."""
    values, indices = (result.narrow(dim, k - 1, 1) for result in torch.sort(tensor, dim))
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


def median(tensor: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The element in the middle, the lower one of two, and its index; NaN, which sorts last, if there is any."""
    size = tensor.shape[dim] if tensor.dim() else 1
    undefined = torch.isnan(tensor).any(dim, keepdim=True)
    return _ranked(tensor, torch.where(undefined, size - 1, (size - 1) // 2), dim, keepdim)


def median_of_numbers(tensor: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The same of what is not NaN; NaN if nothing is."""
    numbers = (~torch.isnan(tensor)).sum(dim, keepdim=True)
    return _ranked(tensor, ((numbers - 1) // 2).clamp(min=0), dim, keepdim)


def _ranked(tensor: Tensor, rank: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """The elements of these ranks along `dim`, counted from 0, and their indices."""
    _, order = torch.sort(tensor, dim)
    indices = order.gather(dim, rank)
    values = tensor.gather(dim, indices)
    return (values, indices) if keepdim or not tensor.dim() else (values.squeeze(dim), indices.squeeze(dim))


def median_of_all(tensor: Tensor) -> Tensor:
    """The element in the middle of all, the lower one of two."""
    return median(tensor.flatten(), 0)[0]


def distances(left: Tensor, right: Tensor, p: float = 2, compute_mode: int | None = None) -> Tensor:
    """p-norm of the difference of every row of `left` and every row of `right`."""
    return vector_norm(left.unsqueeze(-2) - right.unsqueeze(-3), p, -1)


def counted(op: OpOverload) -> Callable[..., object]:
    """A product of integers or booleans, which torch multiplies as int64; of anything else it has a rule as it is."""

    def decomposed(tensor: Tensor, *args: object, dtype: torch.dtype | None = None) -> Any:
        wanted = dtype or (tensor.dtype if tensor.is_floating_point() or tensor.is_complex() else torch.int64)
        if wanted == tensor.dtype and dtype is None:
            return NotImplemented
        return op(tensor.to(wanted), *args)

    return decomposed


def running_logsumexp(tensor: Tensor, dim: int) -> Tensor:
    """`log Σ exp x` of the first j elements, for every j: each by itself, as stable as a single one."""
    if tensor.dim() == 0:
        return tensor.clone()
    dim %= tensor.dim()
    places = torch.arange(tensor.shape[dim], device=tensor.device)
    first = places <= places.unsqueeze(-1)
    for _ in range(tensor.dim() - 1 - dim):
        first = first.unsqueeze(-1)
    return torch.where(first, tensor.unsqueeze(dim), -math.inf).logsumexp(dim + 1)


DECOMPOSITIONS: dict[OpOverload, Callable[..., object]] = {
    aten.rms_norm.default: rms_norm,
    aten.group_norm.default: group_norm,
    aten.native_group_norm.default: native_group_norm,
    aten.native_layer_norm.default: native_layer_norm,
    aten.instance_norm.default: instance_norm,
    aten._native_batch_norm_legit.no_stats: batch_norm_of_batch,
    aten.linalg_vector_norm.default: vector_norm,
    aten.var.correction: variance,
    aten.std.correction: standard_deviation,
    aten.var_mean.correction: variance_and_mean,
    aten.max.default: largest,
    aten.min.default: smallest,
    aten.kthvalue.default: kth_smallest,
    aten.median.dim: median,
    aten.median.default: median_of_all,
    aten.nanmedian.dim: median_of_numbers,
    aten.nanmedian.default: lambda tensor: median_of_numbers(tensor.flatten(), 0)[0],
    aten.cdist.default: distances,
    aten._cdist_forward.default: distances,
    aten.prod.dim_int: counted(aten.prod.dim_int),
    aten.prod.default: counted(aten.prod.default),
    aten.cumprod.default: counted(aten.cumprod.default),
    aten.logcumsumexp.default: running_logsumexp,
}
