"""What a node of the joint graph says of itself: plain strings, for people."""

from typing import Any

import pytest
import torch
from torch import fx

from lrp_compiler.passes.graph.notes import REBUILT, WAIT, note_of, write_notes
from lrp_compiler.passes.graph.origin import Origin, set_origin

aten = torch.ops.aten
KEPT = {"relu": "kept", "weight": "constant"}


class Joint:
    """`x → relu (forward) → mul (relevance, reads relu and the weight)`."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.x, self.weight = self.graph.placeholder("x"), self.graph.get_attr("weight")
        self.relu = self.graph.call_function(aten.relu.default, (self.x,))
        self.mul = self.graph.call_function(aten.mul.Tensor, (self.relu, self.weight))
        for node in (self.x, self.weight, self.relu, self.mul):
            node.meta["val"] = torch.empty(2)
        set_origin(self.x, Origin("forward", "x"))
        set_origin(self.weight, Origin("forward", "weight", "head"))
        set_origin(self.relu, Origin("forward", "relu", "body.act", "identity"))
        set_origin(self.mul, Origin("relevance", "linear", "head", "epsilon"))

    def add(self, target: Any, *args: Any, known: Origin | None = None, size: bool = False) -> fx.Node:
        node = self.graph.call_function(target, args)
        node.meta["val"] = 2 if size else torch.empty(2)
        set_origin(node, known)
        return node

    def notes(self, resolutions: dict[str, str]) -> dict[fx.Node, dict[str, Any]]:
        root = torch.nn.Module()
        root.register_buffer("weight", torch.ones(2))
        self.graph.output((self.mul,))
        write_notes(fx.GraphModule(root, self.graph), resolutions)
        return {node: note_of(node) for node in self.graph.nodes}


def test_a_forward_node_says_its_name_module_rule_and_how_its_promise_is_resolved() -> None:
    joint = Joint()

    notes = joint.notes(KEPT)

    assert notes[joint.relu] == {
        "phase": "forward",
        "name": "relu",
        "module": "body.act",
        "rule": "identity",
        "promise": "kept",
    }
    assert notes[joint.weight] == {"phase": "forward", "name": "weight", "module": "head", "promise": "constant"}
    assert notes[joint.x] == {"phase": "forward", "name": "x", "module": ""}


def test_a_relevance_node_says_what_it_explains_and_reads() -> None:
    joint = Joint()

    notes = joint.notes(KEPT)

    assert notes[joint.mul] == {
        "phase": "relevance",
        "explains": "linear",
        "module": "head",
        "rule": "epsilon",
        "promises": "relu: kept, weight: constant",
    }


def test_one_that_reads_only_relevance_promises_nothing() -> None:
    joint = Joint()
    neg = joint.add(aten.neg.default, joint.mul, known=Origin("relevance", "linear", "head", "epsilon"))

    assert "promises" not in joint.notes(KEPT)[neg]


def test_what_is_the_relevance_of_values_says_in_which_form() -> None:
    joint = Joint()
    set_origin(joint.mul, Origin("relevance", "linear", "head", "epsilon").named("unit", ["relu", "add"]))

    note = joint.notes(KEPT)[joint.mul]

    assert (note["form"], note["of"]) == ("unit", "relu, add")


@pytest.mark.parametrize(
    ("resolutions", "expected"),
    [
        ({"relu": "rebuilt", "weight": "constant"}, "relu: rebuilt, weight: constant"),
        # What nobody asked for is there all the same, if a value is rebuilt from it.
        ({"relu": "elided"}, "relu: kept, weight: constant"),
        ({}, "relu: kept, weight: constant"),
    ],
)
def test_a_forward_value_is_had_as_the_plan_says_or_else_is_there(resolutions: dict[str, str], expected: str) -> None:
    joint = Joint()

    assert joint.notes(resolutions)[joint.mul]["promises"] == expected


def test_a_value_that_is_calculated_again_is_rebuilt() -> None:
    joint = Joint()
    again = joint.add(aten.relu.default, joint.x, known=Origin("relevance", "relu", "body.act", REBUILT))
    reads = joint.add(aten.sign.default, again, known=Origin("relevance", "relu", "body.act", "identity"))

    notes = joint.notes({"relu": "rebuilt"})

    assert notes[again]["rule"] == "rebuilt"
    assert notes[again]["promises"] == "x: kept"
    assert notes[reads]["promises"] == "relu: rebuilt"


def test_a_value_that_waits_is_the_value_itself() -> None:
    """`a + 0`, where the 0 is made of relevance."""
    joint = Joint()
    wait = Origin("relevance", "relu", "", WAIT)
    zero = joint.add(aten.mul.Tensor, joint.mul, 0, known=wait)
    waits = joint.add(aten.add.Tensor, joint.relu, zero, known=wait)
    reads = joint.add(aten.linear.default, waits, zero, known=Origin("relevance", "linear", "head", REBUILT))

    notes = joint.notes(KEPT)

    assert notes[waits]["promises"] == "relu: kept"
    assert notes[reads]["promises"] == "relu: kept"  # of the 0 nothing is said
    assert "promises" not in notes[zero]


def test_sizes_are_no_promises() -> None:
    joint = Joint()
    size = joint.add(aten.sym_size.int, joint.relu, 0, known=Origin("forward", "sym_size"), size=True)
    reads = joint.add(aten.reshape.default, joint.mul, [size], known=Origin("relevance", "view", "", "route"))

    assert "promises" not in joint.notes(KEPT)[reads]


def test_a_size_that_several_read_explains_nothing() -> None:
    joint = Joint()
    size = joint.add(aten.sym_size.int, joint.relu, 0, known=Origin("relevance", ""), size=True)

    assert joint.notes(KEPT)[size] == {"phase": "relevance"}


def test_other_notes_stay_and_old_ones_go() -> None:
    joint = Joint()
    joint.mul.meta["custom"] = {"mine": 1, "lrp": {"phase": "forward", "name": "old"}}
    unknown = joint.add(aten.neg.default, joint.mul)
    unknown.meta["custom"] = {"mine": 2, "lrp": {"phase": "forward", "name": "old"}}

    notes = joint.notes(KEPT)

    assert joint.mul.meta["custom"]["mine"] == 1
    assert notes[joint.mul]["phase"] == "relevance"
    assert "name" not in notes[joint.mul]
    assert unknown.meta["custom"] == {"mine": 2}


def test_everything_is_a_string() -> None:
    joint = Joint()
    set_origin(joint.mul, Origin("relevance", "linear", "head", "epsilon").named("total", ["relu"]))

    for note in joint.notes(KEPT).values():
        assert all(isinstance(item, str) for pair in note.items() for item in pair)


def test_a_note_is_a_copy() -> None:
    joint = Joint()
    joint.notes(KEPT)

    note_of(joint.mul)["phase"] = "forward"

    assert note_of(joint.mul)["phase"] == "relevance"


@pytest.mark.parametrize("meta", [{}, {"custom": None}, {"custom": {}}, {"custom": {"lrp": None}}])
def test_a_node_that_says_nothing_has_an_empty_note(meta: dict[str, Any]) -> None:
    node = fx.Graph().placeholder("x")
    node.meta.update(meta)

    assert note_of(node) == {}
