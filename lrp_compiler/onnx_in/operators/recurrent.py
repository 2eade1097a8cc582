"""Recurrent layers: torch's own where they are the same, and else step by step, or a loop where the length is open.

ONNX lists the gates of an LSTM as input, output, forget, cell and those of a GRU as update, reset, hidden; torch as
input, forget, cell, output and as reset, update, hidden. The weights are brought into torch's order, and taken apart by
direction, when the file is read: the functions take `*parameters`, for each direction W, R and the biases of both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrp_compiler.base.errors import CaptureError

from ..loops import looped
from ..registry import Prepared, chosen, onnx_op

FUNCTIONS: dict[str, Callable[[Tensor, float | None, float | None], Tensor]] = {
    "Sigmoid": lambda x, a, b: torch.sigmoid(x),
    "Tanh": lambda x, a, b: torch.tanh(x),
    "Relu": lambda x, a, b: torch.relu(x),
    "Affine": lambda x, a, b: x * (1.0 if a is None else a) + (0.0 if b is None else b),
    "LeakyRelu": lambda x, a, b: torch.nn.functional.leaky_relu(x, 0.01 if a is None else a),
    "ThresholdedRelu": lambda x, a, b: torch.nn.functional.threshold(x, 1.0 if a is None else a, 0.0),
    "ScaledTanh": lambda x, a, b: torch.tanh(x * (1.0 if b is None else b)) * (1.0 if a is None else a),
    "HardSigmoid": lambda x, a, b: (x * (0.2 if a is None else a) + (0.5 if b is None else b)).clamp(0, 1),
    "Elu": lambda x, a, b: torch.nn.functional.elu(x, 1.0 if a is None else a),
    "Softsign": lambda x, a, b: torch.nn.functional.softsign(x),
    "Softplus": lambda x, a, b: torch.nn.functional.softplus(x),
}
TAKING_BETA = ("Affine", "ScaledTanh", "HardSigmoid")
TAKING_ALPHA = (*TAKING_BETA, "LeakyRelu", "ThresholdedRelu", "Elu")
ORDERS = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""torch's gates among ONNX's."""
DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
DIRECTIONS = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}


def _directions(direction: str) -> list[bool]:
    return chosen(DIRECTIONS, direction, "The direction of a recurrent layer")


def _words(given: Sequence[bool], direction: str = "forward") -> list[str]:
    kinds = ["weight", "recurrence", "bias", "recurrent_bias"][: 4 if given[2] else 2]
    return [f"{kind}_{part}" for part, _ in enumerate(_directions(direction)) for kind in kinds]


def in_torchs_order(kind: str) -> Prepared:
    """Weights `[directions, gates · hidden, features]` and biases `[directions, 2 · gates · hidden]`, made torch's."""

    def function(
        weight: Tensor, recurrence: Tensor, bias: Tensor | None = None, *, direction: str = "forward"
    ) -> tuple[Tensor, ...]:
        size = recurrence.shape[2]

        def ordered(part: Tensor) -> Tensor:
            pieces = part.split(size)
            return torch.cat([pieces[place] for place in ORDERS[kind]])

        parameters: list[Tensor] = []
        for part, _ in enumerate(_directions(direction)):
            halves = () if bias is None else bias[part].split(weight.shape[1])
            parameters += [ordered(one) for one in (weight[part], recurrence[part], *halves)]
        return tuple(parameters)

    return Prepared((1, 2, 3), function, ("direction",), _words)


@onnx_op("LSTM", prepared=in_torchs_order("LSTM"))
def lstm(
    x: Tensor,
    weight: None,
    recurrence: None,
    bias: None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
    *parameters: Tensor,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: list[str] | None = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> Any:
    """`Y [steps, directions, batch, hidden]`, and the last hidden state and cell."""
    functions = (activations, activation_alpha, activation_beta)
    options: dict[str, Any] = {"clip": clip, "direction": direction, "input_forget": input_forget, "layout": layout}
    return lstm_by(x, parameters, lengths, hidden, cell, peepholes, functions, **options)


Functions = tuple[list[str] | None, list[float] | None, list[float] | None]
"""Names of activations, and their parameters."""


def lstm_by(
    x: Tensor,
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    peepholes: Tensor | None,
    functions: Functions,
    *,
    clip: float,
    direction: str,
    input_forget: int,
    layout: int = 0,
    seen: Callable[[Tensor], Tensor] | None = None,
) -> Any:
    """The same of parameters in torch's order; what the recurrence multiplies is what `seen` makes of the state."""
    plain = (
        not (clip or input_forget or seen)
        and peepholes is None
        and lengths is None
        and functions[0] in (None, *_twice("LSTM"))
    )
    layers = _layers(parameters, direction)
    if peepholes is not None:
        layers = [layer._replace(peepholes=own) for layer, own in zip(layers, peepholes, strict=True)]
    size = layers[0].size

    def step(part: int, layer: Layer, given: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        before, kept = state
        f, g, h = _functions("LSTM", *functions, part)
        seen_before = seen(before) if seen else before
        gates = given + torch.nn.functional.linear(seen_before, layer.recurrence, layer.recurrent_bias)
        i, forget, c, o = gates.split(size, -1)
        pi, po, pf = (None,) * 3 if layer.peepholes is None else layer.peepholes.split(size)
        i = f(_clipped(i if pi is None else i + pi * kept, clip))
        forget = 1 - i if input_forget else f(_clipped(forget if pf is None else forget + pf * kept, clip))
        now = forget * kept + i * g(_clipped(c, clip))
        out = f(_clipped(o if po is None else o + po * now, clip))
        return out * h(now), now

    return _run("LSTM", x, layers, lengths, [hidden, cell], direction, layout, plain, step)


@onnx_op("GRU", prepared=in_torchs_order("GRU"))
def gru(
    x: Tensor,
    weight: None,
    recurrence: None,
    bias: None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    *parameters: Tensor,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: list[str] | None = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> Any:
    """`Y [steps, directions, batch, hidden]`, and the last hidden state."""
    plain = not clip and bool(linear_before_reset) and lengths is None and activations in (None, *_twice("GRU"))
    layers = _layers(parameters, direction)
    size = layers[0].size

    def step(part: int, layer: Layer, given: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (before,) = state
        f, g = _functions("GRU", activations, activation_alpha, activation_beta, part)
        bias = layer.recurrent_bias
        rr, rz, rh = layer.recurrence.split(size)
        br, bz, bh = (None,) * 3 if bias is None else bias.split(size)
        r, z, h = given.split(size, -1)
        z = f(_clipped(z + torch.nn.functional.linear(before, rz, bz), clip))
        r = f(_clipped(r + torch.nn.functional.linear(before, rr, br), clip))
        if linear_before_reset:
            h = h + r * torch.nn.functional.linear(before, rh, bh)
        else:
            h = h + torch.nn.functional.linear(r * before, rh, bh)
        h = g(_clipped(h, clip))
        return ((1 - z) * h + z * before,)

    return _run("GRU", x, layers, lengths, [hidden], direction, layout, plain, step)


@onnx_op("RNN", prepared=in_torchs_order("RNN"))
def rnn(
    x: Tensor,
    weight: None,
    recurrence: None,
    bias: None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    *parameters: Tensor,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: list[str] | None = None,
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> Any:
    """`Y [steps, directions, batch, hidden]`, and the last hidden state."""
    plain = not clip and lengths is None and activations in (None, *_twice("RNN"))
    layers = _layers(parameters, direction)

    def step(part: int, layer: Layer, given: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (f,) = _functions("RNN", activations, activation_alpha, activation_beta, part)
        carried = torch.nn.functional.linear(state[0], layer.recurrence, layer.recurrent_bias)
        return (f(_clipped(given + carried, clip)),)

    return _run("RNN", x, layers, lengths, [hidden], direction, layout, plain, step)


def _twice(kind: str) -> tuple[list[str], list[str]]:
    """The functions that it has by default, for one direction and for two."""
    return DEFAULTS[kind], DEFAULTS[kind] * 2


def _functions(
    kind: str, names: list[str] | None, alpha: list[float] | None, beta: list[float] | None, part: int
) -> list[Callable[[Tensor], Tensor]]:
    """Those of one direction; parameters are of the functions that take any, in their order through all directions."""
    count = len(DEFAULTS[kind])
    firsts, seconds = iter(alpha or []), iter(beta or [])

    def made(name: str) -> Callable[[Tensor], Tensor]:
        function = chosen(FUNCTIONS, name, f"The activation of a {kind}")
        a = next(firsts, None) if name in TAKING_ALPHA else None
        b = next(seconds, None) if name in TAKING_BETA else None
        return lambda x: function(x, a, b)

    made_all = [made(name) for name in names or DEFAULTS[kind] * 2]
    return made_all[part * count : (part + 1) * count]


def _clipped(x: Tensor, clip: float) -> Tensor:
    return x.clamp(-clip, clip) if clip else x


class Layer(NamedTuple):
    """The parameters of one direction, in torch's order."""

    weight: Tensor
    recurrence: Tensor
    bias: Tensor | None = None
    recurrent_bias: Tensor | None = None
    peepholes: Tensor | None = None

    @property
    def size(self) -> int:
        """Of the hidden state."""
        return self.recurrence.shape[1]


Cell = Callable[[int, Layer, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""(number of the direction, its parameters, what the input adds, state) → next state."""


def _layers(parameters: Sequence[Tensor], direction: str) -> list[Layer]:
    count = len(parameters) // len(_directions(direction))
    return [Layer(*parameters[start : start + count]) for start in range(0, len(parameters), count)]


def _run(
    kind: str,
    x: Tensor,
    layers: list[Layer],
    lengths: Tensor | None,
    states: list[Tensor | None],
    direction: str,
    layout: int,
    plain: bool,
    step: Cell,
) -> Any:
    x = x.transpose(0, 1) if layout else x
    given = [one.transpose(0, 1) if layout and one is not None else one for one in states]
    shape = (len(layers), x.shape[1], layers[0].size)
    filled = [torch.zeros(shape, dtype=x.dtype) if one is None else one for one in given]
    for state in filled:
        if state.shape[1] != x.shape[1]:  # torch would broadcast it
            raise CaptureError(f"A {kind} has {x.shape[1]} sequences, and a first state of {state.shape[1]}.")
    if plain and direction != "reverse":
        y, last = _by_torch(kind, x, layers, filled)
    else:
        y, last = _by_steps(kind, x, layers, lengths, filled, _directions(direction), step)
    if layout:
        return (y.permute(2, 0, 1, 3), *(one.transpose(0, 1) for one in last))
    return (y, *last)


def _by_torch(kind: str, x: Tensor, layers: list[Layer], states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """torch's own layer."""
    parameters = [one for layer in layers for one in layer if one is not None]
    options = (layers[0].bias is not None, 1, 0.0, False, len(layers) > 1, False)
    if kind == "LSTM":
        y, hidden, cell = torch.lstm(x, states, parameters, *options)
        last = [hidden, cell]
    else:
        y, hidden = (torch.gru if kind == "GRU" else torch.rnn_tanh)(x, states[0], parameters, *options)
        last = [hidden]
    if len(layers) == 1:
        return y.unsqueeze(1), last
    parts = y.reshape(y.shape[0], y.shape[1], len(layers), layers[0].size)
    return parts.permute(0, 2, 1, 3), last


def _by_steps(
    kind: str,
    x: Tensor,
    layers: list[Layer],
    lengths: Tensor | None,
    states: list[Tensor],
    directions: list[bool],
    step: Cell,
) -> tuple[Tensor, list[Tensor]]:
    outputs, ends = [], []
    for part, backwards in enumerate(directions):
        layer = layers[part]
        along = _turned(x, lengths) if backwards else x
        sequences = [torch.nn.functional.linear(along, layer.weight, layer.bias)]
        same = [one for one in layer if one is not None]
        if lengths is not None:
            sequences.append(torch.arange(x.shape[0]))
            same.append(lengths)
        start = [one[part] for one in states]
        state, (y,) = looped(partial(_one_step, step, part, layer), start, sequences, same, f"The {kind}")
        outputs.append(_turned(y, lengths) if backwards else y)
        ends.append(state)
    return torch.stack(outputs, 1), [torch.stack(list(parts)) for parts in zip(*ends, strict=True)]


def _one_step(
    step: Cell, part: int, like: Layer, before: Sequence[Tensor], now: Sequence[Tensor], same: Sequence[Tensor]
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """A step of one direction, and of rows that have ended none: their state stays, and their output is 0."""
    tensors = iter(same)
    new = step(part, Layer(*(None if one is None else next(tensors) for one in like)), now[0], tuple(before))  # type: ignore[arg-type]
    ends = next(tensors, None)
    if ends is None:
        return new, new[:1]
    live = (now[1] < ends).unsqueeze(1)
    state = [torch.where(live, one, old) for one, old in zip(new, before, strict=True)]
    return state, [torch.where(live, new[0], torch.zeros_like(new[0]))]


def _turned(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The steps of each row in reverse, up to its length."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0]).unsqueeze(1)
    places = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return torch.gather(x, 0, places.unsqueeze(2).expand(x.shape))
