"""An explainer as an AOTInductor package: machine code that C++ runs without Python."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from torch.export import ExportedProgram

from lrp_compiler.base.errors import LrpError
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.metadata import METADATA_KEY
from lrp_compiler.base.quiet import quiet

SUFFIX = ".pt2"
"""torch's loaders ask for it."""


def export_aoti(program: ExportedProgram, metadata: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Compile an explainer's program into a package at `path`, whole or not at all.

    Raises:
        LrpError: the path does not end in `.pt2`, there is no C++ compiler, or AOTInductor fails.
    """
    if not os.fspath(path).endswith(SUFFIX):
        raise LrpError(f"An AOTInductor package must end in {SUFFIX}, and {os.fspath(path)!r} does not.")
    # Inductor takes a second to import; nothing else needs it.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    missing = "An AOTInductor package needs a C++ compiler, and none was found: install g++, or name one in CXX."
    with atomic_path(path) as temporary:
        try:
            get_cpp_compiler()
            with quiet(output=True):
                torch._inductor.aoti_compile_and_package(
                    program,
                    package_path=str(temporary),
                    inductor_configs={"aot_inductor.metadata": {METADATA_KEY: json.dumps(metadata, sort_keys=True)}},
                )
        except InvalidCxxCompiler as error:
            raise LrpError(missing) from error
        except Exception as error:
            raise LrpError(f"AOTInductor cannot compile this explainer: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """Its first line; of a C++ compiler, what it says instead of the command."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = [line for line in lines if "error:" in line]
    return f"{type(error).__name__}: {(found or lines or ['no message'])[0][:200]}".rstrip(".")
