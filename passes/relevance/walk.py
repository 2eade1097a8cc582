"""The walk: the whole of LRP in one loop, from the seed back to the inputs, one rule a node.

It runs on whatever tensors `fetch` hands it: real ones (the audit, the tests), or symbolic ones, when `emit.py` traces
it into the relevance graph.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, fx

from lrp_compiler.base.errors import CompositeError, InputError
from lrp_compiler.passes.graph import (
    Assignment,
    assignment,
    is_searched_for_nan,
    loop_of,
    module_path,
    result_number,
    results_beside,
    twins_of,
)
from lrp_compiler.rules import (
    PASSED_OVER,
    TOTAL_STABILISER,
    Flow,
    Relevance,
    RuleError,
    Values,
    difference,
    divide,
    propagate,
    times,
    total,
)
from lrp_compiler.torch_private import annotate, expression

Fetch = Callable[[fx.Node], Tensor]
Absorb = Callable[[fx.Node, str, Tensor], None]
Observe = Callable[[fx.Node, Relevance], None]
PassOn = Callable[[fx.Node, fx.Node, Relevance], None]
Drop = Callable[[fx.Node, Tensor], None]
Asked = Callable[[fx.Node, fx.Node], None]
Repeat = Callable[[fx.Node, Assignment, Relevance, Callable[..., Flow], Callable[[fx.Node], None]], Flow]

MADE_BY = "lrp"
"""Under this key of `meta["custom"]` nodes that are traced remember who made them: `emit.py` makes `Origin`s of it."""


def made_by(value: fx.Node, rule: str, module: str = "") -> contextlib.AbstractContextManager[None]:
    """What is traced in this block explains `value`, which was traced in `module`, by `rule`."""
    return annotate({MADE_BY: {"value": value.name, "module": module, "rule": rule}})


@dataclass(frozen=True)
class Gate:
    """What relevance is multiplied by at a node.

    Args:
        mask: of what leaves it towards its operands: broadcasts to its value.
        past: of what is on its way past it, to nodes before it: one number for each row, `[batch]`.
    """

    mask: Tensor
    past: Tensor | None = None


Seeds = Mapping[fx.Node, Relevance] | Iterable[tuple[fx.Node, Relevance]]
Gates = Mapping[fx.Node, Sequence[Gate]]
MASKED = "masked"
"""What the books call that a mask keeps back; the trace, what a mask does."""


class Accumulator:
    """Relevance of the tensors that the walk has reached, summed over their consumers.

    Like forms are added as they are; unlike ones meet in total form, the only one that every relevance has.
    """

    def __init__(self, fetch: Fetch, asked: Asked, twins: Mapping[fx.Node, fx.Node] = MappingProxyType({})) -> None:
        self._fetch = fetch
        self._asked = asked
        self._twins = twins
        self._parts: defaultdict[fx.Node, dict[str, Relevance]] = defaultdict(dict)

    def add(self, node: fx.Node, relevance: Relevance) -> None:
        """Add what one consumer passes on."""
        parts = self._parts[node]
        known = parts.get(relevance.form)
        together = relevance if known is None else Relevance(known.tensor + relevance.tensor, relevance.form)
        parts[relevance.form] = together

    def __contains__(self, node: fx.Node) -> bool:
        return node in self._parts

    def thin(self, factor: Tensor, drop: Drop | None) -> None:
        """Multiply whatever is waiting, row by row; tell `drop` of what is lost. What weights have got has arrived."""
        for node, parts in self._parts.items():
            if node.op == "get_attr":
                continue
            _check_rows(node, next(iter(parts.values())).tensor, factor)
            for form, relevance in parts.items():
                rows = factor.reshape(-1, *(1,) * (relevance.tensor.dim() - 1)) if relevance.tensor.dim() else factor
                if drop is not None:
                    drop(node, self.total(node, relevance, times) * (1 - rows))
                parts[form] = relevance.map(rows.mul)

    def take(self, node: fx.Node) -> Relevance:
        """All relevance of the node's value."""
        parts = self._parts.pop(node)
        if len(parts) == 1:
            return next(iter(parts.values()))
        return total(parts["total"].tensor + self.total(node, parts["unit"]))

    def total(
        self, node: fx.Node, relevance: Relevance, multiply: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> Tensor:
        """`R` of the node's value."""

        multiply = multiply or (times if is_passed_over(node) else torch.mul)
        return relevance.total_of(lambda: self.amount(node), multiply)

    def amount(self, node: fx.Node) -> Tensor:
        """What unit form multiplies: the node's value, or its difference from that at the reference."""
        here, twin = self._read(node, node), self._twins.get(node)
        return here if twin is None else difference(here, self._read(node, twin))

    def _read(self, origin: fx.Node, value: fx.Node) -> Tensor:
        self._asked(origin, value)
        return self._fetch(value)

    def unit(self, node: fx.Node, relevance: Relevance) -> Tensor:
        """`g` of the node's value, with `R = a ⊙ g`; of relevance in total form that is R / s(a)."""
        if relevance.form == "unit":
            return relevance.tensor
        quotient = divide(relevance.tensor, self.amount(node), TOTAL_STABILISER)
        return torch.where(relevance.tensor == 0, 0.0, quotient) if is_passed_over(node) else quotient


def is_passed_over(node: fx.Node) -> bool:
    """Whether the value may be NaN or infinite where no relevance arrives."""
    given = assignment(node)
    return given.facts[PASSED_OVER] if given is not None else is_searched_for_nan(node)


def _check_rows(node: fx.Node, relevance: Tensor, factor: Tensor) -> None:
    """Refuse to thin what has other rows than the factor, a batch and its positions in one dim, say."""
    sizes = (relevance.shape[0] if relevance.dim() else None, factor.shape[0])
    if len({size if isinstance(size, int) or size is None else expression(size) for size in sizes}) > 1:
        raise InputError(
            f"Mask(…, exclude_parallel=True): {node.name} in {module_path(node) or 'the model itself'}, which is past "
            "a masked layer, has other rows than this layer: leave exclude_parallel out, and mask what goes past, too."
        )


@dataclass(frozen=True)
class Listeners:
    """Who is told what while relevance goes back. For `None` it is not even calculated.

    Args:
        asked: (origin, value) whenever a rule asks for a forward value: a promise.
        absorb: (node, cause, share) what leaves the flow, when the books are kept.
        observe: (node, relevance) of every node that the walk reaches.
        pass_on: (node, operand, share) what a rule hands to each operand.
        drop: (node, share) what a gate elsewhere takes of the relevance that is on its way to the node.
        asks: of which values of the steps that a loop hands out `observe` is to be told; of these all steps' at once.
    """

    asked: Asked = lambda origin, value: None
    absorb: Absorb | None = None
    observe: Observe = lambda node, relevance: None
    pass_on: PassOn | None = None
    drop: Drop | None = None
    asks: Callable[[fx.Node], bool] = lambda node: False


NOBODY = Listeners()


@dataclass(frozen=True)
class Walk:
    """What is the same at every node of a walk.

    Args:
        fetch: node → its forward value.
        listeners: who is told of what happens.
        twins: node → that of the same value at the reference, where relevance is of differences.
        parameters: whether rules also tell the shares of the parameters that are asked for.
    """

    fetch: Fetch
    listeners: Listeners
    twins: Mapping[fx.Node, fx.Node]
    parameters: bool

    def apply(
        self,
        node: fx.Node,
        given: Assignment,
        beside: Mapping[fx.Node, Relevance],
        relevance: Relevance,
        ask: Callable[[fx.Node], None],
    ) -> Flow:
        """What the node's rule hands to its operands.

        Args:
            node: of the forward graph.
            given: how relevance passes it.
            beside: what has arrived at other results of the same loop.
            relevance: what arrives at the node.
            ask: told of the values that the rule asks for.
        """
        absorb = None if self.listeners.absorb is None else partial(self.listeners.absorb, node)
        values = Values(self.fetch, ask, absorb, self._there if self.twins else None)
        op = given.op(node, values, given.wanted if self.parameters else ())
        op.beside = {result_number(other): share for other, share in beside.items()}
        if loop_of(node) is not None:
            op.results = {result_number(one): one for one in (node, *beside)}
            op.listeners = self.listeners
        return propagate(op, relevance, given.rule, **given.options)

    def _there(self, handle: object) -> object:
        return self.twins.get(handle, handle) if isinstance(handle, fx.Node) else handle


def propagate_relevance(
    forward: fx.GraphModule,
    seeds: Seeds,
    fetch: Fetch,
    *,
    gates: Gates = MappingProxyType({}),
    listeners: Listeners = NOBODY,
    parameters: bool = False,
    repeat: Repeat | None = None,
) -> dict[fx.Node, Relevance]:
    """Relevance of the forward graph's inputs, in reverse order of the nodes.

    Args:
        forward: the assigned forward graph.
        seeds: relevance put on nodes from outside, as often as one likes on each.
        fetch: node → its forward value.
        gates: what relevance is multiplied by at nodes, once it has been observed there.
        listeners: who is told of what happens.
        parameters: whether rules also tell the shares of the parameters that are asked for. What they get is no flow
            of its own: a weight's is the same messages as its input's, a bias's is what it absorbs.
        repeat: applies the rules instead, (node, its assignment, relevance, rule, asked) → what is handed on.

    Returns:
        Relevance by placeholder, and by weight where `parameters` says so.

    Raises:
        CompositeError: a rule does not fit an operation.
    """
    walk = Walk(fetch, listeners, twins_of(forward), parameters)
    reached = Accumulator(fetch, listeners.asked, walk.twins)
    pass_on = listeners.pass_on
    for node, relevance in seeds.items() if isinstance(seeds, Mapping) else seeds:
        reached.add(node, relevance)
    arrived: dict[fx.Node, Relevance] = {}

    def arrive(node: fx.Node) -> Relevance:
        relevance = reached.take(node)
        listeners.observe(node, relevance)
        for gate in gates.get(node, ()):
            relevance = _gated(node, relevance, gate, reached, listeners)
        return relevance

    for node in reversed(forward.graph.nodes):
        if node not in reached:
            continue
        given = assignment(node)
        with made_by(node, given.rule if given else "input", module_path(node)):
            # A loop's results stand right behind it: all that comes to any of them has come. What is past a masked one
            # is on its way to the others, too.
            results = [node, *(other for other in results_beside(node) if other in reached)]
            excluding = [one for one in results if any(gate.past is not None for gate in gates.get(one, ()))]
            come = {one: arrive(one) for one in dict.fromkeys((*excluding, *results))}
            relevance = come.pop(node)
            if given is None:
                if node.op in ("placeholder", "get_attr"):
                    arrived[node] = relevance
                continue
            apply, ask = partial(walk.apply, node, given, come), partial(listeners.asked, node)
            try:
                flow = apply(relevance, ask) if repeat is None else repeat(node, given, relevance, apply, ask)
            except RuleError as error:
                raise CompositeError(f"{error} ({node.name} in {module_path(node) or 'the model itself'}).") from error
            for name, share in flow.items():
                if share is None:
                    continue
                operand = given.operand(name)
                share = _in_dtype_of(fetch(operand), share)
                reached.add(operand, share)
                if pass_on is not None and loop_of(node) is None:  # a loop tells of its steps
                    pass_on(node, operand, share)
    return arrived


def _gated(node: fx.Node, relevance: Relevance, gate: Gate, reached: Accumulator, listeners: Listeners) -> Relevance:
    """What a gate lets through of what has arrived at a node; what is on its way past the node is thinned, too."""
    with made_by(node, MASKED, module_path(node)):
        if gate.past is not None:
            reached.thin(gate.past, listeners.drop)
        if listeners.absorb is not None:
            listeners.absorb(node, MASKED, reached.total(node, relevance, times) * (1 - gate.mask))
        return relevance.map(gate.mask.mul)


def _in_dtype_of(value: Tensor, share: Relevance) -> Relevance:
    """A share in its tensor's own precision: ops that promote hand relevance back in the wider one."""
    if not value.is_floating_point() or share.tensor.dtype == value.dtype:
        return share
    return share.map(lambda tensor: tensor.to(value.dtype))


HALF = (torch.float16, torch.bfloat16)


def wide(value: Tensor) -> Tensor:
    """The value as the rules see it: half precision is read as float32, in which relevance is summed and divided."""
    return value.to(torch.float32) if value.dtype in HALF else value
