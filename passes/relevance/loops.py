"""Relevance through a loop over time: the walk of one step's graph, from the last step to the first.

    forward     h_t, y_t = body(h_{t-1}, x_t, W)                        t = 0 … T−1
    relevance   R(h_{t-1}), R(x_t) = walk of the body (R(h_t), R(y_t))  t = T−1 … 0

The walk is the same that goes through every graph, so the body's operations have the rules that the composite gives
them. Where the outer walk is traced it becomes a loop, too: torch's `scan` of a graph that is one step's relevance. The
values of the steps that its rules ask for are promises like any other: the forward loop hands all of them out
(`open_loops`), and those that nobody reads go when it is known (`without_unread`).

A loop without states has steps that stand for themselves: nothing of them is kept, and relevance calculates again what
its rules ask for, from what the step reads. So no more is held than one step's values (`block_attention`).

Relevance of a state keeps one form over all steps: unit form as long as every step hands it back so, else total form,
which every relevance has. What stays the same in all steps gets the sum of what it gets in each.

Whoever asks is told of the relevance of the values of the steps, that of all steps at once, as the loop hands out the
values themselves. The books are kept of these, too: what comes to a state goes on to the step before.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.passes.assign import CARRIED, RESULT
from lrp_compiler.passes.graph import (
    Scan,
    assignment,
    in_float64,
    is_tensor,
    outputs,
    provenance,
    result_number,
    scan_of,
    scans,
)
from lrp_compiler.rules import INSIDE, Flow, Form, Op, Relevance, by_element, traits
from lrp_compiler.torch_private import fake_mode_of, hint, is_traced, untraced

from .step_books import StepBooks
from .walk import HALF, NOBODY, Fetch, Listeners, propagate_relevance, wide

INNER = "inside."
"""In front of the name of a value of the steps, among the arguments of a loop's result."""


def open_loops(forward: fx.GraphModule) -> None:
    """Let every loop that relevance passes hand out all values of its steps, and tell its results how to go through.

    Args:
        forward: the assigned forward graph, changed in place.
    """
    for node in scans(forward):
        results = [given for user in node.users if (given := assignment(user)) is not None]
        for user in sorted(node.users, key=result_number, reverse=True):
            node.append(user)  # right behind the loop: whoever reads them has been passed when the walk reaches them
        if results:
            loop = scan_of(node)
            open_loops(loop.body)
            values = _hand_out(node, loop)
            for given in results:
                given.arguments = {**given.arguments, **values}
    know_inside(forward)


def know_inside(forward: fx.GraphModule) -> None:
    """Tell the results of every loop how relevance goes through it: after a file, which holds no functions."""
    for node in scans(forward):
        loop = scan_of(node)
        know_inside(loop.body)
        for user in node.users:
            if (given := assignment(user)) is not None:
                given.know(INSIDE, partial(_through, loop))


def _hand_out(node: fx.Node, loop: Scan) -> dict[str, fx.Node]:
    """All values of the steps as further results; by name among the arguments."""
    body = loop.body
    places = loop.placeholders
    inner = [one for one in body.graph.nodes if one.op == "call_function" and is_tensor(one)] + places[: loop.states]
    results = outputs(body)
    body.graph.output_node().args = ((*results, *inner),)
    body.recompile()
    length = node.args[loop.states].meta["val"].shape[0]  # type: ignore[union-attr]
    graph, found = node.graph, {}
    with graph.inserting_after(node):
        for number, one in reversed(list(enumerate(inner, len(results)))):
            name = f"{node.name}_{one.name}"
            value = graph.create_node("call_function", operator.getitem, (node, number), name=name)
            with fake_mode_of(one.meta["val"]):
                value.meta["val"] = one.meta["val"].new_empty([length, *one.meta["val"].shape])
            value.meta.update(provenance(one))
            found[f"{INNER}{one.name}"] = value
    node.meta["val"] = (*node.meta["val"], *(found[f"{INNER}{one.name}"].meta["val"] for one in inner))
    return found


def _through(loop: Scan, op: Op, relevance: Relevance) -> Flow:
    """Relevance of what a loop reads, from that of one of its results."""
    return _Backwards(loop, op, relevance).flow()


def calculated_again(loop: Scan) -> Collection[fx.Node]:
    """The values of a step that are not kept for relevance, which calculates them again.

    Without states those are all: nothing of a step is kept. Else those that elementwise operations and changes of shape
    make of what the step reads and of the states in front of it: they are at least as large as what they are made of.
    """
    if not loop.states:
        return set(loop.body.graph.nodes)
    states, *read = loop.parts(loop.placeholders)
    of_states, found = set(states), {place for part in read for place in part}
    for node in loop.body.graph.nodes:
        known = traits(node.target)
        operands = set(node.all_input_nodes)
        if node.op != "call_function" or not (by_element(node.target) or known.free) or not is_tensor(node):
            continue
        if operands <= found:
            found.add(node)
        elif operands <= found | of_states and all(_is_as_large(node, one) for one in operands & of_states):
            of_states.add(node)
    return (found | of_states) - set(loop.placeholders)


def _is_as_large(node: fx.Node, operand: fx.Node) -> bool:
    sizes, others = ([hint(size) for size in one.meta["val"].shape] for one in (node, operand))
    return prod(sizes) >= prod(others)


class _Backwards:
    """One loop, backwards.

    Args:
        loop: the loop, with every value of its steps among its results.
        op: one of its results.
        relevance: what arrives there.
    """

    def __init__(self, loop: Scan, op: Op, relevance: Relevance) -> None:
        self.loop = loop
        self.op = op
        self.relevance = relevance
        self.told: Listeners = op.listeners or NOBODY
        self.arrived: dict[int, Relevance] = {op.option(RESULT): relevance, **op.beside}
        self.ends = outputs(loop.body)
        carried = set(op.option(CARRIED))
        taking = carried | set(op.wanted)
        states, slices, constants = (
            [place for place in part if place.meta["input"] in names]
            for part, names in zip(loop.parts(loop.placeholders), (carried, taking, taking), strict=True)
        )
        self.states, self.read, self.summed = states, slices, constants
        self.forms: dict[fx.Node, Form] = dict.fromkeys((*states, *slices, *constants), "unit")
        for number, share in self.arrived.items():
            if number < loop.states:
                self.forms[loop.placeholders[number]] = share.form
        self.seeded = {number: share for number, share in self.arrived.items() if number >= loop.states}
        self.handles = {node: op.arguments[f"{INNER}{node.name}"] for node in self._inner()}
        again = calculated_again(loop)
        self.values = {node: op.tensor(f"{INNER}{node.name}") for node in self.handles if node not in again}
        self.asked = [node for node in reversed(self.handles) if self.told.asks(self.handles[node])]
        self.watched: dict[fx.Node, Form] = {}
        steps = loop.parts(loop.placeholders)[1]
        self.values |= {place: op.tensor(place.meta["input"]) for place in steps}
        same = loop.parts(loop.placeholders)[2]
        self.constants = {place: (op.tensor if is_tensor(place) else op.option)(place.meta["input"]) for place in same}

    def _inner(self) -> list[fx.Node]:
        named = {name.removeprefix(INNER) for name in self.op.arguments if name.startswith(INNER)}
        return [node for node in self.loop.body.graph.nodes if node.name in named]

    def flow(self) -> Flow:
        """What each operand gets."""
        self._settle_forms()
        start = [self._start(place).contiguous() for place in self.states]
        start += [self._zeros(place) for place in self.summed]
        slices = [*(share.tensor for share in self.seeded.values()), *self.values.values()]
        made = _run(self._step, start, [self._turned(one) for one in slices], list(self.constants.values()))
        kept = len(start)
        results = [*made[:kept], *(self._turned(one) for one in made[kept:])]
        places = [*self.states, *self.summed, *self.read]
        for (node, form), tensor in zip(self.watched.items(), results[len(places) :], strict=True):
            self.told.observe(self.handles[node], Relevance(tensor, form))
        shares = {
            place.meta["input"]: Relevance(tensor, self.forms[place])
            for place, tensor in zip(places, results, strict=False)
        }
        # A first state that is a constant gets nothing, nor what no rule of a step hands anything to.
        return {name: shares.get(name) for name in (*self.op.active, *self.op.wanted)}

    def _turned(self, steps: Tensor) -> Tensor:
        """The last step first; without states the order is all the same."""
        return steps.flip(0) if self.loop.states else steps

    def _start(self, place: fx.Node) -> Tensor:
        """Relevance of a state behind the last step."""
        number = self.loop.placeholders.index(place)
        share = self.arrived.get(number)
        if share is None:
            return self._zeros(place)
        if self.forms[place] == "unit" or share.form == "total":
            return share.tensor
        last = [one.select(0, -1) for one in self.values.values()]
        return share.total_of(lambda: self._fetch(last, list(self.constants.values()))(self.ends[number]))

    def _zeros(self, place: fx.Node) -> Tensor:
        return self.relevance.tensor.new_zeros(self.op.shape(place.meta["input"]))

    def _settle_forms(self) -> None:
        """In which form relevance of each operand is carried: found by going through one step, until it is stable.

        And which of what a step reads gets any.
        """
        with untraced():
            seeds = [share.tensor for share in self.seeded.values()]
            slices = [one.select(0, -1) for one in (*seeds, *self.values.values())]
            while True:
                start = [self._start(place) for place in self.states] + [self._zeros(place) for place in self.summed]
                arrived, seen = self._walk(start, slices, list(self.constants.values()))
                total = [place for place, share in arrived.items() if share.form == "total"]
                more = [place for place in total if self.forms.get(place) == "unit"]
                if not more:
                    # What no rule hands anything to gets nothing, not zeros: they would have a form.
                    self.read = [place for place in self.read if place in arrived]
                    self.summed = [place for place in self.summed if place in arrived]
                    self.watched = {node: seen[node].form for node in self.asked if node in seen}
                    return
                self.forms.update(dict.fromkeys(more, "total"))

    def _walk(
        self, carried: Sequence[Tensor], slices: Sequence[Tensor], constants: Sequence[Tensor], time: int | None = None
    ) -> tuple[Mapping[fx.Node, Relevance], Mapping[fx.Node, Relevance]]:
        """One step: what has arrived at its operands, and what has come to the values that are asked for.

        The books are kept where it is known which step it is, by `time`.
        """
        fetch = self._fetch(slices, constants)
        ends = [(self.ends[self.loop.placeholders.index(place)], place) for place in self.states]
        seeds = [
            (end, Relevance(tensor, self.forms[place]))
            for (end, place), tensor in zip(ends, carried[: len(self.states)], strict=True)
        ]
        seeds += [
            (self.ends[number], Relevance(tensor, share.form))
            for (number, share), tensor in zip(self.seeded.items(), slices, strict=False)
        ]
        seen: dict[fx.Node, Relevance] = {}
        keeps = time is not None and self.told.absorb is not None
        books = StepBooks(self.loop, self.op, self.told, self.handles, time, fetch) if keeps else None  # type: ignore[arg-type]
        if books is not None:
            self._begin(books, seeds)
        told = Listeners(
            observe=seen.__setitem__,
            asks=set(self.asked).__contains__,
            absorb=None if books is None else books.absorb,
            pass_on=None if books is None else books.pass_on,
        )
        parameters = bool(self.op.wanted)
        return propagate_relevance(self.loop.body, seeds, fetch, listeners=told, parameters=parameters), seen

    def _fetch(self, slices: Sequence[Tensor], constants: Sequence[Tensor]) -> Fetch:
        """The values of one step: those that are at hand, and what is calculated from them again.

        What is calculated again comes out as it did in the forward graph: in half precision where that calculates so.
        """
        values: dict[fx.Node, Any] = dict(zip(self.values, slices[-len(self.values) :], strict=True))
        values |= dict(zip(self.constants, constants, strict=True))
        own = {node: _as_traced(value, node) for node, value in values.items()}
        calculate = in_float64 if any(_is_raised(value, node) for node, value in values.items()) else _called

        def made(node: fx.Node) -> Any:
            waiting = [node]
            while waiting:
                one = waiting[-1]
                missing = [] if one in own else [operand for operand in one.all_input_nodes if operand not in own]
                waiting += missing
                if missing:
                    continue
                waiting.pop()
                if one not in own:
                    operands, options = fx.map_arg((one.args, one.kwargs), own.__getitem__)
                    own[one] = calculate(one.target, operands, options)
            return own[node]

        def fetch(node: fx.Node) -> Any:
            if node not in values:
                value = made(node)
                values[node] = wide(value) if isinstance(value, Tensor) else value
            return values[node]

        return fetch

    def _begin(self, books: StepBooks, seeds: Sequence[tuple[fx.Node, Relevance]]) -> None:
        """What comes to the loop's results: to last states, it comes to the last step."""
        shares = [share for _, share in seeds]
        length = next(iter(self.values.values())).shape[0]
        last = {self.loop.placeholders.index(place): share for place, share in zip(self.states, shares, strict=False)}
        every = dict(zip(self.seeded, shares[len(self.states) :], strict=True))
        for number in self.arrived:
            if number in every:
                books.begin(number, every[number])
            elif books.time == length - 1:
                books.begin(number, last[number])

    def _step(
        self,
        carried: Sequence[Tensor],
        slices: Sequence[Tensor],
        constants: Sequence[Tensor],
        time: int | None = None,
    ) -> list[Tensor]:
        """Relevance of the states before the step, sums so far, that of what the step read, and what is asked for."""
        arrived, seen = self._walk(carried, slices, constants, time)
        fetch = self._fetch(slices, constants)

        def share(place: fx.Node, like: Tensor) -> Tensor:
            if place not in arrived:
                return torch.zeros_like(like, dtype=self.relevance.tensor.dtype)
            found = arrived[place]
            return found.tensor if self.forms[place] == "unit" else found.total_of(lambda: fetch(place))

        def goes_on(place: fx.Node, like: Tensor) -> Tensor:
            # A state may have another dtype than what is seeded, and be a part of what is larger.
            return share(place, like).to(like.dtype).contiguous()

        # What goes round has the targets in front that it came with (`several_targets.py`).
        before = list(zip([*self.states, *self.summed], carried, strict=True))
        count = len(self.states)
        return [
            *(goes_on(place, like) for place, like in before[:count]),
            *(so_far + goes_on(place, so_far) for place, so_far in before[count:]),
            *(share(place, fetch(place)) for place in self.read),
            *(seen[node].tensor for node in self.watched),
        ]


def _called(target: Any, operands: tuple[Any, ...], options: Mapping[str, object]) -> Any:
    return target(*operands, **options)


def _as_traced(value: object, node: fx.Node) -> Any:
    """In half precision, where the value was widened for the rules; a size is one."""
    if not isinstance(value, Tensor):
        return value
    dtype = node.meta["val"].dtype
    return value.to(dtype) if dtype in HALF and value.dtype is torch.float32 else value


def _is_raised(value: object, node: fx.Node) -> bool:
    """Whether the graph is run in float64, which it was not traced in."""
    raised = isinstance(value, Tensor) and value.dtype is torch.float64
    return raised and node.meta["val"].dtype is not torch.float64


def _run(
    step: Callable[..., list[Tensor]], states: list[Tensor], slices: list[Tensor], constants: list[Tensor]
) -> list[Tensor]:
    """The loop of `step` from the last to the first: traced as one, or run.

    Returns:
        The states behind it, then what else the steps return, stacked.
    """
    count, read = len(states), len(slices)

    def flat(*operands: Tensor, time: int | None = None) -> list[Tensor]:
        return list(step(operands[:count], operands[count : count + read], operands[count + read :], time))

    if is_traced():
        # Of one tensor twice, the graph of a step would read the second one in both places.
        once = list[Tensor]()
        for one in (*states, *slices, *constants):
            twice = isinstance(one, Tensor) and any(one is other for other in once)
            once.append(one.clone() if twice else one)
        given = once[:count], once[count : count + read], tuple(once[count + read :])
        return list(torch.ops.higher_order.scan(flat, *given))
    results = []
    length = slices[0].shape[0]
    for number in range(length):
        made = flat(*states, *(one[number] for one in slices), *constants, time=length - 1 - number)
        states = made[:count]
        results.append(made[count:])
    return [*states, *(torch.stack(one) for one in zip(*results, strict=True))]
