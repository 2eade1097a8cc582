"""The identity rule: R_x = R, and in unit form the quotient f(x)/x, with its limit at 0."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from lrp_compiler.rules import OPERATORS, SLOPE, Facts, Op, Values, bind, find, propagate, total, unit
from lrp_compiler.rules.operators.functions import WITHOUT_ZERO
from lrp_compiler.rules.operators.gate import RECURRENT_GATE
from lrp_compiler.rules.registry import FUNCTION

aten = torch.ops.aten

X = torch.tensor([-4.0, -2.5, -1.0, -0.3, 0.0, 1e-3, 0.7, 1.0, 2.0, 5.5, 7.0], dtype=torch.float64)
AS_THEY_ARE = Values(lambda tensor: tensor)
OTHER = torch.linspace(-2, 3, len(X), dtype=torch.float64) + 0.1


class Call(NamedTuple):
    """How an elementwise op is called on x: `args` with x at the place of `...`, and x scaled into its domain."""

    args: tuple[Any, ...] = (...,)
    kwargs: dict[str, Any] = {}  # noqa: RUF012  # a NamedTuple default that nobody changes
    scale: float = 1.0

    def x(self, positive: bool = False) -> Tensor:
        return self.scale * (POSITIVE if positive else X)

    def of(self, target: Any, x: Tensor) -> Tensor:
        return target(*(x if arg is ... else arg for arg in self.args), **self.kwargs)


WITH_QUOTIENT: dict[Any, list[Call]] = {
    aten.relu.default: [Call()],
    aten.hardtanh.default: [Call(), Call((..., -2.0, 0.5)), Call((..., 0.0, 6.0))],
    aten.relu6.default: [Call()],
    aten.clamp.default: [Call((..., -1.0, 2.0)), Call((..., 0, None)), Call((..., None, 3))],
    aten.clamp_min.default: [Call((..., -1.0)), Call((..., 0))],
    aten.clamp_max.default: [Call((..., 2.0)), Call((..., 0))],
    aten.gelu.default: [Call(), Call(kwargs={"approximate": "tanh"})],
    aten.silu.default: [Call()],
    aten.hardswish.default: [Call()],
    aten.mish.default: [Call()],
    aten.tanh.default: [Call()],
    aten.sin.default: [Call()],
    aten.tan.default: [Call(scale=0.2)],
    aten.asin.default: [Call(scale=0.1)],
    aten.atan.default: [Call()],
    aten.sinh.default: [Call()],
    aten.asinh.default: [Call()],
    aten.atanh.default: [Call(scale=0.1)],
    aten.erf.default: [Call()],
    aten.erfinv.default: [Call(scale=0.1)],
    aten.expm1.default: [Call()],
    aten.log1p.default: [Call(scale=0.2)],
    aten.celu.default: [Call(), Call((..., 0.7))],
    aten.softshrink.default: [Call(), Call((..., 1.2))],
    aten.hardshrink.default: [Call(), Call((..., 1.2))],
    aten.fmod.Scalar: [Call((..., 1.7))],
    aten.round.default: [Call()],
    aten.round.decimals: [Call(kwargs={"decimals": 1}), Call(kwargs={"decimals": -1}, scale=10.0)],
    aten.trunc.default: [Call()],
    aten.leaky_relu.default: [Call(), Call((..., 0.3))],
    aten.elu.default: [Call(), Call((..., 1.5)), Call((..., 1.67, 1.05, 0.9))],
    aten.abs.default: [Call()],
    aten.pow.Tensor_Scalar: [Call((..., 2)), Call((..., 3)), Call((..., 1))],
    aten.neg.default: [Call()],
    aten._to_copy.default: [Call()],
    aten.to.dtype: [Call((..., torch.float64))],
    aten.clone.default: [Call()],
    aten.alias.default: [Call()],
    aten.detach.default: [Call()],
    aten.contiguous.default: [Call()],
    aten.lift_fresh_copy.default: [Call()],
    aten.mul.Tensor: [Call((..., OTHER)), Call((..., 2.5)), Call((OTHER, ...))],
    aten.mul.Scalar: [Call((..., -3.0))],
    aten.div.Tensor: [Call((..., OTHER)), Call((..., 4.0))],
    aten.div.Scalar: [Call((..., 4.0))],
}
POSITIVE = X.abs() + 0.1
WITHOUT_QUOTIENT: dict[Any, list[Call]] = {
    **{target: [Call()] for target in WITHOUT_ZERO},
    aten.acos.default: [Call(scale=0.1)],
    aten.acosh.default: [Call(scale=20.0)],
    aten.remainder.Scalar: [Call((..., 1.7))],
    aten.pow.Scalar: [Call((2.0, ...))],
    aten.pow.Tensor_Tensor: [Call((..., OTHER)), Call((OTHER.abs(), ...))],
    aten.atan2.default: [Call((..., OTHER)), Call((OTHER, ...))],
    aten.fmod.Tensor: [Call((..., OTHER)), Call((OTHER, ...))],
    aten.remainder.Tensor: [Call((..., OTHER)), Call((OTHER, ...))],
    aten.remainder.Scalar_Tensor: [Call((1.7, ...))],
    aten.div.Tensor_mode: [Call((..., OTHER), {"rounding_mode": "floor"}), Call((OTHER, ...), {"rounding_mode": None})],
    aten.div.Scalar_mode: [Call((..., 0.3), {"rounding_mode": "trunc"})],
    aten.pow.Tensor_Scalar: [Call((..., -0.5)), Call((..., 0.5)), Call((..., -1))],
    aten.div.Tensor: [Call((OTHER, ...))],
}
CASES = [(target, call) for target, calls in WITH_QUOTIENT.items() for call in calls]
TOTAL_CASES = [(target, call) for target, calls in WITHOUT_QUOTIENT.items() for call in calls]


def ident(value: Any) -> str:
    if isinstance(value, Call):
        return ",".join("x" if arg is ... else "c" if isinstance(arg, Tensor) else str(arg) for arg in value.args)
    return str(value)


def op_of(target: Any, call: Call, x: Tensor) -> Op:
    args = tuple(x if arg is ... else arg for arg in call.args)
    active = [name for name, value in bind(target, args, call.kwargs).items() if value is x]
    return Op.eager(target, *args, active=active, **call.kwargs)


def test_every_registered_elementwise_op_is_tried_here() -> None:
    registered = {target for target, entries in OPERATORS.items() if any(e.family == "elementwise" for e in entries)}

    tried = WITH_QUOTIENT.keys() | WITHOUT_QUOTIENT.keys()
    assert registered - {FUNCTION, RECURRENT_GATE} == tried


@pytest.mark.parametrize(("target", "call"), CASES, ids=ident)
def test_the_unit_form_is_multiplied_by_f_of_x_over_x(target: Any, call: Call) -> None:
    op = op_of(target, call, call.x())
    away = X != 0

    (relevance,) = propagate(op, unit(torch.ones_like(X))).values()

    assert relevance.form == "unit"
    quotient = relevance.tensor.expand_as(X)
    torch.testing.assert_close(quotient[away], (call.of(target, call.x()) / call.x())[away], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("target", "call"), CASES, ids=ident)
def test_at_zero_the_quotient_is_its_limit(target: Any, call: Call) -> None:
    op = op_of(target, call, call.x())

    (relevance,) = propagate(op, unit(torch.ones_like(X))).values()

    # Beside a kink the limits from the left and from the right differ: whatever lies between them will do.
    step = 1e-6
    beside = [(call.of(target, torch.where(X == 0, h, call.x())) / h)[X == 0].item() for h in (-step, step)]
    assert min(beside) - 1e-5 <= relevance.tensor.expand_as(X)[X == 0].item() <= max(beside) + 1e-5


@pytest.mark.parametrize(("target", "call"), CASES, ids=ident)
def test_relevance_in_total_form_passes_unchanged(target: Any, call: Call) -> None:
    R = torch.linspace(-1, 1, len(X), dtype=torch.float64)

    (relevance,) = propagate(op_of(target, call, call.x()), total(R)).values()

    assert relevance.form == "total"
    assert torch.equal(relevance.tensor, R)


@pytest.mark.parametrize(("target", "call"), CASES, ids=ident)
def test_both_forms_say_the_same(target: Any, call: Call) -> None:
    g = torch.linspace(-1, 1, len(X), dtype=torch.float64)
    op = op_of(target, call, call.x())

    (relevance,) = propagate(op, unit(g)).values()

    torch.testing.assert_close(relevance.tensor * call.x(), g * op.output, rtol=1e-9, atol=1e-11)
    if relevance.as_total is not None:
        torch.testing.assert_close(relevance.as_total(), g * op.output, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("target", "call"), TOTAL_CASES, ids=ident)
def test_where_no_quotient_exists_the_total_form_goes_on(target: Any, call: Call) -> None:
    g = torch.linspace(-1, 1, len(X), dtype=torch.float64)
    op = op_of(target, call, call.x(positive=True))

    (relevance,) = propagate(op, unit(g)).values()

    assert relevance.form == "total"
    torch.testing.assert_close(relevance.tensor, g * op.output)


def test_broadcast_operands_get_the_sum() -> None:
    row, matrix = X[:3].clone(), torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    g = torch.randn(2, 3, dtype=torch.float64)

    flow = propagate(Op.eager(aten.mul.Tensor, row, matrix), unit(g))

    torch.testing.assert_close(flow["self"].tensor, (g * matrix).sum(0))


@pytest.mark.parametrize("target", [aten.mul.Tensor, aten.div.Tensor], ids=str)
def test_a_total_that_comes_with_the_unit_form_is_not_multiplied(target: Any) -> None:
    # As an activation hands both on; a product gives g times a factor, but R as it is.
    row, matrix = X[:3].clone(), torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3)
    g = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    op = Op.eager(target, matrix, row)

    alone, both = propagate(op, unit(g)), propagate(op, unit(g, lambda: g * op.output))

    for name, share in both.items():
        if share is not None:
            assert share.as_total is not None
            torch.testing.assert_close(share.tensor, alone[name].tensor)
            torch.testing.assert_close(share.as_total(), alone[name].tensor * op.tensor(name))


def test_a_cast_returns_relevance_in_the_operands_dtype() -> None:
    x = torch.randn(4)
    op = Op.eager(aten._to_copy.default, x, dtype=torch.float64)

    flow = propagate(op, unit(torch.ones(4, dtype=torch.float64)))

    assert flow["self"].tensor.dtype == torch.float32


def test_the_rule_zero_passes_nothing_on() -> None:
    assert propagate(Op.eager(aten.relu.default, X), unit(torch.ones_like(X)), "zero") == {"self": None}


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (-3.0, -1.0)])
def test_a_clamp_that_excludes_zero_is_no_activation(low: float, high: float) -> None:
    operator = find(Op.eager(aten.clamp.default, X, low, high))

    assert operator is None or operator.family != "elementwise"


@pytest.mark.parametrize(
    ("function", "slope"),
    [(lambda x: x * torch.sigmoid(x), 0.5), (lambda x: torch.tanh(x) ** 2, 0.0), (lambda x: x.exp() - 1, 1.0)],
)
def test_a_region_taken_as_one_function_has_its_quotient(function: Any, slope: float) -> None:
    facts = Facts().known(SLOPE, slope)
    op = Op(FUNCTION, {"self": X}, function(X), AS_THEY_ARE, active=("self",), facts=facts)

    flow = propagate(op, unit(torch.ones_like(X)))

    expected = torch.where(X == 0, torch.full_like(X, slope), function(X) / X)
    torch.testing.assert_close(flow["self"].tensor, expected)


def test_a_region_with_a_value_at_zero_goes_on_in_total_form() -> None:
    op = Op(FUNCTION, {"self": X}, X.cosh(), AS_THEY_ARE, active=("self",))

    flow = propagate(op, unit(torch.ones_like(X)))

    assert flow["self"].form == "total"
    torch.testing.assert_close(flow["self"].tensor, X.cosh())


def test_the_total_is_asked_of_who_offered_it_however_many_operations_lie_between() -> None:
    """Linear maps, that is: thousands of them are followed in a loop."""
    relevance = unit(torch.ones(3), lambda: torch.tensor([1.0, 2.0, 3.0]))
    for _ in range(5000):
        relevance = relevance.map(lambda r: (r.flip(0) + r) / 2)
    assert torch.equal(relevance.total_of(lambda: pytest.fail("asked for the value")), torch.full((3,), 2.0))
