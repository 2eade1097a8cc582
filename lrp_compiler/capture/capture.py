"""A model, an exported program or a `.pt2` file → one ExportedProgram with names for its inputs and outputs."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument

from lrp_compiler.base.errors import CaptureError, FormatError, InputError
from lrp_compiler.base.frames import innermost
from lrp_compiler.base.quiet import quiet
from lrp_compiler.formats import reader_of
from lrp_compiler.passes.forward import Captured, Other
from lrp_compiler.torch_private import pytree

from .safe_load import load_exported

CACHE = "use_cache"
"""An argument by which models return keys and values for a next call; an explanation is of one call alone."""
Model = torch.nn.Module | ExportedProgram | str | os.PathLike[str]


def capture(
    model: Model,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> Captured:
    """Capture `model`; it is not modified, and neither are the example inputs (they are cloned).

    Args:
        model: an nn.Module in eval mode, an ExportedProgram, or the path of a `.pt2` file that holds one.
        args: example inputs of a module.
        kwargs: example inputs by name.
        dynamic_shapes: as torch.export takes it.

    Raises:
        CaptureError: the module is in training mode, or torch.export cannot trace it.
        FormatError: the file is no exported program.
        InputError: a module came without example inputs or with a bare tensor, or a program with some.
    """
    if isinstance(args, torch.Tensor):
        raise InputError("The example inputs are one tensor, but a model takes a sequence of them: write (x,).")
    if isinstance(model, torch.nn.Module):
        program = _export(model, tuple(args), dict(kwargs or {}), dynamic_shapes)
    elif args or kwargs or dynamic_shapes is not None:
        raise InputError(
            "An exported program brings its own inputs and shapes: args and dynamic_shapes belong to torch.export."
        )
    else:
        program = model if isinstance(model, ExportedProgram) else reader_of(model)(model)
    _refuse_training(program)
    inputs, constants = input_names(program)
    names, others = outputs_of(program)
    return Captured(program, inputs, constants, names, argument_names(program), others)


def load_program(path: str | os.PathLike[str]) -> ExportedProgram:
    """Load a `.pt2` file written by `torch.export.save`. No code in the file is run.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: the file holds no exported program, or one that could run code.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {os.fspath(path)!r}.")
    try:
        with quiet(output=True):
            return load_exported(path)
    except FormatError:
        raise
    except Exception as error:
        raise FormatError(
            f"{os.fspath(path)!r} is not a .pt2 file that torch.export.save wrote ({_first_line(error)})."
        ) from error


def _export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any
) -> ExportedProgram:
    training = [name or "the model itself" for name, module in model.named_modules() if module.training]
    if training:
        raise CaptureError(f"The model is in training mode ({training[0]}): call model.eval() first.")
    if not args and not kwargs:
        raise InputError("A module needs example inputs: lrp.compile(model, (x,)) or lrp.compile(model, kwargs={...}).")
    if CACHE in inspect.signature(model.forward).parameters and CACHE not in kwargs:
        kwargs = {**kwargs, CACHE: False}
        if isinstance(dynamic_shapes, Mapping):
            dynamic_shapes = {**dynamic_shapes, CACHE: None}
        elif dynamic_shapes is not None:
            dynamic_shapes = (*dynamic_shapes, None)
    cloned_args, cloned_kwargs = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), (args, kwargs))
    try:
        with quiet(output=True), torch.no_grad():
            return torch.export.export(model, cloned_args, cloned_kwargs, dynamic_shapes=dynamic_shapes)
    except Exception as error:
        raise CaptureError(_explain(error)) from error


def _explain(error: Exception) -> str:
    text, kind = str(error), type(error).__name__
    if "not a known type" in text:
        found = re.search(r"<class '([^']+)'>", text)
        return (
            f"The model returns a {found[1] if found else 'value'}, which is no tensor and no structure of tensors: "
            "switch that output off (with an argument such as use_cache=False) or register it as a pytree."
        )
    if "data-dependent" in text or "DataDependent" in kind or "bool()" in text or "is_nonzero" in text:
        where = _user_frame(text) or _user_frame(getattr(error, "msg", "") or "")
        return (
            "torch.export cannot trace the model: its control flow depends on the values of a tensor"
            f"{f' ({where})' if where else ''}; use torch.where or torch.cond instead of a Python if."
        )
    if "dynamic" in text and ("specializ" in text or "Constraints violated" in text):
        reasons = [line.strip(" -") for line in text.splitlines() if line.lstrip().startswith("- ")]
        reason = reasons[0].rstrip(".") if reasons else _first_line(error)
        return f"dynamic_shapes does not fit the model (an example size of 1 fixes a dim: use 2 or more): {reason}."
    return f"torch.export cannot trace the model: {kind}: {_first_line(error)}"


def _user_frame(text: str) -> str:
    found = innermost(text, own=True)
    return "" if found is None or found.is_torchs else found.place


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


TRAINING_FLAG = {"dropout": 2, "native_dropout": 2, "batch_norm": 5}
"""Position of the argument that says whether the op trains."""
RUNNING_MEAN = 3
TRAINING_BATCH_NORMS = {"_native_batch_norm_legit_functional", "native_batch_norm"}


def _refuse_training(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        name = getattr(node.target, "_opname", "")
        flag = TRAINING_FLAG.get(name)
        trains = flag is not None and len(node.args) > flag and node.args[flag] is True
        # Without running statistics a batch norm takes the batch's own, evaluated or not.
        trains = trains and not (name == "batch_norm" and node.args[RUNNING_MEAN] is None)
        if trains or name in TRAINING_BATCH_NORMS:
            raise CaptureError(
                f"The program was exported in training mode ({name} at {node.name}): call model.eval() first."
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
