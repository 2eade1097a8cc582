"""What users hand over in place of a model or of example inputs: taken as it is meant, or refused by its name."""

from __future__ import annotations

import inspect
import os
import pickletools
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from lrp_compiler.base.errors import CaptureError, FormatError, InputError
from lrp_compiler.base.validate import shortened
from lrp_compiler.formats import ONNX, ends_in
from lrp_compiler.torch_private import pytree

from .onnx_files import module_of

WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
"""Classes of torch that stand around a model and calculate the same; attribute with that model."""
QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "bitsandbytes.")
"""Where modules come from whose weights are packed integers."""
IN_FLOAT = ("FloatFunctional", "FXFloatFunctional")
"""Of these modules those that stand for plain additions and products, before anything is quantised."""
OTHER_FILES = {
    ONNX: "an ONNX model",
    ".safetensors": "weights alone",
    ".gguf": "weights alone",
    ".h5": "a Keras model",
    ".keras": "a Keras model",
    ".tflite": "a TensorFlow Lite model",
    ".json": "no model",
}
PICKLE = b"\x80"
"""What pickles start with."""
EXPORT = "torch.export.save(torch.export.export(model.eval(), (x,)), 'model.pt2')"


def model_of(model: Any) -> Any:
    """The module, program or path that is meant.

    Raises:
        CaptureError: a module that torch.export does not take.
        FormatError: an ONNX model that is not sound.
        InputError: no model at all.
    """
    model = module_of(model)
    while isinstance(model, torch.nn.Module) and type(model).__name__ in WRAPPERS:
        model = getattr(model, WRAPPERS[type(model).__name__])
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise CaptureError(
            "The model is TorchScript (torch.jit.script or torch.jit.trace), which torch.export does not take: give "
            "the module that it was made of."
        )
    if isinstance(model, torch.nn.Module):
        _refuse_quantised(model)
    elif isinstance(model, Mapping):
        raise InputError(
            "The model is a state dict, weights alone: make the module, call module.load_state_dict(…), and give that."
        )
    elif isinstance(model, type) and issubclass(model, torch.nn.Module):
        raise InputError(f"The model is the class {model.__name__}: make one, as in {model.__name__}(…).eval().")
    elif not isinstance(model, ExportedProgram | str | os.PathLike):
        if isinstance(getattr(model, "__self__", None), torch.nn.Module):
            raise InputError("The model is a method of a module: give the module itself.")
        function = "a plain function" if callable(model) else shortened(model)
        raise InputError(
            f"The model is {function}, but a torch.nn.Module, an ExportedProgram, or the path of a .pt2 or .onnx file "
            "is wanted" + (": put it into the forward of a module." if callable(model) else ".")
        )
    return model


def _refuse_quantised(model: torch.nn.Module) -> None:
    for name, module in model.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        kind = type(module)
        packed = kind.__module__.startswith(QUANTISED) and kind.__name__ not in IN_FLOAT
        if packed or any(tensor.is_quantized for tensor in own):
            raise CaptureError(
                f"The model is quantised ({name or 'the model itself'} is a {kind.__name__}): explain the "
                "model in floating point that it was made of."
            )


def inputs_of(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example inputs, numpy arrays as tensors.

    Raises:
        InputError: they are no sequence and no mapping of inputs, or hold what has no values to trace.
    """
    if isinstance(args, torch.Tensor | np.ndarray):
        raise InputError("The example inputs are one tensor, but a model takes a sequence of them: write (x,).")
    if _is_mapping(args):
        raise InputError(
            f"The example inputs are a {type(args).__name__}: give them by name, lrp.compile(model, "
            "kwargs=dict(batch))."
        )
    if not isinstance(args, list | tuple):
        raise InputError(f"The example inputs are {shortened(args)}, but a tuple of them is wanted: write (x,).")
    if kwargs is not None and not (_is_mapping(kwargs) and all(isinstance(name, str) for name in kwargs)):
        raise InputError(f"Example inputs by name are a dict from names to tensors, not {shortened(kwargs)}.")
    for value in args:
        if _is_mapping(value) and not isinstance(value, dict):
            raise InputError(
                f"An example input is a {type(value).__name__}: give what is in it by name, "
                "lrp.compile(model, kwargs=dict(batch))."
            )
    made: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(_tensor, (tuple(args), dict(kwargs or {})))
    return made


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) or (hasattr(value, "keys") and hasattr(value, "__getitem__"))


def _tensor(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(np.ascontiguousarray(value))
        except TypeError as error:
            raise InputError(
                f"An example input is an array of dtype {value.dtype}, which torch does not have."
            ) from error
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_nested:
            raise InputError(
                "An example input is a sparse or nested tensor: give x.to_dense(), or one padded to a size."
            )
        if value.is_quantized:
            raise InputError("An example input is quantised: give x.dequantize().")
        if value.is_meta:
            raise InputError("An example input is on device 'meta', where tensors have no values.")
    return value


def refuse_parts(model: torch.nn.Module) -> None:
    """Raise `CaptureError` where a weight is no plain tensor of values."""
    weights = (*model.named_parameters(), *model.named_buffers())
    for name, tensor in weights:
        if tensor.is_meta:
            raise CaptureError(f"{name} is on device 'meta', where tensors have no values: load the weights first.")


def refuse_other_files(path: str | os.PathLike[str]) -> None:
    """Raise `FormatError` for a file that is a model, or a part of one, of another kind; nothing of it is run."""
    name = os.fspath(path)
    if os.path.isdir(path):
        raise FormatError(f"{name!r} is a folder: give the .pt2 file that torch.export.save wrote.")
    if not os.path.isfile(path):  # a pipe would be waited for
        raise FormatError(f"{name!r} is no regular file.")
    known = next((what for ending, what in OTHER_FILES.items() if ends_in(name, ending)), None)
    if known is not None:
        raise FormatError(f"{name!r} is {known}, not an exported program: load the module and write it by {EXPORT}.")
    try:
        with open(path, "rb") as file:
            if file.read(1) == PICKLE:
                raise FormatError(
                    f"{name!r} is a pickle, not an exported program: load the module and write it by {EXPORT}."
                )
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any("/code/" in inside for inside in names):
                raise FormatError(
                    f"{name!r} is TorchScript, which cannot be explained: export the module that it was made of, "
                    f"{EXPORT}."
                )
            pickles = [inside for inside in names if inside.count("/") == 1 and inside.endswith("/data.pkl")]
            if pickles and not any(inside.endswith("archive_format") for inside in names):
                weights = _holds_tensors_alone(archive.read(pickles[0]))
                kind = "a state dict, weights alone" if weights else "a pickled model"
                raise FormatError(
                    f"{name!r} holds {kind}, not an exported program: make or load the module and write it by {EXPORT}."
                )
    except (OSError, zipfile.BadZipFile, ValueError, RuntimeError):
        return


def _holds_tensors_alone(content: bytes) -> bool:
    """Whether a pickle names nothing but tensors and containers; it is read, not run."""
    named: set[str] = set()
    texts: list[str] = []
    for operation, argument, _ in pickletools.genops(content):
        if operation.name == "GLOBAL":
            named.add(str(argument).partition(" ")[0])
        elif operation.name == "STACK_GLOBAL":
            named.add(texts[-2] if len(texts) > 1 else "")
        elif isinstance(argument, str):
            texts.append(argument)
    plain = ("collections", "builtins", "__builtin__", "torch", "torch._utils", "torch._tensor", "torch.nn.parameter")
    return all(module in plain or module.startswith("torch.storage") for module in named)


def has_own_eval(model: torch.nn.Module) -> bool:
    """Whether `eval` is replaced on the object itself, as in the module of an ExportedProgram, where it raises."""
    return "eval" in vars(model)


def parameters_of(model: torch.nn.Module) -> Mapping[str, inspect.Parameter]:
    """What the model's forward takes; nothing where Python cannot say."""
    try:
        return inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return {}
