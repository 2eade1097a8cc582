"""An environment for each framework, in build/frameworks: they want other versions of everything, and not torch."""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Mapping
from pathlib import Path

from benchmarks.base.places import BUILD

FOLDER = BUILD / "frameworks"
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "scikit-learn": ("scikit-learn", "skl2onnx", "onnx"),
    "keras": ("tensorflow-cpu", "keras", "tf2onnx", "onnx"),
    "jax": ("jax", "flax", "jax2onnx", "onnx"),
}
"""What each is made of."""


def python(framework: str) -> Path:
    """Its Python; made where there is none."""
    folder = FOLDER / framework
    mark, interpreter = folder / "complete", folder / "bin" / "python"
    if not mark.exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES[framework]], check=True)
        mark.touch()
    return interpreter
