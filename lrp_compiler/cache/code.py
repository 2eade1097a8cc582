"""What objects, classes and functions are made of, and which of it is a package's own: its version stands for that."""

from __future__ import annotations

import functools
import sys
import sysconfig
import types
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrp_compiler import passes, rules

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype)
"""Values that code reads off the names of its file, and that are compared as they are."""
OWN = (Path(__file__).resolve().parents[1], *(Path(str(one.__file__)).resolve().parent for one in (passes, rules)))
"""The project's own folders."""
INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")})


def held(value: Any) -> Any:
    """What an object holds. Hooks are numbered in order: their own numbers are counted over the whole process."""
    held = dict(getattr(value, "__dict__", {}))
    slots = [name for kind in type(value).__mro__ for name in vars(kind) if _is_slot(vars(kind)[name])]
    held |= {f"slot {name}": getattr(value, name) for name in slots if hasattr(value, name)}
    if not isinstance(value, nn.Module):
        contents = next((kind(value) for kind in (dict, list, tuple, set) if isinstance(value, kind)), None)
        return held, contents
    hooks = {name: value for name, value in held.items() if "hooks" in name and isinstance(value, dict)}
    numbers = {key: at for at, key in enumerate(sorted({key for one in hooks.values() for key in one}, key=str))}
    return held | {name: [(numbers[key], one) for key, one in value.items()] for name, value in hooks.items()}


def _is_slot(member: Any) -> bool:
    return isinstance(member, types.MemberDescriptorType)


def writes_itself(kind: type) -> bool:
    """Whether a class says by itself what a pickle of its objects holds: perhaps not all that they do."""
    written = [getattr(kind, name, None) for name in ("__getstate__", "__reduce__", "__reduce_ex__")]
    return any(isinstance(one, types.FunctionType) and is_foreign(one) for one in written)


def members(kind: type) -> dict[str, Any]:
    """What a class is made of: code, and whatever else lies in it."""
    found: dict[str, Any] = {"bases": kind.__bases__}
    for name, member in vars(kind).items():
        special = name.startswith("__") and not isinstance(member, types.FunctionType | staticmethod | classmethod)
        written = isinstance(member, types.GetSetDescriptorType | types.MemberDescriptorType)
        if not (special or written or name == "_abc_impl"):
            found[name] = member
    return found


def foreign_members(kind: type) -> list[Any]:
    """What others have put into a class of an installed package, or into those that it is made from."""
    return [
        (base.__qualname__, name, member)
        for base in kind.__mro__
        for name, member in vars(base).items()
        if isinstance(member, types.FunctionType) and is_installed(base.__module__) and is_foreign(member)
    ]


def replaced(names: Iterable[str]) -> list[Any]:
    """What others have put into installed modules, into torch's own functions above all."""
    return [
        (name, key, value)
        for name in sorted({*names, "torch", "torch.nn.functional"})
        if name in sys.modules and is_installed(name)
        for key, value in sorted(vars(sys.modules[name]).items())
        if isinstance(value, types.FunctionType) and is_foreign(value)
    ] + foreign_members(Tensor)


def cells(function: types.FunctionType) -> list[Any]:
    """What a function closes over."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not filled yet
            cells.append("empty")
    return cells


def parts(function: types.FunctionType) -> Any:
    """What a function does: its code, what it closes over, its defaults, and what it reads off its module."""
    return {
        "code": _code(function.__code__),
        "cells": cells(function),
        "defaults": (function.__defaults__, function.__kwdefaults__, vars(function)),
        "names": _named(function.__globals__, sorted(_names(function.__code__)), []),
    }


def _names(code: types.CodeType) -> set[str]:
    """All names that code, and the code inside it, asks for."""
    inner = [_names(one) for one in code.co_consts if isinstance(one, types.CodeType)]
    return set(code.co_names).union(*inner)


def _named(space: dict[str, Any], names: list[str], seen: list[Any]) -> dict[str, Any]:
    """What lies in a namespace under these names; of a module that is no package's, what lies in it under them."""
    found = {name: space[name] for name in names if name in space and not name.startswith("__")}
    seen.append(space)
    for name, value in found.items():
        if isinstance(value, types.ModuleType) and not is_installed(value.__name__):
            within = vars(value)
            found[name] = value, None if any(within is one for one in seen) else _named(within, names, seen)
    return found


def _code(code: types.CodeType) -> Any:
    constants = [_code(one) if isinstance(one, types.CodeType) else _constant(one) for one in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_flags


def _constant(value: Any) -> Any:
    """A constant in code, as text; a set in an order that is the same in every process."""
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


def is_foreign(function: types.FunctionType) -> bool:
    """Whether a function is neither the project's nor an installed package's; its name may be borrowed (`wraps`)."""
    file = function.__code__.co_filename
    return not (file.startswith("<") or _lies_installed(file)) or not is_installed(function.__module__ or "")


def is_plain(value: Any) -> bool:
    """Whether it is a number, a text or the like, or a tuple of such."""
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(is_plain, value)))


INSIDE: dict[type, Callable[[Any], Any]] = {
    types.MethodType: lambda method: (method.__func__, method.__self__),
    types.MappingProxyType: dict,
    staticmethod: lambda method: (method.__func__,),
    classmethod: lambda method: (method.__func__,),
    property: lambda found: (found.fget, found.fset, found.fdel),
    functools.cached_property: lambda found: (found.func,),
    type(functools.cache(is_plain)): lambda function: (function.__wrapped__,),
    weakref.ReferenceType: lambda reference: (reference(),),
}
"""What is described by what lies inside, since a pickle goes by its name, or there is none."""


@functools.cache
def _is_own(file: str | None) -> bool:
    return file is not None and any(Path(file).resolve().is_relative_to(folder) for folder in OWN)


def is_installed(name: str) -> bool:
    """Whether a module is of an installed package, of Python, or of the project, whose version says what it does."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:  # compiled into a package, or made by hand
        return top != name and is_installed(top)
    return _lies_installed(file)


@functools.cache
def _lies_installed(file: str) -> bool:
    return _is_own(file) or any(Path(file).is_relative_to(folder) for folder in INSTALLED)
