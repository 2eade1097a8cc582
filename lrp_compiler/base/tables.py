"""rich's tables where there is no terminal: as text, and as HTML for notebooks."""

from __future__ import annotations

import io
from typing import Any

WIDTH = 160
"""Of text, in columns."""
WIDTH_OF_HTML = 240
"""Of what can be scrolled."""


def as_text(table: Any, width: int = WIDTH) -> str:
    """The table as text, without colours, so many columns wide."""
    from rich.console import Console

    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def as_html(table: Any) -> str:
    """The table as one element of a page, without script or style sheet."""
    from rich.console import Console

    console = Console(width=WIDTH_OF_HTML, record=True, file=io.StringIO())
    console.print(table)
    form = '<pre style="line-height:1.15;overflow-x:auto">{code}</pre>'
    return console.export_html(code_format=form, inline_styles=True)
