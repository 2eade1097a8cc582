"""What a library's file gives: names, and a model with inputs for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

Inputs = tuple[Any, ...] | dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A model in eval mode, and what is asked of it.

    Args:
        model: with random weights.
        make: makes inputs, fresh ones at every call.
        composite: a name.
        target: of `lrp.compile`.
        note: what was built, in short.
    """

    model: nn.Module
    make: Callable[[], Inputs]
    composite: str = "epsilon"
    target: Any = None
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Library:
    """A library that is swept.

    Args:
        package: what is imported.
        names: of its models, architectures or layers.
        build: name → example.
    """

    package: str
    names: Callable[[], list[str]]
    build: Callable[[str], Example]


class NotBuilt(Exception):
    """No small model of that name could be made: nothing is said about the library."""


def scalar_head(logits: Any) -> Any:
    """A target for outputs of whatever shape: the mean over all but the batch."""
    return logits.flatten(1).mean(1)
