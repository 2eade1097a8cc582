"""Facts about an operation: declared once, typed, kept with it, and in files."""

import json

import pytest
import torch

from lrp_compiler.rules import (
    BORDERS,
    EXPLAINED_BY,
    FACTS,
    GATE,
    IN_STEPS,
    NONNEGATIVE,
    ONLY_POSITIVE,
    PASSED_OVER,
    SLOPE,
    STEP,
    Fact,
    Facts,
    Op,
)

KNOWN = {
    NONNEGATIVE: ("self", "other"),
    BORDERS: {"self": (1, 2)},
    GATE: "other",
    SLOPE: 0.5,
    ONLY_POSITIVE: True,
    PASSED_OVER: True,
    STEP: 0.25,
    IN_STEPS: ("multiply", "add"),
}


def test_every_fact_that_is_stored_survives_a_file() -> None:
    facts = Facts.of(KNOWN)

    again = Facts.from_dict(json.loads(json.dumps(facts.to_dict())))

    assert again == facts
    assert {fact.name for fact in KNOWN} == {name for name, fact in FACTS.items() if fact.stored}


def test_what_no_analysis_found_has_its_default() -> None:
    assert [Facts()[fact] for fact in KNOWN] == [(), {}, None, None, False, False, 1.0, ()]
    assert Facts.of({GATE: "self"}).known(GATE, None) == Facts()


def test_a_function_does_not_travel() -> None:
    assert Facts.of({EXPLAINED_BY: print, GATE: "self"}).to_dict() == {"gate": "self"}


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="a fact 'gate' already"):
        Fact("gate", 0)


def test_an_op_hands_its_facts_to_the_rule() -> None:
    x = torch.ones(2)

    op = Op.eager(torch.ops.aten.mul.Tensor, x, x, facts=Facts.of({NONNEGATIVE: ("other",)}))

    assert op.is_nonnegative("other")
    assert not op.is_nonnegative("self")
    assert op.fact(SLOPE) is None
