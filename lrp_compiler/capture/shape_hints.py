"""From torch's guards to the sizes that a model takes.

    - Not all values of h = L['x'].size()[2] in the specified range
      satisfy the generated guard (L['x'].size()[2] // 16) != 1.

What torch suggests is often refused in the next attempt (here: min=16). The guards of one size are conditions on one
whole number: they are tried out.
"""

from __future__ import annotations

import ast
import operator
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

TRIED = 4096
"""Sizes from 2 to this are tried."""
LARGEST_MINIMUM = 2048
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)
"""Multiples that a size may have to be."""
GUARD = re.compile(
    r"- Not all values of (\w+) = L\['(\w+)'\]((?:\[[^\]]+\])*)\.size\(\)\[(\d+)\] in .*?generated guard (.*)"
)
RANGE = re.compile(r"in the specified range (?:(\d+) <= )?\w+(?: <= (\d+))? satisfy")
FIXED = re.compile(r"- You marked (\S+) as dynamic but your code specialized it to be a constant \((\d+)\)")
SOLVED = re.compile(r"- solving the guards generated for (\w+) = .* resulted in a specialized value of (\d+)")
HINTED = re.compile(r"- Received user-specified dim hint .* due to hint of 1 for dimension (\S+)\.$", re.MULTILINE)
EQUAL = re.compile(r"- The values of (\w+) = .* and (\w+) = .* must always be equal")
OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "max": max,
    "min": min,
    "Max": max,
    "Min": min,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "IntInfinity": lambda: float("inf"),
}
SIZE = "size"
SHAPES = "dynamic_shapes"
REFUSED = f"{SHAPES} does not fit the model: "
ONE = "{} is 1 in the example, and torch.export takes a size of 1 for a constant, so give an example of 2 or more there"
"""Whether the model fixes it as well an example of 1 cannot show."""


def holds_throughout(text: str) -> bool:
    """Whether torch refused shapes only because it cannot see that its guards hold for each size that was asked for."""
    guards = _guards(text)
    other = FIXED.search(text) or EQUAL.search(text) or SOLVED.search(text)
    return (
        bool(guards)
        and not other
        and all(
            all(_holds(guard, size) or not all(_holds(bound, size) for bound in bounds) for guard in own)
            for own, bounds in guards.values()
            for size in range(2, TRIED + 1)
        )
    )


def fixed_sizes(text: str) -> list[str]:
    """The names of the open sizes that the model fixes; `L['x'].size()[1]` is one without a name."""
    return [name for name, _ in [*FIXED.findall(text), *SOLVED.findall(text)]]


def fixed_by_one(text: str) -> bool:
    """Whether every size that was fixed is 1 in the example: of what the model does with more nothing is known then."""
    return all(size == "1" for _, size in [*FIXED.findall(text), *SOLVED.findall(text)])


def narrowed_sizes(text: str) -> list[str]:
    """The names of the open sizes that the model bounds from above, where more was asked for."""
    return [
        name
        for (name, _, _), (own, bounds) in _guards(text).items()
        if any(all(_holds(bound, size) for bound in bounds) for size in range(_most([*own, *bounds]) + 1, TRIED + 1))
    ]


def _most(guards: list[str]) -> int:
    """The largest size for which the guards hold; as large as any if there is none."""
    return max((size for size in range(2, TRIED + 1) if all(_holds(guard, size) for guard in guards)), default=TRIED)


class Larger(NamedTuple):
    """What came of larger examples where a size was fixed, or bounded from above.

    Args:
        size: of one with which none is; None: there is no such one among those tried.
        hint: what `shape_hint` says with that one; empty: the model is captured.
    """

    size: int | None
    hint: str = ""


def shape_hint(text: str, larger: Larger | None = None) -> str:
    """What to write instead of the shapes that torch's message refuses; empty if it is about something else.

    Args:
        text: the message.
        larger: what came of larger examples; None: nobody tried any.
    """
    if "Constraints violated" not in text and "specializ" not in text:
        return ""
    parts = []
    for name, size in [*FIXED.findall(text), *SOLVED.findall(text)]:
        fixes = f"the model fixes {name} at {size}"
        if size == "1" and (larger is None or larger.size is not None):
            parts.append(ONE.format(name))
        elif larger is None:
            parts.append(f"{fixes} with an example of that size, so take a larger one, or leave it out of {SHAPES}")
        elif larger.size is None:
            parts.append(f"{fixes}, so leave it out of {SHAPES}")
        else:
            parts.append(f"{fixes} with an example of that size, but not with {larger.size}: take a larger one")
    parts += [ONE.format(name) for name in HINTED.findall(text)]
    parts += [
        f"{first} and {second} are always equal, so use one Dim for both" for first, second in EQUAL.findall(text)
    ]
    if larger is not None and larger.size is not None and not parts:
        parts = [
            f"the model bounds {name} with an example of its size, and not with one of {larger.size}: take a larger one"
            for name in narrowed_sizes(text)
        ]
        if not larger.hint:
            return f"{REFUSED}{'; '.join(dict.fromkeys(parts))}."
    if larger is not None and larger.hint:
        parts.append(f"with that, {larger.hint.removeprefix(REFUSED).rstrip('.')}")
        return f"{REFUSED}{'; '.join(dict.fromkeys(parts))}."
    solved = {name for name, _ in SOLVED.findall(text)}
    for (name, argument, dim), (own, bounds) in _guards(text).items():
        if name in solved:
            continue
        parts.append(f"dimension {dim} of {argument} takes {_proposal(name, [*own, *bounds])}")
    if not parts:
        reasons = [line.strip(" -").rstrip(".") for line in text.splitlines() if line.lstrip().startswith("- ")]
        parts = reasons[:1] or [text.strip().splitlines()[0].rstrip(".")]
    return f"{REFUSED}{'; '.join(dict.fromkeys(parts))}."


def _guards(text: str) -> dict[tuple[str, str, str], tuple[list[str], list[str]]]:
    """Dim's name, argument, dimension → the conditions on its size that torch found, and those that were asked for."""
    found: defaultdict[tuple[str, str, str], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for line in text.splitlines():
        guard = GUARD.search(line)
        if guard:
            name, argument, path, dim, condition = guard.groups()
            own, bounds = found[name, f"{argument}{path}", dim]
            own.append(re.sub(r"L\['\w+'\](?:\[[^\]]+\])*\.size\(\)\[\d+\]", SIZE, condition.rstrip(".")))
            declared = RANGE.search(line)
            if declared:
                bounds += [f"{SIZE} >= {declared[1] or 0}", f"{SIZE} <= {declared[2] or TRIED}"]
    return dict(found)


def _proposal(name: str, guards: list[str]) -> str:
    fits = [size for size in range(2, TRIED + 1) if all(_holds(guard, size) for guard in guards)]
    there = set(fits)
    for step in STEPS if fits else ():
        most = max(size for size in fits)
        most -= most % step
        least = most
        while least - step in there:
            least -= step
        most = TRIED if most + step > TRIED else most
        if least <= min(LARGEST_MINIMUM, most - step):
            bounds = f"'{name}', min={least // step}" + (f", max={most // step}" if most < TRIED else "")
            if step == 1:
                return f"{least} {'and more' if most == TRIED else f'to {most}'}, so write torch.export.Dim({bounds})"
            return f"multiples of {step} from {least} up, so write {step} * torch.export.Dim({bounds})"
    return f"only sizes with {guards[0]}, where size is its own, so leave it out of dynamic_shapes"


def _holds(guard: str, size: int) -> bool:
    """Whether a guard holds for a size; one that cannot be worked out is taken to hold."""
    try:
        return bool(_value(ast.parse(guard, mode="eval").body, {SIZE: size}))
    except ZeroDivisionError:
        return False
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError):
        return True


def _value(node: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.UnaryOp):
        value = _value(node.operand, names)
        return -value if isinstance(node.op, ast.USub) else not value
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](_value(node.left, names), _value(node.right, names))
    if isinstance(node, ast.BoolOp):
        values = (bool(_value(value, names)) for value in node.values)
        return all(values) if isinstance(node.op, ast.And) else any(values)
    if isinstance(node, ast.Compare):
        terms = [_value(term, names) for term in (node.left, *node.comparators)]
        return all(OPERATORS[type(op)](a, b) for op, a, b in zip(node.ops, terms, terms[1:], strict=False))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return FUNCTIONS[node.func.id](*(_value(value, names) for value in node.args))
    raise ValueError(ast.dump(node))
