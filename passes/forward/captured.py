"""What capture hands to the passes: a program, and names for what goes in and comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor
from torch.export import ExportedProgram
from torch.nn import Module


class Other(NamedTuple):
    """An output that is no tensor."""

    name: str
    value: object
    """None, a number or a text, which are the same in every run; or a size (`torch.SymInt`)."""


@dataclass(frozen=True)
class Example:
    """A run of the model itself.

    Args:
        model: the module or the program.
        args: its positional arguments.
        kwargs: its arguments by name.
        tensors: the tensors among them, flat.
        outputs: what it returned, flat.
    """

    model: Module | ExportedProgram
    args: Sequence[object]
    kwargs: Mapping[str, object]
    tensors: Sequence[Tensor]
    outputs: Sequence[object]


@dataclass(frozen=True)
class Captured:
    """A captured model.

    Args:
        program: pure ATen, as torch.export gives it.
        inputs: placeholder name → public name (nested inputs dotted), tensor inputs only, in order.
        constants: public name → value of the inputs that are plain values (None, True, 3): baked in.
        outputs: public names of the flat outputs, tensors only, in order.
        arguments: names of the model's arguments, in order.
        others: what the model returns besides: position among all flat outputs → what is no tensor.
        example: what the model itself returns on the example inputs; None where that is not known.
        sizes: public name of an input → dim → what the model's file calls that size, where it is open.
    """

    program: ExportedProgram
    inputs: dict[str, str]
    constants: dict[str, object]
    outputs: list[str]
    arguments: list[str]
    others: dict[int, Other] = field(default_factory=dict)
    example: Example | None = None
    sizes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    @property
    def positions(self) -> list[int]:
        """Of each tensor output, its position among all that the model returns, flat."""
        count = len(self.outputs) + len(self.others)
        return [position for position in range(count) if position not in self.others]

    def structured(self, tensors: Sequence[object]) -> object:
        """The outputs in the model's own structure, with what is no tensor in its place."""
        flat = list(tensors)
        for position, other in sorted(self.others.items()):
            flat.insert(position, other.value)
        return self.program.call_spec.out_spec.unflatten(flat)
