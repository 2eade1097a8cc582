"""What rich draws, as text and as HTML for notebooks."""

from __future__ import annotations

import io
import shutil
from typing import Any

WIDTH = 160
"""Of text where there is no terminal, in columns."""
WIDTH_OF_HTML = 240
"""Of what can be scrolled."""
PRE = (
    "<pre style=\"font-family:Menlo,'DejaVu Sans Mono',Consolas,'Courier New',monospace;line-height:1.15;"
    'white-space:pre;overflow-x:auto">{code}</pre>'
)
"""One font and no wrapping, or the lines of a box do not meet."""


def as_text(table: Any, width: int | None = None) -> str:
    """The table as text, without colours, so many columns wide: by default as wide as the terminal."""
    from rich.console import Console

    width = width or shutil.get_terminal_size((WIDTH, 24)).columns
    # Inside Jupyter rich would show the table by itself.
    console = Console(width=width, color_system=None, file=io.StringIO(), force_jupyter=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def as_html(table: Any) -> str:
    """The table as one element of a page, without script or style sheet."""
    from rich.console import Console

    console = Console(width=WIDTH_OF_HTML, record=True, file=io.StringIO(), force_jupyter=False)
    console.print(table)
    return console.export_html(code_format=PRE, inline_styles=True)
