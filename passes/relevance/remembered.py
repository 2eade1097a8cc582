"""Rules that are traced once for all operations that are alike: the layers of a deep network cost what one does.

    linear_11 → R / z, sign, mm (traced)        linear_10, …, linear_0 → the same three nodes (copied)

Two operations are alike if a rule can see no difference: the same op, options, rule and facts, operands of the same
shapes, strides and dtypes, relevance in the same form. A rule that may see more says so, as that of a user's function
does, and is asked every time. What the rule did to the first is then kept as a tape: the nodes that it traced, in
order, and when it asked for a forward value. For another the tape is played: the nodes are copied, their operands
replaced by its own, and the same values are asked for. Nothing is worked out again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph import Assignment
from lrp_compiler.rules import Flow, Relevance, conduct
from lrp_compiler.torch_private import (
    SYMBOLIC,
    OpOverload,
    annotate,
    expression,
    node_that_makes,
    notes_here,
    traced_again,
)

Ask = Callable[[fx.Node], None]
Apply = Callable[[Relevance, Ask], Flow]
"""A node's rule, from the relevance that arrives and what is to be told of the values that it asks for."""
T = TypeVar("T")
MISSING = object()
READ = (torch.ops.aten.sym_size.int, torch.ops.aten.sym_stride.int)
"""How tracing reads a size: once each, of whatever tensor has it, since equal sizes are one."""


@dataclass(eq=False)
class Case:
    """One operation, and the relevance that arrives there.

    Args:
        handles: forward nodes that the rule may read.
        sources: the nodes that make those of them that are tensors, and the relevance, which comes last.
        relevance: what arrives.
        apply: the rule.
        ask: told of the values asked for.
        notes: what nodes carry that are traced here.
    """

    handles: list[fx.Node]
    sources: list[fx.Node]
    relevance: Relevance
    apply: Apply
    ask: Ask
    notes: Mapping[str, object]


@dataclass(eq=False)
class Tape:
    """What was traced between two moments.

    Args:
        steps: in order: a node to copy; the number of a handle whose value is asked for; or, as (node,), the node that
            made the total which the arriving relevance was asked for.
        result: the node that makes what came of it, where that is a single tensor.
    """

    steps: list[fx.Node | int | tuple[fx.Node]] = field(default_factory=list)
    result: fx.Node | None = None


@dataclass(eq=False)
class Known:
    """What a rule did to the first of all operations that are alike.

    Args:
        first: that operation.
        tape: of the rule.
        flow: what it handed on.
        makers: operand → the node that made what it got. A cast that changes nothing takes its operand over, later.
        totals: operand → tape of the total that was taken from what it got; None: no tape can be played.
    """

    first: Case
    tape: Tape
    flow: Flow
    makers: dict[str, fx.Node] = field(default_factory=dict)
    totals: dict[str, Tape | None] = field(default_factory=dict)


class Recorder:
    """Takes down the nodes that appear at the graph's end."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.tape = Tape()
        self._graph = case.sources[-1].graph
        self.skip()

    def skip(self) -> None:
        """What has appeared until now is not taken down."""
        self._last = next(iter(reversed(self._graph.nodes)))

    def take(self) -> None:
        """Take down what has appeared since the last time."""
        node = self._last.next
        while node.op != "root":
            self.tape.steps.append(node)
            node = node.next
        self.skip()


class Remembered:
    """Applies rules while relevance is traced, each to the first of all operations that are alike.

    Args:
        value: forward node → its value, as it was traced.
        twins: forward node → that of the same value at the reference.
    """

    def __init__(
        self, value: Callable[[fx.Node], object], twins: Mapping[fx.Node, fx.Node] = MappingProxyType({})
    ) -> None:
        self._value = value
        self._twins = twins
        self._known: dict[object, Known | None] = {}
        self._recorders: list[Recorder] = []

    def __call__(self, node: fx.Node, given: Assignment, relevance: Relevance, apply: Apply, ask: Ask) -> Flow:
        """What the rule of `node` hands to its operands.

        Args:
            node: of the forward graph.
            given: how relevance passes it.
            relevance: what arrives there.
            apply: the rule.
            ask: told of the values that it asks for.
        """
        if not conduct(given.op(node), given.rule).alike:
            return apply(relevance, ask)
        handles: dict[fx.Node, None] = {}
        fx.map_arg(dict(given.arguments), lambda handle: handles.setdefault(handle))
        # Rules of differences read the operation at the reference, too.
        for here in [*handles, node] if self._twins else ():
            handles.setdefault(self._twins.get(here, here))
        handles.pop(node, None)
        values = [self._value(handle) for handle in [*handles, node]]
        tensors = [value for value in values if isinstance(value, Tensor)] + [relevance.tensor]
        makers = [node_that_makes(tensor) for tensor in tensors]
        sources = [maker for maker in makers if maker is not None]
        key = _key(given, relevance, [*handles, node], [*values, relevance.tensor], [makers.index(m) for m in makers])
        if key is None or len(sources) < len(makers):
            return apply(relevance, ask)
        case = Case([*handles, node], sources, relevance, apply, ask, notes_here().get("custom", {}))
        known = self._known.get(key, MISSING)
        if known is MISSING:
            flow, self._known[key] = self._first(case)
            return flow
        return self._again(known, case) if isinstance(known, Known) else apply(relevance, ask)

    def _first(self, case: Case) -> tuple[Flow, Known | None]:
        """Apply the rule, and remember what it does; None: it cannot be done again in this way."""
        arrived = case.relevance
        as_total = None if arrived.as_total is None else partial(self._arrived, case)
        recorder = Recorder(case)
        flow = self._recorded(
            recorder, lambda: case.apply(replace(arrived, as_total=as_total), partial(self._ask, case))
        )
        # Whoever takes the total of what arrived on from here asks the one who made it.
        flow = {
            name: replace(share, as_total=arrived.as_total) if share and share.as_total is as_total else share
            for name, share in flow.items()
        }
        made = {name: node_that_makes(share.tensor) for name, share in flow.items() if share is not None}
        makers = {name: maker for name, maker in made.items() if maker is not None}
        known = Known(case, recorder.tape, flow, makers)
        if len(makers) < len(made) or not _stands_alone(known, recorder.tape, list(makers.values())):
            return flow, None
        return self._offered(known, case), known

    def _again(self, known: Known, case: Case) -> Flow:
        """What the rule would hand on, from what it did to another operation."""
        made = self._played(known, known.tape, case)
        return self._offered(known, case, made)

    def _offered(self, known: Known, case: Case, made: dict[fx.Node, fx.Node] | None = None) -> Flow:
        """What is handed on where it happens: totals are taken there by a tape, too."""
        flow: dict[str, Relevance | None] = {}
        for name, share in known.flow.items():
            if share is not None:
                tensor = share.tensor if made is None else _tensor(made[known.makers[name]], case)
                as_total = share.as_total
                if as_total is not None:
                    own = as_total is not known.first.relevance.as_total
                    as_total = partial(self._total, known, case, name, made) if own else case.relevance.as_total
                share = Relevance(tensor, share.form, as_total)
            flow[name] = share
        return flow

    def _total(self, known: Known, case: Case, name: str, made: dict[fx.Node, fx.Node] | None) -> Tensor:
        """The total of what an operand got, which the rule itself offered."""
        tape, share = known.totals.get(name), known.flow[name]
        if tape is not None:
            played = self._played(known, tape, case, made)
            assert tape.result is not None
            return traced_again(played[tape.result])
        if made is not None:  # nobody has asked for it where the rule was applied
            with annotate(case.notes):
                share = case.apply(case.relevance, case.ask)[name]
        assert share is not None
        assert share.as_total is not None
        if made is not None or name in known.totals:
            return share.as_total()
        recorder = Recorder(case)
        total = self._recorded(recorder, share.as_total)
        recorder.tape.result = node_that_makes(total)
        results = [recorder.tape.result] if recorder.tape.result is not None else []
        alone = bool(results) and _stands_alone(known, recorder.tape, results)
        known.totals[name] = recorder.tape if alone else None
        return total

    def _played(
        self, known: Known, tape: Tape, case: Case, made: dict[fx.Node, fx.Node] | None = None
    ) -> dict[fx.Node, fx.Node]:
        """Do what is on the tape for this operation; node of the first → node of this one, of all that was made."""
        made = dict(zip(known.first.sources, case.sources, strict=True)) if made is None else dict(made)
        graph = case.sources[-1].graph
        for step in tape.steps:
            if isinstance(step, int):
                case.ask(case.handles[step])
            elif isinstance(step, tuple):
                assert case.relevance.as_total is not None
                maker = node_that_makes(case.relevance.as_total())
                assert maker is not None
                made[step[0]] = maker
            elif step.target not in READ:
                args, kwargs = fx.map_arg((step.args, step.kwargs), lambda operand: made.get(operand, operand))
                name = step.target.overloadpacket.__name__ if isinstance(step.target, OpOverload) else None
                copy = made[step] = graph.create_node(step.op, step.target, args, kwargs, name)
                copy.meta = {key: step.meta[key] for key in ("val", "tensor_meta") if key in step.meta} | notes_here()
        return made

    def _recorded(self, recorder: Recorder, function: Callable[[], T]) -> T:
        self._recorders.append(recorder)
        try:
            result = function()
        finally:
            self._recorders.pop()
        recorder.take()
        return result

    def _recorder(self, case: Case) -> Recorder | None:
        """The one that is at work, if it takes down what is done to this operation."""
        last = self._recorders[-1] if self._recorders else None
        return last if last is not None and last.case is case else None

    def _ask(self, case: Case, handle: fx.Node) -> None:
        recorder = self._recorder(case)
        if recorder is not None:
            recorder.take()
            recorder.tape.steps.append(case.handles.index(handle))
        case.ask(handle)

    def _arrived(self, case: Case) -> Tensor:
        """The total of the relevance that arrived: whoever gives it is at work meanwhile, and takes his own down."""
        assert case.relevance.as_total is not None
        recorder = self._recorder(case)
        if recorder is not None:
            recorder.take()
        total = case.relevance.as_total()
        maker = node_that_makes(total)
        if recorder is not None and maker is not None:
            recorder.skip()
            recorder.tape.steps.append((maker,))
        return total


def _tensor(maker: fx.Node, case: Case) -> Tensor:
    """What the node makes; the relevance that arrived, where that was handed on as it is."""
    return case.relevance.tensor if maker is case.sources[-1] else traced_again(maker)


def _is_tensor(node: fx.Node) -> bool:
    """Whether it depends on more than sizes, which are the same in all that is alike."""
    return not isinstance(node.meta.get("val"), (*SYMBOLIC, int, float, bool))


def _stands_alone(known: Known, tape: Tape, results: list[fx.Node]) -> bool:
    """Whether all that the tape reads is of the operation itself, a size or a constant, and so are the results."""
    inside = {*known.first.sources}
    for step in (*known.tape.steps, *tape.steps):
        inside.update([step] if isinstance(step, fx.Node) else step if isinstance(step, tuple) else [])
    copied = [step for step in tape.steps if isinstance(step, fx.Node)]
    read = [operand for node in copied if _is_tensor(node) for operand in node.all_input_nodes]
    return all(node in inside or node.op == "get_attr" or not _is_tensor(node) for node in read) and inside.issuperset(
        results
    )


@dataclass(frozen=True)
class Handle:
    """Stands for a forward node among an operation's arguments: the how-manieth of its own."""

    number: int


def _key(
    given: Assignment, relevance: Relevance, handles: list[fx.Node], values: Sequence[object], same: list[int]
) -> tuple[object, ...] | None:
    """All that a rule can see of an operation; None: it is not to be compared."""
    numbers: dict[fx.Node, Any] = {handle: Handle(number) for number, handle in enumerate(handles)}
    key = (
        given.target,
        _comparable(fx.map_arg(dict(given.arguments), numbers.__getitem__)),
        given.active,
        given.wanted,
        given.kind,
        given.rule,
        _comparable(dict(given.options)),
        _comparable(dict(given.facts.items())),
        relevance.form,
        relevance.as_total is None,
        tuple(map(_likeness, values)),
        tuple(same),
    )
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _likeness(value: object) -> object:
    """What may be known of a value before the run."""
    if isinstance(value, Tensor):
        sizes = (*value.shape, *value.stride(), value.storage_offset())
        return (value.dtype, value.device, value.dim(), tuple(map(_likeness, sizes)))
    return _comparable(value)


def _comparable(value: object) -> object:
    """A plain value as something that equals nothing but the same value; of a tensor, that very tensor."""
    if isinstance(value, Mapping):
        return tuple((name, _comparable(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return (type(value), tuple(map(_comparable, value)))
    if isinstance(value, Tensor):
        return (Tensor, id(value))
    if isinstance(value, SYMBOLIC):
        return (type(value), expression(value))
    return (type(value), repr(value) if isinstance(value, float | complex) else value)
