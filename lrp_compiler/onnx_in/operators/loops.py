"""Loops: written out where it is known how often they run when the model is read, else loops of the program.

A Loop of an open length is a scan of the numbers of its steps. What grows by the same in each step is such a number,
too; a sequence that each puts one tensor behind, or a tensor that it appends one to, is a result of the steps.

    for i in range(n): h = tanh(x[i] + h); ys.append(h)     →     scan(h, [0 … n−1]) → h, ys
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.base.errors import CaptureError
from lrp_compiler.torch_private import known_size

from ..loops import as_tensor, is_open, repeated
from ..registry import Known, onnx_op
from ..rounds import Round, TooLongError, Until
from ..sizes import Sizes
from ..steps import Body, Bound, Source, Step, look_up
from .sequences import Series

MOST = 10_000
"""Rounds of a loop that are unrolled, those of the loops in it included."""
ROUNDS: ContextVar[list[int] | None] = ContextVar("rounds", default=None)
"""How many rounds of the loops that are running there were so far: one number."""
FAR = 1 << 31
"""Beyond any size: no limit."""
REMEDY = ": hold it constant (from_onnx with constants, or dynamic_shapes that fix the size)"
ONLY = f"and only a known number of steps, or that of an open size, can be explained{REMEDY}"
TRUE = Sizes.of(True, torch.bool)


def counted(body: Callable[..., Any], rounds: int) -> Callable[..., Any]:
    """The body of a loop, whose rounds count together with those of the loops around it and in it.

    Args:
        body: of the loop.
        rounds: how many there will be at least.

    Raises:
        TooLongError: these are more than are unrolled.
    """
    so_far = ROUNDS.get() or [0]
    _refuse_more(so_far[0] + rounds)

    def run(*values: Any) -> Any:
        so_far[0] += 1
        _refuse_more(so_far[0])
        before = ROUNDS.set(so_far)
        try:
            return body(*values)
        finally:
            ROUNDS.reset(before)

    return run


def _refuse_more(rounds: int) -> None:
    if rounds > MOST:
        raise TooLongError(
            f"A Loop runs more than {MOST:,} times, with the loops in it, and no more than that is unrolled: export "
            "it as one operation, or with fewer steps."
        )


@onnx_op("Loop")
def loop(trips: Known | None = None, condition: Known | None = None, *state: Known, body: Bound) -> Any:
    """A body repeated a known number of times, or as often as an open size says.

    Raises:
        CaptureError: how often depends on the values of the inputs; or it is open, and the steps are not alike.
    """
    most = None if trips is None else trips.one() if isinstance(trips, Sizes) else trips
    if isinstance(most, Tensor):
        raise CaptureError(f"A Loop runs as often as values of the inputs say, {ONLY}.")
    most = None if isinstance(most, int) and most > FAR else most
    values = [_number_or_tensor(one) for one in state]
    going = condition is None or _truth(condition)
    course = _Course(body, values)
    count = course.count(most) if going else 0
    if is_open(count):
        return course.run(count)
    return _written_out(FAR if most is None else most, going, values, body, count if isinstance(count, int) else 0)


def _number_or_tensor(value: Any) -> Any:
    """A state: a single whole number may be known at every step."""
    single = isinstance(value, Sizes) and value.array.size == 1 and not value.dtype.is_floating_point
    return value if single or not isinstance(value, Sizes) else value.tensor()


def _truth(condition: Any) -> bool:
    if isinstance(condition, Sizes):
        return bool(condition.one())
    raise CaptureError(f"A Loop ends by the values of the inputs, {ONLY}.")


def _written_out(most: int, going: bool, values: list[Any], body: Bound, known: int) -> Any:
    """All steps of a Loop, of which so many are known to come."""
    state, scanned = len(values), []
    number = 0
    once = counted(body, known)
    while going and number < most:
        again, *rest = once(Sizes.of(number), TRUE, *values)
        going = _truth(again)
        values, given = rest[:state], rest[state:]
        scanned.append([one.tensor() if isinstance(one, Sizes) else one for one in given])
        number += 1
    stacked = [torch.stack(list(parts)) for parts in zip(*scanned, strict=True)]
    return (*values, *stacked)


class _Course:
    """How a Loop goes on, where every step does the same.

    Args:
        bound: its body.
        values: of the states, at the first step.
    """

    def __init__(self, bound: Bound, values: list[Any]) -> None:
        self.bound, self.values = bound, values
        body = bound.body
        self.number, self.condition, *self.states = body.inputs
        self.again, *self.ends = body.outputs
        self.sizes = {name: one for name, one in bound.outside.items() if isinstance(one, Sizes)}
        self.counters = dict(self._counters())

    def _counters(self) -> Iterator[tuple[int, Any]]:
        """Number of a state that grows by the same in every step → by how much."""
        for place, (name, value, end) in enumerate(zip(self.states, self.values, self.ends, strict=False)):
            if isinstance(value, Sizes):
                behind = self._worked_out(end, {name: value.each(Round)})
                if isinstance(behind, Round) and isinstance(behind.slope, int) and behind.slope == 1:
                    yield place, behind.first - value.one()

    def _worked_out(self, source: Source, known: Mapping[str, Sizes]) -> Any:
        """The one number that a value of the body is, where it follows from sizes and from what is known."""
        environment: dict[str, Any] = {**self.sizes, **known}
        needed = {source} if isinstance(source, str) else set()
        steps: list[Step] = []
        for step in reversed(self.bound.body.steps):
            if needed.intersection(step.outputs):
                steps.append(step)
                needed |= step.reads()
        made = {name for step in steps for name in step.outputs}
        if needed - made - set(environment):
            return None
        try:
            for step in reversed(steps):
                step.run(environment)
            found = look_up(source, environment)
        except Exception:  # it says why when it runs
            return None
        return found.one() if isinstance(found, Sizes) and found.array.size == 1 else None

    def _at(self, step: Tensor | None) -> list[Sizes]:
        """The arguments of the body that are numbers: of the step, whether it goes on, the states that are."""
        number = Sizes.of(Round(step=step))
        grown = [self._grown(place, lambda round: round, step) for place in self.counters]
        return [number, TRUE, *grown]

    def _grown(self, place: int, of: Callable[[Round], Any], step: Tensor | None = None) -> Sizes:
        """What becomes of the numbers that a state is, at a step."""
        value, slope = self.values[place], self.counters[place]
        return value.each(lambda first: of(Round(first, slope, step)))

    def count(self, most: Any) -> Any:
        """How many steps there are, `most` at most; None where that is not known."""
        names = [self.number, self.condition, *(self.states[place] for place in self.counters)]
        again = self._worked_out(self.again, dict(zip(names, self._at(None), strict=True)))
        if again is True:
            return FAR if most is None else most
        if not isinstance(again, Until):
            return None
        return again.count + 1 if most is None else torch.sym_min(most, again.count + 1)

    def run(self, count: Any) -> Any:
        """The results, of an open number of steps."""
        appended = {place: one for place in range(len(self.values)) if (one := self._appended(place)) is not None}
        carried = [place for place in range(len(self.values)) if place not in {*self.counters, *appended}]
        steps = [step for step in self.bound.body.steps if step not in [step for step, _ in appended.values()]]
        put = [step.inputs[1] for step, _ in appended.values()]
        results = (*(self.ends[place] for place in carried), *put, *self.ends[len(self.values) :])
        body = Bound(Body(self.bound.body.inputs, results, steps), self.bound.outside)

        def enter(before: Sequence[Tensor], now: Sequence[Tensor]) -> list[Any]:
            number, condition, *grown = self._at(now[0])
            states = dict(zip((*carried, *self.counters), (*before, *grown), strict=True))
            return [number, condition, *(states.get(place) for place in range(len(self.values)))]

        first = [self.values[place] for place in carried]
        last, stacked = repeated(body, first, [torch.arange(count)], enter, "A Loop")
        ends: dict[int, Any] = dict(zip(carried, last, strict=True))
        ends |= {place: self._grown(place, lambda round: round.at(count)) for place in self.counters}
        for (place, (_, join)), made in zip(appended.items(), stacked, strict=False):
            ends[place] = join(self.values[place], made)
        return (*(ends[place] for place in range(len(self.values))), *stacked[len(appended) :])

    def _appended(self, place: int) -> tuple[Step, Callable[[Any, Tensor], Any]] | None:
        """What puts one tensor a step behind a state, and no more is done with it; and how they come together."""
        name, end = self.states[place], self.ends[place]
        readers = [step for step in self.bound.body.steps if name in step.reads()]
        if len(readers) != 1 or name in self.bound.body.outputs:
            return None
        (step,) = readers
        if end not in step.outputs or step.op not in APPENDING or step.inputs[0] != name or len(step.inputs) != 2:
            return None
        return step, APPENDING[step.op](step)


def _in_sequence(step: Step) -> Callable[[Any, Tensor], Any]:
    def join(before: Any, made: Tensor) -> Any:
        if before:
            raise CaptureError(f"A Loop of an open number of steps goes on with a sequence that is not empty{REMEDY}.")
        return Series(made)

    return join


def _in_tensor(step: Step) -> Callable[[Any, Tensor], Any]:
    def join(before: Any, made: Tensor) -> Any:
        axis = step.attributes["axis"] % (made.dim() - 1)
        along = made.movedim(0, axis).flatten(axis, axis + 1)
        first = as_tensor(before)
        return along if known_size(first.shape[axis]) == 0 else torch.cat([first, along], axis)

    return join


APPENDING: dict[str, Callable[[Step], Callable[[Any, Tensor], Any]]] = {
    "SequenceInsert": _in_sequence,
    "Concat": _in_tensor,
}
"""Operators that put something behind a state → (the state, what was put there) → both."""


@onnx_op("Scan", since=9)
def scan(
    *inputs: Any,
    body: Bound,
    num_scan_inputs: int,
    scan_input_axes: list[int] | None = None,
    scan_input_directions: list[int] | None = None,
    scan_output_axes: list[int] | None = None,
    scan_output_directions: list[int] | None = None,
) -> Any:
    """A body repeated for every slice of some inputs: written out where it is known how many there are, else a loop."""
    count = len(inputs) - num_scan_inputs
    state = list(inputs[:count])
    axes = scan_input_axes or [0] * num_scan_inputs
    turned = scan_input_directions or [0] * num_scan_inputs
    read = [
        (x.flip(axis) if back else x).movedim(axis, 0)
        for x, axis, back in zip(map(as_tensor, inputs[count:]), axes, turned, strict=True)
    ]
    length = read[0].shape[0]
    if is_open(length):
        state, stacked = repeated(body, state, read, lambda before, now: [*before, *now], "A Scan")
    else:
        state, stacked = _all_steps(body, state, read, int(length))
    places = scan_output_axes or [0] * len(stacked)
    backwards = scan_output_directions or [0] * len(stacked)
    ends = [
        (y.flip(0) if back else y).movedim(0, axis) for y, axis, back in zip(stacked, places, backwards, strict=True)
    ]
    return (*state, *ends)


def _all_steps(
    body: Callable[..., Any], state: list[Any], read: Sequence[Tensor], length: int
) -> tuple[list[Any], list[Tensor]]:
    """All steps of a scan."""
    found: list[list[Tensor]] = []
    once = counted(body, length)
    for number in range(length):
        results = once(*state, *(one[number] for one in read))
        state, given = results[: len(state)], results[len(state) :]
        found.append(list(map(as_tensor, given)))
    return state, [torch.stack(list(parts)) for parts in zip(*found, strict=True)]


@onnx_op("Scan", since=8)
def scan_batches(
    lengths: Any = None,
    *inputs: Any,
    body: Bound,
    num_scan_inputs: int,
    directions: list[int] | None = None,
) -> Any:
    """As it was in opset 8: each row of a batch by itself."""
    rows = [
        scan(
            *(one[row] for one in inputs),
            body=body,
            num_scan_inputs=num_scan_inputs,
            scan_input_directions=directions,
        )
        for row in range(inputs[0].shape[0])
    ]
    return tuple(torch.stack(list(parts)) for parts in zip(*rows, strict=True))
