"""A linear map, and factors and constants by channel behind it: by every rule as the map that they are together."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_compiler.base.errors import FormatError
from lrp_compiler.rules import IN_STEPS, LAYERS, Facts, Op, Values, bind, propagate, unit

aten = torch.ops.aten
RULES: dict[str, dict[str, Any]] = {"epsilon": {}, "z-plus": {}, "alpha-beta": {}, "gamma": {}, "w-square": {}}
RANDOM = torch.Generator().manual_seed(5)


def drawn(*sizes: int) -> Tensor:
    return torch.randn(sizes, generator=RANDOM, dtype=torch.float64)


S, B = drawn(6), drawn(6)
MAPS: dict[str, tuple[Any, tuple[Any, ...], Callable[[Tensor, Tensor], Tensor]]] = {
    "linear": (aten.linear.default, (drawn(3, 5), drawn(6, 5)), lambda w, s: w * s[:, None]),
    "mm": (aten.mm.default, (drawn(3, 5), drawn(5, 6)), lambda w, s: w * s),
    "matmul": (aten.matmul.default, (drawn(2, 3, 5), drawn(5, 6)), lambda w, s: w * s),
    "conv1d": (aten.conv1d.default, (drawn(3, 4, 7), drawn(6, 4, 3), drawn(6)), lambda w, s: w * s[:, None, None]),
    "conv2d in groups": (
        aten.conv2d.default,
        (drawn(3, 4, 5, 5), drawn(6, 2, 3, 3), None, [1, 1], [1, 1], [1, 1], 2),
        lambda w, s: w * s[:, None, None, None],
    ),
    "transposed in groups": (
        aten.conv_transpose1d.default,
        (drawn(3, 4, 5), drawn(4, 3, 2), drawn(6), [2], [0], [0], 2),
        lambda w, s: torch.cat([w[:2] * s[:3, None], w[2:] * s[3:, None]]),
    ),
    "transposed, as a convolution": (
        aten.convolution.default,
        (drawn(3, 4, 5, 5), drawn(4, 6, 2, 2), None, [1, 1], [0, 0], [1, 1], True, [0, 0], 1),
        lambda w, s: w * s[:, None, None],
    ),
}
"""The map, and its weights with each output channel multiplied."""
STEPS: dict[str, tuple[list[tuple[str, Any]], Any, Any]] = {
    "a bias": ([("add", B)], torch.ones(6), B),
    "a number": ([("subtract", 0.7)], torch.ones(6), torch.full((6,), -0.7)),
    "a factor and a bias": ([("multiply", S), ("add", B)], S, B),
    "one factor": ([("divide", torch.tensor(-4.0)), ("add", B)], torch.full((6,), -0.25), B),
    "taken from": ([("multiply", S), ("subtract from", B)], -S, B),
    "a batch norm": ([("subtract", B), ("divide", S), ("multiply", 3), ("add", 1)], 3 / S, 1 - 3 * B / S),
}
"""What is done, and what that multiplies by and adds."""
DONE: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda y, v: y + v,
    "subtract": lambda y, v: y - v,
    "subtract from": lambda y, v: v - y,
    "multiply": lambda y, v: y * v,
    "divide": lambda y, v: y / v,
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", MAPS)
def test_steps_are_the_map_that_they_are_together(name: str, steps: str) -> None:
    target, args, weighted = MAPS[name]
    layer, arguments = LAYERS[target], bind(target, args, {})
    done, factor, constant = STEPS[steps]
    behind = [1] * (args[1].dim() - 2)
    values = [v.reshape(-1, *behind) if isinstance(v, Tensor) and v.dim() else v for _, v in done]
    y = target(*args)
    for (step, _), value in zip(done, values, strict=True):
        y = DONE[step](y, value)
    told = {f"steps.{place}": value for place, value in enumerate(values)}
    own = arguments.get("bias")
    bias = constant.double() + (0 if own is None else own * factor)
    weight = weighted(args[1], factor.double())
    absorbed: list[list[tuple[str, Tensor]]] = [[], []]
    told_to: dict[str, Any] = {"active": ["input"], "absorb": lambda *share: absorbed[1].append(share)}
    if "bias" in arguments:
        joined = Op.eager(target, args[0], weight, bias, *args[3:], **told_to)
    else:
        joined = Op.eager(aten.linear.default, args[0], weight.t(), bias, **told_to)
    torch.testing.assert_close(y, joined.output)
    in_steps = Op(
        layer.name,
        {**arguments, **told},
        y,
        Values(lambda handle: handle, absorb=lambda *share: absorbed[0].append(share)),
        active=[layer.operand],
        facts=Facts.of({IN_STEPS: tuple(step for step, _ in done)}),
    )
    g = drawn(*y.shape)
    for rule in RULES:
        found = propagate(in_steps, unit(g), rule)[layer.operand]
        want = propagate(joined, unit(g), rule)["input"]
        assert found is not None
        assert want is not None
        assert found.form == want.form
        torch.testing.assert_close(found.tensor, want.tensor)
    sums = [{cause: float(share.sum()) for cause, share in shares} for shares in absorbed]
    assert sums[0] == pytest.approx(sums[1])


def test_steps_of_which_nothing_is_said_are_refused() -> None:
    """As in a file of an older build, which kept what is done among the operands."""
    target, args, _ = MAPS["linear"]
    arguments = {**bind(target, args, {}), "steps": ["add"], "steps.0": B}
    op = Op(LAYERS[target].name, arguments, target(*args) + B, Values(lambda handle: handle), active=["input"])

    with pytest.raises(FormatError, match="older build"):
        propagate(op, unit(torch.ones(3, 6, dtype=torch.float64)))
