"""Environments in build/: this one's packages and, besides, what is installed into them."""

from __future__ import annotations

import site
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path

from benchmarks.base.places import BUILD, ROOT


def made(folder: Path, fill: Callable[[list[str | Path]], None]) -> Path:
    """Its Python; made where there is none.

    Args:
        folder: of the environment.
        fill: installs what else it holds, by this command; the project itself is there already.
    """
    mark, interpreter = folder / "complete", folder / "bin" / "python"
    if not mark.exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [interpreter, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
        (here,) = folder.glob("lib/python*/site-packages")
        paths = [path for path in (*site.getsitepackages(), *sys.path) if Path(path).name == "site-packages"]
        (here / "shared.pth").write_text("\n".join(dict.fromkeys(paths)) + "\n")
        subprocess.run([*pip, "--no-deps", "--editable", ROOT], check=True)
        fill(pip)
        mark.touch()
    return interpreter


def with_extra(name: str) -> Path:
    """The Python of an environment in build/ that holds, besides, what an extra of the project brings."""

    def fill(pip: list[str | Path]) -> None:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", *extras[name]], check=True)

    return made(BUILD / name, fill)
