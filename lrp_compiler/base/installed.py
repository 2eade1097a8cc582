"""What is installed of the project, and what is said of what is not. Torch-free.

The package comes in two distributions of the same files: `lrp-compiler`, which is whole, and `lrp-compiler-runtime`,
which leaves out all that needs torch or onnx. Side by side they are the whole package, if they are of one version.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from .errors import InstallError
from .version import __version__

WHOLE, PART = "lrp-compiler", "lrp-compiler-runtime"
PACKAGE_NAME = __name__.partition(".")[0]
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The folder of the package."""
OF_THE_WHOLE = ("torch", "onnx", "onnxscript", "onnx_ir")
"""Packages that only the whole distribution brings."""
OTHERS = ("numpy", "onnxruntime", "rich")
"""Packages that both bring."""
EXTRAS = {
    "pyarrow": ("pyarrow", "data"),
    "PIL": ("pillow", "data"),
    "tokenizers": ("tokenizers", "data"),
    "sklearn": ("scikit-learn", "summary"),
    "ray": ("ray", "ray"),
    "pandas": ("pandas", "ray"),
    "orjson": ("orjson", "serve"),
    "prometheus_client": ("prometheus-client", "serve"),
    "starlette": ("starlette", "serve"),
    "uvicorn": ("uvicorn", "serve"),
}
"""Packages that an extra brings: as they are imported → what they are called, and the extra."""


def is_whole() -> bool:
    """Whether what needs torch is there, too."""
    return os.path.isfile(os.path.join(PACKAGE, "compiler.py"))


TWO_BUILDS = "operator torchvision::nms does not exist"
"""What a torchvision for CUDA says on import beside a torch for CPUs, in words of its own or quoted by transformers."""


def command(extra: str = "") -> str:
    """What installs this distribution as it is, with an extra: `pip install 'lrp-compiler[plots]'`."""
    return f"pip install '{WHOLE if is_whole() else PART}[{extra}]'"


def whole_command() -> str:
    """What installs the whole package beside what is there."""
    return f"pip install {WHOLE}=={__version__}"


def lacking(error: BaseException, doing: str) -> InstallError | None:
    """The sentence for something that is not installed; None if the error says something else.

    Args:
        error: what was raised.
        doing: what cannot be done, to follow "Cannot": "compile the model".
    """
    if TWO_BUILDS in str(error):
        return InstallError(
            f"Cannot {doing}: torchvision is of another build than torch, so that it cannot be imported; install both "
            "again in one command and from one index (pip install --force-reinstall torch torchvision), or uninstall "
            "torchvision if you do not need it."
        )
    if not isinstance(error, ModuleNotFoundError | InstallError) or not error.name:
        return None
    name = error.name.partition(".")[0]
    if name == PACKAGE_NAME and isinstance(error, InstallError):
        return InstallError(f"Cannot {doing} without torch, which {PART} leaves out: {whole_command()}.")
    if name in OF_THE_WHOLE:
        return InstallError(f"Cannot {doing} without {name}: {whole_command()}.")
    if name in EXTRAS:
        called, extra = EXTRAS[name]
        return InstallError(f"Cannot {doing} without {called}: {command(extra)}.")
    return InstallError(f"Cannot {doing} without {name}: pip install {name}.") if name in OTHERS else None


def check_versions(folder: str = os.path.dirname(PACKAGE)) -> None:
    """Refuse two distributions of different versions, which have written over each other's files.

    Args:
        folder: where the package lies; pip writes beside it what is installed there.

    Raises:
        InstallError: they are of different versions.
    """
    found: dict[str, str] = {}
    for entry in os.listdir(folder) if os.path.isdir(folder) else ():
        name, _, version = entry.removesuffix(".dist-info").partition("-")
        if entry.endswith(".dist-info") and name.replace("_", "-").lower() in (WHOLE, PART):
            found[name.replace("_", "-").lower()] = version
    if len(set(found.values())) > 1:
        raise InstallError(
            f"{WHOLE} {found[WHOLE]} and {PART} {found[PART]} have written over each other's files: "
            f"pip uninstall --yes {WHOLE} {PART}, then install the one that is wanted."
        )


class LeftOut:
    """The last finder of modules: says of one of this package's that is not there where it is to be had."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> None:
        """Nothing of other packages; raises `InstallError` for one of this."""
        if name.startswith(f"{PACKAGE_NAME}.") and not is_whole():
            said = f"{name} is no part of {PART}, which leaves out all that needs torch: {whole_command()}."
            raise InstallError(said, name=name)


def say_what_is_left_out() -> None:
    """Have imports of what this distribution leaves out answered by a sentence."""
    if not is_whole() and LeftOut not in sys.meta_path:
        sys.meta_path.append(LeftOut)
