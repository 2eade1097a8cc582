"""What float32 makes of the rules: how far they are from float64, and what becomes of degenerate inputs."""

from typing import Any

import pytest
import torch
from support.linear_cases import SPLIT, convolution, tensor
from support.unrolled import Case, table
from torch import Tensor

from lrp_compiler.rules import propagate, total, unit
from lrp_compiler.rules.relevance import signum

pytestmark = pytest.mark.sampled(12)

aten = torch.ops.aten
RULES: dict[str, dict[str, Any]] = {
    "z-plus": {},
    "alpha-beta": {},
    "gamma": {},
    "gamma-one-sided": {},
    "w-square": {},
    "flat": {},
    "z-box": {"low": -6.0, "high": 7.0},
}


def in_float32(case: Case, x: Tensor | None = None) -> Case:
    """The case in single precision, its single active operand replaced by `x`."""
    (operand,) = case.active
    args = tuple(arg.float() if isinstance(arg, Tensor) else arg for arg in case.args)
    single = Case(case.target, args, case.active, case.kwargs, case.facts)
    return single if x is None else single.with_operands({operand: x})


def in_float64(case: Case) -> Case:
    """In double precision, on the very numbers that single precision sees."""
    args = tuple(arg.double() if isinstance(arg, Tensor) else arg for arg in case.args)
    return Case(case.target, args, case.active, case.kwargs, case.facts)


def total_of(case: Case, relevance: Any, rule: str, **options: Any) -> Tensor:
    (share,) = propagate(case.op(), relevance, rule, **options).values()
    (x,) = case.operands.values()
    if share is None:
        return torch.zeros_like(x)
    return share.tensor if share.form == "total" else share.tensor * x


def linear(rows: int, fan_in: int) -> Case:
    return Case(aten.linear.default, (tensor(rows, fan_in), tensor(24, fan_in, seed=1), tensor(24, seed=2)), ("input",))


NARROW_AND_WIDE = {
    "depthwise 3×3": convolution(2, (9, 9), (3, 3), (3, 3), padding=[1], groups=3),
    "RGB stem": convolution(2, (12, 10), (3, 4), (3, 3), padding=[1], stride=[2]),
    "upsampling": convolution(2, (4, 3), (20, 4), (3, 3), transposed=True, stride=[2], padding=[1]),
    "wide convolution": convolution(2, (5, 5), (16, 6), (3, 3), padding=[1]),
    **{f"linear, fan-in {fan_in}": linear(32, fan_in) for fan_in in (24, 33, 64, 65, 96)},
}


@pytest.mark.sampled(48)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", NARROW_AND_WIDE)
def test_the_form_that_is_chosen_is_exact_to_a_millionth(name: str, rule: str) -> None:
    for exact in (NARROW_AND_WIDE[name], NARROW_AND_WIDE[name].made_nonnegative()):
        single = in_float32(exact)
        exact = in_float64(single)
        R = tensor(*single.output.shape, seed=5).float()
        if rule == "gamma-one-sided":
            # Its sum has terms of both signs, and what has cancelled in the sum no form can bring back.
            R = R * stands_out(exact).reshape(R.shape)
        expected = table(rule, exact, R.double(), epsilon=1e-6, **RULES[rule]).relevance

        result = total_of(single, total(R), rule, **RULES[rule]).flatten()

        assert (result - expected).abs().max() <= 1e-6 * expected.abs().max()


def stands_out(case: Case) -> Tensor:
    """Where one-sided γ's sum is more than a tenth of its terms' magnitudes."""
    (W, b), x = case.matrix, case.x
    W, b = W + 0.25 * W.clamp(min=0), b + 0.25 * b.clamp(min=0)
    return (W @ x + b).abs() > 0.1 * (W.abs() @ x.abs() + b.abs())


def test_half_sums_would_not_do_for_narrow_maps() -> None:
    """Why there are two forms: where a depthwise window has contributions of nearly one sign, z and A cancel."""
    x = torch.tensor([[1.0, 1e-4]])
    weight = torch.tensor([[1.0, -1.0]])
    case = Case(aten.linear.default, (x, weight), ("input",))
    R = torch.tensor([[1.0]])
    exact = torch.tensor([[2.0, -1.0]])  # αβ: each contribution is alone with its sign

    errors = {
        form: float((total_of(case, total(R), "alpha-beta", form=form, epsilon=1e-12) - exact).abs().max())
        for form in ("direct", "half-sums")
    }

    assert errors["direct"] <= 1e-6
    assert errors["half-sums"] >= 1e-5


DEGENERATE = {
    "zeros": lambda x: torch.zeros_like(x),
    "a constant": lambda x: torch.full_like(x, 0.5),
    "denormals": lambda x: x.sign() * 1e-40,
    "huge": lambda x: x.sign() * 1e30,
    "huge and tiny": lambda x: torch.where(x > 0, 1e30, 1e-30),
}
OPERATORS = [
    "linear",
    "linear, wide",
    "conv2d, depthwise",
    "conv2d, wide",
    "up2d, wide",
    "avg_pool2d, ceiled, no padding",
    "mean",
    "cumsum",
    "bilinear, scaled",
    "bicubic",
    "nearest2d, scaled",
    "add of a constant",
    "sub from a constant",
    "batch_norm of images",
]
PROPORTIONAL = ("epsilon", "z-plus", "alpha-beta", "gamma", "gamma-one-sided")


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("name", OPERATORS)
def test_degenerate_inputs_have_finite_relevance(name: str, kind: str) -> None:
    (x,) = SPLIT[name].operands.values()
    case = in_float32(SPLIT[name], DEGENERATE[kind](x.float()))
    assert case.output.isfinite().all()
    forms = [{"form": form} for form in ("auto", "direct", "half-sums")]
    for rule, options in {"epsilon": {}, **RULES}.items():
        for form in forms if rule in ("z-plus", "alpha-beta", "gamma") else [{}]:
            for bias in ({}, {"bias": "ignore"}) if rule not in ("flat", "z-box") else ({},):
                for relevance in (total(torch.ones_like(case.output)), unit(torch.ones_like(case.output))):
                    result = total_of(case, relevance, rule, **options, **form, **bias)

                    assert result.isfinite().all(), (rule, form, bias)
                    if kind == "zeros" and rule in PROPORTIONAL:
                        assert not result.any(), (rule, form, bias)


@pytest.mark.parametrize("rule", ["z-plus", "alpha-beta", "gamma", "gamma-one-sided"])
@pytest.mark.parametrize("form", ["direct", "half-sums"])
def test_contributions_that_overflow_pass_nothing_on(rule: str, form: str) -> None:
    """z = 1.6e38 is finite, Σ|w||x| = 8e38 is not: its share of R is 0."""
    x = torch.full((1, 80), 1e37)
    weight = torch.ones(5, 16)
    weight[1::2] = -1
    weight = weight.reshape(1, 80)
    case = Case(aten.linear.default, (x, weight), ("input",))
    assert case.output.isfinite().all()
    options = {} if rule == "gamma-one-sided" else {"form": form}

    result = total_of(case, total(torch.ones_like(case.output)), rule, **options)

    assert result.isfinite().all()


def test_an_infinite_mask_gets_nothing_and_breaks_nothing() -> None:
    scores, mask = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, float("-inf")]])
    case = Case(aten.add.Tensor, (scores, mask), ("self",), parameters=("other",))
    books: list[Tensor] = []
    op = case.op(absorb=lambda cause, share: books.append(share), wanted=["other"])

    flow = propagate(op, unit(torch.tensor([[1.0, 0.0]])), "epsilon", epsilon=0.0)

    assert torch.equal(flow["self"].tensor, torch.tensor([[1.0, 0.0]]))
    assert torch.equal(flow["other"].tensor, torch.zeros(1, 2))
    assert all(share.isfinite().all() for share in books)


@pytest.mark.parametrize("form", ["direct", "half-sums"])
@pytest.mark.parametrize("side", [1, -1])
def test_a_neuron_with_contributions_of_one_sign_does_not_disturb_the_others(side: int, form: str) -> None:
    """Where z = ∓A but for rounding, the half-sum is noise and must not be divided by."""
    x, weight, bias = 10 * tensor(1, 90).float(), tensor(24, 90, seed=1).float(), tensor(24, seed=2).float()
    weight[:12] = side * weight[:12].abs() * x.sign()
    bias[:12] = side * bias[:12].abs()
    case = Case(aten.linear.default, (x, weight, bias), ("input",))
    R = tensor(1, 24, seed=3).float()
    expected = table("alpha-beta", in_float64(case), R.double(), epsilon=1e-6).relevance

    result = total_of(case, total(R), "alpha-beta", form=form).flatten()

    assert (result - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_signum_is_exact_for_every_normal_number(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    x = torch.tensor([0.0, -0.0, info.tiny, -info.tiny, 1.0, -3.0, info.max, torch.inf, -torch.inf], dtype=dtype)

    assert torch.equal(signum(x), torch.sign(x))
    assert torch.equal(signum(x, 0.25), 0.25 * torch.sign(x))
    assert signum(torch.tensor(torch.nan, dtype=dtype)).isnan()
