"""Recurrent layers over a sequence: step by step where its length is known, else as a loop.

    h = o ⊙ tanh(c),  c = f ⊙ c + i ⊙ tanh(…)        →        gate(tanh(c), o),  gate(c, f) + gate(tanh(…), i)

The projections of all steps are one matrix product. A gate's product is marked as such (`lrp::gate`): the signal takes
all of the relevance, the gate nothing. The weights of signal and gates are kept apart, so that relevance passes the
signal's part only.

Source: Arras et al., "Explaining recurrent neural network predictions in sentiment analysis", WASSA 2017,
arXiv 1706.07206.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lrp_compiler.torch_private import OpOverload, known_size

aten = torch.ops.aten
scan = torch.ops.higher_order.scan

State = tuple[Tensor, ...]
Weights = Sequence[Tensor | None]
Cell = Callable[[Sequence[Tensor], State, Weights], State]
"""(projections of the input, state, hidden weights) → next state; its first member is the step's output."""


def gate(signal: Tensor, weight: Tensor) -> Tensor:
    """A product that gives all of its relevance to `signal`."""
    product: Tensor = torch.ops.lrp.gate.default(signal, weight)
    return product


@dataclass(frozen=True)
class Recurrence:
    """A cell, and which blocks of its stacked weights belong together: first the signal's, then the gates'.

    Args:
        step: one step of it.
        blocks: numbers of the blocks in each group.
        count: how many blocks are stacked.
    """

    step: Cell
    blocks: tuple[tuple[int, ...], ...]
    count: int

    def pieces(self, weight: Tensor | None) -> list[Tensor | None]:
        """The rows of each group, of a stacked weight or bias."""
        if weight is None:
            return [None] * len(self.blocks)
        size = weight.shape[0] // self.count
        rows = [weight.narrow(0, block * size, size) for block in range(self.count)]
        groups = [[rows[block] for block in group] for group in self.blocks]
        return [group[0] if len(group) == 1 else torch.cat(group) for group in groups]

    def project(self, tensor: Tensor, weight: Tensor | None, bias: Tensor | None) -> list[Tensor]:
        """What the input adds, by group."""
        pieces = zip(self.pieces(weight), self.pieces(bias), strict=True)
        return [functional.linear(tensor, piece, shift) for piece, shift in pieces]  # type: ignore[arg-type]


def lstm_step(projections: Sequence[Tensor], state: State, weights: Weights) -> State:
    """`c' = f ⊙ c + i ⊙ tanh(g)`, `h' = o ⊙ tanh(c')`, perhaps projected."""
    h, c = state
    signal_weight, gate_weight, signal_bias, gate_bias, projection = weights
    candidate = torch.tanh(projections[0] + functional.linear(h, signal_weight, signal_bias))  # type: ignore[arg-type]
    gates = torch.sigmoid(projections[1] + functional.linear(h, gate_weight, gate_bias))  # type: ignore[arg-type]
    admit, forget, expose = gates.chunk(3, -1)
    c = gate(c, forget) + gate(candidate, admit)
    h = gate(torch.tanh(c), expose)
    return (h if projection is None else functional.linear(h, projection)), c


def gru_step(projections: Sequence[Tensor], state: State, weights: Weights) -> State:
    """`n = tanh(x + r ⊙ h)`, `h' = (1 − z) ⊙ n + z ⊙ h`."""
    (h,) = state
    signal_weight, gate_weight, signal_bias, gate_bias, _ = weights
    gates = torch.sigmoid(projections[1] + functional.linear(h, gate_weight, gate_bias))  # type: ignore[arg-type]
    reset, keep = gates.chunk(2, -1)
    hidden = functional.linear(h, signal_weight, signal_bias)  # type: ignore[arg-type]
    candidate = torch.tanh(projections[0] + gate(hidden, reset))
    return (gate(candidate, 1 - keep) + gate(h, keep),)


def rnn_step(activation: Callable[[Tensor], Tensor]) -> Cell:
    """`h' = f(x + W h)`."""

    def step(projections: Sequence[Tensor], state: State, weights: Weights) -> State:
        return (activation(projections[0] + functional.linear(state[0], weights[0], weights[1])),)  # type: ignore[arg-type]

    return step


def _direction(
    recurrence: Recurrence, steps: Tensor, state: State, params: Weights, backward: bool
) -> tuple[Tensor, State]:
    """One direction of one layer over `steps` `[time, batch, features]`: the outputs and the last state."""
    input_weight, hidden_weight, input_bias, hidden_bias, projection = params
    projections = recurrence.project(steps, input_weight, input_bias)
    weights = [*recurrence.pieces(hidden_weight), *recurrence.pieces(hidden_bias), projection]
    if known_size(steps.shape[0]) is None:
        return _loop(recurrence, projections, state, weights, backward)
    times = range(int(steps.shape[0]))
    results = []
    for time in reversed(times) if backward else times:
        state = recurrence.step([projected[time] for projected in projections], state, weights)
        results.append(state[0])
    return torch.stack(results[::-1] if backward else results), state


def _loop(
    recurrence: Recurrence, projections: Sequence[Tensor], state: State, weights: Weights, backward: bool
) -> tuple[Tensor, State]:
    """The same over as many steps as there will be: a loop."""
    given = [weight for weight in weights if weight is not None]
    count, pieces = len(state), len(projections)

    def step(*operands: Tensor) -> list[Tensor]:
        constants = iter(operands[count + pieces :])
        own = [None if weight is None else next(constants) for weight in weights]
        made = recurrence.step(operands[count : count + pieces], operands[:count], own)
        return [*made, made[0].clone()]

    read = [piece.flip(0) if backward else piece for piece in projections]
    # torch's operator takes no views of one tensor.
    *last, results = scan(step, [one.clone() for one in state], read, tuple(one.clone() for one in given))
    return results.flip(0) if backward else results, tuple(last)


def layers(recurrence: Recurrence) -> Callable[..., State]:
    """All layers and directions: the output, then the last states (h, and c where there is one)."""

    def decomposed(
        tensor: Tensor,
        hx: Tensor | Sequence[Tensor],
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> State:
        steps = tensor.transpose(0, 1) if batch_first else tensor
        states = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        directions = 2 if bidirectional else 1
        each = len(params) // (num_layers * directions)
        last: list[State] = []
        for layer in range(num_layers):
            outputs = []
            for backward in range(directions):
                index = layer * directions + backward
                given = params[index * each : (index + 1) * each]
                biases = given[2:4] if has_biases else (None, None)
                projection = given[-1] if each % 2 else None
                start = tuple(state[index] for state in states)
                output, state = _direction(
                    recurrence, steps, start, (*given[:2], *biases, projection), backward=bool(backward)
                )
                outputs.append(output)
                last.append(state)
            steps = torch.cat(outputs, -1) if bidirectional else outputs[0]
        result = steps.transpose(0, 1) if batch_first else steps
        return result, *(torch.stack(members) for members in zip(*last, strict=True))

    return decomposed


def cell(recurrence: Recurrence) -> Callable[..., Tensor | State]:
    """A single step."""

    def decomposed(
        tensor: Tensor,
        hx: Tensor | Sequence[Tensor],
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor | State:
        state = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        weights = [*recurrence.pieces(w_hh), *recurrence.pieces(b_hh), None]
        result = recurrence.step(recurrence.project(tensor, w_ih, b_ih), state, weights)
        return result if len(result) > 1 else result[0]

    return decomposed


LSTM = Recurrence(lstm_step, ((2,), (0, 1, 3)), 4)  # g; i, f, o
GRU = Recurrence(gru_step, ((2,), (0, 1)), 3)  # n; r, z
RNN_TANH = Recurrence(rnn_step(torch.tanh), ((0,),), 1)
RNN_RELU = Recurrence(rnn_step(torch.relu), ((0,),), 1)

DECOMPOSITIONS: dict[OpOverload, Callable[..., object]] = {
    aten.lstm.input: layers(LSTM),
    aten.gru.input: layers(GRU),
    aten.rnn_tanh.input: layers(RNN_TANH),
    aten.rnn_relu.input: layers(RNN_RELU),
    aten.lstm_cell.default: cell(LSTM),
    aten.gru_cell.default: cell(GRU),
    aten.rnn_tanh_cell.default: cell(RNN_TANH),
    aten.rnn_relu_cell.default: cell(RNN_RELU),
}
