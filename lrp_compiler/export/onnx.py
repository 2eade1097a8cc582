"""The joint graph as an ONNX file: default-domain ops only, names and metadata of the artefact's contract."""

from __future__ import annotations

import copy
import glob
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import onnx_ir
import onnxruntime
import torch
from onnx_ir.passes import common as passes
from onnxscript.optimizer import fold_constants
from torch.export import ExportedProgram

from lrp_compiler.artefact import Artefact
from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.collection import rare_collection
from lrp_compiler.base.errors import LrpError
from lrp_compiler.base.files import atomic_path, place_of
from lrp_compiler.base.metadata import METADATA_KEY, SCHEMA, Metadata, check_opset
from lrp_compiler.base.onnx_session import ONNXRUNTIME_ERRORS
from lrp_compiler.base.quiet import quiet
from lrp_compiler.base.seal import Seal, seal
from lrp_compiler.base.specs import TensorSpec
from lrp_compiler.base.version import __version__
from lrp_compiler.torch_private import (
    composites_noted_quickly,
    hint,
    numbers_in_double,
    promotion_where_dtypes_mix,
    sources_forgotten,
    translations_read_once,
)

from .onnx_casts import cast_before_transposing, keep_digits
from .onnx_decompositions import decomposed, with_operands_apart
from .onnx_file import DIGITS, put_beside, write_model
from .onnx_loops import read_backwards
from .onnx_notes import note_copies, note_origins
from .onnx_rounding import keep_products_apart
from .onnx_translations import TRANSLATIONS
from .onnx_weights import (
    give_defaults,
    halve_weights,
    keep_orientations_apart,
    multiply_transposed,
    pack_nibbles,
)

Weights = Literal["model", "float16"]
Profile = Literal["fast", "small"]
OPSET = 20
"""Where nothing is said."""
EXTERNAL_DATA_BYTES = 2_000_000_000
"""Above this the weights go into files of their own (protobuf's limit is 2 GiB), none of which has more."""


def write_explainer(
    artefact: Artefact,
    path: str | os.PathLike[str],
    *,
    opset: int = OPSET,
    dtype: Weights = "model",
    profile: Profile = "fast",
) -> None:
    """Write an explainer to `path`, whole or not at all: see `Explainer.to_onnx`.

    Raises:
        LrpError: the opset is none of these, dtype or profile is unknown, the program calculates in bfloat16, or the
            exporter has no translation for an op.
    """
    for name, value, known in (("dtype", dtype, get_args(Weights)), ("profile", profile, get_args(Profile))):
        if value not in known:
            raise LrpError(f"Unknown {name} {value!r}: choose {' or '.join(map(repr, known))}.")
    about = artefact.about.stored(dtype, profile)
    with atomic_path(path, outdated(path)) as temporary:
        written = write_onnx(
            artefact.program,
            about.takes,
            about.returns,
            temporary,
            opset=opset,
            about=about,
            defaults=about.defaults,
        )
        seal(temporary, written)


@rare_collection()
@sources_forgotten()
def write_onnx(
    program: ExportedProgram,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    path: Path,
    *,
    opset: int,
    about: Metadata | None = None,
    defaults: Mapping[str, float] = MappingProxyType({}),
) -> Seal:
    """Write `program` to `path`.

    Args:
        program: what to write.
        inputs: names and shapes of its inputs.
        outputs: those of its outputs.
        path: where to; a large program's weights lie beside it.
        opset: one of `OPSETS`.
        about: what the file says about itself.
        defaults: of the inputs that may be left out, what every element holds then.

    Returns:
        What its seal is to say.

    Raises:
        LrpError: the opset is none of these, the program calculates in bfloat16, or the exporter cannot translate an
            op.
    """
    check_opset(opset)
    if any(getattr(node.meta.get("val"), "dtype", None) is torch.bfloat16 for node in program.graph.nodes):
        raise LrpError(
            "onnxruntime has no bfloat16 arithmetic on CPUs: compile model.float() or model.half() for an ONNX file, "
            "or save this explainer as .pt2."
        )
    complex_inputs = [str(spec) for spec in (*inputs, *outputs) if spec.dtype.startswith("complex")]
    if complex_inputs:
        raise LrpError(
            f"ONNX files have no complex inputs and outputs ({complex_inputs[0]}): give real and imaginary parts, and "
            "join them inside the model by torch.view_as_complex."
        )
    onnx_program = _translated(program, inputs, outputs, opset)
    model = onnx_program.model
    written = model.opset_imports.get("")
    if written != opset:  # torch.onnx says so in its log alone
        raise LrpError(f"torch.onnx cannot write this model in opset {opset}: choose {written}.")
    note_origins(model, onnx_program.exported_program.graph)
    if about is not None and about.weights == "float16":  # before anything is calculated from them
        halve_weights(model)
    with quiet(output=True):  # a fold that cannot be evaluated is left out, and printed
        tidy(model)
    note_copies(model)
    cast_before_transposing(model)
    keep_products_apart(model)
    _name_dims(model.graph, inputs, outputs)
    if _holds_open_ones(program):
        _forget_shapes(model.graph)
    small = about is not None and about.profile == "small"
    if small:
        multiply_transposed(model)
    pack_nibbles(model)
    keep_orientations_apart(model)
    give_defaults(model, defaults)
    model.graph.name = "explainer"
    model.producer_name = "lrp_compiler"
    model.producer_version = __version__
    model.model_version = SCHEMA
    model.metadata_props.clear()
    if about is not None:
        model.metadata_props[METADATA_KEY] = about.to_json()
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    beside = put_beside(model, path, EXTERNAL_DATA_BYTES) if small or size > EXTERNAL_DATA_BYTES else {}
    write_model(model, path)
    if _calculates_in_doubles(model):
        _refuse_missing_kernels(path)
    return Seal(beside)


def outdated(path: str | os.PathLike[str]) -> str:
    """Pattern of the files beside an earlier one of this name."""
    return f"{glob.escape(place_of(path).name)}.{'[0-9a-f]' * DIGITS}.data"


def _calculates_in_doubles(model: Any) -> bool:
    values = (output for node in model.graph.all_nodes() for output in node.outputs)
    return any(value.dtype is onnx_ir.DataType.DOUBLE for value in values)


def _refuse_missing_kernels(path: Path) -> None:
    """Raise `LrpError` if onnxruntime lacks one of the file's ops in float64, as it lacks many."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(os.fspath(path), options, ["CPUExecutionProvider"])
    except ONNXRUNTIME_ERRORS as error:
        found = re.search(r"implementation for (\w+)", str(error))
        raise LrpError(
            f"onnxruntime has no {found[1] if found else 'operation of this model'} in float64: compile model.float() "
            "for an ONNX file, or save this explainer as .pt2."
        ) from error


def _translated(
    program: ExportedProgram, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], opset: int
) -> Any:
    """The exporter's translation, of as few decompositions as will do; of all of torch's where that fails."""
    values = (node.meta.get("val") for node in program.graph.nodes)
    doubles = any(getattr(value, "dtype", None) is torch.float64 for value in values)
    quick = copy.copy(program)
    quick.run_decompositions = partial(decomposed, program)
    for attempt in (quick, with_operands_apart(program)):
        try:
            with (
                quiet(output=True),
                composites_noted_quickly(),
                translations_read_once(),
                promotion_where_dtypes_mix(),
                numbers_in_double(doubles),
                torch.no_grad(),
            ):
                return torch.onnx.export(
                    attempt,
                    dynamo=True,
                    opset_version=opset,
                    input_names=[spec.name for spec in inputs],
                    output_names=[spec.name for spec in outputs],
                    custom_translation_table=dict(TRANSLATIONS),
                    optimize=False,
                    verbose=False,
                )
        except Exception as error:
            failure: Exception = error
    raise LrpError(f"The explainer cannot be written as ONNX: {_why(failure)}.") from failure


def _why(failure: Exception) -> str:
    """The first of the errors that led to this one: the exporter's own only lists the steps that it has tried."""
    found: BaseException = failure
    while isinstance(found, torch.onnx.errors.OnnxExporterError) and found.__cause__ is not None:
        found = found.__cause__
    lacking = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>", str(found))
    if lacking:
        return f"the exporter has no translation of {lacking[1]}.{lacking[2]}; save it as .pt2, or avoid the operation"
    return reason_of(found)


RESAMPLING = {"Resize", "GridSample", "AffineGrid", "RoiAlign", "Upsample"}
"""Operators of which the folding reference finds other places than the runtimes do, which fold them by themselves."""


STORED = {onnx_ir.DataType.INT8, onnx_ir.DataType.UINT8, onnx_ir.DataType.INT16, onnx_ir.DataType.UINT16}
"""dtypes in which weights are stored that are worth other numbers: folded, they would take as many times the bytes."""
FEW = 64
"""Elements of which that does not count."""
SMALL, GROWTH = 4096, 4
"""Elements of a result that is folded whatever it is made of, and how many times as large as that a larger one is."""


def _is_foldable(node: Any) -> bool:
    """Whether the file does not become larger by it."""
    given = [value for value in node.inputs if value is not None]
    stored = any(value.dtype in STORED and _elements(value) > FEW for value in given)
    made = sum(map(_elements, node.outputs))
    grown = made > max(SMALL, GROWTH * sum(map(_elements, given)))
    return not (node.op_type in RESAMPLING or stored or grown)


def _elements(value: Any) -> int:
    """How many elements it has; 0 where that is not known."""
    return math.prod(value.shape.numpy()) if value.shape is not None and value.shape.is_static() else 0


def tidy(model: Any) -> None:
    """Small constants folded, duplicates merged, leftovers removed.

    The exporter's own `optimize=True` also tries a library of rewrites on every node, which takes longer than all the
    rest and finds nothing that onnxruntime does not do when it loads the file.
    """
    passes.InlinePass()(model)
    passes.NameFixPass()(model)  # a weight may be called what the exporter calls a value
    keep_digits(model)
    fold_constants(model, should_fold=lambda node: None if _is_foldable(node) else False)
    for step in (
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
        read_backwards,
        passes.RemoveUnusedNodesPass(),
    ):
        step(model)


def _holds_open_ones(program: ExportedProgram) -> bool:
    """Whether a size is open that is 1 in the example, as `(length − 192) // 128 + 1` may be.

    torch's symbolic arithmetic broadcasts it as if it were 1, and works out what follows from that.
    """
    values = (node.meta.get("val") for node in program.graph.nodes)
    sizes = (size for value in values if isinstance(value, torch.Tensor) for size in value.shape)
    return any(isinstance(size, torch.SymInt) and hint(size) == 1 for size in sizes)


def _forget_shapes(graph: Any) -> None:
    """Leave out what is said of the shapes inside: onnxruntime holds buffers to it, and works them out by itself."""
    returned = set(graph.outputs)
    for node in graph.all_nodes():
        for value in node.outputs:
            if value not in returned:
                value.shape = None


def _name_dims(graph: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Symbolic dims get the names that the inputs give them, wherever they occur; those of results that are worked out
    of them, the names that the results give them."""
    names: dict[str, str] = {}
    for value, spec in zip(graph.inputs, inputs, strict=True):
        for dim, wanted in zip(value.shape, spec.shape, strict=True):
            if isinstance(dim, onnx_ir.SymbolicDim) and isinstance(wanted, str):
                names[str(dim.value)] = wanted
    values = [*graph.inputs, *(output for node in graph.all_nodes() for output in node.outputs)]
    for value in values:
        if value.shape is None or value.shape.frozen:
            continue
        for position, dim in enumerate(value.shape):
            if isinstance(dim, onnx_ir.SymbolicDim) and str(dim.value) in names:
                value.shape[position] = names[str(dim.value)]
    for value, spec in zip(graph.outputs, outputs, strict=True):
        for position, (dim, wanted) in enumerate(zip(value.shape, spec.shape, strict=True)):
            unnamed = isinstance(dim, onnx_ir.SymbolicDim) and not str(dim.value).isidentifier()
            if unnamed and isinstance(wanted, str) and wanted.isidentifier():
                value.shape[position] = wanted
