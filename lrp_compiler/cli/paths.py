"""Files that a command is to read."""

from pathlib import Path

from lrp_compiler.base.errors import InputError
from lrp_compiler.formats import runtime_of


def must_exist(path: Path) -> None:
    """Refuse a file that is not there."""
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")


def must_be_onnx(path: Path, purpose: str) -> None:
    """Refuse what onnxruntime does not run."""
    must_exist(path)
    if runtime_of(path) != "onnxruntime":
        raise InputError(f"{path} is no ONNX file: compile the explainer to M.lrp.onnx for {purpose}.")
