"""Hard decisions: where the output depends on an activation and relevance cannot follow.

    h → argmax → embedding → output         which row it is depends on h; no share of the row is h's

A decision's value says which one, not how much: an argmax, a comparison, a rounding. It may be made of one column of an
input while the others carry relevance (`where(x[:, :1] > 0, …)`): which elements these are is found by sending their
numbers through the slices and views in front of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph import assignment, is_tensor, module_path
from lrp_compiler.rules import OPERATORS, of_family, traits
from lrp_compiler.torch_private import hint


@dataclass(frozen=True)
class Decision:
    """Where relevance ends.

    Args:
        node: what decides.
        elements: as an index, those of the input that take no relevance because of it (`[:, 0]`); "": all of them.
    """

    node: fx.Node
    elements: str = ""

    @property
    def is_made(self) -> bool:
        """Whether the composite made it: an op of floats that has a rule, and whose value it holds constant."""
        return self.node.target in OPERATORS and bool(self.node.meta["val"].is_floating_point())

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return f"explain {'what comes before it, or choose another composite' if self.is_made else 'what it looks at'}"

    def __str__(self) -> str:
        """Which decision it is, and where."""
        path = module_path(self.node)
        name = str(self.node.target).removeprefix("aten.").partition(".")[0].strip("_")
        kind = "a value that the composite holds constant" if self.is_made else "a hard decision"
        return f"{kind} ({name} at {self.node.name}{f' in {path}' if path else ''})"


def decisions(module: fx.GraphModule, explained: fx.Node, reached: Collection[fx.Node]) -> dict[fx.Node, Decision]:
    """Inputs that take no relevance, or of which some elements take none, although the explained value depends on them
    → the decision in between. Whole inputs only if they are floats.

    Args:
        module: the forward graph, with its active nodes annotated.
        explained: the value that is explained.
        reached: the nodes that relevance reaches.
    """
    behind: dict[fx.Node, fx.Node] = {}
    needed = {explained}
    for node in reversed(module.graph.nodes):
        if node not in needed:
            continue
        needed.update(node.all_input_nodes)
        given = assignment(node)
        active = () if given is None else [given.arguments[name] for name in given.active]
        for operand in node.all_input_nodes:
            if given is None and operand not in reached and _carries(operand) and _looks_at_values(node):
                behind[operand] = node
            elif node in behind and operand in active and operand not in reached:
                behind.setdefault(operand, behind[node])
    found = {
        node: Decision(decision)
        for node, decision in behind.items()
        if node.op == "placeholder" and node.meta["val"].is_floating_point()
    }
    parts = {node: decision for node, decision in behind.items() if node.op != "placeholder"}
    for input in module.graph.find_nodes(op="placeholder") if parts else ():
        if input in reached and is_tensor(input):
            found.update(_of_elements(input, parts, reached))
    return found


def _of_elements(
    input: fx.Node, parts: Mapping[fx.Node, fx.Node], reached: Collection[fx.Node]
) -> dict[fx.Node, Decision]:
    """The decision that is made of elements of an input that take no relevance otherwise, if there is one."""
    shape = [hint(size) for size in input.meta["val"].shape]
    places = {input: torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape)}
    for node in input.graph.nodes:
        moved = _moved(node, places)
        if moved is not None:
            places[node] = moved
    lost = [node for node in places if node in parts]
    if not lost:
        return {}
    takes = torch.zeros(1 + torch.Size(shape).numel(), dtype=torch.bool)
    for node, elements in places.items():
        users = [user for user in node.users if user in reached and user not in places]
        if any(node in _active(user) for user in users):
            takes[elements.flatten()] = True
    for node in lost:
        without = ~takes[places[node].flatten()] & (places[node].flatten() > 0)
        if without.any():
            numbers = places[node].flatten()[without] - 1
            return {input: Decision(parts[node], _as_index(numbers, shape))}
    return {}


def _moved(node: fx.Node, places: Mapping[fx.Node, Tensor]) -> Tensor | None:
    """What a view or a slice makes of the numbers of elements; `None` for other ops."""
    sources = [source for source in node.all_input_nodes if is_tensor(source)]
    if len(sources) != 1 or sources[0] not in places or not is_tensor(node) or node.op != "call_function":
        return None
    if not of_family(node.target, "selection"):
        return None
    try:
        args, kwargs = fx.map_arg(
            (node.args, node.kwargs), lambda source: places[source] if source in places else hint(source.meta["val"])
        )
        result: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
    except (RuntimeError, TypeError, IndexError, ValueError, AttributeError, NotImplementedError):
        return None  # sizes that are not known, or an op that takes no whole numbers
    return result


def _active(node: fx.Node) -> list[fx.Node]:
    given = assignment(node)
    return [] if given is None else [given.arguments[name] for name in given.active]


def _as_index(numbers: Tensor, shape: list[int]) -> str:
    """The elements as an index of the input; a dim of which all are meant is `:`."""
    entries = []
    for dim, size in enumerate(shape):
        along = sorted(set((numbers // max(1, torch.Size(shape[dim + 1 :]).numel()) % max(1, size)).tolist()))
        several = along if len(along) <= 8 else [*along[:8], ...]
        whole = (len(along) == size and size != 1) or dim == 0
        entries.append(":" if whole else str(along[0]) if len(along) == 1 else str(several).replace("Ellipsis", "…"))
    return f"[{', '.join(entries)}]"


def _looks_at_values(node: fx.Node) -> bool:
    """Whether the node is calculated from its operand's values, not from its shape (`zeros_like`)."""
    return node.op == "call_function" and is_tensor(node) and not traits(node.target).of_shape


def _carries(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and (node.op == "placeholder" or assignment(node) is not None)
