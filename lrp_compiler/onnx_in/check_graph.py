"""Is a graph sound? Its nodes in an order in which they can run, those alone that an output needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

import onnx

from lrp_compiler.base.errors import FormatError

GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def in_order(
    graph: onnx.GraphProto, given: Iterable[str], label: str, around: Iterable[str] = ()
) -> list[onnx.NodeProto]:
    """The nodes that the outputs need, each behind those that it reads.

    Args:
        graph: the graph.
        given: names of the values that are there already: its inputs and initialisers.
        label: what the model is called in messages.
        around: those of the graph around it, which its own nodes may make anew.

    Raises:
        FormatError: a value that nothing makes or two nodes make, or nodes that need one another.
    """
    given = set(given)
    maker: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in maker or name in given:
                raise FormatError(f"Value {name!r} of {label} is made twice, the second time by {called(node)}.")
            maker[name] = number
    given |= set(around) - set(maker)
    reads = [reads_of(node) for node in graph.node]
    for value in graph.output:
        if value.name not in maker and value.name not in given:
            raise FormatError(f"{label} returns {value.name!r}, which nothing in it makes.")
    needed: dict[int, list[int]] = {}
    waiting = [maker[value.name] for value in graph.output if value.name in maker]
    while waiting:
        number = waiting.pop()
        if number in needed:
            continue
        lost = [name for name in reads[number] if name not in maker and name not in given]
        if lost:
            raise FormatError(
                f"{called(graph.node[number])} of {label} reads {lost[0]!r}, which no node makes and no initialiser "
                "holds."
            )
        needed[number] = [maker[name] for name in reads[number] if name in maker]
        waiting += needed[number]
    return [graph.node[number] for number in _sorted(needed, graph.node, label)]


def _sorted(needed: Mapping[int, Sequence[int]], nodes: Sequence[onnx.NodeProto], label: str) -> list[int]:
    if all(before < number for number, others in needed.items() for before in others):
        return sorted(needed)
    try:
        return list(TopologicalSorter(needed).static_order())
    except CycleError as error:
        names = [called(nodes[number]) for number in sorted(set(error.args[1]))[:2]]
        need = f"{' and '.join(names)} need one another" if len(names) > 1 else f"{names[0]} reads what it makes"
        raise FormatError(f"{label} has no order in which it could run: {need}.") from error


def reads_of(node: onnx.NodeProto) -> list[str]:
    """Names of the values that a node reads; the graphs inside it as well, of what is around them."""
    found = dict.fromkeys(filter(None, node.input))
    for attribute in node.attribute:
        if attribute.type in GRAPHS:
            for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                found |= dict.fromkeys(_reads_outside(graph))
    return list(found)


def _reads_outside(graph: onnx.GraphProto) -> list[str]:
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    made |= {tensor.values.name for tensor in graph.sparse_initializer}
    made |= {name for node in graph.node for name in node.output}
    asked = [name for node in graph.node for name in reads_of(node)] + [value.name for value in graph.output]
    return [name for name in dict.fromkeys(asked) if name not in made]


def called(node: onnx.NodeProto) -> str:
    """What a node is called in messages."""
    name = node.name or next(filter(None, node.output), "without a name")
    return f"Node {name!r} ({node.op_type})"
