"""Branches and loops: a loop whose course is known when the model is read is unrolled, a branch taken.

If(p, f, g)    →    where(p, f(where(p, x, 1)), g(where(p, 1, x)))      where p is known as the model runs alone
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.base.errors import CaptureError
from lrp_compiler.torch_private import statically_known_true

from ..registry import Known, onnx_op
from ..sizes import Sizes

MOST = 10_000
"""Rounds of a loop that are unrolled, those of the loops in it included."""
ROUNDS: ContextVar[Iterator[int] | None] = ContextVar("rounds", default=None)
"""Counts the rounds of the loops that are running."""
REMEDY = ": hold it constant (from_onnx with constants, or dynamic_shapes that fix the size)"


@onnx_op("If")
def if_else(condition: Known, *, then_branch: Callable[..., Any], else_branch: Callable[..., Any]) -> Any:
    """The branch that is taken; where values decide, both, of which the condition chooses (see `branches.py`).

    Raises:
        CaptureError: values of the inputs, or an open size, decide of what shape the results are.
    """
    if not isinstance(condition, Tensor):
        return tuple((then_branch if condition.one() else else_branch)())
    taken = condition.reshape([])
    first = then_branch(entering=partial(_harmless, taken))
    other = else_branch(entering=partial(_harmless, ~taken))
    pairs = list(zip(first, other, strict=True))
    if not all(isinstance(one, Tensor) and _alike(one, two) for one, two in pairs):
        raise CaptureError(
            "An If depends on the values of the inputs, or on an open size, and its branches return other shapes or "
            "sizes, so that there is no one graph to explain: hold the input that decides it constant, "
            "lrp.from_onnx(path, constants={'sampling_rate': 16000}), or fix the size by dynamic_shapes."
        )
    return tuple(torch.where(taken, *pair) for pair in pairs)


def _harmless(taken: Tensor, value: Any) -> Any:
    """A value as a branch reads it: itself where the branch is taken, else what does no harm."""
    if not isinstance(value, Tensor) or value.dtype is torch.bool:
        return value
    whole = not (value.is_floating_point() or value.is_complex())
    return torch.where(taken, value, torch.full([], int(not whole), dtype=value.dtype, device=value.device))


def _alike(one: Tensor, two: Any) -> bool:
    sizes = isinstance(two, Tensor) and one.dtype == two.dtype and one.dim() == two.dim()
    return sizes and all(statically_known_true(m == n) for m, n in zip(one.shape, two.shape, strict=True))


def counted(body: Callable[..., Any]) -> Callable[..., Any]:
    """The body of a loop, whose rounds count together with those of the loops around it and in it.

    Raises:
        CaptureError: these are more than are unrolled.
    """
    outer = ROUNDS.get()
    count = itertools.count() if outer is None else outer

    def run(*values: Any) -> Any:
        if next(count) >= MOST:
            raise CaptureError(
                f"A Loop runs more than {MOST:,} times, with the loops in it, and no more than that is unrolled."
            )
        before = ROUNDS.set(count)
        try:
            return body(*values)
        finally:
            ROUNDS.reset(before)

    return run


@onnx_op("Loop")
def loop(trips: Known | None = None, condition: Known | None = None, *state: Any, body: Callable[..., Any]) -> Any:
    """A body repeated a known number of times.

    Raises:
        CaptureError: how often depends on the values of the inputs, or on an open size.
    """
    count = MOST + 1 if trips is None else trips.one() if isinstance(trips, Sizes) else None
    if not isinstance(count, int):
        raise CaptureError(
            f"A Loop runs as often as {_what(trips)} say, and only a known number of times is unrolled{REMEDY}."
        )
    going = True if condition is None else _truth(condition)
    values, scanned = list(state), []
    number = 0
    repeated = counted(body)
    while going and number < count:
        again, *rest = repeated(Sizes.of(number), Sizes.of(True, torch.bool), *values)
        going = _truth(again)
        values, given = rest[: len(state)], rest[len(state) :]
        scanned.append([one.tensor() if isinstance(one, Sizes) else one for one in given])
        number += 1
    stacked = [torch.stack(list(parts)) for parts in zip(*scanned, strict=True)]
    return (*values, *stacked)


def _what(trips: Any) -> str:
    return "values of the inputs" if isinstance(trips, Tensor) else "open sizes"


def _truth(condition: Any) -> bool:
    if isinstance(condition, Sizes):
        return bool(condition.one())
    raise CaptureError("A Loop ends by the values of the inputs, and only a known number of times is unrolled.")


@onnx_op("Scan", since=9)
def scan(
    *inputs: Any,
    body: Callable[..., Any],
    num_scan_inputs: int,
    scan_input_axes: list[int] | None = None,
    scan_input_directions: list[int] | None = None,
    scan_output_axes: list[int] | None = None,
    scan_output_directions: list[int] | None = None,
) -> Any:
    """A body repeated for every slice of some inputs; how many there are is known.

    Raises:
        CaptureError: that is an open size.
    """
    count = len(inputs) - num_scan_inputs
    state = list(inputs[:count])
    axes = scan_input_axes or [0] * num_scan_inputs
    turned = scan_input_directions or [0] * num_scan_inputs
    given = [one.tensor() if isinstance(one, Sizes) else one for one in inputs[count:]]
    scanned = [x.flip(axis) if back else x for x, axis, back in zip(given, axes, turned, strict=True)]
    length = scanned[0].shape[axes[0]]
    if not isinstance(length, int):
        raise CaptureError(
            f"A Scan runs as often as an open size says, and only a known number of times is unrolled{REMEDY}."
        )
    found: list[list[Tensor]] = []
    repeated = counted(body)
    for number in range(length):
        slices = [x.select(axis, number) for x, axis in zip(scanned, axes, strict=True)]
        results = repeated(*state, *slices)
        state = results[:count]
        found.append([one.tensor() if isinstance(one, Sizes) else one for one in results[count:]])
    places = scan_output_axes or [0] * (len(found[0]) if found else 0)
    backwards = scan_output_directions or [0] * len(places)
    stacked = [torch.stack(list(parts), axis) for parts, axis in zip(zip(*found, strict=True), places, strict=True)]
    ends = [y.flip(axis) if back else y for y, axis, back in zip(stacked, places, backwards, strict=True)]
    return (*state, *ends)


@onnx_op("Scan", since=8)
def scan_batches(
    lengths: Any = None,
    *inputs: Any,
    body: Callable[..., Any],
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
