"""A loop over time as one node of a graph: its body is a graph of its own.

    scan(h0, c0, x, W) → (h_last, c_last, h, …)        body: (h, c, x_t, W) → (h', c', h', …)

The operands are the states that it starts from, what is read step by step (time comes first), and what stays the same;
it returns the last states, and whatever each step hands out, stacked in front. torch's own operator for it takes the
body from an attribute of the module and its operands in lists; here the body belongs to the target, and the operands
are tensors like any other node's, so that passes need to know nothing of it. `from_torch` and `to_torch` lie between
the two.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, fx
from torch.fx.node import Argument

from lrp_compiler.torch_private import fake_mode_of, known_size, take_name

from .assignment import assignment
from .result import Declined, Result
from .tools import attribute, call, is_tensor, keep_tensor, outputs

aten = torch.ops.aten
TORCHS = torch.ops.higher_order.scan
T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Scan:
    """A loop: what a node of a graph calls.

    Args:
        body: one step, `(*states, *slices, *constants) → (*states, *results)`; all that it reads are its placeholders.
        states: how many states there are.
        slices: how many operands are read step by step.
    """

    body: fx.GraphModule
    states: int
    slices: int
    __name__ = "scan"  # what generated code and listings call it

    def __call__(self, *operands: Tensor) -> tuple[Tensor, ...]:
        """Run it.

        Returns:
            The last states, then the results of all steps, `[time, …]`.
        """
        states, slices, constants = self.parts(operands)
        length = slices[0].shape[0]
        empty = known_size(length) == 0
        if empty or _is_symbolic(operands):
            first = [one.new_zeros(one.shape[1:]) if empty else one.select(0, 0) for one in slices]
            with fake_mode_of(*operands) or nullcontext():  # a step may make a tensor of sizes alone
                made = self.body(*states, *first, *constants)
            stacked = (one.new_empty([length, *one.shape]) for one in made[self.states :])
            return (*(states if empty else made[: self.states]), *stacked)
        steps = []
        for time in range(length):
            made = self.body(*states, *(one[time] for one in slices), *constants)
            states = made[: self.states]
            steps.append(made[self.states :])
        return (*states, *(torch.stack(results) for results in zip(*steps, strict=True)))

    def __repr__(self) -> str:
        return self.__name__

    def parts(self, operands: Sequence[T]) -> tuple[Sequence[T], Sequence[T], Sequence[T]]:
        """The operands, or the body's placeholders: states, what is read step by step, what stays the same."""
        ends = self.states + self.slices
        return operands[: self.states], operands[self.states : ends], operands[ends:]

    @property
    def placeholders(self) -> list[fx.Node]:
        """Of the body."""
        return self.body.graph.find_nodes(op="placeholder")

    def with_body(self, body: Any) -> Scan:
        """The same loop of another body, with the same states and slices in front."""
        return replace(self, body=body)


def _is_symbolic(operands: Sequence[object]) -> bool:
    return any(hasattr(operand, "fake_mode") for operand in operands)


def scans(module: fx.GraphModule) -> list[fx.Node]:
    """The loops of a graph, not those inside their bodies."""
    return [node for node in module.graph.nodes if isinstance(node.target, Scan)]


def scan_of(node: fx.Node) -> Scan:
    """The loop that the node is, one of `scans`."""
    assert isinstance(node.target, Scan)
    return node.target


def result_number(node: fx.Node) -> int:
    """Which one of the loop's results it is."""
    number = node.args[1]
    assert isinstance(number, int)
    return number


def loop_of(node: fx.Node) -> fx.Node | None:
    """The loop whose result the node is."""
    made_by = node.args[0] if node.target is operator.getitem else None
    return made_by if isinstance(made_by, fx.Node) and isinstance(made_by.target, Scan) else None


def results_beside(node: fx.Node) -> list[fx.Node]:
    """Of a loop's result the others that the loop has, each once; of another node none."""
    loop = loop_of(node)
    found = {} if loop is None else {result_number(user): user for user in loop.users}
    return [user for number, user in found.items() if number != node.args[1]]


def within(node: fx.Node) -> fx.Node:
    """Of a value of its steps that a loop hands out the node of its body that makes it; any other node as it is."""
    loop = loop_of(node)
    if loop is None or assignment(node) is not None:
        return node
    inner = outputs(loop.target.body)[result_number(node)]  # type: ignore[union-attr]
    return within(inner)


def operation(node: fx.Node) -> str:
    """What tables call the operation that a node is: its ATen overload; a loop's result is the loop's."""
    return str((loop_of(node) or node).target)


def in_bodies(module: fx.GraphModule, rewrite: Callable[[fx.GraphModule], Result]) -> list[Declined]:
    """Rewrite the body of every loop, those inside bodies first.

    Args:
        module: the graph, whose nodes get new targets.
        rewrite: a pass that keeps placeholders and results; it gets copies, since graphs share their loops.

    Returns:
        What it let be in which loop, and why.
    """
    declined = []
    for node in scans(module):
        loop = scan_of(node)
        body = copied(loop.body)
        inside = in_bodies(body, rewrite)
        result = rewrite(body)
        node.target = loop.with_body(result.graph_module)
        declined += [(f"{name} in {node.name}", reason) for name, reason in (*inside, *result.declined)]
    return declined


def made_across(module: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """What makes a value on the other side of a loop's edge.

    Of a body's placeholder that is a state what the step before made of it, of another the operand of the loop; of a
    loop's result what the body returns.
    """
    found: dict[fx.Node, fx.Node] = {}
    for graph in everywhere(module):
        for node in scans(graph):
            loop = scan_of(node)
            made, operands = outputs(loop.body), list(node.args)
            found.update(zip(loop.placeholders, made[: loop.states] + operands[loop.states :], strict=True))
            found.update({user: made[result_number(user)] for user in node.users})
    return found


def everywhere(module: fx.GraphModule) -> Iterator[fx.GraphModule]:
    """The graph, and every body in it."""
    yield module
    for node in scans(module):
        loop = scan_of(node)
        yield from everywhere(loop.body)


def from_torch(module: fx.GraphModule) -> None:
    """torch's own operator as nodes of this kind, in place; bodies inside bodies, too."""
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=TORCHS):
        body_of, states, slices, constants = node.args
        body = copied(attribute(module, str(body_of.target)))
        from_torch(body)
        _handed_on_as_it_is(body)
        for place, placeholder in enumerate(body.graph.find_nodes(op="placeholder")):
            placeholder.meta["input"] = placeholder.name
            if place >= len(states) + len(slices):
                placeholder.meta.setdefault("constant", True)
        operands = [_once(operand, (*states, *slices, *constants)) for operand in (*states, *slices, *constants)]
        with graph.inserting_before(node):
            made = graph.call_function(Scan(body, len(states), len(slices)), tuple(operands))
        made.meta.update(node.meta)
        node.replace_all_uses_with(made)
        graph.erase_node(node)
        take_name(made, node)
        if not body_of.users:
            graph.erase_node(body_of)
    graph.eliminate_dead_code()
    move_in_front(module)
    for node in graph.find_nodes(op="get_attr"):
        if not node.users and isinstance(attribute(module, str(node.target)), torch.nn.Module):
            graph.erase_node(node)


def _handed_on_as_it_is(body: fx.GraphModule) -> None:
    """Results of a body that are copies for torch's sake alone, as those that `to_torch` makes, are what they copy."""
    end = body.graph.output_node()
    for result in set(outputs(body)):
        if isinstance(result, fx.Node) and result.target is aten.clone.default and set(result.users) == {end}:
            end.replace_input_with(result, result.all_input_nodes[0])
            body.graph.erase_node(result)
    body.recompile()


def _once(operand: Any, operands: Collection[object]) -> Any:
    """The operand, for a copy of it that `_each_once` made."""
    copies = isinstance(operand, fx.Node) and operand.target is aten.clone.default
    return operand.args[0] if copies and operand.args[0] in operands else operand


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """A module of its own nodes, and the same tensors; it returns a flat tuple."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.output(graph.graph_copy(module.graph, copies))
    for node in graph.find_nodes(op="placeholder"):
        node.target = node.name
    graph.output_node().args = (tuple(graph.output_node().args[0]),)  # type: ignore[arg-type]
    return fx.GraphModule(module, graph)


def move_in_front(module: fx.GraphModule) -> None:
    """What a body holds itself, or works out of what stays the same, is worked out once, in front of it; in place."""
    for node in scans(module):
        _move_in_front(module, node)
    module.graph.lint()


def _move_in_front(module: fx.GraphModule, node: fx.Node) -> None:
    loop = scan_of(node)
    body = copied(loop.body)
    move_in_front(body)
    places = body.graph.find_nodes(op="placeholder")
    *_, constants = loop.parts(places)
    outside: dict[fx.Node, Any] = dict(zip(constants, loop.parts(node.args)[2], strict=True))
    for inner in body.graph.nodes:
        if inner.op == "get_attr":
            target = keep_tensor(module, f"{inner.target}_in_loop", attribute(body, str(inner.target)))
            with module.graph.inserting_before(node):
                outside[inner] = module.graph.get_attr(target)
            outside[inner].meta.update(inner.meta)
        elif _may_be_given(inner) and inner.all_input_nodes and outside.keys() >= set(inner.all_input_nodes):
            with module.graph.inserting_before(node):
                outside[inner] = module.graph.node_copy(inner, outside.__getitem__)
    read = [inner for inner in outside if inner not in constants and any(user not in outside for user in inner.users)]
    if not read:
        return
    for inner in read:
        with body.graph.inserting_after(places[-1]):
            place = body.graph.placeholder(f"{inner.name}_given")
        place.target = place.name
        place.meta.update({"val": inner.meta["val"], "input": place.name, "constant": True})
        inner.replace_all_uses_with(place)
        places.append(place)
    body.graph.eliminate_dead_code(is_impure_node=lambda one: one.op in ("placeholder", "output"))
    body.recompile()
    node.target = loop.with_body(body)
    node.args = (*node.args, *(outside[inner] for inner in read))


def _may_be_given(node: fx.Node) -> bool:
    """Whether it is a value that torch's operator takes as an operand."""
    return node.op == "call_function" and (is_tensor(node) or isinstance(node.meta.get("val"), int | torch.SymInt))


def to_torch(module: fx.GraphModule) -> None:
    """The inverse of `from_torch`, in place: every loop is called by torch's operator, its body an attribute."""
    for number, node in enumerate(scans(module)):
        loop = scan_of(node)
        body = copied(loop.body)
        to_torch(body)
        # torch's operator takes no result that is another, or one of the operands, as it is.
        with body.graph.inserting_before(body.graph.output_node()):
            results = [call(body.graph, aten.clone.default, result, like=result) for result in outputs(body)]
        body.graph.output_node().args = (results,)
        body.recompile()
        name = f"scan_body_{number}"
        module.add_module(name, body)
        with module.graph.inserting_before(node):
            states, slices, constants = loop.parts(_each_once(node))
            body_of = module.graph.get_attr(name)
        node.target = TORCHS
        node.args = (body_of, list(states), list(slices), tuple(constants))
    module.recompile()


def _each_once(node: fx.Node) -> list[Argument]:
    """A loop's operands at the graph's insertion point; a copy of what is there twice: torch refuses that."""
    operands: list[Argument] = []
    for operand in node.args:
        twice = operand in operands
        operands.append(call(node.graph, aten.clone.default, operand, like=node) if twice else operand)
    return operands


def without_unread(module: fx.GraphModule) -> None:
    """Results of loops that nobody reads, and operands that no body reads, go; in place.

    What is left of the results stands behind the loop in their order, as it does in a graph out of a file.
    """
    changed = module.graph.eliminate_dead_code()
    for node in scans(module):
        changed = True
        _drop_unread(node)
        for user in sorted(node.users, key=result_number, reverse=True):
            node.append(user)
    if changed:
        module.graph.eliminate_dead_code()
        module.recompile()


def _drop_unread(node: fx.Node) -> None:
    loop = scan_of(node)
    read: Collection[int] = {result_number(user) for user in node.users}
    results = outputs(loop.body)
    kept = [place for place in range(len(results)) if place < loop.states or place in read]
    body = copied(loop.body)
    graph = body.graph
    graph.output_node().args = (tuple(graph.output_node().args[0][place] for place in kept),)  # type: ignore[index]
    graph.eliminate_dead_code(is_impure_node=lambda one: one.op in ("placeholder", "output"))
    without_unread(body)
    places = graph.find_nodes(op="placeholder")
    needed = [place for place, one in enumerate(places) if place < loop.states or one.users]
    # Something has to say how many steps there are.
    if loop.slices and not any(loop.states <= place < loop.states + loop.slices for place in needed):
        needed = sorted([*needed, loop.states])
    for place, one in enumerate(places):
        if place not in needed:
            graph.erase_node(one)
    body.recompile()
    slices = sum(loop.states <= place < loop.states + loop.slices for place in needed)
    node.target = Scan(body, loop.states, slices)
    node.args = tuple(node.args[place] for place in needed)
    numbers = {place: number for number, place in enumerate(kept)}
    for user in list(node.users):
        user.args = (node, numbers[result_number(user)])
    if isinstance(node.meta.get("val"), tuple | list):
        node.meta["val"] = tuple(node.meta["val"][place] for place in kept)
