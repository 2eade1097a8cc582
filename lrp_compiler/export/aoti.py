"""An explainer as an AOTInductor package: machine code that C++ runs without Python."""

from __future__ import annotations

import os

from lrp_compiler.artefact import Artefact
from lrp_compiler.base.errors import LrpError
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.metadata import METADATA_KEY
from lrp_compiler.base.quiet import quiet
from lrp_compiler.torch_private import compile_package

SUFFIX = ".pt2"
"""torch's loaders ask for it."""


def write_explainer(artefact: Artefact, path: str | os.PathLike[str]) -> None:
    """Compile an explainer into a package at `path`, whole or not at all: see `Explainer.to_aoti`.

    Raises:
        LrpError: the path does not end in `.pt2`, there is no C++ compiler, or AOTInductor fails.
    """
    if not os.fspath(path).endswith(SUFFIX):
        raise LrpError(f"An AOTInductor package must end in {SUFFIX}, and {os.fspath(path)!r} does not.")
    missing = "An AOTInductor package needs a C++ compiler, and none was found: install g++, or name one in CXX."
    with atomic_path(path) as temporary:
        try:
            with quiet(output=True):
                compile_package(artefact.program, str(temporary), {METADATA_KEY: artefact.about.to_json()})
        except FileNotFoundError as error:
            raise LrpError(missing) from error
        except Exception as error:
            raise LrpError(f"AOTInductor cannot compile this explainer: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """Its first line; of a C++ compiler, what it says instead of the command."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = [line for line in lines if "error:" in line]
    return f"{type(error).__name__}: {(found or lines or ['no message'])[0][:200]}".rstrip(".")
