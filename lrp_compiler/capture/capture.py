"""A model, an exported program or a `.pt2` file → one ExportedProgram with names for its inputs and outputs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import onnx
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.errors import CaptureError, FormatError, InputError, LrpError
from lrp_compiler.base.quiet import quiet
from lrp_compiler.formats import reader_of
from lrp_compiler.onnx_in import OnnxModule
from lrp_compiler.passes.forward import Captured, Example, Other
from lrp_compiler.passes.reroll import NotRepeated
from lrp_compiler.rules import bind
from lrp_compiler.torch_private import (
    OpOverload,
    op_name,
    pools_stay_open,
    pytree,
    sequences_stay_open,
    sources_forgotten,
)

from .any_length import larger_example, of_two_lengths
from .caches import without_cache
from .failures import itself_fails, other_ways, why_not_exported
from .kinds import has_own_eval, inputs_of, model_of, refuse_other_files, refuse_parts
from .onnx_files import example_of, open_in, shapes_of, with_its_names
from .regions import without_grad_regions
from .safe_load import load_exported
from .same_output import run_model
from .shape_hints import fixed_by_one, fixed_sizes, narrowed_sizes

Model = torch.nn.Module | ExportedProgram | onnx.ModelProto | str | os.PathLike[str]


@quiet()  # One thread at a time: while torch.export traces a module, other tensors stand in it.
@sources_forgotten()
def capture(
    model: Model,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> Captured:
    """Capture `model`; it is not modified, and neither are the example inputs (they are cloned).

    Args:
        model: an nn.Module in eval mode, an ExportedProgram, or the path of a `.pt2` file that holds one; an ONNX
            model, or the path of an `.onnx` file.
        args: example inputs of a module; of an ONNX model made from it, if none are given.
        kwargs: example inputs by name.
        dynamic_shapes: as torch.export takes it; of an ONNX model its own, if none are given.

    Raises:
        CaptureError: the module is in training mode, or torch.export cannot trace it.
        FormatError: the file is no exported program.
        InputError: a module came without example inputs or with a bare tensor, or a program with some.
    """
    model = model_of(model)
    given, named = inputs_of(args, kwargs)
    if isinstance(model, OnnxModule):
        given, named = example_of(model, given, named), {}
        program, returned = _export_onnx(model, given, dynamic_shapes)
    elif isinstance(model, torch.nn.Module):
        program, returned = _export(model, given, named, dynamic_shapes)
    elif given or named or dynamic_shapes is not None:
        raise InputError(
            "An exported program brings its own inputs and shapes: args and dynamic_shapes belong to torch.export."
        )
    else:
        program = model if isinstance(model, ExportedProgram) else reader_of(model)(model)
        returned = _returned(program)
    example = _example(model if isinstance(model, torch.nn.Module) else program, program, returned)
    program = without_grad_regions(program)
    _refuse_training(program)
    inputs, constants = input_names(program)
    names, others = outputs_of(program)
    captured = Captured(program, inputs, constants, names, argument_names(program), others, example)
    return with_its_names(captured, model) if isinstance(model, OnnxModule) else captured


def _export_onnx(
    model: OnnxModule, args: tuple[Any, ...], dynamic_shapes: Any
) -> tuple[ExportedProgram, list[Any] | None]:
    """Export with the open sizes that the file declares; it may declare more than its nodes can take."""
    first: CaptureError | None = None
    for shapes in shapes_of(model, args, dynamic_shapes):
        try:
            found = _export(model, args, {}, shapes)
        except CaptureError as error:
            first = first or error
            continue
        left = shapes if dynamic_shapes is not None else open_in(found[0], shapes, model)
        return found if left == shapes else _export(model, args, {}, left)
    assert first is not None
    raise first


def _returned(program: ExportedProgram) -> list[Any] | None:
    """What a program returns on its own example inputs, if it has some that it runs on."""
    if program.example_inputs is None:
        return None
    with contextlib.suppress(Exception):
        return run_model(program, *program.example_inputs)
    return None


def _example(model: Any, program: ExportedProgram, returned: list[Any] | None) -> Example | None:
    if returned is None or program.example_inputs is None:
        return None
    args, kwargs = program.example_inputs
    flat = pytree.tree_leaves((args, kwargs))
    return Example(model, args, kwargs, [leaf for leaf in flat if isinstance(leaf, torch.Tensor)], returned)


def load_model(model: Model) -> torch.nn.Module | ExportedProgram:
    """The module or program that `capture` would capture, which takes it as well as what it came from.

    Raises:
        CaptureError: a module that torch.export does not take.
        FormatError: the file is no model.
        InputError: no model at all.
    """
    found: Any = model_of(model)
    return found if isinstance(found, torch.nn.Module | ExportedProgram) else reader_of(found)(found)


def load_program(path: str | os.PathLike[str]) -> ExportedProgram:
    """Load a `.pt2` file written by `torch.export.save`. No code in the file is run.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: the file holds no exported program, or one that could run code.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no file {os.fspath(path)!r}.")
    refuse_other_files(path)
    try:
        with quiet(output=True):
            return load_exported(path)
    except FormatError:
        raise
    except Exception as error:
        raise FormatError(
            f"{os.fspath(path)!r} is not a .pt2 file that torch.export.save wrote ({reason_of(error)})."
        ) from error


def _export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any
) -> tuple[ExportedProgram, list[Any] | None]:
    training = [] if has_own_eval(model) else [name for name, module in model.named_modules() if module.training]
    if training:
        raise CaptureError(
            f"The model is in training mode ({training[0] or 'the model itself'}): call model.eval() first."
        )
    if not args and not kwargs:
        raise InputError("A module needs example inputs: lrp.compile(model, (x,)) or lrp.compile(model, kwargs={...}).")
    refuse_parts(model)

    with without_cache(model, kwargs, dynamic_shapes) as (kwargs, dynamic_shapes):
        given = (model, args, kwargs, dynamic_shapes)
        try:
            returned = run_model(model, args, kwargs)
        except Exception as error:
            raise CaptureError(itself_fails(error)) from error
        try:
            return _one_way_or_other(*given), returned
        except LrpError:  # an ONNX operator says what it cannot do
            raise
        except Exception as error:
            drafted = partial(_program, torch.export.draft_export, *given)
            fixed = fixed_sizes(str(error))
            # Of an ONNX file other shapes are tried, and examples are made of these.
            tried: Any = (lambda *asked: None) if isinstance(model, OnnxModule) else partial(larger_example, *given)
            if not fixed:
                bounded = narrowed_sizes(str(error))
                larger = tried(bounded, _one_way_or_other) if bounded else None
                raise CaptureError(why_not_exported(error, drafted, larger)) from error
            try:
                return of_two_lengths(*given, fixed, _one_way_or_other), returned
            except Exception as why:
                larger = tried(fixed, _one_way_or_other)
                if isinstance(why, NotRepeated) or (larger is not None and larger.size is not None):
                    reason = why_not_exported(error, drafted, larger)
                else:
                    reason = why_not_exported(why, lambda: None, larger)
                unknown = larger is None and fixed_by_one(str(error))
                if isinstance(why, NotRepeated) and (larger is None or larger.size is None) and not unknown:
                    reason = f"{reason[:-1]}; nor does it take steps that a loop could take: {why}."
            raise CaptureError(reason) from error


def _one_way_or_other(model: torch.nn.Module, args: Any, kwargs: Any, shapes: Any) -> ExportedProgram:
    """What torch.export makes of a model, arguments and shapes, if need be with other options than its own."""
    try:
        return _program(torch.export.export, model, args, kwargs, shapes)
    except LrpError:
        raise
    except Exception as error:
        for other_way in other_ways(error):
            with contextlib.suppress(Exception):
                return _program(torch.export.export, model, args, kwargs, shapes, **other_way)
        raise


def _program(exporter: Any, model: Any, args: Any, kwargs: Any, shapes: Any, **options: Any) -> Any:
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), (tuple(args), dict(kwargs)))
    with quiet(output=True), torch.no_grad(), sequences_stay_open(), pools_stay_open():
        return exporter(model, args, kwargs, dynamic_shapes=shapes, **options)


TRAINING = ("train", "training", "dropout_p")
"""Names of the arguments that say whether, or how much, an op trains."""
TRAINING_BATCH_NORMS = {"_native_batch_norm_legit_functional", "native_batch_norm"}


def _refuse_training(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        if not isinstance(node.target, OpOverload):
            continue
        name = op_name(node.target)
        given = bind(node.target, node.args, node.kwargs)
        trains = any(given.get(flag) for flag in TRAINING)
        # Without running statistics a batch norm takes the batch's own, evaluated or not.
        trains = trains and not ("running_mean" in given and given["running_mean"] is None)
        if trains or name in TRAINING_BATCH_NORMS:
            raise CaptureError(
                f"The program was exported in training mode ({name} at {node.name}): call model.eval() first, and give "
                "functions training=False and no dropout."
            )


def argument_names(program: ExportedProgram) -> list[str]:
    """Names of the arguments of the model's forward, in order; none where the program does not know them."""
    signature = program.module_call_graph[0].signature
    return list(signature.forward_arg_names or []) if signature is not None else []


def input_names(program: ExportedProgram) -> tuple[dict[str, str], dict[str, Any]]:
    """Tensor inputs, placeholder name → public name (nested ones dotted), and plain inputs, public name → value."""
    specs = [spec.arg for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    paths = _leaf_paths(program.call_spec.in_spec, len(specs))
    arguments = argument_names(program)
    names: dict[str, str] = {}
    constants: dict[str, Any] = {}
    for spec, path in zip(specs, paths, strict=True):
        in_kwargs, position, *rest = path
        if in_kwargs == 1:
            root = str(position)
        else:
            root = arguments[int(position)] if int(position) < len(arguments) else spec.name
        name = ".".join([root, *map(str, rest)])
        if isinstance(spec, TensorArgument):
            names[spec.name] = name
        else:
            constants[name] = getattr(spec, "value", None)
    return names, constants


def outputs_of(program: ExportedProgram) -> tuple[list[str], dict[int, Other]]:
    """Public names of the tensors among the flat outputs, and by position what is none.

    Keys of a dict or ModelOutput, `output` for a single one, `output.0`, ….
    """
    given = [spec.arg for spec in program.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    paths = _leaf_paths(program.call_spec.out_spec, len(given))
    unnamed = [not path or isinstance(path[0], int) for path in paths]
    names = [".".join(["output"] * first + [*map(str, path)]) for first, path in zip(unnamed, paths, strict=True)]
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    tensors, others = [], {}
    for position, (name, arg) in enumerate(zip(names, given, strict=True)):
        if isinstance(arg, TensorArgument):
            tensors.append(name)
        else:
            others[position] = Other(name, arg.value if isinstance(arg, ConstantArgument) else values.get(arg.name))
    return tensors, others


def _leaf_paths(spec: Any, count: int) -> list[list[Any]]:
    try:
        tree = pytree.tree_unflatten([object() for _ in range(count)], spec)
        leaves, _ = pytree.tree_flatten_with_path(tree)
    except Exception:  # a class that was registered without keys, or that looks at what it is made of
        return _places(spec)
    return [[_key(step) for step in path] for path, _ in leaves]


def _places(spec: Any) -> list[list[Any]]:
    """Paths by the keys that a class keeps as its context, as mappings do, and else by position."""
    if spec.is_leaf():
        return [[]]
    children, keys = spec.children(), spec.context
    if not (isinstance(keys, list | tuple) and len(keys) == len(children) and all(isinstance(k, str) for k in keys)):
        keys = range(len(children))
    return [[key, *rest] for key, child in zip(keys, children, strict=True) for rest in _places(child)]


def _key(step: Any) -> Any:
    for attribute in ("key", "idx", "name"):
        if hasattr(step, attribute):
            return getattr(step, attribute)
    return str(step)
