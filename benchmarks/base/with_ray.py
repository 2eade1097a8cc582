"""The environment with Ray, in build/ray: this one's packages and, besides, what the extra `ray` brings."""

from __future__ import annotations

import site
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from benchmarks.base.places import BUILD, ROOT

FOLDER = BUILD / "ray"


def python() -> Path:
    """Its Python; made where there is none."""
    mark, interpreter = FOLDER / "complete", FOLDER / "bin" / "python"
    if not mark.exists():
        venv.create(FOLDER, with_pip=True, clear=True)
        pip = [interpreter, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
        (here,) = FOLDER.glob("lib/python*/site-packages")
        paths = [path for path in (*site.getsitepackages(), *sys.path) if Path(path).name == "site-packages"]
        (here / "shared.pth").write_text("\n".join(dict.fromkeys(paths)) + "\n")
        subprocess.run([*pip, "--no-deps", "--editable", ROOT], check=True)
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", *extras["ray"]], check=True)
        mark.touch()
    return interpreter
