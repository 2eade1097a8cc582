"""What two activations make together: who has which share, and that the shares add up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.whole import Between, holds, in_precision, runs_in_onnxruntime, survives_files
from torch import Tensor

from lrp_compiler.rules import Op, bind, find, propagate, total, unit

pytestmark = pytest.mark.sampled(12)

aten = torch.ops.aten

A = torch.tensor([[-2.5, -1.0, 0.0], [0.4, 1.5, 3.0]], dtype=torch.float64)
B = torch.tensor([[0.7, -1.5, 2.0], [-0.3, 1.5, -0.8]], dtype=torch.float64)
HALVES, FIRST = (0.5, 0.5), (1.0, 0.0)
TOGETHER: dict[str, tuple[Any, tuple[Tensor, Tensor], dict[str, Any], tuple[float, float]]] = {
    "power": (aten.pow.Tensor_Tensor, (A.abs(), B), {}, HALVES),
    "angle": (aten.atan2.default, (A, B), {}, HALVES),
    "floored quotient": (aten.div.Tensor_mode, (A, B), {"rounding_mode": "floor"}, FIRST),
    "quotient cut off": (aten.div.Tensor_mode, (A, B), {"rounding_mode": "trunc"}, FIRST),
    "fmod": (aten.fmod.Tensor, (A, B), {}, FIRST),
    "remainder": (aten.remainder.Tensor, (A, B), {}, FIRST),
}


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize("broadcast", [False, True])
def test_shares_are_those_that_the_rule_names_whatever_the_values(name: str, broadcast: bool) -> None:
    target, (a, b), options, shares = TOGETHER[name]
    b = b[:1, 1:2] if broadcast else b
    first, second = list(bind(target, (a, b), options))[: 2 if not options else 3][-2:]
    op = Op.eager(target, a, b, active=(first, second), **options)
    R = torch.linspace(-1, 2, 6, dtype=torch.float64).reshape(2, 3)

    given = (total(R), unit(R)) if op.output.isfinite().all() else (total(R),)
    for relevance in given:
        flow = propagate(op, relevance)
        whole = relevance.total_of(lambda: op.output)
        for operand, share, value in zip((first, second), shares, (a, b), strict=True):
            if not share:
                assert flow[operand] is None
                continue
            assert flow[operand].form == "total"
            torch.testing.assert_close(flow[operand].tensor, (share * whole).sum_to_size(value.shape))


def test_every_op_of_two_activations_is_tried_here() -> None:
    for target, (a, b), options, _ in TOGETHER.values():
        operator = find(
            Op.eager(target, a, b, active=("self", "exponent" if "pow" in str(target) else "other"), **options)
        )
        assert operator is not None
        assert operator.family in ("product", "quotient")


MADE: dict[str, Callable[[Tensor], Tensor]] = {
    "power": lambda x: x.abs() ** x.roll(1, -1),
    "root of a power of 0": lambda x: x.relu() ** x.roll(1, -1).sigmoid(),
    "angle": lambda x: torch.atan2(x, x.roll(1, -1)),
    "floor division": lambda x: x // x.roll(1, -1),
    "floor division by a number": lambda x: x // 0.3,
    "fmod": lambda x: torch.fmod(x, x.roll(1, -1)),
    "remainder": lambda x: torch.remainder(x, x.roll(1, -1)),
    "remainder of a number": lambda x: torch.remainder(3.0, x),
    "hypotenuse": lambda x: torch.hypot(x, x.roll(1, -1)),
    "hypotenuse of zeros": lambda x: torch.hypot(x.relu(), x.roll(1, -1).relu()),
    "fmax": lambda x: torch.fmax(x, x.roll(1, -1)),
    "fmin": lambda x: torch.fmin(x, x[:, :1]),
    "maximum": lambda x: torch.maximum(x, x[:, :1]),
    "sign copied": lambda x: torch.copysign(x, x.roll(1, -1)),
    "sign of -0 copied": lambda x: torch.copysign(x, -x.roll(1, -1).relu()),
    "sign of a number copied": lambda x: torch.copysign(x, -0.0),
    "ldexp": lambda x: torch.ldexp(x, x.roll(1, -1)),
}
X = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))


@pytest.mark.slow
@pytest.mark.sampled(48)
@pytest.mark.parametrize("composite", ["attnlrp", "epsilon-plus", "dynamic-lrp"])
@pytest.mark.parametrize("name", MADE)
def test_the_books_balance(name: str, composite: str, tmp_path: Path) -> None:
    explainer = holds(Between(MADE[name]), (X,), composite=composite)

    assert explainer(X.double()).relevance["x"].any()
    survives_files(explainer, (X.double(),), tmp_path)


@pytest.mark.slow
@pytest.mark.sampled(48)
@pytest.mark.parametrize("name", MADE)
def test_onnxruntime_agrees(name: str, tmp_path: Path) -> None:
    runs_in_onnxruntime(Between(MADE[name]), (X,), None, tmp_path)


@pytest.mark.parametrize(
    ("name", "winner"),
    [("fmax", lambda x: x >= x.roll(1, -1)), ("maximum", lambda x: x >= x[:, :1]), ("fmin", lambda x: x <= x[:, :1])],
)
def test_the_winner_takes_all(name: str, winner: Callable[[Tensor], Tensor]) -> None:
    """Gradient × input, which follows the winner, but where two are the same value (autograd halves it)."""
    model, x = in_precision(Between(MADE[name]), torch.float64), X.double()
    y = x.clone().requires_grad_()
    h = model.stem(y)
    other = h.roll(1, -1) if name == "fmax" else h[:, :1].expand(h.shape)
    model.head(torch.where(winner(h), h, other))[:, 0].sum().backward()

    torch.testing.assert_close(holds(model, (x,))(x).relevance["x"], y.grad * x, rtol=1e-9, atol=1e-12)
