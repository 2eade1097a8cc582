"""The environment with Ray, in build/ray: this one's packages and, besides, what the extra `ray` brings."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

from benchmarks.base import beside
from benchmarks.base.places import BUILD, ROOT


def python() -> Path:
    """Its Python; made where there is none."""
    return beside.made(BUILD / "ray", _fill)


def _fill(pip: list[str | Path]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", *extras["ray"]], check=True)
