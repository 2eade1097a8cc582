"""A graph of ONNX nodes → steps that run; what depends on constants alone is worked out here and now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from onnx import AttributeProto
from torch import Tensor

from lrp_compiler.base.errors import CaptureError, FormatError, LrpError, did_you_mean

from . import operators
from .check_graph import called, in_order, reads_of
from .external_data import weights_of
from .module_paths import Level, goes_along, levels, speaks
from .read_file import OWN_DOMAIN
from .read_file import Source as File
from .registry import (
    GIVEN,
    TABLE,
    Operator,
    operator_like,
    operator_of,
    reason_against,
    scaled_form_of,
    size_form_of,
)
from .scopes import Tree
from .sizes import MOST, Sizes
from .steps import Body, Constant, Source, Step, taken
from .tensors import dense, tensor_of

assert operators is not None  # importing them fills the table

SMALL = 1 << 16
"""Elements of a result that is folded whatever its operands are."""
GROWTH = 4
"""How many times as large as its operands a result may be that is folded."""


class Translator:
    """What turns the nodes of one graph, and of those inside it, into steps.

    Args:
        file: the model as it was read.
        tree: the modules that the weights are kept in.
        around: the translator of the graph that this one is inside of.
    """

    def __init__(self, file: File, tree: Tree, around: Translator | None = None) -> None:
        self.file, self.tree = file, tree
        self.sources: dict[str, Source] = dict(around.sources) if around else {}
        self.steps: list[Step] = []
        self.places: list[tuple[Level, ...]] = []
        self.missing: Counter[tuple[str, str, str]] = around.missing if around else Counter()
        self.weights: set[str] = set(around.weights) if around else set()
        self.stored: dict[str, int] = dict(around.stored) if around else {}
        self._place_of: dict[str, tuple[Level, ...]] = dict(around._place_of) if around else {}
        self._modules: bool = around._modules if around else False
        self._made: set[str] = set()
        self._inside = 0

    def graph(self, graph: onnx.GraphProto, inputs: Sequence[str]) -> list[Source]:
        """Translate a graph; its inputs are known by their names from then on.

        Returns:
            Where its outputs come from.

        Raises:
            FormatError: the graph is not sound.
        """
        tensors = [*graph.initializer, *graph.sparse_initializer]
        names = [getattr(tensor, "values", tensor).name for tensor in tensors]
        self.weights |= set(names)
        around = set(self.sources)
        self.stored |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        self.sources |= {name: name for name in inputs}
        order = in_order(graph, {*inputs, *names}, self.file.label, around)
        if not self._inside:
            self._made |= {*inputs, *(name for node in graph.node for name in node.output)}
        asked = {name for node in order for name in reads_of(node)} | {value.name for value in graph.output}
        for name, tensor in zip(names, tensors, strict=True):
            if name in asked:
                self.sources[name] = Constant.of(name, self._read(tensor))
        self._modules = self._modules or any(map(speaks, order))
        for number, node in enumerate(order):
            self.node(node, number)
        return [self.sources.get(value.name) for value in graph.output]

    def _read(self, tensor: Any) -> Tensor:
        if isinstance(tensor, onnx.SparseTensorProto):
            return dense(tensor, f"Initialiser {tensor.values.name!r}")
        return weights_of(tensor, self.file.folder)

    def node(self, node: onnx.NodeProto, number: int) -> None:
        """Translate one node."""
        domain = domain_of(node)
        inputs = tuple(self.sources.get(name) if name else None for name in node.input)
        if not domain and node.op_type == "Identity" and len(inputs) == 1:
            self.sources[node.output[0]] = inputs[0]
            return
        if not domain and node.op_type == "If" and isinstance(inputs[0], Constant):
            self._inline(node, bool(inputs[0].value().reshape(-1)[0]))
            return
        operator = operator_of(domain, node.op_type, self.file.opset(domain))
        reason = reason_against(domain, node)
        if operator is None or reason:
            self.missing[domain, node.op_type, reason] += 1
            self.sources |= {name: name for name in filter(None, node.output)}
            return
        _check_inputs(node, operator)
        inputs = tuple(
            None if _is_neutral(source, operator.neutral.get(k)) else source for k, source in enumerate(inputs)
        )
        attributes = self._attributes(node, operator, domain)
        by_sizes = size_form_of(domain, node.op_type)
        op = f"{domain}.{node.op_type}" if domain else node.op_type
        name = node.name or next(filter(None, node.output), "")
        by_scaled = scaled_form_of(domain, node.op_type)
        place = self._place(node, number, inputs)
        if operator.prepared is not None:
            inputs = self._prepared(operator, name, op, inputs, attributes, place)
        made = tuple(map(self._called, node.output))
        self._step(Step(name, op, operator, by_sizes, by_scaled, inputs, attributes, made), node.output, place)

    def _place(self, node: onnx.NodeProto, number: int, inputs: Sequence[Source]) -> tuple[Level, ...]:
        """The modules around a node."""
        if not goes_along(node, self.weights, self._modules):
            return levels(node, number, self.weights)
        made = (self._place_of.get(source) for source in inputs if isinstance(source, str))
        return next((place for place in made if place is not None), ())

    def _prepared(
        self,
        behind: Operator,
        name: str,
        op: str,
        inputs: tuple[Source, ...],
        attributes: Mapping[str, Any],
        place: tuple[Level, ...],
    ) -> tuple[Source, ...]:
        """A step of its own for the weights, and the inputs of the operator behind it."""
        prepared = behind.prepared
        assert prepared is not None
        operator = operator_like(prepared.function)
        all_inputs = [*inputs, *[None] * (len(behind.kinds) - len(inputs))]
        given = tuple(all_inputs[position] for position in prepared.positions)
        keywords = {key: attributes[key] for key in prepared.keywords if key in attributes}
        words = prepared.names([source is not None for source in given], **keywords)
        made = tuple(self._called(f"{name}_{word}") for word in words)
        self._step(Step(name, op, operator, None, None, given, keywords, made), made, place)
        for position in prepared.positions:
            all_inputs[position] = None
        return (*all_inputs, *(self.sources[one] for one in made))

    def _step(self, step: Step, names: Sequence[str], place: tuple[Level, ...]) -> None:
        """Work a step out, if it depends on constants alone; else it runs with the others.

        Args:
            step: the step.
            names: what the file calls its results.
            place: of its node.
        """
        operator, inputs = step.operator, step.inputs
        if operator.fold and all(isinstance(source, Constant) or source is None for source in inputs):
            folded = _folded(step)
            if folded is not None:
                self.sources |= {
                    name: Constant.of(name, value) for name, value in zip(names, folded, strict=False) if name
                }
                return
        self._append(step, place)
        self.sources |= {name: own for name, own in zip(names, step.outputs, strict=True) if name}

    def _called(self, name: str) -> str:
        """What a result is called as the model runs: another name where a branch that is taken makes one of its own."""
        if not self._inside or not name:
            return name
        own = next(
            own for own in (f"{name}{'~' * count}" for count in range(len(self._made) + 1)) if own not in self._made
        )
        self._made.add(own)
        return own

    def _append(self, step: Step, place: tuple[Level, ...]) -> None:
        for position, source in enumerate(step.inputs):
            if isinstance(source, Constant) and step.reads_tensor(position):
                self.keep(source)
        self.steps.append(step)
        self.places.append(place)
        self._place_of |= dict.fromkeys(step.outputs, place)

    def keep(self, constant: Constant) -> None:
        """Make it a weight of a module, unless it is a few whole numbers, or one number."""
        tensor = constant.tensor
        if tensor is None or (constant.sizes is not None and (not tensor.dim() or not tensor.is_floating_point())):
            return
        self.tree.keep(constant)

    def _inline(self, node: onnx.NodeProto, condition: bool) -> None:
        branches = {attribute.name: attribute.g for attribute in node.attribute}
        branch = branches.get("then_branch" if condition else "else_branch")
        if branch is None or len(branch.output) < len(node.output):
            raise FormatError(f"{called(node)} of {self.file.label} lacks a branch.")
        before = dict(self.sources)
        self._inside += 1
        results = self.graph(branch, ())
        self._inside -= 1
        self.sources = {**before, **dict(zip(node.output, results, strict=False))}

    def _attributes(self, node: onnx.NodeProto, operator: Operator, domain: str) -> dict[str, Any]:
        own = {attribute.name for attribute in node.attribute}
        known = [name for name in operator.attributes if name not in GIVEN or name in own]
        found: dict[str, Any] = {}
        for attribute in node.attribute:
            if attribute.name not in known:
                hint = did_you_mean(attribute.name, known)
                raise FormatError(f"{called(node)} has the attribute {attribute.name!r}, which it cannot have{hint}.")
            value = self._attribute(attribute, node)
            # Read here: while torch.export traces, a tensor does not tell its values.
            found[attribute.name] = Sizes.read(value) if attribute.name in operator.numbers else value
        lacking = [name for name in operator.required if name not in found]
        if lacking:
            raise FormatError(f"{called(node)} lacks the attribute {lacking[0]!r}.")
        if "outputs" in operator.attributes:
            found["outputs"] = len(node.output)
        if "opset" in operator.attributes:
            found.setdefault("opset", self.file.opset(domain))
        if "stored" in operator.attributes:
            found["stored"] = [self.stored.get(name, 0) for name in node.input]
        return found

    def _attribute(self, attribute: AttributeProto, node: onnx.NodeProto) -> Any:
        read = ATTRIBUTES.get(attribute.type)
        if attribute.type == AttributeProto.GRAPH:
            return self._body(attribute.g)
        if attribute.type == AttributeProto.TENSOR:
            named = onnx.TensorProto()
            named.CopyFrom(attribute.t)
            named.name = node.name or node.op_type
            return weights_of(named, self.file.folder)
        if read is None:
            raise FormatError(f"{called(node)} has an attribute {attribute.name!r} of a kind that is not known here.")
        return read(attribute)

    def _body(self, graph: onnx.GraphProto) -> Body:
        inner = Translator(self.file, self.tree, self)
        inputs = tuple(value.name for value in graph.input)
        outputs = inner.graph(graph, inputs)
        for source in outputs:
            if isinstance(source, Constant):
                inner.keep(source)
        return Body(inputs, tuple(outputs), inner.steps)

    def refuse_missing(self) -> None:
        """Raise `CaptureError` if there were operators without a function: all of them at once."""
        if not self.missing:
            return
        alike: dict[tuple[str, str], list[str]] = {}
        for (domain, name, reason), number in self.missing.items():
            times = "" if number == 1 else f" ({number} nodes)"
            alike.setdefault((domain, reason or _unknown(domain, name)), []).append(f"{name}{times}")
        parts = [_why(domain, names, reason) for (domain, reason), names in alike.items()]
        count = "An operator" if len(self.missing) == 1 else f"{len(self.missing)} operators"
        raise CaptureError(f"{count} of {self.file.label} cannot be explained: {'; '.join(parts)}.")


ATTRIBUTES: Mapping[int, Any] = {
    AttributeProto.FLOAT: lambda a: a.f,
    AttributeProto.INT: lambda a: a.i,
    AttributeProto.STRING: lambda a: a.s.decode(errors="replace"),
    AttributeProto.FLOATS: lambda a: list(a.floats),
    AttributeProto.INTS: lambda a: list(a.ints),
    AttributeProto.STRINGS: lambda a: [one.decode(errors="replace") for one in a.strings],
    AttributeProto.SPARSE_TENSOR: lambda a: dense(a.sparse_tensor, "A constant"),
    AttributeProto.TENSORS: lambda a: [tensor_of(one) for one in a.tensors],
    AttributeProto.TYPE_PROTO: lambda a: a.tp,
}
"""Kind of an attribute → its value."""


def domain_of(node: onnx.NodeProto) -> str:
    """The domain of its operator; "" is ONNX's own."""
    return "" if node.domain in OWN_DOMAIN else str(node.domain)


def is_refused(file: File, node: onnx.NodeProto) -> bool:
    """Whether there is no function for a node."""
    domain = domain_of(node)
    return operator_of(domain, node.op_type, file.opset(domain)) is None or bool(reason_against(domain, node))


def _unknown(domain: str, name: str) -> str:
    near = did_you_mean(name, [other for space, other in TABLE if space == domain])
    return f"is no operator that is known here{near}: give the file a function of that name, made of ONNX's operators"


def _why(domain: str, names: Sequence[str], reason: str) -> str:
    """The operators of one domain against which there is the same to say."""
    *others, last = names
    before = f"each of {', '.join(others)} and " if others else ""
    where = f" of {domain}" if domain else ""
    return f"{before}{last}{where} {reason}"


def _is_neutral(source: Source, number: float | None) -> bool:
    """Whether it is a constant that holds this number alone."""
    return number is not None and isinstance(source, Constant) and bool((source.value() == number).all())


def _check_inputs(node: onnx.NodeProto, operator: Operator) -> None:
    count = len(node.input)
    if any(place >= count or not node.input[place] for place in operator.needs):
        raise FormatError(f"{called(node)} lacks an input: it takes {len(operator.needs)} at least.")
    open_end = operator.rest is not None and operator.prepared is None
    if not open_end and count > len(operator.kinds):
        raise FormatError(f"{called(node)} has {count} inputs, and takes {len(operator.kinds)} at most.")


def _folded(step: Step) -> Sequence[Any] | None:
    """The results; None where they are not worth keeping, or no tensors."""
    if any(isinstance(value, Body) for value in step.attributes.values()):
        return None
    given = [taken(source, step.operator.kind(place), whole=True) for place, source in enumerate(step.inputs)]
    size = sum(value.numel() for value in (*given, *step.attributes.values()) if isinstance(value, Tensor))
    expected = _elements(step, given)
    if expected is None and size > SMALL:
        return None
    if expected is not None and expected > max(SMALL, GROWTH * size):
        return None
    try:
        with torch.no_grad():
            result = step.operator.function(*given, **step.attributes)
    except LrpError:
        raise
    except Exception:
        return None  # it says why when it runs
    results = result if isinstance(result, tuple) else (result,)
    return results if all(isinstance(value, Tensor | Sizes) for value in results) else None


def _elements(step: Step, given: Sequence[Any]) -> int | None:
    """How many elements the results have; None where that takes working them out."""
    try:
        shapes = [value.to("meta") if isinstance(value, Tensor) else value for value in given]
        result = step.operator.function(*shapes, **step.attributes)
    except Exception:
        return None
    results = result if isinstance(result, tuple) else (result,)
    return sum(value.numel() if isinstance(value, Tensor) else MOST for value in results)
