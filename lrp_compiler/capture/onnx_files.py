"""An ONNX file as a model: its inputs, open sizes and names are the file's own, unless others are given."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx
import torch
from torch.export import Dim, ExportedProgram

from lrp_compiler.base.counted import counted
from lrp_compiler.base.errors import InputError, LrpWarning, did_you_mean
from lrp_compiler.onnx_in import OnnxModule, check_parity, from_onnx, is_onnx
from lrp_compiler.passes.forward import Captured
from lrp_compiler.torch_private import known_size


def load_onnx(path: str | os.PathLike[str]) -> OnnxModule:
    """The module that an ONNX file is; raises as `from_onnx`."""
    return from_onnx(path)


def module_of(model: Any) -> Any:
    """The module of a ModelProto, or of a file that ends in `.onnx`; anything else as it is."""
    return from_onnx(model) if isinstance(model, onnx.ModelProto) or is_onnx(model) else model


def example_of(module: OnnxModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The example inputs in the file's order; made from the file where none are given.

    Raises:
        CaptureError: the module does not say what onnxruntime says of them.
        InputError: one is missing, or of no such name.

    Warns:
        LrpWarning: nothing was compared, since onnxruntime does not run the file, or not as its operators are defined:
            on x86 processors without VNNI its sums of 8-bit products overflow.
    """
    inputs = _in_order(module, args, kwargs) if args or kwargs else module.example_inputs()
    tensors = [one for one in inputs if isinstance(one, torch.Tensor)]
    unasked = check_parity(module, tensors) if len(tensors) == len(inputs) else "the inputs are no tensors"
    if unasked:
        warnings.warn(
            f"What was read of {module.source.label} was not compared with onnxruntime: {unasked}.",
            LrpWarning,
            stacklevel=4,
        )
    return inputs


def _in_order(module: OnnxModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    names = module.input_names
    named = {one.argument: one.name for one in module.inputs}
    given = dict(zip(names, args, strict=False)) | {named.get(name, name): value for name, value in kwargs.items()}
    strange = [name for name in given if name not in names]
    if strange or len(args) > len(names):
        what = f"{strange[0]!r}{did_you_mean(strange[0], names)}" if strange else counted(len(args), "input")
        raise InputError(f"The file takes {', '.join(map(repr, names))}, and not {what}.")
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(f"Example input {missing[0]!r} is missing: give all that the file takes, or none.")
    return tuple(given[name] for name in names)


def shapes_of(module: OnnxModule, inputs: Sequence[Any], given: Any) -> Iterator[Any]:
    """Which sizes are open: what was given; else what the file says, and then what of that torch.export finds to be so.

    A size of 1 in the example cannot be open.
    """
    if given is not None:
        yield given
        return
    said = module.dynamic_shapes()
    kept = {
        argument: {place: dim for place, dim in dims.items() if value.shape[place] != 1}
        for (argument, dims), value in zip(said.items(), inputs, strict=True)
    }
    yield kept
    if any(kept.values()):
        yield {argument: dict.fromkeys(dims, Dim.AUTO) for argument, dims in kept.items()}


def open_in(program: ExportedProgram, shapes: Any, module: OnnxModule) -> Any:
    """Those of the open sizes that are left open by the program: recurrent layers take a known number of steps.

    Warns:
        LrpWarning: of each that is not, and of those with several names in the file that must be one size.
    """
    values = {node.name: node.meta["val"] for node in program.graph.find_nodes(op="placeholder")}
    kept: dict[str, Any] = {}
    called: dict[str, list[str]] = {}
    for name, one in zip(program.graph_signature.user_inputs, module.inputs, strict=True):
        sizes = [known_size(size) for size in values[str(name)].shape]
        kept[one.argument] = {dim: said for dim, said in shapes[one.argument].items() if sizes[dim] is None}
        for dim in kept[one.argument]:
            word = one.said(dim)
            if word is not None:
                called.setdefault(str(values[str(name)].shape[dim]), []).append(word)
        for dim in sorted(set(shapes[one.argument]) - set(kept[one.argument])):
            warnings.warn(
                f"Dimension {dim} of input {one.name!r} is open in the file, and is fixed at {sizes[dim]}, as in the "
                "example inputs: an operation is explained for a known size alone (a recurrent layer's steps, say). "
                "Give example inputs of the size that is wanted.",
                LrpWarning,
                stacklevel=9,
            )
    for words in called.values():
        if len(several := list(dict.fromkeys(words))) > 1:
            warnings.warn(
                f"The sizes {' and '.join(map(repr, several))} of the file are one in the explainer, since the file's "
                "operators were found to take equal ones: sizes that differ, and are broadcast, are refused.",
                LrpWarning,
                stacklevel=9,
            )
    return kept


def with_its_names(captured: Captured, module: OnnxModule) -> Captured:
    """What was captured, with inputs and outputs called as the file calls them."""
    names = {one.argument: one.name for one in module.inputs}
    return replace(
        captured,
        inputs={node: names.get(name, name) for node, name in captured.inputs.items()},
        arguments=[names.get(name, name) for name in captured.arguments],
        sizes=module.size_names(),
        outputs=module.output_names if len(captured.outputs) == len(module.output_names) else captured.outputs,
    )
