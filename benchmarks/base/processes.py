"""Modules of this repository as processes of their own, be it by another environment's Python.

Only the standard library: what is measured without torch, and the peers' environments, start here as well.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.base.places import ROOT


def command(module: str, *arguments: object, python: str | Path = sys.executable, quiet: bool = False) -> list[str]:
    """`python -m module` with its arguments; `quiet`: without warnings."""
    return [str(python), *(["-W", "ignore"] if quiet else []), "-m", module, *map(str, arguments)]


def environment(python: str | Path = sys.executable, **more: str) -> dict[str, str]:
    """For `command`: the repository is on the path, wherever it starts; under another Python nothing else is."""
    ours = os.environ.get("PYTHONPATH") if str(python) == sys.executable else None
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), ours)))} | more
