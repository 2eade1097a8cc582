"""Every rule over every linear map: the table of rules applied to the map unrolled into a matrix, in float64."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.linear_cases import ALL, NORMS, SPLIT, WEIGHTED, tensor
from support.unrolled import Case, Shares, table
from torch import Tensor

from lrp_compiler.rules import ONLY_POSITIVE, RULES, Op, RuleError, find, propagate, total, unit

EPSILON = 0.03
BIASED: list[tuple[str, dict[str, Any]]] = [
    ("epsilon", {}),
    ("z-plus", {}),
    ("z-plus", {"form": "direct"}),
    ("z-plus", {"form": "half-sums"}),
    ("alpha-beta", {}),
    ("alpha-beta", {"alpha": 1.5, "beta": 0.5, "form": "direct"}),
    ("alpha-beta", {"alpha": 3.0, "beta": 2.0, "form": "half-sums"}),
    ("gamma", {}),
    ("gamma", {"gamma": 0.7, "form": "direct"}),
    ("gamma", {"gamma": 130.0, "form": "half-sums"}),
    ("gamma-one-sided", {"gamma": 0.4}),
    ("w-square", {}),
]
UNBIASED: list[tuple[str, dict[str, Any]]] = [
    ("flat", {}),
    ("z-box", {"low": -4.5, "high": 5.0}),
]


def label(rule: tuple[str, dict[str, Any]]) -> str:
    name, options = rule
    return " ".join([name, *(str(value) for value in options.values())])


def total_of(flow: Any, case: Case) -> Tensor:
    """Total relevance of the active operands in one vector."""
    parts = []
    for name, value in case.operands.items():
        share = flow[name]
        parts.append(torch.zeros_like(value) if share is None else share.tensor)
        assert parts[-1].shape == value.shape
        if share is not None and share.form == "unit":
            parts[-1] = parts[-1] * value
    return torch.cat([part.flatten() for part in parts])


def check(case: Case, R: Tensor, expected: Shares, rule: str, arrives: str = "total", **options: Any) -> None:
    books: dict[str, float] = defaultdict(float)
    relevance = total(R) if arrives == "total" else unit(R / case.output)

    op = case.op(absorb=lambda cause, share: books.__setitem__(cause, books[cause] + float(share.sum())))
    result = total_of(propagate(op, relevance, rule, **options), case)

    scale = float(max(expected.relevance.abs().max(), R.abs().max()))
    assert (result - expected.relevance).abs().max() <= 1e-9 * scale
    scale *= R.numel()
    assert books.pop("bias", 0.0) + books.pop("constant", 0.0) == pytest.approx(expected.constants, abs=1e-9 * scale)
    assert books.pop("stabiliser", 0.0) + books.pop("empty", 0.0) == pytest.approx(expected.lost, abs=1e-9 * scale)
    assert not books


def plain(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "form"}


@pytest.mark.parametrize("rule", BIASED, ids=label)
@pytest.mark.parametrize("name", SPLIT)
def test_a_rule_with_a_bias_equals_its_row(name: str, rule: tuple[str, dict[str, Any]]) -> None:
    for case in (SPLIT[name], SPLIT[name].made_nonnegative()):
        R = torch.randn(case.output.shape, dtype=torch.float64)
        for arrives, bias in (("total", "absorb"), ("unit", "ignore")):
            options = {"epsilon": EPSILON, "bias": bias, **rule[1]}
            check(case, R, table(rule[0], case, R, **plain(options)), rule[0], arrives, **options)


@pytest.mark.parametrize("rule", UNBIASED, ids=label)
@pytest.mark.parametrize("name", SPLIT)
def test_a_rule_without_a_bias_equals_its_row(name: str, rule: tuple[str, dict[str, Any]]) -> None:
    case = SPLIT[name]
    R = torch.randn(case.output.shape, dtype=torch.float64)
    options = {"epsilon": EPSILON, **rule[1]}

    check(case, R, table(rule[0], case, R, **options), rule[0], "unit", **options)


@pytest.mark.parametrize("name", NORMS)
def test_epsilon_on_a_normalisation_equals_its_row(name: str) -> None:
    case, R = NORMS[name], torch.randn(NORMS[name].output.shape, dtype=torch.float64)

    check(case, R, table("epsilon", case, R, epsilon=EPSILON), "epsilon", epsilon=EPSILON)


@pytest.mark.parametrize("name", [name for name, case in SPLIT.items() if len(case.active) == 1])
def test_bounds_by_channel_are_those_of_the_channel_dim(name: str) -> None:
    case = SPLIT[name]
    (x,) = case.operands.values()
    R = torch.randn(case.output.shape, dtype=torch.float64)
    low, high = (-5.0 - torch.arange(x.shape[case.channel])), (5.0 + torch.arange(x.shape[case.channel]))
    trailing = [1] * (x.dim() - 1 - case.channel % x.dim())
    along = {
        key: end.double().reshape(-1, *trailing).expand(x.shape).flatten()
        for key, end in (("low", low), ("high", high))
    }

    expected = table("z-box", case, R, epsilon=EPSILON, **along)

    check(case, R, expected, "z-box", epsilon=EPSILON, low=low.tolist(), high=high.tolist())


@pytest.mark.parametrize("name", SPLIT)
def test_pass_keeps_relevance_where_shapes_agree_and_spreads_it_elsewhere(name: str) -> None:
    case = SPLIT[name]
    R = torch.randn(case.output.shape, dtype=torch.float64)
    flow = propagate(case.op(), total(R), "pass", epsilon=EPSILON)

    if (
        len(case.active) == 1
        and case.x.shape == R.flatten().shape
        and R.shape == next(iter(case.operands.values())).shape
    ):
        assert torch.equal(total_of(flow, case), R.flatten())
    else:
        check(case, R, table("flat", case, R, epsilon=EPSILON), "pass", epsilon=EPSILON)


@pytest.mark.parametrize("name", ALL)
def test_the_limit_is_the_transpose_and_asks_for_no_forward_value_but_the_weights(name: str) -> None:
    case, read = ALL[name], []
    op = case.op(asked=read.append)
    g = torch.randn(case.output.shape, dtype=torch.float64)

    flow = propagate(op, unit(g), "epsilon", epsilon=0.0)

    result = torch.cat([flow[operand].tensor.flatten() for operand in case.active])
    expected = case.matrix[0].T @ g.flatten()
    assert all(relevance.form == "unit" for relevance in flow.values())
    assert (result - expected).abs().max() <= 1e-9 * expected.abs().max()
    own = [] if name in NORMS else list(case.operands.values())  # a normalisation's scale is a function of its input
    tensors = [value for value in op.arguments.values() if isinstance(value, Tensor)]
    weights = [value for value in tensors if all(value is not operand for operand in own)]
    # The result of the op is no argument, so reading it would show here.
    assert all(any(value is weight for weight in weights) for value in read)


ONE_TRANSPOSE = [("z-plus", False), ("gamma-one-sided", False), ("gamma", True)]
"""Rules, and whether no relevance must arrive at z ≤ 0 for them to take one map and one transpose."""


@pytest.mark.parametrize("rule", ONE_TRANSPOSE, ids=lambda rule: rule[0])
@pytest.mark.parametrize("name", [name for name in WEIGHTED if "matmul" not in name])
def test_a_nonnegative_input_takes_one_map_and_one_transpose(name: str, rule: tuple[str, bool]) -> None:
    case, calls = WEIGHTED[name].made_nonnegative().knowing({ONLY_POSITIVE: rule[1]}), []
    op = case.op()
    entry = find(op)
    assert entry is not None
    linear = entry.describe(op)
    (term,) = linear.terms

    def counted(kind: str, function: Any) -> Any:
        return lambda *args: (calls.append(kind), function(*args))[1]

    term = replace(term, apply=counted("map", term.apply), transpose=counted("transpose", term.transpose))
    linear = replace(linear, terms=(term,))

    flow = RULES["linear map", rule[0]](op, linear, total(torch.randn_like(case.output)))

    assert sorted(calls) == ["map", "transpose"]
    assert flow[term.operand].form == "unit"


def test_gamma_without_negative_branch_is_gamma_where_nothing_arrives_there() -> None:
    for name in ("linear", "linear, wide", "conv2d", "batch_norm", "add of a constant"):
        for given in (SPLIT[name], SPLIT[name].made_nonnegative()):
            case = given.knowing({ONLY_POSITIVE: True})
            for form in ("auto", "direct", "half-sums"):
                R = torch.randn(case.output.shape, dtype=torch.float64) * (case.output > 0)
                expected = table("gamma", case, R, epsilon=EPSILON)
                check(case, R, expected, "gamma", epsilon=EPSILON, form=form)


def test_a_limit_that_must_divide_takes_the_default_stabiliser() -> None:
    case = SPLIT["linear"]
    R = torch.randn(case.output.shape, dtype=torch.float64)
    for rule in ("z-plus", "alpha-beta", "gamma", "gamma-one-sided", "w-square"):
        check(case, R, table(rule, case, R, epsilon=1e-6), rule, epsilon=0.0)


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("epsilon", {"bias": "drop"}, "'absorb' or 'ignore'"),
        ("z-plus", {"form": "fast"}, "auto, direct, half-sums"),
        ("z-box", {"low": 1.0, "high": 1.0}, "low < high"),
        ("z-box", {"low": [0.0, 2.0, 0, 0, 0], "high": [1.0] * 5}, "low < high"),
        ("z-box", {"low": [0.0, 0.0], "high": 1.0}, "5 channels"),
    ],
)
def test_an_option_without_sense_is_refused(rule: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        propagate(SPLIT["linear"].op(), total(tensor(2, 3)), rule, **options)


@pytest.mark.parametrize("rule", ["z-plus", "alpha-beta", "gamma", "gamma-one-sided", "w-square", "flat", "z-box"])
def test_a_normalisation_takes_no_rule_that_needs_its_weights(rule: str) -> None:
    case = NORMS["layer_norm"]

    with pytest.raises(RuleError, match="epsilon"):
        propagate(case.op(), total(case.output), rule)


# ---- By hand ----

# On x = (2, −1): the neurons collect (2, −1 and bias 1) = 2 and (−2, 4 and bias 1) = 3; their relevance is (2, 6).
X = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
WEIGHT = torch.tensor([[1.0, 1.0], [-1.0, -4.0]], dtype=torch.float64)
BIAS = torch.tensor([1.0, 1.0], dtype=torch.float64)
HIDDEN = torch.tensor([[2.0, 6.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "options", "expected"),
    [
        ("epsilon", {}, [2 / 2 * 2 - 2 / 3 * 6, -1 / 2 * 2 + 4 / 3 * 6]),
        ("z-plus", {}, [2 / 3 * 2, 4 / 5 * 6]),
        ("alpha-beta", {}, [2 * 2 / 3 * 2 - 2 / 2 * 6, 2 * 4 / 5 * 6 - 1 / 1 * 2]),
        # γ = 1: (4, −1 and 2) = 5 and (−2, 8 and 2) = 8
        ("gamma", {"gamma": 1.0}, [4 / 5 * 2 - 2 / 8 * 6, -1 / 5 * 2 + 8 / 8 * 6]),
        # W + W⁺ is (2, 2), (−1, −4) and b + b⁺ is 2: (4, −2 and 2) = 4 and (−2, 4 and 2) = 4
        ("gamma-one-sided", {"gamma": 1.0}, [4 / 4 * 2 - 2 / 4 * 6, -2 / 4 * 2 + 4 / 4 * 6]),
        # squares: (1, 1 and 1), (1, 16 and 1)
        ("w-square", {}, [1 / 3 * 2 + 1 / 18 * 6, 1 / 3 * 2 + 16 / 18 * 6]),
        ("flat", {}, [1 / 2 * 2 + 1 / 2 * 6, 1 / 2 * 2 + 1 / 2 * 6]),
        # in [−2, 3]: (4, 1) and (1, 16)
        ("z-box", {"low": -2.0, "high": 3.0}, [4 / 5 * 2 + 1 / 17 * 6, 1 / 5 * 2 + 16 / 17 * 6]),
        ("zero", {}, [0, 0]),
    ],
)
def test_two_neurons_by_hand(rule: str, options: dict[str, float], expected: list[float]) -> None:
    case = Case(torch.ops.aten.linear.default, (X, WEIGHT, BIAS), ("input",))
    stabiliser = {"epsilon": 1e-12} if rule != "zero" else {}

    flow = propagate(case.op(), total(HIDDEN), rule, **options, **stabiliser)

    torch.testing.assert_close(total_of(flow, case), torch.tensor(expected, dtype=torch.float64))


def test_a_zero_sum_is_stabilised_to_the_positive_side() -> None:
    x, weight = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0]])
    op = Op.eager(torch.ops.aten.linear.default, x, weight)

    flow = propagate(op, total(torch.tensor([[1.0]])), "epsilon", epsilon=0.5)

    assert torch.equal(flow["input"].tensor * x, torch.tensor([[2.0, -2.0]]))
