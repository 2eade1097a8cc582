"""What ops do on complex numbers that are pairs of real ones, in a last dim of two.

view_as_real(view_as_complex(x) * c)        →        stack([x₀c₀ − x₁c₁, x₀c₁ + x₁c₀], −1)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten


@dataclass(frozen=True)
class Pair:
    """A complex tensor: its real and imaginary part in a last dim of two."""

    parts: Tensor

    @property
    def rank(self) -> int:
        """Number of dims of the complex tensor."""
        return self.parts.dim() - 1

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.parts.select(-1, 0), self.parts.select(-1, 1)))


def pair(real: Tensor, imaginary: Tensor) -> Pair:
    """From the parts."""
    shape = torch.broadcast_shapes(real.shape, imaginary.shape)
    return Pair(torch.stack([real.expand(shape), imaginary.expand(shape)], -1))


def constant(like: Tensor, value: float) -> Tensor:
    """One number everywhere, made of nothing but the tensor's shape."""
    return torch.full(like.shape, value, dtype=like.dtype, device=like.device)


def as_pair(value: Pair | Tensor | complex, like: Pair) -> Pair:
    """A pair, a real tensor or a number as a pair."""
    if isinstance(value, Pair):
        return value
    if not isinstance(value, Tensor):
        number = complex(value)
        scalar = like.parts.dtype, like.parts.device
        return pair(*(torch.full((), part, dtype=scalar[0], device=scalar[1]) for part in (number.real, number.imag)))
    real = value.to(like.parts.dtype)
    return pair(real, constant(real, 0.0))


def multiply(left: Any, right: Any) -> Pair:
    """`(a + bi)(c + di)`; a real factor scales both parts."""
    if isinstance(left, Pair) and isinstance(right, Pair):
        (a, b), (c, d) = left, right
        return pair(a * c - b * d, a * d + b * c)
    if isinstance(left, complex) or isinstance(right, complex):
        value, number = (right, left) if isinstance(left, complex) else (left, right)
        a, b = value if isinstance(value, Pair) else (value, constant(value, 0.0))
        return pair(a * number.real - b * number.imag, a * number.imag + b * number.real)
    scaled, factor = (left, right) if isinstance(left, Pair) else (right, left)
    return Pair(scaled.parts * (factor.unsqueeze(-1) if isinstance(factor, Tensor) else factor))


def divide(left: Any, right: Any) -> Pair:
    """`a / b = a b̄ / |b|²`."""
    if isinstance(right, complex):
        return multiply(left, 1 / right)
    if not isinstance(right, Pair):
        return Pair(left.parts / (right.unsqueeze(-1) if isinstance(right, Tensor) else right))
    size = (right.parts * right.parts).sum(-1)
    quotient = multiply(left, conjugate(right))
    return Pair(quotient.parts / size.unsqueeze(-1))


def add(left: Any, right: Any, *, alpha: float = 1) -> Pair:
    """Part by part; a real summand adds to the real part."""
    scaled = right if alpha == 1 else multiply(right, alpha) if isinstance(right, Pair | complex) else right * alpha
    if isinstance(left, complex) or isinstance(scaled, complex):
        value: Any = scaled if isinstance(left, complex) else left
        number: Any = left if isinstance(left, complex) else scaled
        a, b = value if isinstance(value, Pair) else (value, constant(value, 0.0))
        return pair(a + number.real, b + number.imag)
    if isinstance(left, Pair) and isinstance(scaled, Pair):
        return Pair(left.parts + scaled.parts)
    value, more = (left, scaled) if isinstance(left, Pair) else (scaled, left)
    real, imaginary = value
    return pair(real + more, imaginary)


def subtract(left: Pair | Tensor | complex, right: Pair | Tensor | complex, *, alpha: float = 1) -> Pair:
    """Part by part."""
    if isinstance(right, complex):
        return add(left, -alpha * right)
    return add(left, right, alpha=-alpha)


def subtract_from(left: Pair | Tensor | complex, right: Pair | Tensor | complex, alpha: float = 1) -> Pair:
    """`right − α left`."""
    return add(right, left, alpha=-alpha)


def conjugate(value: Pair) -> Pair:
    """The imaginary part's sign changed."""
    real, imaginary = value
    return pair(real, -imaginary)


def size(value: Pair) -> Tensor:
    """`√(a² + b²)`."""
    return (value.parts * value.parts).sum(-1).sqrt()


def angle(value: Pair) -> Tensor:
    """The angle of (a, b)."""
    real, imaginary = value
    return torch.atan2(imaginary, real)


def copied(value: Pair | Tensor, *, dtype: torch.dtype | None = None, **options: object) -> Pair | Tensor:
    """A cast from real, to another precision, to real (the real part), or none."""
    real = None if dtype is None else torch.empty((), dtype=dtype).real.dtype
    if not isinstance(value, Pair):
        return pair(value.to(real), torch.zeros(value.shape, dtype=real, device=value.device))
    if dtype is not None and not dtype.is_complex:
        return value.parts.select(-1, 0).to(dtype)
    return value if real is None else Pair(value.parts.to(real))


def polar(size: Tensor, angle: Tensor) -> Pair:
    """`r e^{iφ}`."""
    return pair(size * torch.cos(angle), size * torch.sin(angle))


def exponential(value: Pair) -> Pair:
    """`e^a (cos b + i sin b)`."""
    real, imaginary = value
    return polar(real.exp(), imaginary)


def logarithm(value: Pair) -> Pair:
    """`log |z| + i φ`."""
    return pair(size(value).log(), angle(value))


def power(value: Pair, exponent: float) -> Pair:
    """`z^n`: a product for a whole n that is small, else `|z|^n e^{inφ}`."""
    if exponent in (1, 2, 3, 4):
        result = value
        for _ in range(int(exponent) - 1):
            result = multiply(result, value)
        return result
    return polar(size(value) ** exponent, exponent * angle(value))


def root(value: Pair) -> Pair:
    """`√|z| e^{iφ/2}`."""
    return polar(size(value).sqrt(), angle(value) / 2)


def signed(value: Pair) -> Pair:
    """`z / |z|`, 0 where z is."""
    length = size(value)
    return Pair(value.parts / (length + (length == 0).to(length.dtype)).unsqueeze(-1))


def sine(value: Pair) -> Pair:
    """`sin a cosh b + i cos a sinh b`."""
    a, b = value
    return pair(a.sin() * b.cosh(), a.cos() * b.sinh())


def cosine(value: Pair) -> Pair:
    """`cos a cosh b − i sin a sinh b`."""
    a, b = value
    return pair(a.cos() * b.cosh(), -a.sin() * b.sinh())


def hyperbolic_sine(value: Pair) -> Pair:
    """`sinh a cos b + i cosh a sin b`."""
    a, b = value
    return pair(a.sinh() * b.cos(), a.cosh() * b.sin())


def hyperbolic_cosine(value: Pair) -> Pair:
    """`cosh a cos b + i sinh a sin b`."""
    a, b = value
    return pair(a.cosh() * b.cos(), a.sinh() * b.sin())


def hyperbolic_tangent(value: Pair) -> Pair:
    """`(tanh a + i tan b) / (1 + i tanh a tan b)`."""
    a, b = value
    s, t = a.tanh(), b.tan()
    return divide(pair(s, t), pair(constant(s, 1.0), s * t))


def bilinear(function: Callable[..., Tensor], places: tuple[int, int] = (0, 1)) -> Callable[..., Pair]:
    """A product of matrices, or a convolution: `(a + bi)(c + di)` by four of them, of real ones by two.

    Args:
        function: the product of real tensors.
        places: where the factors are among its arguments; a bias stands at 2 or, of `addmm`, at 0.
    """
    first, second = places
    at_bias = 0 if first else 2

    def paired(*args: Any, **kwargs: Any) -> Pair:
        given = list(args)
        bias = given[at_bias] if at_bias < len(given) else None
        bias_parts = tuple(bias) if isinstance(bias, Pair) else (bias, None)

        def of(left: Any, right: Any, bias: Any) -> Tensor:
            given[first], given[second] = left, right
            if bias is not None or at_bias == 2:
                if at_bias < len(given):
                    given[at_bias] = bias
                result: Tensor = function(*given, **kwargs)
                return result
            product: Tensor = kwargs.get("alpha", 1) * torch.mm(left, right)
            return product

        left, right = args[first], args[second]
        if not isinstance(right, Pair):
            a, b = left
            return pair(of(a, right, bias_parts[0]), of(b, right, bias_parts[1]))
        if not isinstance(left, Pair):
            c, d = right
            return pair(of(left, c, bias_parts[0]), of(left, d, bias_parts[1]))
        (a, b), (c, d) = left, right
        return pair(of(a, c, bias_parts[0]) - of(b, d, None), of(a, d, bias_parts[1]) + of(b, c, None))

    return paired


NUMBERS: dict[object, Callable[..., Pair | Tensor]] = {
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
    aten.abs.default: size,
    aten._to_copy.default: copied,
    aten.rsub.Scalar: subtract_from,
    aten.rsub.Tensor: subtract_from,
    aten.mul.Scalar: multiply,
    aten.reciprocal.default: lambda value: divide(1.0, value),
    aten.angle.default: angle,
    aten.exp.default: exponential,
    aten.log.default: logarithm,
    aten.pow.Tensor_Scalar: power,
    aten.sqrt.default: root,
    aten.rsqrt.default: lambda value: divide(1.0, root(value)),
    aten.square.default: lambda value: multiply(value, value),
    aten.sgn.default: signed,
    aten.sin.default: sine,
    aten.cos.default: cosine,
    aten.sinh.default: hyperbolic_sine,
    aten.cosh.default: hyperbolic_cosine,
    aten.tanh.default: hyperbolic_tangent,
    aten.sigmoid.default: lambda value: divide(1.0, add(exponential(Pair(-value.parts)), 1.0)),
    aten.mm.default: bilinear(torch.mm),
    aten.bmm.default: bilinear(torch.bmm),
    aten.mv.default: bilinear(torch.mv),
    aten.dot.default: bilinear(torch.dot),
    aten.matmul.default: bilinear(torch.matmul),
    aten.addmm.default: bilinear(torch.addmm, (1, 2)),
    aten.linear.default: bilinear(functional.linear),
    aten.conv1d.default: bilinear(functional.conv1d),
    aten.conv2d.default: bilinear(functional.conv2d),
    aten.conv3d.default: bilinear(functional.conv3d),
}
"""Ops that calculate with complex tensors → what they do on pairs."""
