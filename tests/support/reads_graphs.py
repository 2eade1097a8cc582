"""A reader of the text form: it computes what a printed graph says, from the text alone.

Every op is a line of this table, in torch's own words; nothing of the compiler is used.
"""

import ast
import re
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

DTYPES = {"f32": torch.float32, "f64": torch.float64, "i64": torch.int64, "bool": torch.bool}
OPS: dict[str, Any] = {
    "abs": torch.abs,
    "add": torch.add,
    "arange": lambda *args, dtype=None, layout=None: torch.arange(*args, dtype=dtype),
    "argmax": lambda x, dim, keepdim=False: x.argmax(dim, keepdim),
    "bitwise_not": torch.bitwise_not,
    "div": torch.div,
    "eq": lambda a, b: a == b,
    "linear": functional.linear,
    "masked_fill": lambda x, mask, value: x.masked_fill(mask, value),
    "matmul": torch.matmul,
    "mul": torch.mul,
    "ne": lambda a, b: a != b,
    "neg": torch.neg,
    "relu": torch.relu,
    "remainder": torch.remainder,
    "reshape": torch.reshape,
    "sign": torch.sign,
    "slice": lambda x, dim, start, end: x.narrow(dim, start, end - start),
    "to": lambda x, dtype: x.to(dtype),
    "_to_copy": lambda x, dtype: x.to(dtype),
}


class Line(NamedTuple):
    """One printed node; `form` and `of` are empty where it is not the relevance of a forward value."""

    name: str
    operation: str
    form: str
    of: list[str]
    notes: list[str]


def read(text: str) -> list[Line]:
    """The lines of a printed graph, without its header and what it returns."""
    lines = []
    for printed in text.splitlines()[1:]:
        if printed.startswith("return "):
            continue
        first, *notes = re.split(r" {2,}", printed)
        name, operation = re.fullmatch(r"(\w+)(?:: .*?)? = (.*)", first).groups()  # type: ignore[union-attr]
        form, of = "", ""
        if notes and re.match(r"(unit|total) of ", notes[0]):
            form, _, of = notes.pop(0).partition(" of ")
        lines.append(Line(name, operation, form, of.split(", ") if of else [], notes))
    return lines


def returned(text: str) -> dict[str, str]:
    """Name of each result → the node that is printed to be it."""
    last = text.splitlines()[-1].removeprefix("return ")
    return dict(pair.split(": ") for pair in last.split(", "))


def values(text: str, given: dict[str, Tensor]) -> dict[str, Any]:
    """The value of every printed node, from those of its inputs and constants."""
    known: dict[str, Any] = dict(given)
    for line in read(text):
        if line.operation not in ("input", "constant"):
            known[line.name] = _value(ast.parse(line.operation, mode="eval").body, known)
    return known


def _value(tree: ast.expr, known: dict[str, Any]) -> Any:
    if isinstance(tree, ast.Call):
        args = [_value(arg, known) for arg in tree.args]
        named = {str(key.arg): _value(key.value, known) for key in tree.keywords}
        return OPS[tree.func.id](*args, **named)  # type: ignore[attr-defined]
    if isinstance(tree, ast.List):
        return [_value(item, known) for item in tree.elts]
    if isinstance(tree, ast.Name):
        return DTYPES[tree.id] if tree.id in DTYPES else known[tree.id]
    if isinstance(tree, ast.Attribute):
        return getattr(torch, tree.attr)
    return ast.literal_eval(tree)
