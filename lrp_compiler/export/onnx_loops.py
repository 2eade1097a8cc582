"""Loops of an ONNX file that go from the last step to the first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir

BACKWARDS = 1
"""Among a Scan's directions; 0 is forwards."""


def read_backwards(model: onnx_ir.Model) -> None:
    """Let loops read from the end what is turned round for them, and hand out from the end what is turned round again.

        Scan(Slice(x, [::-1]))[::-1]    →    Scan(x), its directions backwards

    torch's operator knows one direction, so whatever the loop of relevance reads of the forward loop's steps would be
    there a second time.
    """
    owners: list[Any] = [model.graph, *model.functions.values()]
    for node in [node for owner in owners for node in owner.all_nodes() if node.op_type == "Scan"]:
        axes = (node.attributes.get_ints(f"scan_{kind}_axes", ()) for kind in ("input", "output"))
        if not any(map(any, axes)):
            _turn(node)


def _turn(node: Any) -> None:
    count = node.attributes.get_int("num_scan_inputs")
    states = len(node.inputs) - count
    for kind, values, turns in (
        ("input", node.inputs[states:], [_turned_before(value) for value in node.inputs[states:]]),
        ("output", node.outputs[states:], [_turned_behind(value) for value in node.outputs[states:]]),
    ):
        name = f"scan_{kind}_directions"
        known = node.attributes.get_ints(name, [0] * len(values))
        found = [BACKWARDS - one if turned else one for one, turned in zip(known, turns, strict=True)]
        node.attributes[name] = onnx_ir.AttrInt64s(name, found)
        for place, turned in enumerate(turns):
            for one in turned:
                if kind == "input":
                    node.replace_input_with(states + place, one.inputs[0])
                else:
                    one.outputs[0].replace_all_uses_with(values[place])
                if not one.outputs[0].uses() and not one.outputs[0].is_graph_output():
                    one.graph.remove(one, safe=True)


def _turned_before(value: Any) -> list[Any]:
    """The node that turns a value round for a loop; none: it comes as it is."""
    return [value.producer()] if _turns(value.producer()) else []


def _turned_behind(value: Any) -> list[Any]:
    """The nodes that turn round what a loop hands out, if nobody reads it as it is."""
    users = list(dict.fromkeys(user for user, _ in value.uses()))
    returned = value.is_graph_output() or any(user.outputs[0].is_graph_output() for user in users)
    return users if not returned and all(map(_turns, users)) else []


def _turns(node: Any) -> bool:
    """Whether it is a Slice of all along the first dim, from the last to the first."""
    if node is None or node.op_type != "Slice" or len(node.inputs) != 5:
        return False
    start, end, axis, step = (list(_numbers(value)) for value in node.inputs[1:])
    return start == [-1] and len(end) == 1 and end[0] < -(2**31) and axis == [0] and step == [-1]


def _numbers(value: Any) -> Iterator[int]:
    known = None if value is None else value.const_value
    if known is not None and known.size <= 4:
        yield from (int(one) for one in known.numpy().reshape(-1))
