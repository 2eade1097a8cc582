"""Traits say what an op is: each is compared with what the op does."""

import importlib
import math
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lrp_compiler.rules import OPERATORS, TRAITS, Call, Traits, bind, by_element, declare, summands, traits
from lrp_compiler.rules.traits import PLAIN, Given, existing

aten = torch.ops.aten
X = torch.tensor([[-2.0, -0.5, 0.0], [0.5, 1.0, 3.0]], dtype=torch.float64)
POINTWISE = [
    target
    for target in TRAITS
    if isinstance(target, torch._ops.OpOverload)
    and torch.Tag.pointwise in target.tags
    and traits(target).sign is not None
]


MASK = X > 0
SPECIAL = {
    aten.clamp.default: lambda x: [x, 0.0, 2.0],
    aten.where.self: lambda x: [MASK, x, x],
    aten.masked_fill.Scalar: lambda x: [x, MASK, 2.0],
}


def arguments(target: torch._ops.OpOverload, x: Tensor) -> list[object]:
    """The op's operands: tensors of these values, and 2 for numbers."""
    if target in SPECIAL:
        return SPECIAL[target](x)
    given: list[object] = []
    for argument in target._schema.arguments:
        kind = str(argument.type)
        if kind == "Tensor":
            given.append(x)
        elif argument.has_default_value():
            break
        else:
            given.append(2)
    return given


@pytest.mark.parametrize("target", POINTWISE, ids=str)
def test_a_result_that_is_said_to_be_nonnegative_is(target: torch._ops.OpOverload) -> None:
    for x, known in ((X, False), (X.abs(), True)):
        given = arguments(target, x)
        bound = bind(target, given, {})
        handles = [value for value in bound.values() if isinstance(value, Tensor) and value.is_floating_point()]
        said = traits(target).sign(Call(bound, handles, lambda handle, known=known: known))
        result = target(*given)

        assert not said or bool((result[~result.isnan()] >= 0).all())


@pytest.mark.parametrize("target", [t for t in TRAITS if traits(t).rectifies], ids=str)
def test_what_is_said_to_rectify_is_zero_below_zero(target: torch._ops.OpOverload) -> None:
    args = {"aten.hardtanh.default": (X, 0.0, 6.0), "aten.clamp.default": (X, 0.0), "aten.clamp_min.default": (X, 0.0)}
    given = args.get(str(target), (X,))

    assert traits(target).rectifies(bind(target, given, {}))
    assert torch.equal(target(*given) == 0, X <= 0)
    if len(given) > 1:
        assert not traits(target).rectifies(bind(target, (X, -1.0, *given[2:]), {}))


@pytest.mark.parametrize("target", [t for t in TRAITS if traits(t).neutral is not None], ids=str)
def test_the_neutral_number_changes_nothing(target: torch._ops.OpOverload) -> None:
    assert torch.equal(target(X, traits(target).neutral), X)


@pytest.mark.parametrize("target", [t for t in TRAITS if traits(t).copies], ids=str)
def test_copies_hold_the_same_values(target: torch._ops.OpOverload) -> None:
    assert torch.equal(target(X), X)


@pytest.mark.parametrize("target", [t for t in TRAITS if traits(t).bias or traits(t).bias_trails is not None], ids=str)
def test_a_bias_is_an_operand(target: torch._ops.OpOverload) -> None:
    assert traits(target).bias in {argument.name for argument in target._schema.arguments}


BOUNDS = {aten.relu6.default: (), aten.clamp_min.default: (-0.5,), aten.clamp_max.default: (1.0,)}


@pytest.mark.parametrize("target", [t for t in TRAITS if traits(t).clamps], ids=str)
def test_a_clamp_keeps_what_lies_between_its_bounds(target: torch._ops.OpOverload) -> None:
    result = target(X, *BOUNDS.get(target, (-0.5, 1.0)))

    changed = result != X
    assert torch.equal(result[~changed].unique(), X[~changed].unique())
    assert changed.any()
    # All that it takes below its range becomes one number, and so does all above.
    assert all(len(result[changed & side].unique()) <= 1 for side in (X < 0, X > 0))


MATRICES = {
    aten.mv.default: ((3, 4), (4,)),
    aten.dot.default: ((4,), (4,)),
    aten.bmm.default: ((2, 3, 4), (2, 4, 5)),
    aten.matmul.default: ((2, 3, 4), (4, 5)),
    aten.addmm.default: ((5,), (3, 4), (4, 5)),
    aten.addmv.default: ((3,), (3, 4), (4,)),
    aten.linear.default: ((2, 3, 4), (5, 4)),
}
"""Op → sizes of its operands; of others a matrix and another."""


def multiplied(target: torch._ops.OpOverload) -> tuple[object, ...]:
    """Operands of an op that multiplies matrices, or a convolution of stride 2 in two groups."""
    if "conv" not in str(target):
        return tuple(torch.randn(sizes) for sizes in MATRICES.get(target, ((3, 4), (4, 5))))
    dims = next((int(digit) for digit in str(target) if digit.isdigit()), 2)
    x, weight = torch.randn(2, 4, *[7] * dims), torch.randn(4, 2, *[3] * dims)
    twos = [2] * dims
    if target is aten.convolution.default:
        return x, weight, None, twos, [0, 0], [1, 1], False, [0, 0], 2
    return (
        (x, weight, None, twos, [0] * dims, [0] * dims, 2)
        if "transpose" in str(target)
        else (x, weight, None, twos, [0] * dims, [1] * dims, 2)
    )


@pytest.mark.parametrize("target", [t for t in TRAITS if traits(t).products], ids=str)
def test_products_are_as_many_as_torch_counts(target: torch._ops.OpOverload) -> None:
    operands = multiplied(target)
    with FlopCounterMode(display=False) as counter:
        result = target(*operands)

    sizes = {
        name: list(one.shape) if isinstance(one, Tensor) else one for name, one in bind(target, operands, {}).items()
    }
    said = traits(target).products(sizes, list(result.shape))

    # torch does not count products of a matrix with a vector: there each number of the matrix is in one.
    uncounted = {aten.mv.default: 12, aten.dot.default: 4, aten.addmv.default: 12}
    assert said == uncounted.get(target, counter.get_total_flops() / 2)


@pytest.mark.parametrize("target", [t for t in TRAITS if traits(t).lowered], ids=str)
def test_the_projects_own_ops_do_what_torchs_do(target: torch._ops.OpOverload) -> None:
    matrices = [torch.rand(4, 2).double(), torch.rand(2, 3).double()]
    pairs = {"lrp.gate.default": (X,), "lrp.remainder.default": (X.flip(0),)}
    others = {**pairs, "lrp.pool.default": (matrices,), "lrp.resize.default": (matrices,)}

    torch.testing.assert_close(traits(target).lowered(X, *others[str(target)]), target(X, *others[str(target)]))


def with_trait(name: str) -> pytest.MarkDecorator:
    found = [target for target in TRAITS if isinstance(target, torch._ops.OpOverload) and getattr(traits(target), name)]
    assert found
    return pytest.mark.parametrize("target", found, ids=str)


def operands(target: torch._ops.OpOverload) -> dict[str, Any]:
    """Tensors of several values, numbers, and a factor of 3 where the op has one."""
    numbers = {"alpha": 3.0} if any(argument.name == "alpha" for argument in target._schema.arguments) else {}
    tensors = iter([X, X.flip(0).exp()])
    taken = [
        next(tensors) if str(argument.type) == "Tensor" else 2.5
        for argument in target._schema.arguments
        if argument.name not in numbers
    ]
    return bind(target, taken, numbers)


@with_trait("sums")
def test_a_sum_is_its_operands_each_times_its_number(target: torch._ops.OpOverload) -> None:
    given = operands(target)

    total = sum(number * given[name] for name, number in summands(target, given).items())

    torch.testing.assert_close(target(**{name: given[name] for name in given}), total, rtol=1e-14, atol=1e-14)
    assert "alpha" not in given or summands(target, {**given, "alpha": object()}) == {}


@with_trait("powers")
def test_a_product_is_its_operands_each_to_its_power(target: torch._ops.OpOverload) -> None:
    given = operands(target)

    product = math.prod(given[name] ** power for name, power in traits(target).powers.items())

    torch.testing.assert_close(target(**given), product, rtol=1e-14, atol=1e-14)


@with_trait("matrices")
def test_a_product_of_matrices_is_of_its_operands(target: torch._ops.OpOverload) -> None:
    sizes = {aten.dot.default: ((3,), (3,)), aten.mv.default: ((2, 3), (3,)), aten.bmm.default: ((2, 2, 3), (2, 3, 4))}
    matrices = [torch.randn(*size, dtype=torch.float64) for size in sizes.get(target, ((2, 3), (3, 4)))]

    result = target(**dict(zip(traits(target).matrices, matrices, strict=True)))

    torch.testing.assert_close(result, torch.matmul(*matrices), rtol=1e-14, atol=1e-14)


@with_trait("logarithms")
def test_logarithms_are_of_the_operand_or_of_its_probability(target: torch._ops.OpOverload) -> None:
    x = X.abs() + 0.5
    known = traits(target)

    result = target(x)

    of = torch.sigmoid(x) if known.squashes else x
    torch.testing.assert_close({1: result.exp, -1: result.log}[known.logarithms](), of, rtol=1e-14, atol=1e-14)


@with_trait("of_shape")
def test_what_is_made_of_a_shape_looks_at_no_value(target: torch._ops.OpOverload) -> None:
    """On the meta device there are no values."""
    sizes = {"size": [2], "stride": [1], "high": 7, "low": 3, "fill_value": 0.5}
    needed = [argument.name for argument in target._schema.arguments[1:] if not argument.has_default_value()]
    made = target(X.to("meta"), *(sizes[name] for name in needed))

    assert made.is_meta
    assert [argument.name for argument in target._schema.arguments if str(argument.type) == "Tensor"] == ["self"]


def test_all_that_torch_calculates_of_whole_matrices_is_algebra() -> None:
    """Of the operators that it does not write out itself; a norm is a sum over elements."""
    missing = []
    for name in torch._C._dispatch_get_all_op_names():
        base, _, overload = name.removeprefix("aten::").partition(".")
        if not name.startswith("aten::") or not base.startswith(("linalg_", "_linalg_", "cholesky", "lu_", "geqrf")):
            continue
        packet = getattr(aten, base)
        op = getattr(packet, overload or "default") if (overload or "default") in packet.overloads() else None
        if op is None or op._schema.is_mutable or any(argument.is_out for argument in op._schema.arguments):
            continue
        composite = torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
        if not composite and not traits(op).algebra:
            missing.append(base)

    assert sorted(missing) == ["_linalg_check_errors", "linalg__powsum", "linalg_vector_norm"]


@with_trait("picks_by")
def test_what_says_which_elements_is_an_operand_without_floats(target: torch._ops.OpOverload) -> None:
    kinds = {argument.name: str(argument.type) for argument in target._schema.arguments}

    assert all("Tensor" in kinds[name] for name in traits(target).picks_by)
    assert not set(traits(target).picks_by) & {*traits(target).powers, *traits(target).sums}


def test_a_trait_is_declared_once() -> None:
    with pytest.raises(ValueError, match="has neutral=1 already"):
        declare(aten.mul.Tensor, neutral=2)
    with pytest.raises(TypeError, match="no trait 'colour'"):
        declare(aten.mul.Tensor, colour="blue")


@pytest.mark.parametrize("values", [(False, True), (True, False), (1, -1), (0, 1)])
def test_what_is_said_once_is_not_unsaid(values: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever comes first, the absence of a trait included."""
    for table in ("TRAITS", "_DECLARED"):
        monkeypatch.setattr(importlib.import_module(declare.__module__), table, {})
    name = "free" if isinstance(values[0], bool) else "extreme"
    first, second = ({name: value} for value in values)

    declare("an op", **first)
    declare("an op", "another", copies=True, **first)
    with pytest.raises(ValueError, match=f"an op has {name}={values[0]} already"):
        declare("an op", **second)

    assert traits("an op") == traits("another") == Traits(copies=True, **first)


def test_what_can_be_said_is_what_traits_there_are() -> None:
    """Of the same types, which are checked where an op is declared."""
    assert get_type_hints(Given) == get_type_hints(Traits)


def test_an_op_without_traits_is_plain() -> None:
    assert traits(aten.frac.default) == PLAIN == Traits()
    assert OPERATORS.keys() & TRAITS.keys()


def test_what_is_made_element_by_element_stays_so_when_elements_change_places() -> None:
    """Of one operand; what torch does not tag is among it."""
    x = torch.randn(2, 3, 4)
    tried = 0
    for target in OPERATORS:
        if isinstance(target, str) or target in SPECIAL or not by_element(target):
            continue
        needed = [argument for argument in target._schema.arguments if not argument.has_default_value()]
        if [str(argument.type) for argument in needed] != ["Tensor"]:
            continue
        tried += 1
        torch.testing.assert_close(target(x.transpose(0, 2)), target(x).transpose(0, 2), equal_nan=True)

    assert tried > 40
    assert all(map(by_element, (aten.hardswish.default, aten.masked_fill.Tensor, aten.where.ScalarOther)))
    assert not any(map(by_element, (aten.softmax.int, aten.sum.dim_IntList, aten.flip.default)))


def test_an_op_that_a_release_has_not_is_left_out() -> None:
    assert existing("relu", "no_such_op", "linalg_inv") == [aten.relu.default, aten.linalg_inv.default]
