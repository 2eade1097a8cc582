"""`where="label == 3 and split != 'test'"`: which rows are explained. Parsed, never run as Python."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.validate import shortened

from .window import Window, as_arrow

COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda column, values: column.isin(values),
    ast.NotIn: lambda column, values: ~column.isin(values),
    ast.Is: lambda column, none: column.is_null(),
    ast.IsNot: lambda column, none: ~column.is_null(),
}
"""What may stand between a column and a value."""
HOW = "write it of columns, comparisons, in, and, or, not, such as \"label == 3 and split != 'test'\""


class Where:
    """A condition on rows.

    Args:
        text: comparisons of columns (`label == 3`, `split in ("a", "b")`, `score is not None`), with `and`, `or` and
            `not`; dates as text, `day >= '2026-12-01'`.

    Raises:
        InputError: it is none.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.columns: list[str] = []
        try:
            self._expression = self._read(ast.parse(text.strip(), mode="eval").body)
        except (SyntaxError, ValueError, RecursionError, TypeError, OverflowError, pa.ArrowException) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"where={shortened(text)} is no condition: {HOW}.") from error

    def of(self, window: Window) -> Window:
        """The rows that it holds for, and those that cannot be read at all.

        Raises:
            InputError: columns do not compare with these values.
        """
        errors = dict(window.errors)
        try:
            table = pa.table({name: _comparable(name, window.columns[name], errors) for name in self.columns})
            place = "place of the row"
            kept = table.append_column(place, pa.array(np.arange(len(window)))).filter(self._expression)[place]
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InputError(f"where={self.text!r} does not fit the columns: {str(error).splitlines()[0]}.") from error
        return replace(window, errors=errors).take(sorted({*kept.to_pylist(), *errors}))

    def _read(self, node: ast.expr) -> Any:
        match node:
            case ast.BoolOp(op=ast.And(), values=parts):
                return _joined(operator.and_, [self._read(part) for part in parts])
            case ast.BoolOp(op=ast.Or(), values=parts):
                return _joined(operator.or_, [self._read(part) for part in parts])
            case ast.UnaryOp(op=ast.Not(), operand=part):
                return ~self._read(part)
            case ast.Compare(left=left, ops=ops, comparators=others):
                sides = [left, *others]
                pairs = zip(ops, sides, sides[1:], strict=False)
                return _joined(operator.and_, [self._compared(op, one, other) for op, one, other in pairs])
            case ast.Name(id=name):
                return self._column(name)
        raise InputError(f"where={shortened(self.text)} is no condition at {ast.unparse(node)!r}: {HOW}.")

    def _compared(self, op: ast.cmpop, one: ast.expr, other: ast.expr) -> Any:
        left = self._column(one.id) if isinstance(one, ast.Name) else ast.literal_eval(one)
        right = self._column(other.id) if isinstance(other, ast.Name) else ast.literal_eval(other)
        listed = isinstance(right, list | tuple | set)
        if isinstance(left, pc.Expression) + isinstance(right, pc.Expression) == 0:
            raise ValueError(self.text)  # of no column
        if right is None and not isinstance(op, ast.Is | ast.IsNot):
            raise ValueError(self.text)  # nothing is equal to what is missing
        if isinstance(op, ast.In | ast.NotIn) != listed or isinstance(op, ast.Is | ast.IsNot) > (right is None):
            raise ValueError(self.text)
        return COMPARISONS[type(op)](left, list(right) if listed else right)

    def _column(self, name: str) -> pc.Expression:
        if name not in self.columns:
            self.columns.append(name)
        return pc.field(name)


def _comparable(name: str, values: Any, errors: dict[int, str]) -> pa.Array:
    """A column as Arrow has it, dates and times as text, which has their order (`"2026-12-01"`).

    A value that is of another kind than the first is an error of its row.
    """
    try:
        found = as_arrow(values)
        return (
            pc.cast(found, pa.string()) if pa.types.is_date(found.type) or pa.types.is_timestamp(found.type) else found
        )
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        kind: pa.DataType | None = None
    listed = []
    for place, value in enumerate(values):
        try:
            one = pa.scalar(value, kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            errors.setdefault(place, f"Column {name!r} holds {shortened(value)}, which compares with nothing.")
            one = pa.scalar(None, kind)
        if kind is None and one.is_valid:
            kind = pa.float64() if pa.types.is_integer(one.type) else one.type
        listed.append(one.as_py())
    return pa.array(listed, kind)


def _joined(how: Callable[[Any, Any], Any], parts: list[Any]) -> Any:
    first, *others = parts
    for other in others:
        first = how(first, other)
    return first
