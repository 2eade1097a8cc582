"""The logits of a model that returns probabilities.

    logits ─ softmax ─ log ─ squeeze ─► output          logits ─ squeeze ─► explained

A softmax or a sigmoid at the end turns the order of the logits into shares of 1: under rules that hold an attention
pattern fixed no relevance passes it, under the others what is explained is by how much one class beats the others *and*
how far the function is saturated. What is meant is mostly the logit in front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from lrp_compiler.passes.graph import Steps, call, constant_of, in_a_loop, is_tensor
from lrp_compiler.rules import Arguments, bind, summands, traits

aten = torch.ops.aten

PROBABILITY, LOGARITHM = "probability", "log-probability"


def logits_behind(module: fx.GraphModule, output: fx.Node) -> tuple[fx.Node, str]:
    """The value in front of the functions that make probabilities of logits, and what the output is of it.

    Args:
        module: the forward graph.
        output: a node of it, `[batch, ...]`.

    Returns:
        The logits in the shape of the output (new nodes where the shape is changed behind the function), and
        "probability" or "log-probability"; the output itself and "" where it is none of them.
    """
    found = _found(module, output)
    if found is None:
        return output, ""
    with output.graph.inserting_before(output.graph.output_node()):
        return in_a_loop(found.place.inserted()), found.kind


def kind_of(module: fx.GraphModule, output: fx.Node) -> str:
    """What the output is: "probability" or "log-probability", or "" where it is none of them."""
    found = _found(module, output)
    return "" if found is None else found.kind


class _Place:
    """Where the logits are: a node of the graph, or one that has to be inserted, once.

    Args:
        make: inserts it.
    """

    def __init__(self, make: Callable[[], Steps[fx.Node]]) -> None:
        self._make = make
        self._node: fx.Node | None = None

    def inserted(self) -> Steps[fx.Node]:
        """The node."""
        if self._node is None:
            self._node = yield self._make()
        return self._node


@dataclass(frozen=True)
class _Logits:
    """What stands in front of a function that makes probabilities.

    Args:
        place: the logits, in the shape of the probabilities.
        logarithms: how many logarithms were taken of the probabilities.
        alone: whether each is made of one logit, as a sigmoid makes it.
    """

    place: _Place
    logarithms: int = 0
    alone: bool = False

    @property
    def kind(self) -> str:
        """What is returned of them."""
        return LOGARITHM if self.logarithms > 0 else PROBABILITY


def _found(module: fx.GraphModule, output: fx.Node) -> _Logits | None:
    return in_a_loop(_logits(module, output, {}))


def _logits(module: fx.GraphModule, node: object, known: dict[fx.Node, _Logits | None]) -> Steps[_Logits | None]:
    """The logits of what a node returns; None where they are no probabilities."""
    if not is_tensor(node) or node.op != "call_function":
        return None
    if node not in known:
        known[node] = yield _read(module, node, lambda operand: _logits(module, operand, known))
    return known[node]


Ask = Callable[[object], Steps[_Logits | None]]


def _read(module: fx.GraphModule, node: fx.Node, ask: Ask) -> Steps[_Logits | None]:
    """The same of a node that calculates, from what `ask` finds of its operands."""
    given = bind(node.target, node.args, node.kwargs)
    known = traits(node.target)
    if known.squashes and not _mixes_rows(node, given):
        inner = (yield ask(given["self"])) or _Logits(_at(given["self"]), alone="dim" not in given)
        return _counted(inner, known.logarithms)
    operand = _log_softmax_of(node, given)
    if operand is not None:
        return _counted((yield ask(operand)) or _Logits(_at(operand)), 1)
    if known.logarithms or known.clamps:
        return _counted((yield ask(given["self"])), known.logarithms)
    if known.free or known.copies:
        moved: _Logits | None = yield ask(given.get("self"))
        same = known.casts or known.copies
        return moved if moved is None or same else replace(moved, place=_again(node, moved.place))
    if node.target is aten.cat.default:
        return (yield from _side_by_side(node, given, ask))
    share = _share_of(node, given)
    if share is not None:
        shared: _Logits | None = yield ask(share)
        return shared
    other = _complement_of(module, node, given)
    found: _Logits | None = None if other is None else (yield ask(other))
    if found is None or not found.alone or found.logarithms:
        return None
    return replace(found, place=_made_of([found.place], lambda it: call(node.graph, aten.neg.default, it, like=node)))


def _counted(found: _Logits | None, logarithms: int) -> _Logits | None:
    return None if found is None else replace(found, logarithms=found.logarithms + logarithms)


def _at(node: fx.Node) -> _Place:
    return _made_of([], lambda: node)


def _made_of(places: Sequence[_Place], make: Callable[..., fx.Node]) -> _Place:
    """What is made of the nodes at these places."""

    def steps() -> Steps[fx.Node]:
        nodes = []
        for place in places:
            nodes.append((yield place.inserted()))
        return make(*nodes)

    return _Place(steps)


def _again(node: fx.Node, place: _Place) -> _Place:
    """The same change of shape."""
    return _made_of([place], lambda it: call(node.graph, node.target, it, *node.args[1:], like=node, **node.kwargs))


def _side_by_side(node: fx.Node, given: Arguments, ask: Ask) -> Steps[_Logits | None]:
    """Of `[1 − σ(x), σ(x)]`, and of one sigmoid a class: their logits side by side."""
    dim = given["dim"] % max(node.meta["val"].dim(), 1)
    parts = []
    for part in given["tensors"]:
        parts.append((yield ask(part)))
    known = [part for part in parts if part is not None and part.alone]
    if not dim or len(known) < len(parts) or len({part.logarithms for part in known}) > 1:
        return None
    places = [part.place for part in known]
    beside = _made_of(places, lambda *them: call(node.graph, aten.cat.default, list(them), dim, like=node))
    return _Logits(beside, known[0].logarithms, alone=True)


def _share_of(node: fx.Node, given: Arguments) -> fx.Node | None:
    """`p` of `p / Σ|p|` in each row, which keeps their order."""
    if traits(node.target).powers != {"self": 1, "other": -1}:
        return None
    value, below = given["self"], given["other"]
    while is_tensor(below) and (traits(below.target).clamps or below.target is aten.expand.default):
        below = below.args[0]
    if not is_tensor(below) or below.op != "call_function" or not traits(below.target).reduces:
        return None
    total = bind(below.target, below.args, below.kwargs)
    dims = total.get("dim") or []
    amounts = total["self"]
    amounts = amounts.args[0] if amounts.target is aten.abs.default else amounts
    summed = below.target in (aten.sum.dim_IntList, aten.linalg_vector_norm.default)
    by_row = [dim % max(value.meta["val"].dim(), 1) for dim in ([dims] if isinstance(dims, int) else dims)]
    return value if summed and total.get("ord", 1) == 1 and amounts is value and by_row and 0 not in by_row else None


def _complement_of(module: fx.GraphModule, node: fx.Node, given: Arguments) -> fx.Node | None:
    """`p` of `1 − p`."""
    left, right = _difference(node, given)
    if not is_tensor(right):
        return None
    if isinstance(left, (int, float)):
        return right if left == 1 else None
    one = constant_of(module, left)
    return right if one is not None and one.numel() == 1 and float(one) == 1 else None


def _difference(node: fx.Node, given: Arguments) -> tuple[object, object]:
    """`a` and `b` of `a − b`; two `None`s for what is no difference."""
    operands = {number: given[name] for name, number in summands(node.target, given).items()}
    return (operands[1], operands[-1]) if operands.keys() == {1, -1} else (None, None)


def _mixes_rows(node: fx.Node, given: Arguments) -> bool:
    """Whether the rows of the batch share the probability among them."""
    return "dim" in given and given["dim"] % max(node.meta["val"].dim(), 1) == 0


def _log_softmax_of(node: fx.Node, given: Arguments) -> fx.Node | None:
    """`x` of `x − logsumexp(x)`, as a log-softmax is written out."""
    left, right = (value if isinstance(value, fx.Node) else None for value in _difference(node, given))
    if left is None or right is None or right.target is not aten.logsumexp.default or right.args[0] is not left:
        return None
    (dim, *rest) = bind(right.target, right.args, right.kwargs)["dim"]
    return None if rest or dim % left.meta["val"].dim() == 0 else left
