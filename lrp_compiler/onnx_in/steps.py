"""One node of an ONNX graph as it runs: values by name in, values by name out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.errors import CaptureError, LrpError

from .registry import GIVEN, Known, Operand, Operator
from .rounds import NotKnownError
from .sizes import MOST, Sizes
from .whole_numbers import Scaled, Whole

MOVING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Expand", "MaxPool", "DepthToSpace")
"""Operators that do the same to whole numbers and to what these are worth: they hand elements on."""
DEPENDS = "GuardOnDataDependentSymNode"
"""What torch raises where a number decides that only a run knows."""
Value = Tensor | Sizes | Whole | Scaled | list[Any] | None
"""What goes from node to node; a list is a sequence of tensors, None an optional that is empty."""


@dataclass(eq=False)
class Constant:
    """A value that depends on no input.

    Args:
        name: in the file.
        tensor: itself, until it is kept as a weight of a module.
        owner: the module that keeps it.
        attribute: under which name.
        sizes: its numbers, where they are few.
        inside: what stands for it in the loop that is traced (see `loops.py`).
    """

    name: str
    tensor: Tensor | None
    owner: torch.nn.Module | None = None
    attribute: str = ""
    sizes: Sizes | None = None
    inside: Tensor | None = None

    @staticmethod
    def of(name: str, value: Tensor | Sizes) -> Constant:
        """A constant that no module keeps yet."""
        if isinstance(value, Sizes):
            return Constant(name, value.tensor(), sizes=value)
        few = value.numel() <= MOST and not value.is_complex() and value.device.type == "cpu"
        return Constant(name, value, sizes=Sizes.read(value) if few else None)

    def value(self) -> Tensor:
        """The tensor."""
        if self.inside is not None:
            return self.inside
        if self.owner is not None:
            found: Tensor = getattr(self.owner, self.attribute)
            return found
        assert self.tensor is not None
        return self.tensor


Source = str | Constant | None
"""Where an input of a node comes from: a value of this name, a constant, or nowhere."""


@dataclass(eq=False)
class Body:
    """A graph inside a node: a branch, or what a loop repeats.

    Args:
        inputs: names of its own inputs.
        outputs: what it returns.
        steps: what it does.
    """

    inputs: tuple[str, ...]
    outputs: tuple[Source, ...]
    steps: list[Step] = field(default_factory=list)

    def bound(self, outside: Mapping[str, Value]) -> Bound:
        """The function of its inputs that it is, where these values are known outside."""
        return Bound(self, outside)

    def reads(self) -> set[str]:
        """Names of the values from outside that it needs."""
        made = {*self.inputs, *(name for step in self.steps for name in step.outputs)}
        asked = {source for source in self.outputs if isinstance(source, str)}
        return (asked | {name for step in self.steps for name in step.reads()}) - made

    def constants(self) -> list[Constant]:
        """Those that it reads as tensors, and what is in it."""
        found = [source for source in self.outputs if isinstance(source, Constant)]
        for step in self.steps:
            found += [source for place, source in enumerate(step.inputs) if step.reads_tensor(place)]  # type: ignore[misc]
            found += [one for body in step.bodies() for one in body.constants()]
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Bound:
    """A body as a function of its inputs.

    Args:
        body: what is done.
        outside: what is known around it.
    """

    body: Body
    outside: Mapping[str, Value]

    def __call__(self, *values: Value, entering: Callable[[Value], Value] | None = None) -> list[Value]:
        """What it returns; `entering` says how what it reads from outside comes in: value → value."""
        known = self.outside
        if entering is not None:
            known = {**known, **{name: entering(known[name]) for name in self.body.reads() if name in known}}
        inside = {**known, **dict(zip(self.body.inputs, values, strict=True))}
        for step in self.body.steps:
            step.run(inside)
        return [look_up(source, inside) for source in self.body.outputs]


@dataclass(eq=False)
class Step:
    """A node.

    Args:
        name: of the node, for messages.
        op: its operator, with the domain where that is not ONNX's.
        operator: the function that runs it.
        by_sizes: what it does to sizes, if it is known.
        by_scaled: what it does to whole numbers that stand for others, if it is known.
        inputs: where its inputs come from.
        attributes: as the function takes them; graphs as `Body`.
        outputs: names of its results; "" for one that nobody reads.
    """

    name: str
    op: str
    operator: Operator
    by_sizes: Callable[..., Any] | None
    by_scaled: Callable[..., Any] | None
    inputs: tuple[Source, ...]
    attributes: dict[str, Any]
    outputs: tuple[str, ...]

    def reads(self) -> set[str]:
        """Names of the values that it needs."""
        own = {source for source in self.inputs if isinstance(source, str)}
        return own.union(*(body.reads() for body in self.bodies()))

    def bodies(self) -> list[Body]:
        """The graphs inside it."""
        return [value for value in self.attributes.values() if isinstance(value, Body)]

    def reads_tensor(self, place: int) -> bool:
        """Whether the input at this place is a constant that is read as a tensor, and not as a few numbers."""
        source = self.inputs[place]
        if not isinstance(source, Constant):
            return False
        return source.sizes is None or self.operator.kind(place) not in (Sizes, Known)

    def run(self, environment: dict[str, Value]) -> None:
        """Work it out, and write its results into the environment.

        Raises:
            CaptureError: it cannot be done; while torch.export traces, whatever torch raises.
        """
        try:
            results = self._results(environment)
        except LrpError:
            raise
        except Exception as error:
            if type(error).__name__ == DEPENDS:
                raise CaptureError(
                    f"{self} does what values of the inputs say, and these change from run to run: hold the input that "
                    "it reads constant, lrp.from_onnx(path, constants={'limit': 8})."
                ) from error
            if torch.compiler.is_exporting():
                raise
            raise CaptureError(f"{self} cannot be run ({reason_of(error)}).") from error
        for name, value in zip(self.outputs, results, strict=False):
            environment[name] = value

    def __str__(self) -> str:
        return f"Node {self.name!r} ({self.op})"

    def _results(self, environment: Mapping[str, Value]) -> Sequence[Value]:
        given = [source if isinstance(source, Constant) else look_up(source, environment) for source in self.inputs]
        attributes = {
            name: value.bound(environment) if isinstance(value, Body) else value
            for name, value in self.attributes.items()
        }
        first = given[0] if given else None
        if self.op in MOVING and isinstance(first, Whole | Scaled) and first.is_even and len(self.outputs) == 1:
            rest = [taken(value, self.operator.kind(place + 1)) for place, value in enumerate(given[1:])]
            return [first.moved(lambda values: self.operator.function(values, *rest, **attributes))]
        result = self._of_sizes(given, attributes)
        if self.by_scaled is not None and any(isinstance(value, Scaled) for value in given):
            known = [
                value if isinstance(value, Scaled) else taken(value, self.operator.kind(place))
                for place, value in enumerate(given)
            ]
            result = self.by_scaled(*known, **attributes)
        if result is NotImplemented:
            values = [taken(value, self.operator.kind(place)) for place, value in enumerate(given)]
            result = self.operator.function(*values, **attributes)
        return result if isinstance(result, tuple) else (result,)

    def _of_sizes(self, given: Sequence[Any], attributes: dict[str, Any]) -> Any:
        if self.by_sizes is None or not any(isinstance(value, Sizes) for value in given):
            return NotImplemented
        known = [value.sizes if isinstance(value, Constant) else value for value in given]
        if any(
            isinstance(value, Tensor | Whole | Scaled) or (value is None) != (one is None)
            for value, one in zip(known, given, strict=True)
        ):
            return NotImplemented
        plain = {name: value for name, value in attributes.items() if name not in GIVEN}
        try:
            return self.by_sizes(*known, **plain)
        except NotKnownError:
            return NotImplemented


def look_up(source: Source, environment: Mapping[str, Value]) -> Value:
    """The value that comes from there."""
    if isinstance(source, Constant):
        return source.sizes if source.owner is None and source.sizes is not None else source.value()
    if source is not None and source not in environment:
        raise CaptureError(f"The value {source!r} is read, and the node whose result it is makes none of that number.")
    return None if source is None else environment[source]


def taken(value: Any, kind: Any, *, whole: bool = False) -> Any:
    """A value as a function takes it: `Tensor`, `Sizes`, `Operand` (a single number as that), or as it is.

    Args:
        value: the value, or the constant.
        kind: of the parameter.
        whole: whether single numbers stay tensors.
    """
    if kind is Operand and not whole:
        known = value.sizes if isinstance(value, Constant) else value
        if isinstance(known, Sizes) and not known.shape and not known.dtype.is_complex:
            return known.one()
        kind = Tensor
    if kind is Known and isinstance(value, Constant) and value.sizes is not None:
        return value.sizes
    if isinstance(value, Constant):
        if kind is Sizes:
            return value.sizes or Sizes.read(value.value())
        return value.value()
    if isinstance(value, Scaled) or (isinstance(value, Whole) and kind not in (Any, Known)):
        value = value.tensor()
    if kind is Tensor and isinstance(value, Sizes):
        return value.tensor()
    if kind is Sizes and isinstance(value, Tensor):
        return Sizes.read(value)
    return value
