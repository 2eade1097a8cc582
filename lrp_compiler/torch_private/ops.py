"""What torch's operators keep to themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch._decomp import get_decompositions


def schema(target: Any) -> Any:
    """The op's schema: names, types and defaults of its arguments; None of what is no op. Waits for a public one."""
    return getattr(target, "_schema", None)


def op_name(target: Any) -> str | None:
    """`add` of `torch.ops.aten.add.Tensor`; None of what is no op. Waits for a public one."""
    return getattr(target, "_opname", None)


def is_backward(target: Any) -> bool:
    """Whether an op is the gradient of another, by what torch calls those. Waits for a tag."""
    return "backward" in (op_name(target) or "")


def takes_a_path(target: Any) -> str | None:
    """The argument by which an operator is told of a file that it reads or writes; None where it has none."""
    for argument in getattr(getattr(target, "_schema", None), "arguments", ()):
        if isinstance(argument.type, torch.StringType) and any(word in argument.name for word in _FILES):
            return str(argument.name)
    return None


_FILES = ("file", "path", "uri")
"""An operator with a text argument called so reads or writes files."""


def decompositions_of(ops: Iterable[Any]) -> dict[Any, Any]:
    """torch's decompositions of these ops. Waits for a public reading of single ones."""
    return dict(get_decompositions(list(ops)))


def core_decompositions(beyond: Iterable[Any]) -> dict[Any, Any]:
    """torch's decompositions to core ATen, and those of the ops `beyond` it."""
    return dict(torch.export.default_decompositions().items()) | decompositions_of(beyond)
