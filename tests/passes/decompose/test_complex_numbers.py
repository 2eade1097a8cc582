"""What ops do on pairs is what torch does on the complex numbers that these are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_compiler.passes.decompose.complex_numbers import NUMBERS, Pair, as_pair, pair

aten = torch.ops.aten


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    return torch.complex(*(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)))


Z, W = drawn(3, 4), drawn(4)
X = torch.linspace(-2, 2, 4, dtype=torch.float64)
LEFT, RIGHT, SQUARES = drawn(3, 4), drawn(4, 5), drawn(2, 4, 4)

CALLS: list[tuple[Any, ...]] = [
    (aten.mul.Tensor, Z, W),
    (aten.mul.Tensor, Z, X),
    (aten.mul.Tensor, X, W),
    (aten.mul.Tensor, Z, 1.5),
    (aten.mul.Tensor, Z, 1 - 2j),
    (aten.mul.Tensor, X, 1 - 2j),
    (aten.mul.Scalar, Z, 2j),
    (aten.div.Tensor, Z, W),
    (aten.div.Tensor, Z, X),
    (aten.div.Tensor, Z, 1 - 2j),
    (aten.add.Tensor, Z, W),
    (aten.add.Tensor, Z, X),
    (aten.add.Tensor, X, W),
    (aten.add.Tensor, Z, 1.5),
    (aten.add.Tensor, X, 1 - 2j),
    (aten.sub.Tensor, Z, W),
    (aten.sub.Tensor, X, W),
    (aten.sub.Tensor, Z, 1 - 2j),
    (aten.rsub.Scalar, Z, 3.0),
    (aten.rsub.Tensor, Z, W),
    (aten.neg.default, Z),
    (aten._conj.default, Z),
    (aten.conj_physical.default, Z),
    (aten.abs.default, Z),
    (aten.reciprocal.default, Z),
    (aten.angle.default, Z),
    (aten.exp.default, Z),
    (aten.log.default, Z),
    (aten.pow.Tensor_Scalar, Z, 3),
    (aten.pow.Tensor_Scalar, Z, -2),
    (aten.pow.Tensor_Scalar, Z, 0.3),
    (aten.sqrt.default, Z),
    (aten.rsqrt.default, Z),
    (aten.square.default, Z),
    (aten.sgn.default, Z),
    (aten.sin.default, Z),
    (aten.cos.default, Z),
    (aten.sinh.default, Z),
    (aten.cosh.default, Z),
    (aten.tanh.default, Z),
    (aten.sigmoid.default, Z),
    (aten.mm.default, LEFT, RIGHT),
    (aten.mm.default, LEFT.real.contiguous(), RIGHT),
    (aten.mm.default, LEFT, RIGHT.real.contiguous()),
    (aten.bmm.default, SQUARES, SQUARES),
    (aten.mv.default, Z, W),
    (aten.dot.default, W, W),
    (aten.matmul.default, SQUARES, W),
    (aten.addmm.default, drawn(5), LEFT, RIGHT),
    (aten.linear.default, Z, RIGHT.T.contiguous(), drawn(5)),
    (aten.linear.default, Z, RIGHT.T.contiguous()),
    (aten.conv1d.default, drawn(2, 3, 7), drawn(4, 3, 2), drawn(4), [2]),
    (aten.conv2d.default, drawn(2, 3, 5, 5), drawn(4, 3, 2, 2), None, [1, 1], [1, 1]),
    (aten.conv3d.default, drawn(2, 3, 3, 3, 3), drawn(2, 3, 2, 2, 2)),
    (aten._to_copy.default, Z),
]
MADE = {aten.view_as_complex.default, aten.view_as_real.default, aten.complex.default, aten.polar.default}
"""Where pairs come from, and what they become."""


def paired(value: Any) -> Any:
    return Pair(torch.view_as_real(value.resolve_conj())) if isinstance(value, Tensor) and value.is_complex() else value


def whole(value: Any) -> Any:
    return torch.view_as_complex(value.parts.contiguous()) if isinstance(value, Pair) else value


def name(call: tuple[Any, ...]) -> str:
    kinds = (("pair" if one.is_complex() else "real") if isinstance(one, Tensor) else str(one) for one in call[1:])
    return f"{call[0]}-{'-'.join(kinds)}"


@pytest.mark.parametrize("call", CALLS, ids=name)
def test_an_op_does_on_pairs_what_it_does_on_complex_numbers(call: tuple[Any, ...]) -> None:
    target, *args = call

    found = whole(NUMBERS[target](*map(paired, args)))

    wanted = target(*(one.to(torch.complex128) if isinstance(one, Tensor) else one for one in args))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_every_op_is_tried_here() -> None:
    assert {call[0] for call in CALLS} | MADE == NUMBERS.keys()


@pytest.mark.parametrize("alpha", [1, -0.5, 3])
@pytest.mark.parametrize("target", [aten.add.Tensor, aten.sub.Tensor])
@pytest.mark.parametrize("right", [W, X], ids=["pair", "real"])
def test_what_is_added_may_have_a_factor(target: Callable[..., Tensor], alpha: float, right: Tensor) -> None:
    found = whole(NUMBERS[target](paired(Z), paired(right), alpha=alpha))

    torch.testing.assert_close(found, target(Z, right, alpha=alpha), rtol=1e-12, atol=1e-12)


def test_a_sum_with_a_product_may_have_factors() -> None:
    found = whole(NUMBERS[aten.addmm.default](*map(paired, (drawn(5), LEFT, RIGHT)), alpha=0.5))

    torch.testing.assert_close(found, torch.addmm(drawn(5), LEFT, RIGHT, alpha=0.5), rtol=1e-12, atol=1e-12)


def test_pairs_are_made_and_taken_apart() -> None:
    parts = torch.view_as_real(Z)

    assert torch.equal(whole(NUMBERS[aten.view_as_complex.default](parts)), Z)
    assert torch.equal(NUMBERS[aten.view_as_real.default](Pair(parts)), parts)
    assert torch.equal(whole(NUMBERS[aten.complex.default](X, X.flip(0))), torch.complex(X, X.flip(0)))
    torch.testing.assert_close(whole(NUMBERS[aten.polar.default](X.exp(), X)), torch.polar(X.exp(), X))


def test_a_pair_is_made_of_parts_that_broadcast() -> None:
    made = pair(torch.ones(3, 1), torch.arange(2.0))

    assert made.rank == 2
    assert torch.equal(whole(made), torch.complex(torch.ones(3, 2), torch.tensor([0.0, 1.0]).expand(3, 2)))


@pytest.mark.parametrize("value", [2, -1.5, 1 - 2j, X, Z])
def test_numbers_and_real_tensors_are_pairs_too(value: Any) -> None:
    found = whole(as_pair(paired(value), paired(Z)))

    assert torch.equal(found, torch.as_tensor(value, dtype=torch.complex128))


COMPLEX = [torch.complex64, torch.complex128]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [*((Z, dtype) for dtype in (torch.float32, torch.float64, *COMPLEX)), *((X, dtype) for dtype in COMPLEX)],
    ids=lambda one: ("pair" if one.is_complex() else "real") if isinstance(one, Tensor) else str(one),
)
@pytest.mark.filterwarnings("ignore:Casting complex values to real")
def test_a_cast_is_torchs(value: Tensor, dtype: torch.dtype) -> None:
    found = whole(NUMBERS[aten._to_copy.default](paired(value), dtype=dtype))

    assert found.dtype == dtype
    assert torch.equal(found, value.to(dtype))


def test_the_direction_of_nothing_is_nothing() -> None:
    found = NUMBERS[aten.sgn.default](Pair(torch.tensor([[0.0, 0.0], [3.0, -4.0]])))

    torch.testing.assert_close(found.parts, torch.tensor([[0.0, 0.0], [0.6, -0.8]]))
