"""Layers in steps: a linear map, and then what is done to each output channel by itself, up to a sum.

    conv2d(x, W) ─ mul(·, s) ─ add(·, b)         one linear map: y = (s W) x + b

A quantised layer multiplies its whole numbers by the size of a step that it finds at run time, and adds the bias behind
that; others spell a bias, or a batch norm, so. To the rules it is the layer that it is with a bias of its own: as a sum
the bias would take its share by ε, whatever rule the layer has. `passes/assign/layers.py` finds them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.base.errors import FormatError
from lrp_compiler.rules.conditions import only
from lrp_compiler.rules.facts import Fact
from lrp_compiler.rules.linear_map import Constant, LinearMap, add_up, scaled
from lrp_compiler.rules.op import Op
from lrp_compiler.rules.registry import OPERATORS, Overload, operator
from lrp_compiler.rules.traits import Arguments, summands, traits
from lrp_compiler.torch_private import op_name

from .convolution import CHANNEL_FIRST, TRANSPOSED, is_transposed
from .linear import PRODUCTS

aten = torch.ops.aten

SUMS: dict[str, tuple[float, float]] = {"add": (1, 1), "subtract": (1, -1), "subtract from": (-1, 1)}
"""Step → the sign of the map's result in it, and that of the constant."""
SCALINGS: dict[str, tuple[float, float]] = {"multiply": (1, 1), "divide": (1, -1)}
"""Step → the power of the map's result in it, and that of the constant."""
IN_STEPS: Fact[tuple[str, ...]] = Fact("steps", (), tuple)
"""What is done behind a map in steps, in order: `SUMS` and `SCALINGS`. By what, its operands `steps.0`, … say."""


def step_of(target: object, given: Arguments, operand: str) -> tuple[str, str] | None:
    """What a call does to one of its operands, as a step behind a map.

    Args:
        target: the op.
        given: its arguments by schema name.
        operand: what the map's result is to it.

    Returns:
        The step, and the operand by which it is done; `None` for anything else.
    """
    powers = traits(target).powers
    parts, known = (powers, SCALINGS) if powers else (summands(target, given), SUMS)
    if operand not in parts or len(parts) != 2:
        return None
    (other,) = parts.keys() - {operand}
    both = (parts[operand], parts[other])
    return next(((name, other) for name, wanted in known.items() if wanted == both), None)


@dataclass(frozen=True)
class Layer:
    """A linear map that may be the first step.

    Args:
        target: its op.
        operand: what it maps.
        weight: its weights. All their dims but two are dims of the result that come behind its channels.
    """

    target: Overload
    operand: str = "input"
    weight: str = "weight"

    @property
    def name(self) -> str:
        """Stands where an overload does for all the steps together."""
        return f"lrp::{op_name(self.target)}_in_steps"

    def register(self) -> None:
        """Enter the steps as an operator of the map's own kind: its operands, and `steps.0`, … (see `IN_STEPS`)."""
        (own,) = (entry for entry in OPERATORS[self.target] if entry.when == only(self.operand))

        def describe(op: Op) -> LinearMap:
            return self._in_steps(op, own.describe(op.seen_as(self.target)))

        operator(self.name, kind=own.kind, family=own.family, rule=own.rule, when=own.when, channels=own.channels)(
            describe
        )

    def _in_steps(self, op: Op, linear: LinearMap) -> LinearMap:
        (term,) = linear.terms

        def weight() -> Tensor:
            return self._by_channel(op, term.weight(), _steps(op)[0])

        def bias() -> Tensor:
            factor, constants = _steps(op)
            return add_up([*(scaled(own.weight(), factor) for own in linear.constants), *constants])

        return LinearMap((replace(term, weight=weight, parameter=None, weigh=None),), (Constant("bias", bias),))

    def _by_channel(self, op: Op, weight: Tensor, factor: Tensor | float) -> Tensor:
        """The weights, those of each output channel times its factor."""
        if not isinstance(factor, Tensor) or factor.numel() == 1:
            return scaled(weight, factor.reshape(()) if isinstance(factor, Tensor) else factor)
        transposed = is_transposed(op.arguments)
        first = not transposed and self.weight == "weight"
        # In front of the output channels of a transposed convolution lie the input channels of all groups.
        groups = op.option("groups") if transposed else 1
        apart = weight.unflatten(0, (groups, -1))
        shape = [groups, -1, 1] if first else [groups, 1, -1]
        scaled_apart: Tensor = apart * factor.reshape(*shape, *[1] * (apart.dim() - 3))
        return scaled_apart.flatten(0, 1)


def _steps(op: Op) -> tuple[Tensor | float, list[Tensor | float]]:
    """By what the map's result is multiplied in the end, and what is added to that.

    Raises:
        FormatError: it is not said what is done with every operand, as in files of older builds.
    """
    factor: Any = 1.0
    constants: list[Tensor | float] = []
    done: tuple[str, ...] = op.fact(IN_STEPS)
    if f"steps.{len(done)}" in op.arguments:
        raise FormatError(
            "The file is of an older build of lrp_compiler, which kept a layer's steps elsewhere: compile anew."
        )
    for index, name in reversed(list(enumerate(done))):
        value: Any = op.factor(f"steps.{index}")
        if name in SCALINGS:
            factor = factor * value if SCALINGS[name][1] > 0 else factor / value
        else:
            of_result, of_constant = SUMS[name]
            constants.append(scaled(scaled(value, of_constant), factor))
            factor = scaled(factor, of_result)
    return factor, constants


CONVOLUTIONS = (
    *CHANNEL_FIRST,
    *TRANSPOSED,
    aten.convolution.default,
)
LAYERS: dict[Overload, Layer] = {
    **{target: Layer(target) for target in (aten.linear.default, *CONVOLUTIONS)},
    **{target: Layer(target, *PRODUCTS[target]) for target in (aten.mm.default, aten.matmul.default)},
}
"""Op → the layer that it may begin."""
for layer in LAYERS.values():
    layer.register()
