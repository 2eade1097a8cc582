"""When an operator fits: conditions that exclude one another, so that the order of registration means nothing."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrp_compiler.rules import GATE, OPERATORS, Facts, Op, find
from lrp_compiler.rules.conditions import always, one_active, only, predicate, two_active
from lrp_compiler.rules.registry import operator

aten = torch.ops.aten
large = predicate(lambda op: op.shape("self")[0] > 2)
CONDITIONS = {
    "always": always,
    "one": one_active,
    "two": two_active,
    "self": only("self"),
    "other": only("other"),
    "both": only("self", "other"),
    "large": large,
    "small": ~large,
    "one, large": one_active & large,
    "two, small": two_active & ~large,
}


def calls() -> list[Op]:
    made = []
    for rows, active in itertools.product((1, 5), ((), ("self",), ("other",), ("self", "other"))):
        x = torch.ones(rows, 2)
        made.append(Op.eager(aten.mul.Tensor, x, x, active=active))
    return made


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(CONDITIONS, 2)))
def test_conditions_that_exclude_one_another_never_hold_together(first: str, second: str) -> None:
    together = [op for op in calls() if CONDITIONS[first](op) and CONDITIONS[second](op)]

    assert CONDITIONS[first].excludes(CONDITIONS[second]) == (not together)


def test_a_conjunction_of_two_has_no_opposite() -> None:
    with pytest.raises(ValueError, match="single predicate"):
        ~(one_active & large)
    with pytest.raises(ValueError, match="no call has"):
        one_active & two_active


@pytest.fixture
def op_of_nobody() -> torch._ops.OpOverload:
    yield (target := aten.frac.default)
    OPERATORS.pop(target, None)


@given(st.permutations(["one", "two", "none"]))
def test_the_order_of_registration_means_nothing(order: list[str]) -> None:
    target = aten.frac.default
    conditions = {"one": only("self") & large, "two": only("self") & ~large, "none": only()}
    try:
        for kind in order:
            operator(target, kind=kind, family="elementwise", rule="identity", when=conditions[kind])(lambda op: None)
        found = [
            find(Op.eager(target, torch.ones(rows, 2), active=active)).kind
            for rows, active in ((5, ["self"]), (1, ["self"]), (1, []))
        ]
    finally:
        OPERATORS.pop(target, None)

    assert found == ["one", "two", "none"]


def test_operators_that_overlap_are_refused_when_they_are_registered(op_of_nobody: torch._ops.OpOverload) -> None:
    operator(op_of_nobody, kind="one", family="elementwise", rule="identity", when=one_active)(lambda op: None)

    for overlapping in (always, only("self"), one_active & large):
        with pytest.raises(ValueError, match="has a rule already for some of these calls"):
            operator(op_of_nobody, kind="more", family="elementwise", rule="identity", when=overlapping)(
                lambda op: None
            )


def test_all_operators_of_an_op_exclude_one_another() -> None:
    for target, entries in OPERATORS.items():
        for first, second in itertools.combinations(entries, 2):
            assert first.when.excludes(second.when), target


def test_a_product_is_a_gate_by_what_is_known_of_it() -> None:
    x = torch.ones(3, 2)
    plain, gated = (
        find(Op.eager(aten.mul.Tensor, x, x, active=("self", "other"), facts=facts))
        for facts in (Facts(), Facts.of({GATE: "other"}))
    )

    assert (plain.kind, gated.kind) == ("product", "gate")
