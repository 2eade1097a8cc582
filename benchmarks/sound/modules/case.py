"""A case: numbers that say which module is written and what is asked of it; and the Python that they stand for."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .writing import OPS, Line, Value

CLASSES = 3
LARGEST, FARTHEST = 600, 1e4
"""Elements of a value, and its largest number."""
IMPORTS = """\
import math

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

import lrp_compiler as lrp
"""
LIFE = """\
for tensor in (*model.parameters(), *model.buffers()):  # no bias, shift or running mean is 0
    if tensor.is_floating_point():
        tensor.data.add_(0.3 * torch.rand_like(tensor))
"""
HEADS = {
    "linear": "self.head({value}.flatten(1))",
    "sequence": "self.head({value})",
    "probabilities": "self.head({value}.flatten(1)).softmax(-1)",
    "none": "{value}",
}
RESULTS = {
    "alone": "{logits}",
    "tuple": "({logits}, {also})",
    "dict": '{{"logits": {logits}, "also": {also}}}',
    "nested": '{{"logits": {logits}, "rest": [{also}, {also}]}}',
    "with none": '{{"loss": None, "logits": {logits}}}',
    "with a size": "({logits}, {first}.shape[0])",
    "twice": "({logits}, {logits})",
}
LOGITS = {
    **dict.fromkeys(("dict", "nested", "with none"), 'outputs["logits"]'),
    **{"alone": "outputs", "tuple": "outputs[0]", "with a size": "outputs[0]", "twice": "outputs[1]"},
}
"""Where the logits are in each of these."""


class Impossible(Exception):
    """The numbers stand for no module that runs."""


@dataclass(frozen=True)
class Step:
    """One value: an op of the grammar, of the values at `sources`, written by `choices`."""

    op: str
    sources: tuple[int, ...]
    choices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Case:
    """A module and what is asked of it, as plain data.

    Args:
        seed: of the weights and inputs.
        inputs: name → the Python that makes it for so many `rows`.
        steps: value n, after the inputs, is what step n computes.
        last: which value the logits are computed from.
        also: which value is returned besides, where `result` has one.
        head: how; a key of `HEADS`.
        result: what forward returns; a key of `RESULTS`.
        dtype: of weights and inputs.
        asked: arguments of `lrp.compile` as Python.
        told: what the explainer is told at run time, as Python.
    """

    seed: int
    inputs: Mapping[str, str]
    steps: tuple[Step, ...] = ()
    last: int = 0
    also: int = 0
    head: str = "linear"
    result: str = "alone"
    dtype: str = "float32"
    asked: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The case as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Case:
        """The inverse."""
        steps = tuple(Step(s["op"], tuple(s["sources"]), tuple(s["choices"])) for s in data["steps"])
        return cls(**{**data, "steps": steps})


@dataclass(frozen=True)
class Written:
    """A case as Python.

    Args:
        case: what it was written from.
        head: imports, the module's class, `inputs(rows)`.
        values: inputs and steps with examples, in order.
        modules: names of the submodules.
    """

    case: Case
    head: str
    values: tuple[Value, ...]
    modules: tuple[str, ...]

    def build(self) -> tuple[nn.Module, Callable[[int], tuple[Tensor, ...]], dict[str, Any]]:
        """The module, a function `rows → inputs`, and the arguments of `lrp.compile`."""
        name = f"<random module {id(self)}>"
        linecache.cache[name] = (len(self.head), None, self.head.splitlines(True), name)
        space: dict[str, Any] = {}
        exec(compile(self.head + self._setup(), name, "exec"), space)
        return space["model"], space["inputs"], {key: eval(text, space) for key, text in self.case.asked.items()}

    def told(self, rows: int) -> dict[str, Any]:
        """What the explainer is told at run time."""
        return {key: eval(text, {"torch": torch, "rows": rows}) for key, text in self.case.told.items()}

    def script(self, more: str = "") -> str:
        """All of it, to be run alone."""
        asked = "".join(f", {key}={text}" for key, text in self.case.asked.items())
        told = "".join(f", {key}={text}" for key, text in self.case.told.items())
        end = f"rows = 2\nargs = inputs(rows)\nexplainer = lrp.compile(model, args{asked})\n"
        end += f"said = explainer(*args{told})\n"
        return self.head + self._setup() + end + more

    def _setup(self) -> str:
        double = ".double()" if self.case.dtype == "float64" else ""
        text = f"\n\ntorch.manual_seed({self.case.seed})\nmodel = Model().eval(){double}\n{LIFE}"
        return text + (
            'batch = torch.export.Dim("batch")\n' if "batch" in self.case.asked.get("dynamic_shapes", "") else ""
        )


def write(case: Case) -> Written:
    """Write the case; every line is run on examples as it is written.

    Raises:
        Impossible: a step does not fit its operands, or what it computes is empty, too large or not finite.
    """
    torch.manual_seed(case.seed)
    scope = Scope(case.inputs)
    for step in case.steps:
        scope.add(step)
    return scope.finish(case)


class Scope:
    """A module that is being written, run line by line as it grows."""

    def __init__(self, inputs: Mapping[str, str]) -> None:
        self.module = nn.Module()
        self.space: dict[str, Any] = {"rows": 2, "self": self.module}
        exec(IMPORTS.rpartition("import lrp")[0], self.space)
        self.inputs = dict(inputs)
        self.init: list[str] = []
        self.forward: list[str] = []
        self.values: list[Value] = []
        for name, source in inputs.items():
            self.space[name] = eval(source, self.space)
            self.values.append(Value(name, self.space[name]))

    def add(self, step: Step) -> Value:
        """Write one more step.

        Raises:
            Impossible: it does not fit.
        """
        op, operands = OPS[step.op], [self.values[source] for source in step.sources]
        for index, (fits, operand) in enumerate(zip(op.takes, operands, strict=True)):
            if not fits(operand, *operands[:index]):
                raise Impossible(f"{step.op} of {operand.shape}")
        line = Line(len(self.values), step.choices)
        expression = op.write(line, *operands)
        if expression is None:
            raise Impossible(step.op)
        name = f"v{line.number}"
        result = self._run(line.init, [*line.before, f"{name} = {expression}"], name)
        value = Value(name, result)
        self.init += line.init
        self.forward += [*line.before, f"{name} = {expression}"]
        self.values.append(value)
        return value

    def finish(self, case: Case) -> Written:
        """Write the head, the results and the rest."""
        value = self.values[case.last]
        if value.tensor.dtype != torch.float32 or value.dim < (3 if case.head == "sequence" else 2):
            raise Impossible("nothing to explain")
        logits, init, forward = HEADS[case.head].format(value=value), list(self.init), list(self.forward)
        if case.head != "none":
            with torch.no_grad():
                size = value.shape[-1] if case.head == "sequence" else value.tensor.flatten(1).shape[-1]
            init.append(f"self.head = nn.Linear({size}, {CLASSES})")
        forward.append(f"logits = {logits}")
        names = {"logits": "logits", "also": self.values[case.also], "first": next(iter(self.inputs))}
        lines = [IMPORTS, "", "class Model(nn.Module):", "    def __init__(self):", "        super().__init__()"]
        lines += [f"        {text}" for text in init]
        lines += ["", f"    def forward(self, {', '.join(self.inputs)}):"]
        lines += [f"        {text}" for text in forward]
        lines += [f"        return {RESULTS[case.result].format(**names)}", "", "", "def inputs(rows):"]
        given = [source.replace("float32", case.dtype) for source in self.inputs.values()]
        lines += [f"    return ({', '.join(given)},)"]
        modules = tuple(name for name, _ in self.module.named_children())
        return Written(case, "\n".join(lines), tuple(self.values), modules)

    def _run(self, init: list[str], forward: list[str], name: str) -> Tensor:
        try:
            with torch.no_grad():
                for text in init:
                    exec(text, self.space)
                self.module.eval()
                exec("\n".join(forward), self.space)
        except Exception as error:
            raise Impossible(f"{forward[-1]}: {type(error).__name__}: {error}") from error
        result = self.space[name]
        if not isinstance(result, Tensor) or not result.numel() or result.numel() > LARGEST:
            raise Impossible(f"{forward[-1]}: not of a size")
        calculated = result.is_floating_point() or result.is_complex()
        if calculated and not (result.isfinite().all() and result.abs().max() < FARTHEST):
            raise Impossible(f"{forward[-1]}: not finite")
        return result
