"""What a step of a loop reads at the place that its number says is read step by step.

    scan(h, [0 … n−1], x): h + x[n − 1 − i]      →      scan(h, x[n − 1 − [0 … n−1]]): h + x_i

Read inside, the whole of x would stay the same in all steps, and each would add to its relevance as a whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lrp_compiler.passes.graph import Result, Scan, call, copied, is_tensor, same_shape, scan_of, scans
from lrp_compiler.rules import by_element
from lrp_compiler.torch_private import statically_known_true

aten = torch.ops.aten
VIEWS = (aten.view.default, aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dim, aten.clone.default)
"""Ops that make a single number another single number with more or fewer dims."""
COUNTING = (aten.arange.default, aten.arange.start, aten.arange.start_step)


def read_step_by_step(module: fx.GraphModule) -> Result:
    """What loops look up by their step's number is looked up in front of them, for all steps at once."""
    found, declined = False, []
    for node in scans(module):
        loop = scan_of(node)
        loop = loop.with_body(copied(loop.body))
        for read in list(loop.body.graph.nodes):
            where = _where(read)
            places, operands = loop.parts(loop.placeholders), loop.parts(node.args)
            if where is None or read.args[0] not in places[2]:
                continue
            outside = dict(zip((*places[1], *places[2]), (*operands[1], *operands[2]), strict=True))
            dim, index = where
            if index not in _numbers(loop):
                declined.append((read.name, f"what it reads in {node.name} is not the step's number alone"))
                continue
            with module.graph.inserting_before(node):
                slices = _all_slices(module.graph, read, dim, _every(module.graph, index, outside, read), outside)
            loop = _with_slice(loop, read, dim, slices)
            node.args = (*operands[0], *operands[1], slices, *operands[2])
            found = True
        node.target = loop
    return Result(module, found, declined)


def _where(node: Any) -> tuple[int, fx.Node] | None:
    """Along which dim, and where, a node reads a single place; None: it does no such thing."""
    if node.target is aten.index_select.default:
        dim, index = int(node.args[1]), node.args[2]
    elif node.target is aten.index.Tensor:
        given = node.args[1]
        chosen = [dim for dim, one in enumerate(given) if one is not None]
        if len(chosen) != 1:
            return None
        dim, index = chosen[0], given[chosen[0]]
    else:
        return None
    rank = node.args[0].meta["val"].dim()
    single = _is_single(index) and not index.meta["val"].dtype.is_floating_point
    return (dim % rank, index) if single and index.meta["val"].dtype is not torch.bool else None


def _is_single(node: object) -> bool:
    """Whether it is one number, with one dim at most."""
    return is_tensor(node) and all(size == 1 for size in node.meta["val"].shape[:2]) and node.meta["val"].dim() < 2


def _numbers(loop: Scan) -> set[fx.Node]:
    """What is worked out, one step as another, from numbers that are read step by step and those that stay the same."""
    _, slices, same = (set(part) for part in loop.parts(loop.placeholders))
    found: set[fx.Node] = set()
    for node in loop.body.graph.nodes:
        if node in slices or node in same:
            follows = _is_single(node) or (node in same and not is_tensor(node))
        else:
            alike = node.target in VIEWS or by_element(node.target)
            follows = alike and _is_single(node) and found.issuperset(node.all_input_nodes)
        if follows:
            found.add(node)
    return found


def _every(graph: fx.Graph, index: fx.Node, outside: dict[fx.Node, Any], like: fx.Node) -> Any:
    """The number at every step, `[time]`, at the graph's insertion point."""
    needed: set[fx.Node] = set()
    waiting = [index]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += [] if node in outside else node.all_input_nodes
    made: dict[fx.Node, Any] = {}
    for node in index.graph.nodes:
        if node not in needed:
            continue
        if node in outside:
            # One number that stays the same is one, and of those that are read step by step there is one for each.
            given = outside[node]
            single = not is_tensor(given) or given.meta["val"].dim() < 2
            made[node] = given if single else call(graph, aten.reshape.default, given, [-1], like=like)
        elif node.target in VIEWS:
            made[node] = made[node.args[0]]
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), made.__getitem__)
            made[node] = call(graph, node.target, *args, like=like, **kwargs)
    return made[index]


def _all_slices(graph: fx.Graph, read: Any, dim: int, every: fx.Node, outside: dict[fx.Node, Any]) -> fx.Node:
    """What all steps read, time first."""
    source = outside[read.args[0]]
    if not _counts(every, source.meta["val"].shape[dim]):
        source = call(graph, aten.index_select.default, source, dim, every, like=read)
    order = [dim, *(one for one in range(source.meta["val"].dim()) if one != dim)]
    return call(graph, aten.permute.default, source, order, like=read) if dim else source


def _counts(node: Any, size: object) -> bool:
    """Whether it is all whole numbers from 0 up to a size."""
    while node.target is aten.clone.default:
        node = node.args[0]
    if node.target not in COUNTING or node.meta["val"].dtype is not torch.int64:
        return False
    start, end, step = (0, *node.args, 1) if len(node.args) == 1 else (*node.args, 1)[:3]
    known: Any = end.meta["val"] if isinstance(end, fx.Node) else end
    return start == 0 and step == 1 and bool(statically_known_true(known == size))


def _with_slice(loop: Scan, read: fx.Node, dim: int, slices: fx.Node) -> Scan:
    """The loop with one more operand that is read step by step, where the body read it."""
    graph, last = loop.body.graph, loop.placeholders[loop.states + loop.slices - 1]
    with graph.inserting_after(last):
        place = graph.placeholder(f"{read.name}_read")
    place.target = place.name
    place.meta.update({"val": slices.meta["val"].select(0, 0), "input": place.name})
    with graph.inserting_before(read):
        sizes = call(graph, aten.unsqueeze.default, place, dim, like=read)
    assert same_shape(place, read) or same_shape(sizes, read)
    read.replace_all_uses_with(sizes if same_shape(sizes, read) else place)
    graph.eliminate_dead_code(is_impure_node=lambda one: one.op in ("placeholder", "output"))
    loop.body.recompile()
    return Scan(loop.body, loop.states, loop.slices + 1)
