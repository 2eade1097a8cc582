"""Relevance of weights and biases: the messages of a rule, summed over positions instead of over weights."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from support.linear_cases import NORMS, SPLIT, WEIGHTED, tensor
from support.unrolled import Case
from torch import Tensor

from lrp_compiler.rules import RuleError, find, propagate, total

aten = torch.ops.aten
RULES: dict[str, dict[str, Any]] = {
    "epsilon": {},
    "z-plus": {},
    "alpha-beta": {},
    "gamma": {},
    "gamma-one-sided": {},
    "w-square": {},
    "flat": {},
    "z-box": {"low": [-6.0] * 3, "high": [5.0, 6.0, 7.0]},
}


def told(case: Case, R: Tensor, rule: str, **options: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Total relevance of the operands and parameters, and what was absorbed, by cause."""
    books: dict[str, float] = defaultdict(float)
    op = case.op(
        wanted=case.parameters,
        absorb=lambda cause, share: books.__setitem__(cause, books[cause] + float(share.sum())),
    )
    flow = propagate(op, total(R), rule, **options)
    values = {}
    for name, share in flow.items():
        value = op.tensor(name)
        values[name] = torch.zeros_like(value) if share is None else share.tensor
        if share is not None and share.form == "unit":
            values[name] = share.tensor * value
        assert values[name].shape == value.shape
    return values, books


@pytest.mark.parametrize("name", WEIGHTED)
def test_weighing_is_the_transpose_with_respect_to_the_weights(name: str) -> None:
    case = WEIGHTED[name]
    op = case.op()
    entry = find(op)
    assert entry is not None
    (term,) = entry.describe(op).terms
    q, weight = torch.randn_like(case.output), op.tensor(term.parameter)
    without_bias = {"bias": None, "self": torch.zeros(1, dtype=weight.dtype)}
    blank = {key: value for key, value in without_bias.items() if key in case.parameters and key != term.parameter}

    weighed = term.weigh(q, op.tensor(term.operand))

    bilinear = case.with_operands(blank) if blank else case
    scale = case.kwargs.get("alpha", 1)  # is part of the weights here
    expected = [
        float((bilinear.with_operands({term.parameter: basis.reshape(weight.shape)}).output * q).sum()) / scale
        for basis in torch.eye(weight.numel(), dtype=weight.dtype)
    ]
    torch.testing.assert_close(weighed.flatten(), torch.tensor(expected, dtype=weight.dtype), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "z-box"])
@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_get_as_much_as_inputs_and_a_bias_what_is_booked(name: str, rule: str) -> None:
    for case in (WEIGHTED[name], WEIGHTED[name].made_nonnegative()):
        R = torch.randn_like(case.output)

        shares, books = told(case, R, rule, epsilon=0.03, **RULES[rule])

        inputs = float(shares[case.active[0]].sum())
        biases = [key for key in case.parameters if key in ("bias", "self") and len(case.parameters) > 1]
        weights = sum(float(shares[key].sum()) for key in case.parameters if key not in biases)
        scale = float(R.abs().sum() + shares[case.active[0]].abs().sum())
        assert weights == pytest.approx(inputs, abs=1e-9 * scale)
        assert sum(float(shares[key].sum()) for key in biases) == pytest.approx(books["bias"], abs=1e-9 * scale)


@pytest.mark.parametrize("rule", RULES)
def test_a_tiny_layer_by_loops(rule: str) -> None:
    """Every connection and every bias gets its own contribution times R over the sum of contributions."""
    x, W, b, R = tensor(2, 3), tensor(4, 3, seed=1), tensor(4, seed=2), tensor(2, 4, seed=3)
    case = Case(aten.linear.default, (x, W, b), ("input",), parameters=("weight", "bias"))
    expected, expected_bias = torch.zeros_like(W), torch.zeros_like(b)
    for n in range(2):
        for j in range(4):
            share = {"alpha-beta": (2.0, -1.0)}.get(rule, (1.0,))
            for side, factor in zip((1, -1), share, strict=False):
                z = W[j] @ x[n] + b[j]
                parts = [contribution(rule, W[j, i], x[n, i], side, z, i) for i in range(3)]
                bias = contribution(rule, b[j], torch.tensor(1.0), side, z, None)
                whole = sum(parts) + bias
                q = factor * R[n, j] / (whole + (1e-3 if whole >= 0 else -1e-3))
                expected[j] += torch.stack(parts) * q
                expected_bias[j] += bias * q

    shares, _ = told(case, R, rule, epsilon=1e-3, **RULES[rule])

    torch.testing.assert_close(shares["weight"], expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(shares["bias"], expected_bias, rtol=1e-9, atol=1e-12)


def contribution(rule: str, w: Tensor, x: Tensor, side: int, z: Tensor, channel: int | None) -> Tensor:
    """What one weight adds to the denominator; `channel` is `None` for a bias, whose input is 1."""
    is_bias, none = channel is None, torch.tensor(0.0, dtype=w.dtype)
    match rule:
        case "epsilon":
            return w * x
        case "z-plus" | "alpha-beta":
            return w * x if float(w * x) * side > 0 else none
        case "gamma":
            return w * x * (1.25 if float(w * x * z) > 0 else 1)
        case "gamma-one-sided":
            return w * x * (1.25 if w > 0 else 1)
        case "w-square":
            return w * w
        case "flat":
            return none if is_bias else none + 1
        case "z-box":
            low, high = RULES[rule]["low"], RULES[rule]["high"]
            return none if is_bias else w * (x - (low[channel] if w > 0 else high[channel]))
    raise AssertionError(rule)


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm of images", "batch_norm, scale only", *NORMS])
def test_a_normalisations_scale_gets_as_much_as_its_input(name: str) -> None:
    case = {**SPLIT, **NORMS}[name]
    R = torch.randn_like(case.output)

    shares, books = told(case, R, "epsilon", epsilon=0.03)

    if "weight" in case.parameters:
        assert float(shares["weight"].sum()) == pytest.approx(float(shares["input"].sum()), rel=1e-9)
    if "bias" in case.parameters:
        assert float(shares["bias"].sum()) == pytest.approx(books["bias"], rel=1e-9)


@pytest.mark.parametrize("rule", ["epsilon", "z-plus", "alpha-beta", "gamma", "gamma-one-sided", "w-square"])
@pytest.mark.parametrize("name", ["add of a constant", "add to a constant", "sub from a constant"])
def test_an_added_constant_gets_what_is_booked(name: str, rule: str) -> None:
    case = SPLIT[name]

    shares, books = told(case, torch.randn_like(case.output), rule, epsilon=0.03)

    (parameter,) = case.parameters
    assert float(shares[parameter].sum()) == pytest.approx(books["constant"], rel=1e-9, abs=1e-12)


def test_an_ignored_bias_gets_nothing() -> None:
    case = WEIGHTED["conv2d"]
    for rule, options in (("epsilon", {"bias": "ignore"}), ("gamma", {"bias": "ignore"}), ("flat", {}), ("zero", {})):
        flow = propagate(case.op(wanted=["bias"]), total(case.output), rule, **options)

        assert flow["bias"] is None


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm of images", "batch_norm, scale only", *NORMS])
def test_a_scale_that_is_passed_by_gets_what_passes_through(name: str) -> None:
    case = {**SPLIT, **NORMS}[name]
    R = torch.randn_like(case.output)

    shares, _ = told(case, R, "pass")

    if "weight" in case.parameters:
        leading = list(range(R.dim() - shares["weight"].dim()))
        dims = [dim for dim in range(R.dim()) if dim != 1] if "batch_norm" in name else leading
        torch.testing.assert_close(shares["weight"], R.sum(dims), rtol=1e-12, atol=1e-12)
    if "bias" in case.parameters:
        assert not shares["bias"].any()


def test_a_rule_that_says_nothing_of_a_parameter_is_refused() -> None:
    operands = (tensor(2, 3), tensor(3, 3), tensor(3))
    case = Case(aten.linear.default, operands, ("input",), parameters=("weight", "bias"))
    with pytest.raises(RuleError, match=r"gives parameters of .* no relevance.*bias, weight"):
        propagate(case.op(wanted=case.parameters), total(case.output), "pass")
