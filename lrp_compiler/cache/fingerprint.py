"""What a model is apart from the numbers in its tensors, as a digest: the same digest, the same graphs.

Said without tracing the model, which is most of what a compilation costs. What decides over its graph is all that its
modules hold (a pickle of it, tensors by their shape, dtype, layout and who shares memory with whom), the code of its
classes and functions, and what that code reads besides: the rest of its own files and the plain values in them. Of
installed packages the version stands for the code.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import pickle
import platform
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lrp_compiler import passes, rules
from lrp_compiler.base.version import __version__
from lrp_compiler.rules import MULTIPLYING, OPERATORS, RULES

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype)
"""Values that code reads off the names of its file, and that are compared as they are."""
OWN = (Path(__file__).resolve().parents[1], *(Path(str(one.__file__)).resolve().parent for one in (passes, rules)))
"""The project's own folders."""
INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")})


@dataclass(frozen=True)
class Fingerprint:
    """A model's structure.

    Args:
        digest: SHA-256, in hex.
        tensors: what the model holds, in the order in which the digest counts them; two of the same digest have
            tensors of the same shapes and dtypes at the same places.
    """

    digest: str
    tensors: list[Tensor]


class Indescribable(Exception):
    """Something in the model, or in what is asked, has no description; the message says what: half a sentence."""


def fingerprint(model: Any, args: Any, options: Any) -> Fingerprint:
    """The structure of a model, of its example inputs, and of whatever else decides over its graphs.

    Args:
        model: a module, an exported program, or an ONNX model.
        args: example inputs, of which structure, shapes and dtypes count, and the values of what is no tensor.
        options: all else, by value; functions by their code.

    Raises:
        Indescribable: something cannot be pickled.
    """
    digest = hashlib.sha256()
    described = _Pickler(digest)
    described.describe(_program(model) if isinstance(model, ExportedProgram) else model)
    tensors = described.tensors[:]
    described.describe((args, options, _registered(), _surroundings()))
    for line in described.code():
        digest.update(f"{line}\n".encode())
    return Fingerprint(digest.hexdigest(), tensors)


def _program(program: ExportedProgram) -> Any:
    nodes = [(node.op, node.name, str(node.target), str(node.args), str(node.kwargs)) for node in program.graph.nodes]
    values = [_shape_of(node.meta.get("val")) for node in program.graph.nodes]
    said = [str(program.graph_signature), str(program.range_constraints), str(program.call_spec)]
    examples = _shape_of(program.example_inputs)
    return nodes, values, said, examples, program.state_dict, program.constants


def _shape_of(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (str(value.dtype), str(list(value.shape)), str(list(value.stride())))
    return str(value) if not isinstance(value, list | tuple) else [_shape_of(one) for one in value]


def _registered() -> Any:
    """The operators and rules that were registered by others than the project itself."""

    def foreign(function: Any) -> bool:
        return isinstance(function, types.FunctionType) and not _is_own(function.__code__.co_filename)

    operators = [
        (str(target), one.kind, one.family, one.rule, one.describe, one.when)
        for target, known in OPERATORS.items()
        for one in known
        if foreign(one.describe) or foreign(one.when)
    ]
    rules = [(*key, rule, key in MULTIPLYING) for key, rule in RULES.items() if foreign(rule)]
    return operators, rules


def _surroundings() -> Any:
    return (
        __version__,
        _own_code(),
        torch.__version__,
        platform.python_version(),
        str(torch.get_default_dtype()),
        torch.backends.mha.get_fastpath_enabled(),
    )


@functools.cache
def _own_code() -> str:
    """Digest of the project's own files, which change between releases where it is developed."""
    digest = hashlib.sha256()
    for folder in OWN:
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


class _Sink:
    """A file for the pickler: what is written is digested."""

    def __init__(self, digest: Any) -> None:
        self.digest = digest

    def write(self, data: Any) -> int:
        """Take it."""
        self.digest.update(data)
        return len(data)


def _described(*parts: Any) -> None:
    """Stands in the pickle for what is described instead of pickled; the pickle is never read."""


class _Pickler(pickle.Pickler):
    """Pickles a description into a digest, and remembers the tensors and whose code takes part."""

    def __init__(self, digest: Any) -> None:
        super().__init__(_Sink(digest), protocol=5)
        self.tensors: list[Tensor] = []
        self.modules: set[str] = set()
        self._storages: dict[int, int] = {}

    def describe(self, value: Any) -> None:
        """Take it into the digest.

        Raises:
            Indescribable: it cannot be pickled.
        """
        try:
            self.dump(value)
        except RecursionError:
            raise Indescribable("it is nested too deeply") from None
        except Exception as error:
            raise Indescribable(f"{type(error).__name__}: {error}".rstrip(".")) from error

    def persistent_id(self, value: Any) -> Any:
        """What is described without looking into it: texts as well, since a pickle tells equal ones from the same."""
        if type(value) is str:
            return b"text " + value.encode(errors="surrogatepass")
        if isinstance(value, Tensor):
            return self._tensor(value)
        if type(value) in (set, frozenset) and all(isinstance(one, PLAIN) for one in value):
            return "set", sorted(map(repr, value))
        if isinstance(value, types.ModuleType):
            self.modules.add(value.__name__)
            return "module", value.__name__
        if isinstance(value, onnx.ModelProto | onnx.GraphProto):
            return "onnx", hashlib.sha256(value.SerializeToString(deterministic=True)).hexdigest()
        return None

    def _tensor(self, tensor: Tensor) -> Any:
        kind = ("tensor", type(tensor).__qualname__, str(tensor.dtype), str(tensor.layout), tuple(tensor.shape))
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) or tensor.layout is not torch.strided:
            raise Indescribable(f"it holds a tensor of type {type(tensor).__qualname__} and layout {tensor.layout}")
        place = tensor.untyped_storage().data_ptr()
        shared = self._storages.setdefault(place, len(self.tensors)) if place else len(self.tensors)
        self.tensors.append(tensor)
        return (*kind, str(tensor.device), tensor.stride(), tensor.storage_offset(), shared)

    def reducer_override(self, value: Any) -> Any:
        """Classes and functions by their code, modules by what they hold."""
        if value is _described or (isinstance(value, type) and value.__module__ == "builtins"):
            return NotImplemented
        if isinstance(value, type):
            return self._code_of(value, lambda: _members(value))
        if isinstance(value, types.FunctionType):
            return self._code_of(value, lambda: _parts(value))
        if isinstance(value, nn.Module):
            return _described, (type(value),), _held(value)
        if isinstance(value, weakref.ReferenceType):
            return _described, ("reference",), (value(),)
        return NotImplemented

    def _code_of(self, value: Any, parts: Any) -> Any:
        name = value.__module__ or ""
        self.modules.add(name)
        if isinstance(value, type):
            self.modules.update(base.__module__ for base in value.__mro__)
        state = None if _is_installed(name) else parts()
        return _described, ("code", name, value.__qualname__), state

    def code(self) -> Iterator[str]:
        """What stands for the code of all that was described: versions, digests of files, and the values in them."""
        own = sorted(_neighbours(self.modules))
        used = {name for module in own for name in _used(sys.modules[module])}
        for top in sorted({name.partition(".")[0] for name in self.modules | used}):
            if _is_installed(top):
                yield f"{top} {_version(top)}"
        for name in own:
            module = sys.modules[name]
            file = Path(str(module.__file__)) if getattr(module, "__file__", None) else None
            content = hashlib.sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else ""
            values = {
                key: value for key, value in vars(module).items() if _is_plain(value) and not key.startswith("__")
            }
            yield f"{name} {content} {sorted(values.items(), key=str)}"


def _held(module: nn.Module) -> dict[str, Any]:
    """What a module holds. Hooks are numbered in order: their own numbers are counted over the whole process."""
    held = dict(vars(module))
    hooks = {name: value for name, value in held.items() if "hooks" in name and isinstance(value, dict)}
    numbers = {key: at for at, key in enumerate(sorted({key for one in hooks.values() for key in one}, key=str))}
    return held | {name: [(numbers[key], one) for key, one in value.items()] for name, value in hooks.items()}


def _used(module: types.ModuleType) -> Iterator[str]:
    """The modules from which a module has something in its namespace."""
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name:
            yield name


def _members(kind: type) -> dict[str, Any]:
    """The code and the plain values in a class."""
    found: dict[str, Any] = {"bases": kind.__bases__}
    for name, member in vars(kind).items():
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        if isinstance(member, property):
            member = (member.fget, member.fset)
        if isinstance(member, types.FunctionType | tuple) or _is_plain(member):
            found[name] = member
    return found


def _parts(function: types.FunctionType) -> Any:
    """What a function does: its code, what it closes over, and its defaults."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not filled yet
            cells.append("empty")
    return {
        "code": _code(function.__code__),
        "cells": cells,
        "defaults": (function.__defaults__, function.__kwdefaults__),
    }


def _code(code: types.CodeType) -> Any:
    constants = [_code(one) if isinstance(one, types.CodeType) else repr(one) for one in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars


def _is_plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(_is_plain, value)))


@functools.cache
def _is_own(file: str | None) -> bool:
    return file is not None and any(Path(file).resolve().is_relative_to(folder) for folder in OWN)


@functools.cache
def _is_installed(name: str) -> bool:
    """Whether a module is of an installed package, of Python, or of the project, whose version says what it does."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return top != "__main__" and name in sys.modules and not hasattr(sys.modules[name], "__path__")
    return _is_own(file) or any(Path(file).is_relative_to(folder) for folder in INSTALLED)


def _version(top: str) -> str:
    """Of an installed package: its distribution's version, or else when its file was written."""
    try:
        return importlib.metadata.version(top)
    except importlib.metadata.PackageNotFoundError:
        file = getattr(sys.modules.get(top), "__file__", None)
        said = getattr(sys.modules.get(top), "__version__", "")
        return f"{said} {Path(file).stat().st_mtime_ns}" if file and Path(file).is_file() else str(said)


def _neighbours(names: Iterable[str]) -> set[str]:
    """The loaded modules of the folders from which a model's own modules come, these included."""
    found = {name for name in names if name in sys.modules and not _is_installed(name)}
    folders = {folder for name in found if (folder := _folder(name)) is not None}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and not _is_installed(name) and any(Path(file).is_relative_to(folder) for folder in folders):
            found.add(name)
    return found


def _folder(name: str) -> Path | None:
    """Of a package its own folder, of a file the one that it lies in."""
    file = getattr(sys.modules.get(name.partition(".")[0]) or sys.modules[name], "__file__", None)
    return Path(file).resolve().parent if file else None
