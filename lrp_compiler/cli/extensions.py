"""Modules of the user's that register operators and their rules before a command is done."""

import importlib
import os
import sys

from lrp_compiler.base.errors import InputError


def import_extension(name: str) -> None:
    """Import a module by its dotted name, from the folder that one stands in or from what is installed.

    Raises:
        InputError: there is no module of that name, or it fails.
    """
    if name.endswith(".py") or os.sep in name:
        stem = name.removesuffix(".py").replace(os.sep, ".").strip(".")
        raise InputError(f"--import {name}: give the module as Python imports it, without folder and ending: {stem}.")
    # A script of the shell's has its own folder there; `python -m` has this one.
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name + ".").startswith(error.name + "."):
            raise InputError(f"--import {name}: there is no module {error.name!r} here or installed.") from error
        raise InputError(f"--import {name}: it imports {error.name!r}, which is not installed.") from error
    except Exception as error:
        raise InputError(f"--import {name}: it fails with {type(error).__name__}: {error}") from error
