"""A path or a ModelProto → a graph that is sound, with its functions inlined; nothing of it has been run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.errors import FormatError, InputError, did_you_mean
from lrp_compiler.base.metadata import METADATA_KEY
from lrp_compiler.formats import ONNX, ends_in

from .functions import inlined

OLDEST = 6
"""Opset before which operators took other attributes."""
MOST_NODES = 100_000
"""Of a graph and all in it; torch.export takes about a millisecond for each, and what follows as much again."""
OWN_DOMAIN = ("", "ai.onnx")


class Source(NamedTuple):
    """A model as it was read."""

    model: onnx.ModelProto
    """With its functions inlined."""
    folder: Path | None
    """Where its external data lie; None of a model that is in memory."""
    label: str
    """What it is called in messages."""
    original: onnx.ModelProto
    """The same with its functions, for onnxruntime."""

    def opset(self, domain: str) -> int:
        """The file's opset of a domain; 1 where it says nothing."""
        same = OWN_DOMAIN if domain in OWN_DOMAIN else (domain,)
        return max([entry.version for entry in self.model.opset_import if entry.domain in same], default=1)


def is_onnx(model: Any) -> bool:
    """Whether it is a ModelProto, or the path of a file that ends in `.onnx`."""
    if isinstance(model, onnx.ModelProto):
        return True
    return isinstance(model, str | os.PathLike) and ends_in(model, ONNX)


def read(model: str | os.PathLike[str] | onnx.ModelProto) -> Source:
    """Read a model.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is no ONNX model, an explainer's own file, of an opset that is too old or too new, or too large.
    """
    if isinstance(model, onnx.ModelProto):
        return _checked(model, None, "The model")
    name = os.fspath(model)
    if not os.path.exists(name):
        raise FileNotFoundError(f"There is no file {name!r}.")
    if os.path.isdir(name):
        raise FormatError(f"{name!r} is a folder: give the .onnx file.")
    if not os.path.isfile(name):  # a pipe would be waited for
        raise FormatError(f"{name!r} is no regular file.")
    try:
        read = onnx.load(name, load_external_data=False)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise FormatError(f"{name!r} is not an ONNX file ({reason_of(error)}).") from error
    return _checked(read, Path(os.path.realpath(name)).parent, repr(name))


def _checked(model: onnx.ModelProto, folder: Path | None, label: str) -> Source:
    if any(entry.key == METADATA_KEY for entry in model.metadata_props):
        raise FormatError(
            f"{label} is an explainer that was compiled already: run it with lrp_compiler.runtime.OnnxExplainer, or "
            "compile the model that it was made of."
        )
    if not model.HasField("graph") or not model.graph.output:
        raise FormatError(f"{label} is not an ONNX model: it has no graph that returns something.")
    if model.training_info:
        model.ClearField("training_info")
    source = Source(model, folder, label, model)
    opset, newest = source.opset(""), onnx.defs.onnx_opset_version()
    if not any(entry.domain in OWN_DOMAIN for entry in model.opset_import):
        opset = newest  # nothing of it is used, or the checks of its operators will say so
    if opset < OLDEST:
        raise FormatError(
            f"{label} is of opset {opset}, and operators have their present meaning from opset {OLDEST} on: convert it "
            "with onnx.version_converter.convert_version."
        )
    if opset > newest:
        raise FormatError(f"{label} is of opset {opset}, and the installed onnx knows those up to {newest}: update it.")
    _refuse_size(model, label)
    return source._replace(model=inlined(model, label))


def with_constants(source: Source, constants: Mapping[str, Any]) -> Source:
    """The model with some inputs held constant: each becomes an initialiser.

    Raises:
        InputError: there is no such input.
    """
    if not constants:
        return source
    known = [value.name for value in source.model.graph.input]
    held = []
    for name, value in constants.items():
        if name not in known:
            raise InputError(
                f"constants names {name!r}, which is no input of {source.label}{did_you_mean(name, known)}."
            )
        declared = source.model.graph.input[known.index(name)].type.tensor_type.elem_type
        array = np.asarray(value)
        if declared in onnx.TensorProto.DataType.values() and declared:
            array = array.astype(onnx.helper.tensor_dtype_to_np_dtype(declared), copy=False)
        held.append(onnx.numpy_helper.from_array(array, name))
    return source._replace(model=_holding(source.model, held), original=_holding(source.original, held))


def _holding(model: onnx.ModelProto, held: Sequence[onnx.TensorProto]) -> onnx.ModelProto:
    """A copy with these initialisers, in place of others of their names."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    names = {tensor.name for tensor in held}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del copied.graph.initializer[:]
    copied.graph.initializer.extend([*kept, *held])
    return copied


def _refuse_size(model: onnx.ModelProto, label: str) -> None:
    """Refuse a model that has, or would have with its functions inlined, too many nodes."""
    functions = {(one.domain, one.name): one for one in model.functions}
    known: dict[tuple[str, str], int] = {}

    def within(key: tuple[str, str], inside: tuple[tuple[str, str], ...]) -> int:
        if key in inside:
            raise FormatError(f"Function {key[1]!r} of {label} calls itself, which would never end.")
        if key not in known:
            known[key] = count(functions[key].node, (*inside, key))
        return known[key]

    def count(nodes: Any, inside: tuple[tuple[str, str], ...] = ()) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += within(key, inside) if key in functions else 1
            for attribute in node.attribute:
                graphs = [attribute.g] if attribute.HasField("g") else attribute.graphs
                total += sum(count(graph.node, inside) for graph in graphs)
        return total

    try:
        total = count(model.graph.node)
    except RecursionError as error:
        raise FormatError(f"The functions of {label} call one another too deeply to be inlined.") from error
    if total > MOST_NODES:
        raise FormatError(f"{label} has {total:,} nodes, and a graph of more than {MOST_NODES:,} is not traced.")
