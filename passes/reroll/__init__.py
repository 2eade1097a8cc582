"""A program whose steps Python wrote out, captured at two lengths → one program of any length, the steps a loop."""

from .lengths import of_any_length
from .steps import NotRepeated

__all__ = ["NotRepeated", "of_any_length"]
