"""rich's tables where there is no terminal: as text, and as HTML for notebooks."""

from __future__ import annotations

import io
from typing import Any

WIDTH = 160
"""Of text, in columns."""
WIDTH_OF_HTML = 240
"""Of what can be scrolled."""


def plain_table(**options: Any) -> Any:
    """A rich table whose texts are texts: `[/x]` and `:smile:` in a name are no markup. A rich `Text` stays one.

    Args:
        options: as `rich.table.Table` takes them.
    """
    from rich.table import Table
    from rich.text import Text

    def plain(cell: Any, style: str = "") -> Any:
        return Text(cell, style=style) if isinstance(cell, str) else cell

    class PlainTable(Table):
        def add_row(self, *cells: Any, **more: Any) -> None:
            super().add_row(*map(plain, cells), **more)

        def add_column(self, header: Any = "", *rest: Any, **more: Any) -> None:
            super().add_column(plain(header), *rest, **more)

    return PlainTable(**{**options, "title": plain(options.get("title"), "table.title")})


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
