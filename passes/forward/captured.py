"""What capture hands to the passes: a program, and names for what goes in and comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.export import ExportedProgram


@dataclass(frozen=True)
class Captured:
    """A captured model.

    Args:
        program: pure ATen, as torch.export gives it.
        inputs: placeholder name → public name (nested inputs dotted), tensor inputs only, in order.
        constants: public name → value of the inputs that are plain values (None, True, 3): baked in.
        outputs: public names of the flat outputs, in order.
        arguments: names of the model's arguments, in order.
    """

    program: ExportedProgram
    inputs: dict[str, str]
    constants: dict[str, Any]
    outputs: list[str]
    arguments: list[str]
