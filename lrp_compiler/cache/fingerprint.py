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
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from lrp_compiler.artefact.provenance import hash_of
from lrp_compiler.base.version import __version__
from lrp_compiler.rules import CONDUCT, OPERATORS, RULES
from lrp_compiler.torch_private import OpOverload

from .code import (
    INSIDE,
    OWN,
    PLAIN,
    cells,
    foreign_members,
    held,
    is_foreign,
    is_installed,
    is_plain,
    members,
    parts,
    replaced,
    writes_itself,
)


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
    described.describe((args, _surroundings(), replaced(described.modules)))
    described.by_value = True  # what is no weight of the model stands in the graphs as it is
    described.describe((options, _registered()))
    for line in described.code():
        digest.update(f"{line}\n".encode())
    return Fingerprint(digest.hexdigest(), tensors)


def _program(program: ExportedProgram) -> Any:
    graphs = [
        (name, [_node(node) for node in part.graph.nodes])
        for name, part in program.graph_module.named_modules()
        if isinstance(part, fx.GraphModule)
    ]
    said = [str(program.graph_signature), str(program.range_constraints), str(program.call_spec)]
    return graphs, said, _shape_of(program.example_inputs), program.state_dict, program.constants


def _node(node: fx.Node) -> Any:
    """An operation, what it returns, and where in the model's modules and code it stands."""
    said = (node.op, node.name, str(node.target), str(node.args), str(node.kwargs), _shape_of(node.meta.get("val")))
    return said, str(node.meta.get("nn_module_stack")), str(node.meta.get("stack_trace"))


def _shape_of(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (str(value.dtype), str(list(value.shape)), str(list(value.stride())))
    return str(value) if not isinstance(value, list | tuple) else [_shape_of(one) for one in value]


def _registered() -> Any:
    """The operators and rules; those of the project itself go by their names."""
    operators = [
        (str(target), [(one.kind, one.family, one.rule, one.describe, one.when) for one in known])
        for target, known in OPERATORS.items()
    ]
    rules = [(*key, rule, CONDUCT.get(key)) for key, rule in RULES.items()]
    return sorted(operators, key=lambda one: one[0]), sorted(rules, key=lambda one: one[:2])


def _surroundings() -> Any:
    return (
        __version__,
        _own_code(),
        torch.__version__,
        platform.python_version(),
        str(torch.get_default_dtype()),
        torch.backends.mha.get_fastpath_enabled(),
        torch.is_autocast_enabled("cpu") and str(torch.get_autocast_dtype("cpu")),
        torch.are_deterministic_algorithms_enabled(),
        str(torch.get_default_device()),
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
        self.by_value = False
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
        if type(value) in (set, frozenset) and all(type(one) in PLAIN for one in value):
            return "set", sorted(map(repr, value))
        if isinstance(value, OpOverload):
            return "operator", str(value)
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
        values = hash_of("", {"": tensor}) if self.by_value else ""
        lazy = tensor.is_conj(), tensor.is_neg()
        return (*kind, str(tensor.device), tensor.stride(), tensor.storage_offset(), shared, values, lazy)

    def reducer_override(self, value: Any) -> Any:
        """Classes and functions by their code, modules by what they hold."""
        if value is _described or (isinstance(value, type) and value.__module__ == "builtins"):
            return NotImplemented
        if isinstance(value, type):
            return self._code_of(value, is_installed(value.__module__ or ""))
        if isinstance(value, types.FunctionType):
            return self._code_of(value, not is_foreign(value))
        inside = INSIDE.get(type(value))
        if inside is not None:
            return _described, (type(value).__name__,), inside(value)
        if isinstance(value, nn.Module) or writes_itself(type(value)):
            return _described, (type(value),), held(value)
        return NotImplemented

    def _code_of(self, value: Any, installed: bool) -> Any:
        self.modules.add(value.__module__ or "")
        if isinstance(value, type):
            self.modules.update(base.__module__ for base in value.__mro__)
            made: Any = foreign_members(value) if installed else members(value)
        else:
            made = cells(value) if installed else parts(value)
        return _described, ("code", value.__module__ or "", value.__qualname__), made or None

    def code(self) -> Iterator[str]:
        """What stands for the code of all that was described: versions, digests of files, and the values in them."""
        own = sorted(_neighbours(self.modules))
        used = {name for module in own for name in _used(sys.modules[module])}
        for top in sorted({name.partition(".")[0] for name in self.modules | used}):
            if is_installed(top):
                yield f"{top} {_version(top)}"
        for name in own:
            module = sys.modules[name]
            file = Path(str(module.__file__)) if getattr(module, "__file__", None) else None
            content = hashlib.sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else ""
            # A script's own names change while it runs; of these count what code reads.
            names = {} if module is sys.modules.get("__main__") else vars(module)
            values = {key: value for key, value in names.items() if is_plain(value) and not key.startswith("__")}
            yield f"{name} {content} {sorted(values.items(), key=str)}"


def _used(module: types.ModuleType) -> Iterator[str]:
    """The modules from which a module has something in its namespace."""
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name:
            yield name


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
    found = {name for name in names if name in sys.modules and not is_installed(name)}
    folders = {folder for name in found if (folder := _folder(name)) is not None}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and not is_installed(name) and any(Path(file).is_relative_to(folder) for folder in folders):
            found.add(name)
    return found


def _folder(name: str) -> Path | None:
    """Of a package its own folder, of a file the one that it lies in."""
    file = getattr(sys.modules.get(name.partition(".")[0]) or sys.modules[name], "__file__", None)
    return Path(file).resolve().parent if file else None
