"""What the benchmarks share: a bar that tells what is being done, and tables that change whole or not at all."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lrp_compiler.base.files import atomic_path


def console() -> Console:
    """As wide as the terminal, and wide enough for a line where there is none."""
    return Console(width=None if sys.stdout.isatty() else 160)


def progress(on: Console) -> Progress:
    """A bar: what is being done, how much of how many, how long."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=on)


def write(path: Path, content: str) -> None:
    """The file changes whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def write_rows(path: Path, rows: Mapping[str, Any]) -> None:
    """Rows as JSON."""
    write(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
