"""Pairs moved about and added up, as torch moves about the complex numbers that they are."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_compiler.passes.decompose.complex_numbers import Pair
from lrp_compiler.passes.decompose.complex_shapes import SHAPES

aten = torch.ops.aten


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.complex(*(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)))


Z, SQUARE = drawn(2, 3, 4), drawn(4, 4)
MASK = Z.real > 0
PLACES = torch.tensor([[[2, 0, 1, 1]], [[0, 0, 2, 1]]])

CALLS: list[tuple[Any, ...]] = [
    *((target, Z) for target in (aten.resolve_conj.default, aten.clone.default, aten.alias.default)),
    *((target, Z) for target in (aten.detach.default, aten.contiguous.default, aten.lift_fresh_copy.default)),
    (aten.view.default, Z, [6, 4]),
    (aten._unsafe_view.default, Z, [2, 12]),
    (aten.reshape.default, Z, [-1]),
    (aten.expand.default, Z, [5, 2, 3, 4]),
    (aten.permute.default, Z, [2, 0, 1]),
    (aten.permute.default, Z, [-1, 0, 1]),
    (aten.transpose.int, Z, -1, 0),
    (aten.unsqueeze.default, Z, -1),
    (aten.unsqueeze.default, Z, 1),
    (aten.squeeze.dim, drawn(2, 1, 3, 1), -1),
    (aten.squeeze.dims, drawn(2, 1, 3, 1), [-1, 1]),
    (aten.select.int, Z, -1, 2),
    (aten.slice.Tensor, Z, -2, 1, 3),
    (aten.index_select.default, Z, -1, torch.tensor([3, 0])),
    (aten.index.Tensor, Z, [None, torch.tensor([2, 2, 0])]),
    (aten.cat.default, [Z, Z.conj().resolve_conj()], -1),
    (aten.cat.default, [Z, Z.real.contiguous()], 1),
    (aten.flip.default, Z, [-1, 0]),
    (aten.roll.default, Z, [1, 2], [-1, 0]),
    (aten.sum.default, Z),
    (aten.sum.dim_IntList, Z, [-1], True),
    (aten.sum.dim_IntList, Z, [0, -1]),
    (aten.mean.default, Z),
    (aten.mean.dim, Z, [-2]),
    (aten.zeros_like.default, Z),
    (aten.where.self, MASK, Z, drawn(4)),
    (aten.where.self, MASK, torch.tensor(2.0, dtype=torch.float64), Z),
    (aten.masked_fill.Scalar, Z, MASK, 1 - 2j),
    (aten.masked_fill.Tensor, Z, MASK, torch.tensor(3 + 1j, dtype=torch.complex128)),
    (aten.constant_pad_nd.default, Z, [1, 2, 0, 1], 1 - 2j),
    (aten.scatter.src, Z, -2, PLACES, drawn(2, 1, 4)),
    (aten.scatter.value, Z, 1, PLACES, 1 - 2j),
    (aten.scatter_add.default, Z, -2, PLACES, drawn(2, 1, 4)),
    (aten.gather.default, Z, -2, PLACES),
    (aten.cumsum.default, Z, -1),
    (aten.repeat.default, Z, [2, 1, 1, 3]),
    (aten.diagonal.default, Z, 1, -1, 0),
    (aten.tril.default, SQUARE, -1),
    (aten.triu.default, SQUARE),
    (aten.linalg_vector_norm.default, Z, 2, [-1], True),
    (aten.linalg_vector_norm.default, Z, 1, [0, 2]),
]
MADE = {aten.zeros.default, aten.full.default, aten.scalar_tensor.default}
"""What is made of no complex number."""


def paired(value: Any) -> Any:
    if isinstance(value, list):
        return [paired(one) for one in value]
    return Pair(torch.view_as_real(value)) if isinstance(value, Tensor) and value.is_complex() else value


def whole(value: Any) -> Any:
    return torch.view_as_complex(value.parts.contiguous()) if isinstance(value, Pair) else value


@pytest.mark.parametrize("call", CALLS, ids=lambda call: str(call[0]))
def test_an_op_does_with_pairs_what_it_does_with_complex_numbers(call: tuple[Any, ...]) -> None:
    target, *args = call

    found = whole(SHAPES[target](*map(paired, args)))

    wanted = target(*args)
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_every_op_is_tried_here() -> None:
    assert {call[0] for call in CALLS} | MADE == SHAPES.keys()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize(
    ("target", "args"),
    [(aten.zeros.default, ([2, 3],)), (aten.full.default, ([2, 3], 1 - 2j)), (aten.scalar_tensor.default, (1.5,))],
)
def test_numbers_are_made_in_the_precision_that_is_asked_for(target: Any, args: Any, dtype: torch.dtype) -> None:
    found = whole(SHAPES[target](*args, dtype=dtype, layout=torch.strided, pin_memory=False))

    assert found.dtype == dtype
    assert torch.equal(found, target(*args, dtype=dtype))


@pytest.mark.parametrize(
    ("like", "dtype"),
    [(Z, torch.float32), (Z, torch.complex64), (Z.real.contiguous(), torch.complex64)],
    ids=["a pair in real numbers", "a pair in another precision", "a real tensor in pairs"],
)
def test_zeros_like_another_are_of_the_dtype_that_is_asked_for(like: Tensor, dtype: torch.dtype) -> None:
    found = whole(SHAPES[aten.zeros_like.default](paired(like), dtype=dtype))

    assert torch.equal(found, torch.zeros(2, 3, 4, dtype=dtype))


def test_a_sum_over_no_dims_of_a_single_number_is_that() -> None:
    z = torch.tensor(1 - 2j, dtype=torch.complex128)

    assert torch.equal(whole(SHAPES[aten.sum.default](paired(z))), z)
