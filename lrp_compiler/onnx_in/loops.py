"""Steps that are repeated as often as an open size says: one graph, that torch's `scan` repeats.

    state, [x_0 … x_{T−1}], W      →      state_T, [y_0 … y_{T−1}]         state_{t+1}, y_t = step(state_t, x_t, W)

torch's operator takes no step that reads anything from outside, a weight neither: all of that is handed to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.base.errors import CaptureError
from lrp_compiler.torch_private import known_size, pytree, statically_known_true

from .sizes import Sizes
from .steps import Bound, Constant, Value
from .whole_numbers import Scaled, Whole

Step = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], tuple[Sequence[Value], Sequence[Value]]]
"""(states, slices, what stays the same) → (states behind the step, its results)."""


def is_open(size: Any) -> bool:
    """Whether a size is known when the model runs alone."""
    return isinstance(size, torch.SymInt) and known_size(size) is None


def looped(
    step: Step, states: Sequence[Value], sequences: Sequence[Tensor], given: Sequence[Tensor], what: str
) -> tuple[list[Tensor], list[Tensor]]:
    """The loop; the steps one by one, where it is known how many there are.

    Args:
        step: what is repeated; it reads nothing but its arguments, sizes apart.
        states: what it starts from.
        sequences: what is read step by step: time comes first.
        given: what stays the same.
        what: is repeated, for messages: "A Scan".

    Returns:
        The last states, and the results of all steps, time first.

    Raises:
        CaptureError: a step changes the shape or the dtype of a state.
    """
    if not is_open(sequences[0].shape[0]):
        return _one_by_one(step, states, sequences, given)
    start = [as_tensor(one) for one in states]
    count, read = len(start), len(sequences)

    def flat(*operands: Tensor) -> list[Tensor]:
        before = operands[:count]
        after, results = step(before, operands[count : count + read], operands[count + read :])
        ends = [as_tensor(one) for one in after]
        for place, (one, other) in enumerate(zip(before, ends, strict=True)):
            if not _alike(one, other):
                raise CaptureError(
                    f"{what} of an open number of steps makes its state {place} of shape {_shape(one)} and {one.dtype} "
                    f"one of shape {_shape(other)} and {other.dtype}: a state stays as it is shaped, or give the steps "
                    "a fixed number."
                )
        # torch's operator takes no result that is one of the operands, or another, as it is.
        return [one.clone() for one in (*ends, *map(as_tensor, results))]

    operands = [[one.clone() for one in part] for part in (start, sequences, given)]
    made = torch.ops.higher_order.scan(flat, operands[0], operands[1], tuple(operands[2]))
    return list(made[:count]), list(made[count:])


def _one_by_one(
    step: Step, states: Sequence[Value], sequences: Sequence[Tensor], given: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    state, found = [as_tensor(one) for one in states], []
    for number in range(sequences[0].shape[0]):
        after, results = step(state, [one[number] for one in sequences], given)
        state = [as_tensor(one) for one in after]
        found.append([as_tensor(one) for one in results])
    return state, [torch.stack(list(parts)) for parts in zip(*found, strict=True)]


def repeated(
    body: Bound, states: Sequence[Value], sequences: Sequence[Tensor], enter: Callable[..., Sequence[Value]], what: str
) -> tuple[list[Tensor], list[Tensor]]:
    """The loop of a graph: what that reads from outside, and its constants, stay the same.

    Args:
        body: the graph.
        states: what it starts from.
        sequences: what is read step by step: time comes first.
        enter: (states, slices) → the arguments of the body, which returns as many states first.
        what: is repeated, for messages.

    Returns:
        As `looped`.

    Raises:
        CaptureError: as `looped`.
    """
    constants = body.body.constants()
    outside = {name: _settled(body.outside[name]) for name in sorted(body.body.reads()) if name in body.outside}
    leaves, spec = pytree.tree_flatten(outside)
    tensors = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    given = [*(constant.value() for constant in constants), *(leaves[place] for place in tensors)]

    def step(
        before: Sequence[Tensor], slices: Sequence[Tensor], same: Sequence[Tensor]
    ) -> tuple[Sequence[Value], Sequence[Value]]:
        inner = list(leaves)
        for place, tensor in zip(tensors, same[len(constants) :], strict=True):
            inner[place] = tensor
        with _standing_in(dict(zip(constants, same, strict=False))):
            results = Bound(body.body, pytree.tree_unflatten(inner, spec))(*enter(before, slices))
        return results[: len(before)], results[len(before) :]

    return looped(step, states, sequences, given, what)


def as_tensor(value: Value) -> Tensor:
    """A value of a loop, which carries tensors."""
    value = _settled(value)
    if isinstance(value, Sizes):
        return value.tensor()
    if not isinstance(value, Tensor):
        raise CaptureError("A loop of an open number of steps carries sequences or optional values: stack tensors.")
    return value


def _settled(value: Value) -> Value:
    return value.tensor() if isinstance(value, Whole | Scaled) else value


@contextlib.contextmanager
def _standing_in(tensors: Mapping[Constant, Tensor]) -> Iterator[None]:
    """Constants are these tensors meanwhile."""
    before = [constant.inside for constant in tensors]
    for constant, tensor in tensors.items():
        constant.inside = tensor
    try:
        yield
    finally:
        for constant, earlier in zip(tensors, before, strict=True):
            constant.inside = earlier


def _alike(one: Tensor, other: Tensor) -> bool:
    same = one.dtype == other.dtype and one.dim() == other.dim()
    return same and all(statically_known_true(m == n) for m, n in zip(one.shape, other.shape, strict=True))


def _shape(tensor: Tensor) -> list[Any]:
    return [str(size) if is_open(size) else int(size) for size in tensor.shape]
