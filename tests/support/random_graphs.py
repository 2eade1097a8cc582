"""Random models: drawn steps that anyone can take, the compiler as they are and autograd as an independent reference.

A graph is a list of steps. Each computes one value from values before it, so that slices, expands, concatenations,
diamonds, values read many times and branches that nothing reads come about by themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.nn import functional

BATCH, CLASSES, LARGEST = 2, 4, 48
"""Rows; logits; elements of the largest value of one row."""
Share = Callable[[Tensor], Tensor]


def half(x: Tensor) -> Tensor:
    """x, with half its gradient."""
    return 0.5 * x + (0.5 * x).detach()


def chord(x: Tensor, y: Tensor) -> Tensor:
    """y = f(x), with the slope y/x: what the identity rule does. Where x is 0 the slope reaches nothing."""
    slope = torch.where(x == 0, torch.zeros_like(x), y / torch.where(x == 0, torch.ones_like(x), x))
    return y.detach() + (x - x.detach()) * slope.detach()


def frozen_norm(x: Tensor) -> Tensor:
    """A layer norm whose divisor is a constant."""
    deviation = (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt().detach()
    return (x - x.mean(-1, keepdim=True)) / deviation


@dataclass(frozen=True)
class Step:
    """One value: `OPS[op]` of the values at `sources`."""

    op: str
    sources: tuple[int, ...]
    number: int = 0
    weight: Tensor | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Kind:
    """An operation of the generator.

    Args:
        apply: `(step, *operands)` → its value.
        reference: the same, its gradient being AttnLRP's relevance; `None`: the operation's own gradient is.
        operands: how many; with more than one they have equal shapes.
        fits: whether it takes operands of this shape (without the batch).
    """

    apply: Callable[..., Tensor]
    reference: Callable[..., Tensor] | None = None
    operands: int = 1
    fits: Callable[[torch.Size], bool] = lambda shape: True
    weighted: bool = False


def _function(function: Callable[[Tensor], Tensor]) -> Kind:
    return Kind(lambda step, x: function(x), lambda step, x: chord(x, function(x)))


def _masked(step: Step, x: Tensor) -> Tensor:
    return x.masked_fill((torch.arange(x.shape[-1]) + step.number) % 2 == 0, 0.25 * step.number)


def _by_integers(step: Step, x: Tensor) -> Tensor:
    return x * ((torch.arange(x.shape[-1]) + step.number) % 3).to(x.dtype)


def _by_rows(step: Step, x: Tensor) -> Tensor:
    return torch.where(torch.arange(x.shape[1]).reshape(-1, *[1] * (x.dim() - 2)) > step.number, x, -0.5 * x)


def _slice(step: Step, x: Tensor) -> Tensor:
    return x[..., step.number % x.shape[-1] :]


def _split(step: Step, x: Tensor) -> Tensor:
    return x.chunk(2, -1)[step.number % 2]


def _wide(shape: torch.Size) -> bool:
    return shape[-1] >= 2


def _matrix(shape: torch.Size) -> bool:
    return len(shape) == 2


OPS: dict[str, Kind] = {
    "relu": Kind(lambda step, x: x.relu()),
    "abs": Kind(lambda step, x: x.abs()),
    "leaky": Kind(lambda step, x: functional.leaky_relu(x, 0.1)),
    "negate": Kind(lambda step, x: -x),
    "scale": Kind(lambda step, x: x * (0.5 + step.number)),
    "shift": Kind(lambda step, x: x + 0.5 * step.number),
    "tanh": _function(torch.tanh),
    "gelu": _function(functional.gelu),
    "silu": _function(functional.silu),
    "mask": Kind(_masked),
    "integers": Kind(_by_integers),
    "rows": Kind(_by_rows),
    "sign": Kind(lambda step, x: x * (x > 0)),
    "choose": Kind(lambda step, x: torch.where(x > 0, x, 0.2 * x)),
    "add": Kind(lambda step, x, y: x + y, operands=2),
    "alpha": Kind(lambda step, x, y: torch.add(x, y, alpha=-1.5), operands=2),
    "multiply": Kind(lambda step, x, y: x * y, lambda step, x, y: half(x) * half(y), operands=2),
    "maximum": Kind(lambda step, x, y: torch.maximum(x, y), operands=2),
    "cat": Kind(lambda step, x, y: torch.cat([x, y, x], -1), operands=2),
    "stack": Kind(lambda step, x, y: torch.stack([x, y], 1), operands=2, fits=lambda shape: len(shape) == 1),
    "slice": Kind(_slice, fits=_wide),
    "select": Kind(lambda step, x: x.select(1, step.number % x.shape[1]), fits=_matrix),
    "split": Kind(_split, fits=_wide),
    "unbind": Kind(lambda step, x: sum(x.unbind(1)[1:], x.unbind(1)[0]), fits=_matrix),
    "expand": Kind(lambda step, x: x.unsqueeze(1).expand(-1, 3, -1), fits=lambda shape: len(shape) == 1),
    "transpose": Kind(lambda step, x: x.transpose(1, 2), fits=_matrix),
    "flatten": Kind(lambda step, x: x.flatten(1)),
    "fold": Kind(lambda step, x: x.unflatten(-1, (2, -1)), fits=lambda shape: len(shape) == 1 and shape[0] % 2 == 0),
    "flip": Kind(lambda step, x: x.flip(-1)),
    "pad": Kind(lambda step, x: functional.pad(x, (1, 0))),
    "pick": Kind(lambda step, x: x.index_select(-1, torch.tensor([0, x.shape[-1] - 1, 0]))),
    "sum": Kind(lambda step, x: x.sum(-1), fits=_matrix),
    "mean": Kind(lambda step, x: x.mean(1, keepdim=True)),
    "centre": Kind(lambda step, x: x - x.mean(-1, keepdim=True)),
    "cumulate": Kind(lambda step, x: x.cumsum(-1)),
    "largest": Kind(lambda step, x: x.amax(-1), fits=_matrix),
    "softmax": Kind(lambda step, x: x.softmax(-1), fits=_wide),
    "norm": Kind(
        lambda step, x: functional.layer_norm(x, x.shape[-1:]), lambda step, x: frozen_norm(x), fits=lambda s: s[-1] > 2
    ),
    "linear": Kind(lambda step, x: functional.linear(x, step.weight), weighted=True),
    "matmul": Kind(
        lambda step, x, y: x @ y.transpose(1, 2),
        lambda step, x, y: half(x) @ half(y).transpose(1, 2),
        operands=2,
        fits=_matrix,
    ),
}


def over_rows(step: Callable[..., Any], states: Any, rows: Tensor) -> tuple[Any, Tensor]:
    """Torch's scan where it is captured, over the rows, and else step by step."""
    if torch.compiler.is_exporting():
        states, results = scan(step, states, rows.transpose(0, 1))
    else:
        made = []
        for row in rows.unbind(1):
            states, result = step(states, row)
            made.append(result)
        results = torch.stack(made)
    return states, results.transpose(0, 1)


def _recurrence(function: Callable[..., Tensor], start: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """All states that a function of (state, row) makes."""

    def apply(step: Step, x: Tensor) -> Tensor:
        def once(state: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
            state = function(state, row, step.weight)
            return state, state.clone()

        last, every = over_rows(once, start(x), x)
        return every + last.unsqueeze(1) if step.number else every

    return apply


def _exchanged(step: Step, x: Tensor) -> Tensor:
    """Two states, of which each becomes the other; a third counts, in whole numbers."""

    def once(states: Any, row: Tensor) -> Any:
        a, b, count = states
        return (b.clone(), row + 0.5 * a, count + 1), a * (count % 2 + 0.5)

    start = x.mean(1)
    (a, b, _), every = over_rows(once, (start, 2 * start, torch.zeros((), dtype=torch.int64)), x)
    return every + (a - b).unsqueeze(1)


def _zeros(x: Tensor) -> Tensor:
    return torch.zeros_like(x[:, 0])


LOOPS: dict[str, Kind] = {
    "elman": Kind(
        _recurrence(lambda h, x, w: torch.tanh(x + functional.linear(h, w)), _zeros),
        _recurrence(lambda h, x, w: chord(z := x + functional.linear(h, w), torch.tanh(z)), _zeros),
        fits=_matrix,
        weighted=True,
    ),
    "leaky sum": Kind(_recurrence(lambda h, x, w: 0.5 * h + functional.relu(x - h), lambda x: x.sum(1)), fits=_matrix),
    "product": Kind(
        _recurrence(lambda h, x, w: h * x, lambda x: x.mean(1)),
        _recurrence(lambda h, x, w: half(h) * half(x), lambda x: x.mean(1)),
        fits=_matrix,
    ),
    "exchanged": Kind(_exchanged, fits=_matrix),
}
"""The same of operations that are loops over the rows of a matrix."""
KINDS = {**OPS, **LOOPS}


class RandomGraph(nn.Module):
    """The steps as a model: logits of the value at `last`, and, as a second output, the value at `also`.

    Args:
        steps: value 0 is the input, value n what step n - 1 computes.
        last: which value the logits are computed from.
        also: which value is returned beside them; `None`: none.
    """

    def __init__(self, steps: list[Step], size: int, last: int, also: int | None) -> None:
        super().__init__()
        self.steps, self.last, self.also = steps, last, also
        self.classes = nn.Linear(size, CLASSES, dtype=torch.float64)
        self.weights = nn.ParameterList([step.weight for step in steps if step.weight is not None])

    def __repr__(self) -> str:
        steps = (f"{n}: {step.op}{step.number}{step.sources}" for n, step in enumerate(self.steps, start=1))
        return f"RandomGraph({', '.join(steps)}; logits of {self.last}; also {self.also})"

    def values(self, x: Tensor, reference: bool = False) -> list[Tensor]:
        values = [x]
        for step in self.steps:
            kind = KINDS[step.op]
            apply = (reference and kind.reference) or kind.apply
            values.append(apply(step, *(values[source] for source in step.sources)))
        return values

    def forward(self, x: Tensor, reference: bool = False) -> Any:
        values = self.values(x, reference)
        logits = self.classes(values[self.last].flatten(1))
        return logits if self.also is None else (logits, values[self.also] * 2)


def attnlrp_relevance(model: RandomGraph, x: Tensor, target: int) -> Tensor:
    """Gradient × input of the reference forward."""
    leaf = x.clone().requires_grad_()
    result = model(leaf, reference=True)
    logits = result if model.also is None else result[0]
    (gradient,) = torch.autograd.grad(logits[:, target].sum(), leaf, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else (gradient * x).detach()


@st.composite
def random_graphs(draw: st.DrawFn, most: int = 14, loops: bool = False) -> tuple[RandomGraph, Tensor]:
    """A model and an input of it, float64; with `loops` every other operation of a matrix is a loop over its rows."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(BATCH, *((3, 4) if loops else draw(st.sampled_from([(6,), (3, 4)]))))
    values, steps = [x], list[Step]()
    for _ in range(draw(st.integers(most // 3, most))):
        # Mostly from what is new, so that graphs are deep.
        first = draw(st.one_of(st.just(len(values) - 1), st.integers(0, len(values) - 1)))
        shape = values[first].shape[1:]
        table = LOOPS if loops and _matrix(shape) and draw(st.booleans()) else OPS
        names = [name for name, kind in table.items() if kind.fits(shape)]
        name = draw(st.sampled_from(names))
        kind = table[name]
        alike = [index for index, value in enumerate(values) if value.shape == values[first].shape]
        others = [draw(st.sampled_from(alike)) for _ in range(kind.operands - 1)]
        size = shape[-1] if name in LOOPS else draw(st.integers(2, 5)) if kind.weighted else 0
        weight = normal(size, shape[-1]) / shape[-1] ** 0.5 if kind.weighted else None
        step = Step(name, (first, *others), draw(st.integers(0, 2)), weight)
        value = kind.apply(step, *(values[source] for source in step.sources))
        if value[0].numel() <= LARGEST and float(value.abs().max()) < 1e3:
            steps.append(step)
            values.append(value)
    last = draw(st.one_of(st.just(len(values) - 1), st.integers(0, len(values) - 1)))
    also = draw(st.one_of(st.none(), st.integers(0, len(values) - 1)))
    model = RandomGraph(steps, values[last][0].numel(), last, also)
    model.classes.weight.data, model.classes.bias.data = normal(*model.classes.weight.shape), normal(CLASSES)
    return model.eval(), x
