"""Complex numbers as pairs of real ones, in a last dim of two: the rules, and ONNX, know real numbers only.

    view_as_real(view_as_complex(x) * c)        →        stack([x₀c₀ − x₁c₁, x₀c₁ + x₁c₀], −1)
    fft_r2c(x)                                  →        stack([x cos, −x sin], −1), matrix products with constants

A graph with a complex operation that has no line here is left as it is, and the operation is reported as one without a
rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph import Result, add_constant, constant_of, inline, is_tensor
from lrp_compiler.torch_private import pytree

aten = torch.ops.aten


@dataclass(frozen=True)
class Pair:
    """A complex tensor: its real and imaginary part in a last dim of two."""

    parts: Tensor

    @property
    def rank(self) -> int:
        """Number of dims of the complex tensor."""
        return self.parts.dim() - 1

    def __iter__(self) -> Any:
        return iter((self.parts.select(-1, 0), self.parts.select(-1, 1)))


def pair(real: Tensor, imaginary: Tensor) -> Pair:
    """From the parts."""
    shape = torch.broadcast_shapes(real.shape, imaginary.shape)
    return Pair(torch.stack([real.expand(shape), imaginary.expand(shape)], -1))


def multiply(left: Any, right: Any) -> Pair:
    """`(a + bi)(c + di)`; a real factor scales both parts."""
    if isinstance(left, Pair) and isinstance(right, Pair):
        (a, b), (c, d) = left, right
        return pair(a * c - b * d, a * d + b * c)
    scaled, factor = (left, right) if isinstance(left, Pair) else (right, left)
    return Pair(scaled.parts * (factor.unsqueeze(-1) if isinstance(factor, Tensor) else factor))


def divide(left: Any, right: Any) -> Pair:
    """`a / b = a b̄ / |b|²`."""
    if not isinstance(right, Pair):
        return Pair(left.parts / (right.unsqueeze(-1) if isinstance(right, Tensor) else right))
    size = (right.parts * right.parts).sum(-1)
    quotient = multiply(left, conjugate(right))
    return Pair(quotient.parts / size.unsqueeze(-1))


def add(left: Any, right: Any, *, alpha: float = 1) -> Pair:
    """Part by part; a real summand adds to the real part."""
    scaled = right if alpha == 1 else multiply(right, alpha) if isinstance(right, Pair) else right * alpha
    if isinstance(left, Pair) and isinstance(scaled, Pair):
        return Pair(left.parts + scaled.parts)
    value, more = (left, scaled) if isinstance(left, Pair) else (scaled, left)
    real, imaginary = value
    return pair(real + more, imaginary)


def subtract(left: Any, right: Any, *, alpha: float = 1) -> Pair:
    """Part by part."""
    return add(left, right, alpha=-alpha)


def conjugate(value: Pair) -> Pair:
    """The imaginary part's sign changed."""
    real, imaginary = value
    return pair(real, -imaginary)


def size(value: Pair) -> Tensor:
    """`√(a² + b²)`."""
    return (value.parts * value.parts).sum(-1).sqrt()


def copied(value: Any, *, dtype: torch.dtype | None = None, **options: Any) -> Any:
    """A cast from real, to another precision, or none."""
    real = None if dtype is None else torch.empty((), dtype=dtype).real.dtype
    if isinstance(value, Pair):
        return value if real is None else Pair(value.parts.to(real))
    return pair(value.to(real), torch.zeros(value.shape, dtype=real, device=value.device))


def polar(size: Tensor, angle: Tensor) -> Pair:
    """`r e^{iφ}`."""
    return pair(size * torch.cos(angle), size * torch.sin(angle))


def same(value: Pair, *options: Any, **more: Any) -> Pair:
    """The same values."""
    return value


def reshaped(value: Pair, shape: Sequence[Any]) -> Pair:
    """Another shape."""
    return Pair(value.parts.reshape([*shape, 2]))


def expanded(value: Pair, shape: Sequence[Any], *, implicit: bool = False) -> Pair:
    """Repeated without copying."""
    return Pair(value.parts.expand([*shape, 2]))


def along(target: Any, *places: int, grows: bool = False) -> Callable[..., Pair]:
    """An op that takes dims, run on both parts: the dims, at these places among its arguments, count from the front."""

    def paired(value: Any, *args: Any, **kwargs: Any) -> Pair:
        values = [value] if isinstance(value, Pair) else list(value)
        rank = values[0].rank + grows
        arguments = [
            [dim % rank for dim in arg]
            if index in places and isinstance(arg, (list, tuple))
            else arg % rank
            if index in places
            else arg
            for index, arg in enumerate(args)
        ]
        parts = values[0].parts if isinstance(value, Pair) else [item.parts for item in values]
        return Pair(target(parts, *arguments, **kwargs))

    return paired


def permuted(value: Pair, dims: Sequence[int]) -> Pair:
    """Dims in another order."""
    return Pair(value.parts.permute([*(dim % value.rank for dim in dims), value.rank]))


def waves(rows: int, columns: int, period: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """`cos` and `sin` of 2π·jk/period, `[rows, columns]`."""
    j, k = (torch.arange(count, device=like.device) for count in (rows, columns))
    angle = (j.unsqueeze(-1) * k % period).to(like.dtype) * (2 * math.pi / period)
    return torch.cos(angle), torch.sin(angle)


SCALES: dict[int, Callable[[int], float]] = {
    0: lambda count: 1.0,
    1: lambda count: count**-0.5,
    2: lambda count: 1 / count,
}
"""torch's numbers for how a transform is normalised."""


def _moved(tensor: Tensor, matrix: Tensor, dim: int) -> Tensor:
    return torch.matmul(tensor.transpose(dim, -1), matrix).transpose(dim, -1)


def transformed(value: Pair, dims: Sequence[int], normalization: int, forward: bool) -> Pair:
    """Fourier transform of a complex tensor: `e^{∓iθ} = cos θ ∓ i sin θ`, one matrix product a dim and part."""
    for dim in dims:
        place = dim % value.rank
        count = int(value.parts.shape[place])
        real, imaginary = value
        cos, sin = (wave * SCALES[normalization](count) for wave in waves(count, count, count, real))
        sin = sin if forward else -sin
        value = pair(
            _moved(real, cos, place) + _moved(imaginary, sin, place),
            _moved(imaginary, cos, place) - _moved(real, sin, place),
        )
    return value


def transformed_real(tensor: Tensor, dims: Sequence[int], normalization: int, onesided: bool) -> Pair:
    """Fourier transform of a real tensor, perhaps only the first half of it along the last of the dims."""
    *others, last = (dim % tensor.dim() for dim in dims)
    count = int(tensor.shape[last])
    kept = count // 2 + 1 if onesided else count
    cos, sin = (wave * SCALES[normalization](count) for wave in waves(count, kept, count, tensor))
    return transformed(pair(_moved(tensor, cos, last), -_moved(tensor, sin, last)), others, normalization, True)


def transformed_to_real(value: Pair, dims: Sequence[int], normalization: int, last_dim_size: int) -> Tensor:
    """Inverse transform of the first half of a transform, to a real tensor."""
    *others, last = (dim % value.rank for dim in dims)
    count = int(last_dim_size)
    real, imaginary = transformed(value, others, normalization, False)
    kept = int(real.shape[last])
    cos, sin = (wave * SCALES[normalization](count) for wave in waves(kept, count, count, real))
    # The other half is the conjugate of this one, but for the first element and, of an even count, the middle one.
    k = torch.arange(kept, device=real.device)
    twice = 2.0 - ((k == 0) | (2 * k == count)).to(real.dtype)
    return _moved(real, cos * twice.unsqueeze(-1), last) - _moved(imaginary, sin * twice.unsqueeze(-1), last)


PAIRED: dict[Any, Callable[..., Any]] = {
    aten.view_as_complex.default: Pair,
    aten.view_as_real.default: lambda value: value.parts,
    aten.complex.default: pair,
    aten.polar.default: polar,
    aten.mul.Tensor: multiply,
    aten.div.Tensor: divide,
    aten.add.Tensor: add,
    aten.sub.Tensor: subtract,
    aten.neg.default: lambda value: Pair(-value.parts),
    aten._conj.default: conjugate,
    aten.conj_physical.default: conjugate,
    aten.resolve_conj.default: same,
    aten.abs.default: size,
    aten._to_copy.default: copied,
    aten.clone.default: same,
    aten.alias.default: same,
    aten.detach.default: same,
    aten.contiguous.default: same,
    aten.lift_fresh_copy.default: same,
    aten.view.default: reshaped,
    aten._unsafe_view.default: reshaped,
    aten.reshape.default: reshaped,
    aten.expand.default: expanded,
    aten.permute.default: permuted,
    aten.transpose.int: along(aten.transpose.int, 0, 1),
    aten.unsqueeze.default: along(aten.unsqueeze.default, 0, grows=True),
    aten.squeeze.dim: along(aten.squeeze.dim, 0),
    aten.select.int: along(aten.select.int, 0),
    aten.slice.Tensor: along(aten.slice.Tensor, 0),
    aten.index_select.default: along(aten.index_select.default, 0),
    aten.index.Tensor: along(aten.index.Tensor),
    aten.cat.default: along(aten.cat.default, 0),
    aten.flip.default: along(aten.flip.default, 0),
    aten.roll.default: along(aten.roll.default, 1),
    aten.sum.dim_IntList: along(aten.sum.dim_IntList, 0),
    aten.mean.dim: along(aten.mean.dim, 0),
    aten._fft_c2c.default: transformed,
    aten._fft_r2c.default: transformed_real,
    aten._fft_c2r.default: transformed_to_real,
}
"""Ops on complex tensors → what they do on pairs."""


def pair_complex(module: fx.GraphModule) -> Result:
    """Rewrite the forward graph in place."""
    found = [node for node in module.graph.nodes if any(map(_is_complex, (node, *node.all_input_nodes)))]
    if not found or not all(_can_be_paired(node) for node in found):
        return Result(module, False)
    parts: dict[fx.Node, fx.Node] = {}
    for node in found:
        tensor = constant_of(module, node)
        if tensor is not None:
            with module.graph.inserting_before(node):
                plain = torch.view_as_real(tensor.resolve_conj()).contiguous()
                parts[node] = add_constant(module, f"{node.target}_pairs", plain, node.meta["val"])
            continue
        result = inline(node, _on_pairs(node), *fx.map_arg((node.args, node.kwargs), lambda a: parts.get(a, a)))
        if _is_complex(node):
            parts[node] = result
        else:
            node.replace_all_uses_with(result)
    for node in reversed(found):
        module.graph.erase_node(node)
    module.recompile()
    return Result(module, True)


def _on_pairs(node: fx.Node) -> Callable[..., Tensor]:
    """The node's function on tensors: those that stand for complex ones are pairs while it runs."""
    leaves, spec = pytree.tree_flatten((node.args, node.kwargs))
    complex_ones = [isinstance(leaf, fx.Node) and _is_complex(leaf) for leaf in leaves]

    def function(*args: Any, **kwargs: Any) -> Tensor:
        values = pytree.tree_leaves((args, kwargs))
        marked = [Pair(value) if is_pair else value for value, is_pair in zip(values, complex_ones, strict=True)]
        positional, named = pytree.tree_unflatten(marked, spec)
        result = PAIRED[node.target](*positional, **named)
        return result.parts if isinstance(result, Pair) else result

    return function


def _is_complex(node: fx.Node) -> bool:
    return is_tensor(node) and bool(node.meta["val"].is_complex())


def _can_be_paired(node: fx.Node) -> bool:
    return node.op == "get_attr" or (node.op == "call_function" and node.target in PAIRED)
