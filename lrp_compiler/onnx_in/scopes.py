"""The nodes of a graph, nested into modules that are really called: so torch.export knows where each one belongs.

A `Part` is a run of nodes inside one module, an entry of it a node or a part of a module inside. A module that is
called several times has several parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .module_paths import Level
from .steps import Constant, Step, Value, look_up


class Scope(torch.nn.Module):
    """A module of the original model: its weights, the modules inside, and whatever part of the graph it is asked for.

    Its class has the name of the original's, where the file knows it.
    """

    def forward(self, part: Part, *values: Value) -> Any:
        """What the part makes of its inputs: one value, or a tuple."""
        results = part.run(dict(zip(part.inputs, values, strict=True)))
        return results[0] if len(results) == 1 else tuple(results)


@dataclass(eq=False)
class Part:
    """A run of nodes inside one module.

    Args:
        inputs: names of the values that it needs.
        outputs: names of the values that others need of it.
        entries: nodes, and parts with the module that each belongs to.
    """

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    entries: list[Step | tuple[Scope, Part]] = field(default_factory=list)

    def run(self, environment: dict[str, Value]) -> list[Value]:
        """The outputs."""
        self.run_in(environment)
        return [look_up(name, environment) for name in self.outputs]

    def run_in(self, environment: dict[str, Value]) -> None:
        """Work everything out, and write it into the environment."""
        for entry in self.entries:
            if isinstance(entry, Step):
                entry.run(environment)
                continue
            scope, part = entry
            result = scope(part, *(look_up(name, environment) for name in part.inputs))
            results = result if len(part.outputs) != 1 else (result,)
            environment.update(zip(part.outputs, results, strict=True))


class Tree:
    """The modules of a model, made as they are needed.

    Args:
        root: the model itself.
    """

    def __init__(self, root: torch.nn.Module) -> None:
        self.root = root
        self._found: dict[str, torch.nn.Module] = {"": root}

    def scope(self, level: Level) -> Any:
        """The module at a path, of a class of that name."""
        if level.path not in self._found:
            around, _, name = level.path.rpartition(".")
            owner = self.scope(Level(around))
            kind = type(level.kind or Scope.__name__, (Scope,), {"__doc__": Scope.__doc__})
            made = kind()
            made.eval()
            owner.add_module(_free(owner, name), made)
            self._found[level.path] = made
        return self._found[level.path]

    def keep(self, constant: Constant) -> None:
        """Make a constant a weight of the module that its name says: floats a parameter, all others a buffer."""
        if constant.owner is not None or constant.tensor is None:
            return
        tensor, constant.tensor = constant.tensor, None
        path, _, name = constant.name.rpartition(".")
        parts = [part for part in path.split(".") if part]
        known = name.isidentifier() and all(part.replace("_", "a").isalnum() for part in parts)
        owner = self.scope(Level(".".join(parts))) if known else self.root
        attribute = _free(owner, name if known else _word(constant.name))
        if tensor.is_floating_point():
            owner.register_parameter(attribute, torch.nn.Parameter(tensor, requires_grad=False))
        else:
            owner.register_buffer(attribute, tensor)
        constant.owner, constant.attribute = owner, attribute


def _word(name: str) -> str:
    word = "".join(letter if letter.isalnum() else "_" for letter in name).strip("_")
    return word if word.isidentifier() else f"weight_{word}"


def _free(owner: torch.nn.Module, name: str) -> str:
    while hasattr(owner, name):
        name += "_"
    return name


def nested(steps: Sequence[Step], places: Sequence[tuple[Level, ...]], outputs: Iterable[str], tree: Tree) -> Part:
    """All nodes as one part of the model itself.

    Args:
        steps: the nodes, in order.
        places: of each, the modules around it.
        outputs: names of the values that the model returns.
        tree: the modules.
    """
    last: dict[str, int] = dict.fromkeys(outputs, len(steps))
    for number, step in enumerate(steps):
        for name in step.reads():
            last[name] = max(last.get(name, -1), number)
    return _part(range(len(steps)), 0, steps, places, last, tree)


def _part(
    run: range,
    depth: int,
    steps: Sequence[Step],
    places: Sequence[tuple[Level, ...]],
    last: dict[str, int],
    tree: Tree,
) -> Part:
    part = Part()
    start = run.start
    while start < run.stop:
        level = places[start][depth] if depth < len(places[start]) else None
        stop = start + 1
        if level is None:
            part.entries.append(steps[start])
        else:
            while stop < run.stop and depth < len(places[stop]) and places[stop][depth].path == level.path:
                stop += 1
            inner = _part(range(start, stop), depth + 1, steps, places, last, tree)
            part.entries.append((tree.scope(level), inner))
        start = stop
    made = [name for number in run for name in steps[number].outputs if name]
    read = {name: None for number in run for name in sorted(steps[number].reads())}
    own = set(made)
    part.inputs = [name for name in read if name not in own]
    part.outputs = [name for name in made if last.get(name, -1) >= run.stop]
    return part
