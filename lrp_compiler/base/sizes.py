"""Sizes that follow from others, as text: `2*batch`, `height//2 + 1`. Torch-free."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from .errors import FormatError

OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
FUNCTIONS: dict[str, Callable[..., int]] = {"Mod": operator.mod, "PythonMod": operator.mod, "Max": max, "Min": min}


def size_of(text: str, sizes: Mapping[str, int]) -> int:
    """The value of an expression of sizes.

    Args:
        text: whole numbers and names of sizes, added, multiplied, divided.
        sizes: their values.

    Raises:
        FormatError: it is no such expression, or a size is not known.
    """

    def value(node: Any) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name) and node.id in sizes:
            return int(sizes[node.id])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            return FUNCTIONS[node.func.id](*map(value, node.args))
        raise FormatError(f"{text[:60]!r} is no size that follows from {', '.join(sizes) or 'no sizes at all'}.")

    try:
        return value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, ZeroDivisionError, TypeError) as error:
        raise FormatError(f"{text[:60]!r} is no expression of sizes.") from error
