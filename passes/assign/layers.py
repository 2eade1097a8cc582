"""Linear maps whose result is multiplied and added to, channel by channel, in steps of their own: one layer.

    x ─ conv2d ─ mul s ─ add b ─ …          one linear map of x, from the last sum to x

What is multiplied and added carries no relevance, and is one number or one for each output channel. Nobody else reads
what lies in between: it keeps no relevance of its own, and its names are the layer's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from lrp_compiler.passes.graph import Assignment, Declined, assign, assignment, is_tensor, same_shape, takes_up
from lrp_compiler.rules import IN_STEPS, LAYERS, SUMS, step_of


def mark_layers(module: fx.GraphModule) -> list[Declined]:
    """Re-assign the last sum behind every such map: its rule sees what the map reads, the weights and the steps.

    Returns:
        Maps, and what follows them, that are no such layer, and why.
    """
    declined: list[Declined] = []
    for node in module.graph.nodes:
        given = assignment(node)
        layer = LAYERS.get(node.target)
        if layer is None or given is None or given.target is not node.target or given.active != (layer.operand,):
            continue
        behind = given.arguments[layer.weight].meta["val"].dim() - 2
        if given.wanted or behind < 0:
            continue
        steps, why = _steps(node, behind)
        declined += why
        if steps and steps[-1].name not in SUMS:
            declined.append((steps[-1].node.name, "nothing is added behind it"))
        while steps and steps[-1].name not in SUMS:
            steps.pop()
        if not steps:
            continue
        values = {f"steps.{index}": step.value for index, step in enumerate(steps)}
        facts = given.facts.known(IN_STEPS, tuple(step.name for step in steps))
        end = steps[-1].node
        assign(end, Assignment(layer.name, {**given.arguments, **values}, given.active, facts=facts))
        for between in (*(step.node for step in reversed(steps[:-1])), node):
            takes_up(end, between)
            assign(between, None)
        # A composite addresses the layer where its map is.
        end.meta["nn_module_stack"] = node.meta.get("nn_module_stack")
    return declined


NUMBERS = (int, float, torch.SymInt, torch.SymFloat)


@dataclass(frozen=True)
class _Step:
    node: fx.Node
    name: str
    value: object


def _steps(node: fx.Node, behind: int) -> tuple[list[_Step], list[Declined]]:
    """What is done to the value of a map, and nothing else with it; and why what follows is no step."""
    steps: list[_Step] = []
    while True:
        found = [step for user in node.users if (step := _step(user)) is not None]
        if not found:
            return steps, []
        (step, *_) = found
        if len(node.users) > 1:
            return steps, [(node.name, "it is read elsewhere, too")]
        if not same_shape(node, step.node):
            return steps, [(step.node.name, f"it has another shape than {node.name}")]
        if not _is_by_channel(step.value, node, behind):
            return steps, [(step.node.name, "its constant is not one number for each channel")]
        steps.append(step)
        node = step.node


def _step(user: fx.Node) -> _Step | None:
    """What is done with one activation and a constant, by a product or a sum."""
    given = assignment(user)
    if given is None or given.target is not user.target or given.wanted or len(given.active) != 1:
        return None
    found = step_of(given.target, given.arguments, given.active[0])
    return None if found is None else _Step(user, found[0], given.arguments[found[1]])


def _is_by_channel(value: object, node: fx.Node, behind: int) -> bool:
    """Whether it is one number, a size as well, or one for each channel of the node."""
    if not is_tensor(value):
        return isinstance(value.meta["val"] if isinstance(value, fx.Node) else value, NUMBERS)
    sizes = list(reversed(value.meta["val"].shape))
    return all(place == behind or size == 1 for place, size in enumerate(sizes) if isinstance(size, int)) and all(
        isinstance(size, int) for size in sizes
    )
