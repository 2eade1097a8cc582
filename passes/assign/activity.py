"""Which operands carry relevance.

    x (float input) ─ linear ─ relu ─┐                    every node on the left is active;
    mask (bool) ─ where(mask, 0, −∞) ┴ add                the mask's chain is a constant of the add

Relevance flows to an operand when its value depends on an explained input through float operations. Integer values
carry it only while they are moved about (views, slices, gathers) or calculated with by constants (`ids + 2`), and end
up as the index of an embedding, or are pixels (uint8) on their way to float. Whole numbers made of floats carry it, too
(a column of categories among numbers: `x[:, 0].long()`), and inputs that are declared as numbers. Positions that are
given as an input are an index like any other; an index of values that come from an input themselves carries none, and
neither does what is made without elements of a tensor with some, nor a frozen factor of a normalisation (see
`freeze_statistics`).

Parameters whose relevance is asked for don't change that. What is computed from them alone is active for itself; where
it meets an active operand it is *wanted*: the rule of that op tells its share as well.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from lrp_compiler.passes.graph import Assignment, Scan, assign, is_tensor, result_number, same_shape, scan_of
from lrp_compiler.rules import FUNCTION, OPERATORS, bind, by_element, of_family, traits
from lrp_compiler.torch_private import statically_known_true

from .loops import active_inside, assigned

ONE_HOT = torch.ops.aten.eq.Tensor


def mark_active(
    module: fx.GraphModule,
    inputs: Collection[str],
    frozen: Collection[tuple[fx.Node, fx.Node]] = (),
    parameters: Collection[fx.Node] = (),
    fixed: Collection[fx.Node] = (),
    numbers: Collection[str] = (),
) -> set[fx.Node]:
    """Annotate every node that relevance can reach with its active operands; return those nodes.

    Args:
        module: the forward graph.
        inputs: names of the inputs that are explained (`meta["input"]` of their placeholders).
        frozen: (node, operand) pairs that are cut: the operand is a statistic that is held fixed.
        fixed: nodes that count as constants.
        parameters: weights (`get_attr` nodes; in a loop's body what stands for them) whose own relevance is asked for.
        numbers: names of inputs of whole numbers or flags that are calculated with, not looked up by: features.
    """
    active: set[fx.Node] = set()
    numeric: set[fx.Node] = set()
    own = set(parameters)
    varying: set[fx.Node] = set()
    looked_up = _looked_up_by(module)
    inside: dict[object, tuple[list[str], set[int]]] = {}

    def again(loop: fx.Node, names: Collection[str]) -> set[fx.Node]:
        inside = scan_of(loop)
        weights = [place for place, operand in zip(inside.placeholders, loop.args, strict=True) if operand in own]
        return mark_active(inside.body, names, frozen, weights, fixed)

    for node in module.graph.nodes:
        assign(node, None)
        is_input = node.op == "placeholder" and not node.meta.get("constant", False)
        if is_input or any(_is_value(source) and source in varying for source in node.all_input_nodes):
            varying.add(node)
        if node.op == "placeholder" and node.meta["input"] in inputs:
            active.add(node)
        if node.op == "placeholder" and node.meta["input"] in numbers:
            numeric.add(node)
        if node.op != "call_function" or node in fixed:
            continue
        if isinstance(node.target, Scan):
            inside[node] = active_inside(node, active, again)
            continue
        if node.args and node.args[0] in inside:
            names, results = inside[node.args[0]]
            if result_number(node) in results:
                active.add(node)
                assign(node, assigned(node, names, active, own))
            continue
        arguments = bind(node.target, node.args, node.kwargs)
        carried = {
            name: value
            for name, value in arguments.items()
            if isinstance(value, fx.Node)
            and (node, value) not in frozen
            and _carries(node, name, value, varying, numeric)
        }
        whole = _calculated_whole(node, active, varying) or _one_hot(node, active, varying)
        if node in looked_up and whole is not None:
            # Whatever is added to an index or divides it: the result stands for the same element.
            carried = {}
        operands = tuple(name for name, value in carried.items() if value in active)
        wanted = tuple(name for name, value in carried.items() if value in own)
        if operands:
            active.add(node)
            assign(node, Assignment(node.target, arguments, operands, wanted))
            if _is_whole(node) and not numeric.isdisjoint(carried[name] for name in operands):
                numeric.add(node)
        elif wanted:
            own.add(node)
            assign(node, Assignment(node.target, arguments, wanted))
        elif whole is not None:
            active.add(node)
            assign(node, Assignment(FUNCTION, {"self": whole}, ("self",)))
            if whole in numeric or not _is_whole(whole) or node.target is ONE_HOT:
                numeric.add(node)
    return active


def _is_value(node: fx.Node) -> bool:
    """Whether it is a tensor, or all results of a loop; not a size."""
    return is_tensor(node) or isinstance(node.target, Scan)


def _one_hot(node: fx.Node, active: Collection[fx.Node], varying: Collection[fx.Node]) -> fx.Node | None:
    """The index of which a comparison with several constants makes a row of flags: a lookup in the unit matrix."""
    operands = node.args[:2] if node.target is ONE_HOT else ()
    index = [operand for operand in operands if isinstance(operand, fx.Node) and operand in varying]
    if len(index) != 1 or index[0] not in active or node.meta["val"].dim() != index[0].meta["val"].dim():
        return None
    sizes = zip(index[0].meta["val"].shape, node.meta["val"].shape, strict=True)
    unlike = [(of_index, of_flags) for of_index, of_flags in sizes if not statically_known_true(of_index == of_flags)]
    return index[0] if len(unlike) == 1 and statically_known_true(unlike[0][0] == 1) else None


def _looked_up_by(module: fx.GraphModule) -> set[fx.Node]:
    """The whole numbers that end up as the index of a lookup, whatever is done to them on the way."""
    found: set[fx.Node] = set()
    for node in reversed(module.graph.nodes):
        indices = traits(node.target).indices if node.op == "call_function" else ()
        given = bind(node.target, node.args, node.kwargs) if indices else {}
        ends = [given[name] for name in indices if isinstance(given.get(name), fx.Node)]
        found.update(
            source for source in [*ends, *(node.all_input_nodes if node in found else ())] if _is_whole(source)
        )
    return found


def _calculated_whole(node: fx.Node, active: Collection[fx.Node], varying: Collection[fx.Node]) -> fx.Node | None:
    """The one operand of an elementwise op with whole results that varies, if it carries relevance: `ids + 2`,
    `table[ids]`, `column.long()`.

    An index stays the index of the same element whatever constants do to it. Of two operands that vary none does.
    """
    known = traits(node.target)
    elementwise = by_element(node.target) or known.indices or known.casts or known.bins
    if not elementwise or not is_tensor(node):
        return None
    operands = [operand for operand in node.all_input_nodes if is_tensor(operand) and operand in varying]
    if len(operands) != 1 or operands[0] not in active or not same_shape(operands[0], node):
        return None
    source = operands[0].meta["val"].dtype
    return operands[0] if _is_whole(node) and not source.is_complex and source is not torch.bool else None


def _is_whole(node: fx.Node) -> bool:
    dtype = node.meta["val"].dtype if is_tensor(node) else torch.bool
    return not (dtype.is_floating_point or dtype.is_complex or dtype is torch.bool)


def _is_empty(node: fx.Node) -> bool:
    return is_tensor(node) and any(statically_known_true(size == 0) for size in node.meta["val"].shape)


def _carries(
    node: fx.Node, name: str, value: fx.Node, varying: Collection[fx.Node], numeric: Collection[fx.Node]
) -> bool:
    if _is_empty(node) and not _is_empty(value):
        return False
    if is_tensor(node) and not is_tensor(value):
        # Of an op with several results: indices among them (of a top-k) carry nothing.
        return bool(node.meta["val"].is_floating_point() or node.meta["val"].is_complex())
    if not is_tensor(value) or not is_tensor(node):
        return not isinstance(node.meta.get("val"), int | float | torch.SymInt | torch.SymFloat | torch.SymBool | None)
    source, result = value.meta["val"].dtype, node.meta["val"].dtype
    if name in traits(node.target).indices:
        # It stands for what it looks up, unless that comes from an input as well.
        return bool(result.is_floating_point) and node.args[0] not in varying
    picks = name.partition(".")[0] in traits(node.target).picks_by
    if source.is_floating_point or source.is_complex:
        return bool(result.is_floating_point or result.is_complex)
    if result.is_floating_point:
        return bool(source == torch.uint8 or value in numeric) and not picks
    # Integers keep what they carry while they are moved about.
    moved = of_family(node.target, "selection")
    reckoned = value in numeric and node.target in OPERATORS
    return result is not torch.bool and not picks and (traits(node.target).casts or moved or reckoned)
