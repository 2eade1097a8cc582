"""`from_onnx`: an ONNX file as a torch module, which torch.export takes with open batch and lengths."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
from torch import Tensor

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError, LrpWarning

from .examples import Input, dynamic_shapes, example_inputs, inputs_of
from .kept_outputs import with_kept_outputs
from .read_file import Source, read, with_constants
from .scopes import Part, Scope, Tree, nested
from .sizes import Sizes
from .steps import Constant, Step, look_up
from .translate import Translator, is_refused
from .whole_numbers import Scaled, Whole


class OnnxModule(Scope):
    """An ONNX graph that runs in torch, node by node.

    Attributes:
        input_names: of the file, in order; those with an initialiser of the same name are constants instead.
        output_names: of the file, in order.
        source: the model as it was read.
    """

    def __init__(self, source: Source, inputs: list[Input]) -> None:
        """Translate the graph."""
        super().__init__()
        self.source, self.inputs = source, inputs
        self.input_names = [one.name for one in inputs]
        self.output_names = [value.name for value in source.model.graph.output]
        # There before any weight or module of the file, which gives way to what is called like it.
        self.results: list[Any] = []
        self.steps: list[Step] = []
        self.part = Part()
        tree = Tree(self)
        translator = Translator(source, tree)
        results = translator.graph(source.model.graph, self.input_names)
        translator.refuse_missing()
        for result in results:
            if isinstance(result, Constant):
                translator.keep(result)
        self.results, self.steps = results, translator.steps
        names = [result for result in results if isinstance(result, str)]
        self.part = nested(translator.steps, translator.places, names, tree)
        self.eval()

    def run_graph(self, *inputs: Any) -> Any:
        """The outputs: one value, or a tuple, in the file's order."""
        environment: dict[str, Any] = dict(zip(self.input_names, inputs, strict=True))
        missing = set(self.part.inputs) - set(environment)
        if missing:
            raise InputError(f"The model lacks the value {sorted(missing)[0]!r}.")
        self.part.run_in(environment)
        values = [look_up(result, environment) for result in self.results]
        found = [value.tensor() if isinstance(value, Sizes | Whole | Scaled) else value for value in values]
        return found[0] if len(found) == 1 else tuple(found)

    def all_values(self, *inputs: Any) -> dict[str, Tensor]:
        """Every tensor that is calculated on the way, by its name in the file."""
        environment = self._environment(*inputs)
        known = {
            name: value.tensor() if isinstance(value, Sizes | Whole | Scaled) else value
            for name, value in environment.items()
        }
        return {name: value for name, value in known.items() if isinstance(value, Tensor)}

    def rounds(self, *inputs: Any) -> bool:
        """Whether whole numbers are made of floats on the way."""
        named = any("Quantize" in step.op for step in self.steps)
        return named or any(isinstance(value, Whole) for value in self._environment(*inputs).values())

    def _environment(self, *inputs: Any) -> dict[str, Any]:
        environment: dict[str, Any] = dict(zip(self.input_names, inputs, strict=True))
        with torch.no_grad():
            for step in self.steps:
                step.run(environment)
        return environment

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs on which the model runs, of the file's own shapes; open sizes are small, and differ."""
        return example_inputs(self, self.inputs, self.source)

    def dynamic_shapes(self) -> dict[str, Any]:
        """Which sizes are open, as torch.export takes it, by the names of `forward`'s arguments."""
        return dynamic_shapes(self.inputs)

    def size_names(self) -> dict[str, dict[int, str]]:
        """What the file calls its open sizes: by input, by dim."""
        shapes = dynamic_shapes(self.inputs)
        return {
            one.name: {
                dim: size.__name__ for dim, size in shapes[one.argument].items() if isinstance(one.said(dim), str)
            }
            for one in self.inputs
        }


@boundary("read the ONNX model")
def from_onnx(
    model: str | os.PathLike[str] | onnx.ModelProto, constants: Mapping[str, Any] | None = None
) -> OnnxModule:
    """An ONNX model as a module of torch.

    Its weights are parameters and buffers under their names in the file, nodes belong to modules as their names say
    (`/layer1/layer1.0/conv1/Conv` to `layer1.0.conv1`). torch.export takes it, with open sizes:

        module = lrp.from_onnx("model.onnx")
        program = torch.export.export(module, module.example_inputs(), dynamic_shapes=module.dynamic_shapes())

    Args:
        model: the path of an `.onnx` file of opset 6 or newer, or a ModelProto; it is not modified. Nothing is read but
            the file and, of what it refers to, files in its own folder.
        constants: inputs of the file, by name, that are given here once and for all, as arrays or tensors: a sampling
            rate, the sizes to which something is reshaped. What they decide is decided then.

    Returns:
        The module, in eval mode: from the file's inputs, in order or by name, to its outputs (one, or a tuple). A map
        from labels to scores that a pipeline returns is the tensor of the scores.

    Warns:
        LrpWarning: outputs that are left out: text, and labels made by operators that cannot be run.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: a constant of a name that no input has.
        FormatError: it is no sound ONNX model, an explainer's own file, too old, or too large.
        CaptureError: operators that have no meaning for relevance, or are not known: all of them at once; or nothing
            is returned that is a tensor of numbers.
    """
    source = with_constants(read(model), constants or {})
    source, left_out = with_kept_outputs(source, lambda node: is_refused(source, node))
    if left_out:
        warnings.warn(
            f"Of what {source.label} returns {', '.join(map(repr, left_out))} is left out: text, maps and labels made "
            "by operators that cannot be run here carry no relevance.",
            LrpWarning,
            stacklevel=3,
        )
    inputs = inputs_of(source)
    kind = type("OnnxModule", (OnnxModule,), {"forward": _forward([one.argument for one in inputs])})
    module: OnnxModule = kind(source, inputs)
    return module


def _forward(arguments: list[str]) -> Callable[..., Any]:
    """A `forward` whose arguments have these names."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in ["self", *arguments]])

    def forward(*values: Any, **named: Any) -> Any:
        given: Mapping[str, Any] = signature.bind(*values, **named).arguments
        module, *inputs = (given[name] for name in ["self", *arguments])
        return module.run_graph(*inputs)

    forward.__signature__ = signature  # type: ignore[attr-defined]
    return forward
