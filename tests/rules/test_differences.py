"""Rules of differences: what operands get of a result's difference is all of it, and what it is worked out to be."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_compiler.rules import CONDUCT, OPERATORS, Op, propagate, total, unit
from lrp_compiler.rules.differences import logarithmic_mean
from lrp_compiler.rules.registry import RuleError

aten = torch.ops.aten
EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-12}


def drawn(*shape: int, seed: int = 0, low: float = -1.5, high: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low


def shares(
    target: Any, *args: Any, reference: dict[str, Tensor], **kwargs: Any
) -> tuple[Op, Tensor, dict[str, Tensor]]:
    """The operation, `g` of its result, and each operand's `(a − a₀) ⊙ g`."""
    absorbed: list[Tensor] = []
    op = Op.eager(
        target,
        *args,
        active=list(reference),
        reference=reference,
        absorb=lambda cause, share: absorbed.append(share.sum()),
        **kwargs,
    )
    g = drawn(*op.output.shape, seed=9)
    flow = propagate(op, unit(g), "difference")
    found = {name: op.amount_of(name) * share.tensor for name, share in flow.items() if share is not None}
    found["absorbed"] = sum(absorbed, torch.zeros((), dtype=torch.float64))
    return op, g, found


def adds_up(op: Op, g: Tensor, found: dict[str, Tensor], **room: float) -> None:
    torch.testing.assert_close(sum(share.sum() for share in found.values()), (g * op.amount).sum(), **(room or EXACT))


ARGUMENTS: dict[Any, tuple[Any, ...]] = {
    aten.leaky_relu.default: (0.1,),
    aten.pow.Tensor_Scalar: (3.0,),
    aten.clamp.default: (-0.5, 0.5),
    aten.clamp_min.default: (-0.5,),
    aten.clamp_max.default: (0.5,),
    aten.fmod.Scalar: (0.4,),
    aten.remainder.Scalar: (0.4,),
    aten.softshrink.default: (0.5,),
    aten.hardshrink.default: (0.5,),
}
POSITIVE = (aten.log.default, aten.log2.default, aten.log10.default, aten.sqrt.default, aten.rsqrt.default)
POSITIVE += (aten.lgamma.default, aten.digamma.default, aten.reciprocal.default)
BELOW_ONE = (aten.asin.default, aten.acos.default, aten.atanh.default, aten.erfinv.default, aten.log1p.default)
FUNCTIONS = [
    target
    for target, entries in OPERATORS.items()
    if not isinstance(target, str)
    and any(entry.family == "elementwise" and entry.kind == "activation" for entry in entries)
    and sum("Tensor" in str(one.type) or one.name == "self" for one in target._schema.arguments) == 1
    and all(one.has_default_value() for one in target._schema.arguments[1:] if target not in ARGUMENTS)
]


@pytest.mark.parametrize("target", FUNCTIONS, ids=str)
def test_a_function_hands_on_its_difference(target: Any) -> None:
    """Far, near, nearer than a difference can be told from rounding, and equal ends."""
    bounds = {True: (0.1, 0.9), False: (-1.5, 1.5)}
    low, high = (1.1, 3.0) if target is aten.acosh.default else bounds[target in (*POSITIVE, *BELOW_ONE)]
    there = drawn(4, 16, low=low, high=high)
    apart = torch.tensor([1.0, 1e-3, 1e-9, 0.0], dtype=torch.float64)[:, None]
    x = there + apart * (drawn(4, 16, seed=1, low=low, high=high) - there)

    op, g, found = shares(target, x, *ARGUMENTS.get(target, ()), reference={"self": there})

    adds_up(op, g, found, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("target", [aten.gelu.default, aten.tanh.default, aten.exp.default, aten.rsqrt.default])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_slope_of_near_ends_is_the_derivative(target: Any, dtype: torch.dtype) -> None:
    """By autograd in float64; the quotient of such differences would be rounding."""
    there = drawn(200, low=0.2).to(dtype)
    for apart in (0.0, 1e-7, 1e-5, 1e-3):
        x = there + apart
        op = Op.eager(target, x, active=["self"], reference={"self": there})

        (share,) = propagate(op, unit(torch.ones_like(x)), "difference").values()

        middle = ((x.double() + there.double()) / 2).requires_grad_()
        (wanted,) = torch.autograd.grad(target(middle).sum(), middle)
        # The cube root of rounding, squared, is what a central difference is off by; f‴ Δ²/24 near 0.2 is 4 Δ².
        room = 20 * torch.finfo(dtype).eps ** (2 / 3) + 5 * apart**2
        assert float((share.tensor.double() - wanted).abs().max()) <= room * float(wanted.abs().max())


def test_a_relu_by_hand() -> None:
    x, there = torch.tensor([2.0, 2.0, -1.0, -1.0, 3.0]), torch.tensor([-2.0, 1.0, -3.0, -1.0, 3.0])
    op = Op.eager(aten.relu.default, x, active=["self"], reference={"self": there})

    (share,) = propagate(op, unit(torch.ones(5)), "difference").values()

    assert share.tensor.tolist() == [0.5, 1.0, 0.0, 0.0, 1.0]


def of(target: Any, first: tuple[int, ...], *rest: Any, **more: Any) -> tuple[Any, tuple[Any, ...], dict[str, Tensor]]:
    """A call and the reference of its first operand, and of `other=shape` or the like."""
    low, high = more.pop("low", -1.5), more.pop("high", 1.5)
    own = [drawn(*shape, seed=10 + at, low=low) for at, shape in enumerate(more.values())]
    name = target._schema.arguments[0].name
    reference = {name: drawn(*first, seed=2, low=low, high=high)}
    reference |= {other: drawn(*shape, seed=20 + at, low=low) for at, (other, shape) in enumerate(more.items())}
    return target, (drawn(*first, low=low), *own, *rest), reference


CASES: dict[str, tuple[Any, tuple[Any, ...], dict[str, Tensor]]] = {
    "product": of(aten.mul.Tensor, (3, 4), other=(3, 4)),
    "product, stretched": of(aten.mul.Tensor, (3, 4), other=(4,)),
    "quotient": of(aten.div.Tensor, (3, 4), other=(3, 1), low=0.5),
    "power": of(aten.pow.Tensor_Tensor, (3, 5), exponent=(3, 5), low=0.5),
    "matrices": of(aten.matmul.default, (2, 3, 4), other=(2, 4, 5)),
    "vectors": of(aten.matmul.default, (4,), other=(4,)),
    "softmax": of(aten._softmax.default, (3, 5), -1, False, high=4.0),
    "logsumexp": of(aten.logsumexp.default, (3, 5), [1], high=4.0),
    "linear": of(aten.linear.default, (3, 5), drawn(4, 5, seed=1), drawn(4, seed=3)),
    "largest": of(aten.amax.default, (3, 5), [1]),
    "smallest": of(aten.amin.default, (3, 5), [1]),
    "the larger": of(aten.maximum.default, (3, 5), other=(3, 5)),
    "overlapping pools": of(aten.max_pool2d.default, (2, 3, 9, 8), [3, 3], [2, 1], [1, 1], 1, True),
    "bounds without 0": of(aten.clamp.default, (3, 5), 0.2, 0.8),
    "softmax, close": (aten._softmax.default, (drawn(3, 5), -1, False), {"self": drawn(3, 5) + 1e-9}),
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_absorbed(name: str) -> None:
    target, args, reference = CASES[name]
    op = Op.eager(target, *args, active=list(reference), reference=reference)
    g = drawn(*op.output.shape, seed=9)

    flow = propagate(op, unit(g), "difference")

    handed = [share.tensor * (op.amount_of(name) if share.form == "unit" else 1) for name, share in flow.items()]
    torch.testing.assert_close(sum(one.sum() for one in handed), (g * op.amount).sum(), **EXACT)


def test_a_pool_hands_on_no_more_than_it_gets() -> None:
    """Of an extreme the place of the larger end changed at least as much as the result: no multiplier above g."""
    x, there = drawn(2, 3, 8, 8), drawn(2, 3, 8, 8, seed=2)
    op = Op.eager(aten.max_pool2d.default, x, [2, 2], active=["self"], reference={"self": there})

    (share,) = propagate(op, unit(torch.ones_like(op.output)), "difference").values()

    assert float(share.tensor.max()) <= 1.0
    assert float(share.tensor.min()) >= 0.0


def test_a_choice_that_is_another_at_the_reference_is_booked() -> None:
    condition, at_reference = drawn(4, 5) > 0, drawn(4, 5, seed=7) > 0
    pair = {"self": drawn(4, 5, seed=2), "other": drawn(4, 5, seed=3)}
    reference = {"self": drawn(4, 5, seed=4), "other": drawn(4, 5, seed=5)}
    absorbed: list[Tensor] = []
    op = Op.eager(
        aten.where.self,
        condition,
        pair["self"],
        pair["other"],
        active=["self", "other"],
        reference={**reference, "condition": at_reference},
        absorb=lambda cause, share: absorbed.append(share.sum()),
    )
    g = drawn(4, 5, seed=9)

    flow = propagate(op, unit(g), "difference")

    there = torch.where(at_reference, reference["self"], reference["other"])
    torch.testing.assert_close(op.amount, torch.where(condition, pair["self"], pair["other"]) - there, **EXACT)
    handed = sum((op.amount_of(name) * share.tensor).sum() for name, share in flow.items())
    torch.testing.assert_close(handed + sum(absorbed), (g * op.amount).sum(), **EXACT)
    # By hand, where the choice is another: half to each, and of the rest the middles' difference.
    other = condition != at_reference
    assert bool(other.any())
    torch.testing.assert_close(flow["self"].tensor[other], g[other] / 2, **EXACT)


def test_masked_scores_get_nothing_and_make_no_nan() -> None:
    x, there = drawn(3, 5), drawn(3, 5, seed=2)
    x[:, 3:] = there[:, 3:] = -math.inf
    op = Op.eager(aten._softmax.default, x, -1, False, active=["self"], reference={"self": there})
    g = drawn(3, 5, seed=9)

    (share,) = propagate(op, unit(g), "difference").values()

    assert (share.tensor[:, 3:] == 0).all()
    handed = ((x - there)[:, :3] * share.tensor[:, :3]).sum()
    torch.testing.assert_close(handed, (g * op.amount).sum(), **EXACT)


@pytest.mark.parametrize("there", ["masked too", "masked at the reference alone"])
def test_a_row_that_is_masked_as_a_whole_makes_no_nan(there: str) -> None:
    x, reference = drawn(3, 5), drawn(3, 5, seed=2)
    reference[1] = -math.inf
    if there == "masked too":
        x[1] = -math.inf
    op = Op.eager(aten._safe_softmax.default, x, -1, active=["self"], reference={"self": reference})
    g = drawn(3, 5, seed=9)

    (share,) = propagate(op, unit(g), "difference").values()

    assert (share.tensor[1] == 0).all()
    assert share.tensor.isfinite().all()


def test_what_hands_on_nothing_is_of_differences_too() -> None:
    assert {name for (_, name), known in CONDUCT.items() if known.of_differences} == {"difference", "zero"}
    assert all(known.of_differences for (_, name), known in CONDUCT.items() if name in ("difference", "zero"))


def test_total_relevance_stays_the_total() -> None:
    x, there = drawn(3, 4), drawn(3, 4, seed=2)
    R = drawn(3, 4, seed=5)
    op = Op.eager(aten.relu.default, x, active=["self"], reference={"self": there})

    (share,) = propagate(op, total(R), "difference").values()

    assert share.form == "total"
    assert torch.equal(share.tensor, R)


def test_without_a_reference_the_rule_says_what_to_do() -> None:
    op = Op.eager(aten.relu.default, drawn(3))
    with pytest.raises(RuleError, match="composite='reference'"):
        propagate(op, unit(drawn(3)), "difference")


def test_the_logarithmic_mean_is_exact_and_lies_between() -> None:
    p = torch.tensor([0.3, 1e-8, 0.5, 0.4, 0.0, 0.2], dtype=torch.float64)
    q = torch.tensor([0.1, 0.9, 0.5, 0.4 + 1e-9, 0.7, 0.0], dtype=torch.float64)

    found = logarithmic_mean(p, q)

    by_definition = (p[:2] - q[:2]) / (p[:2].log() - q[:2].log())
    torch.testing.assert_close(found[:2], by_definition, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[2:4], (p[2:4] + q[2:4]) / 2, rtol=1e-9, atol=0)
    assert (found[4:] == 0).all()


ELEMENTS: list[tuple[Any, tuple[Any, ...]]] = [
    (aten.prod.default, ()),
    (aten.prod.dim_int, (1,)),
    (aten.prod.dim_int, (-2, True)),
    (aten.cumprod.default, (0,)),
    (aten.cumprod.default, (-1,)),
]


@pytest.mark.parametrize(("target", "arguments"), ELEMENTS)
def test_of_a_product_of_elements_only_what_differs_has_a_share(target: Any, arguments: tuple[Any, ...]) -> None:
    x, there = drawn(3, 4, 5), drawn(3, 4, 5, seed=1)
    there[:, 1] = x[:, 1]
    there[0, 2, 3] = 0.0

    op, g, found = shares(target, x, *arguments, reference={"self": there})

    adds_up(op, g, found)
    assert (found["self"][:, 1] == 0).all()


def test_three_factors_by_hand() -> None:
    """a b c − a₀ b₀ c₀, from the first changed to the last and back."""
    x, there = torch.tensor([2.0, 3.0, 5.0]), torch.tensor([1.0, -1.0, 4.0])
    op = Op.eager(aten.prod.default, x, active=["self"], reference={"self": there})

    (share,) = propagate(op, unit(torch.tensor(1.0)), "difference").values()

    # g_a = ½ (b₀ c₀ + b c), g_b = ½ (a c₀ + a₀ c), g_c = ½ (a b + a₀ b₀)
    assert share.tensor.tolist() == [0.5 * (-4 + 15), 0.5 * (8 + 5), 0.5 * (6 - 1)]


PAIRS: list[tuple[Any, dict[str, Any]]] = [
    (aten.pow.Tensor_Tensor, {}),
    (aten.atan2.default, {}),
    (aten.div.Tensor_mode, {"rounding_mode": "floor"}),
    (aten.fmod.Tensor, {}),
    (aten.remainder.Tensor, {}),
]


@pytest.mark.parametrize(("target", "options"), PAIRS, ids=str)
def test_of_two_that_make_one_value_each_has_what_it_changes(target: Any, options: dict[str, Any]) -> None:
    """By hand: the mean of what a operand changes before and after the other; nothing where it does not differ."""
    a, b, a0, b0 = (drawn(4, 5, seed=seed, low=0.3, high=2.0) for seed in range(4))
    b0[1], a0[2] = b[1], a[2]
    first, second = [argument.name for argument in target._schema.arguments[:2]]
    op = Op.eager(target, a, b, active=[first, second], reference={first: a0, second: b0}, **options)

    flow = propagate(op, unit(torch.ones(4, 5, dtype=torch.float64)), "difference")

    found = {name: share.tensor for name, share in flow.items() if share is not None}

    def f(one: Tensor, other: Tensor) -> Tensor:
        return target(one, other, **options)

    wanted = (f(a, b) - f(a0, b) + f(a, b0) - f(a0, b0)) / 2
    torch.testing.assert_close(found[first], wanted, **EXACT)
    torch.testing.assert_close(found[first] + found[second], f(a, b) - f(a0, b0), **EXACT)
    assert (found[second][1] == 0).all()
    assert (found[first][2] == 0).all()


def test_a_power_that_is_none_between_the_ends_shares_alike() -> None:
    """(−2)² at x, 0.5^0.5 at the reference: (−2)^0.5 is no number."""
    pairs = {"self": torch.tensor([0.5]), "exponent": torch.tensor([0.5])}
    op = Op.eager(aten.pow.Tensor_Tensor, torch.tensor([-2.0]), torch.tensor([2.0]), active=[*pairs], reference=pairs)

    flow = propagate(op, unit(torch.ones(1)), "difference")

    for share in flow.values():
        assert share is not None
        torch.testing.assert_close(share.tensor, (torch.tensor([4.0]) - 0.5**0.5) / 2)
