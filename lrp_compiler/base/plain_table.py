"""A rich table of texts and numbers that fits any width: columns that do not stand below, in blocks of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from .rendered import as_html, as_text

FRAME = 3
"""What a column takes besides its cells: a border, and a blank on both sides."""
NARROWEST = 12
"""As narrow as this a column of texts may become, which are folded."""


class PlainTable(Table):
    """A table whose texts are texts; one justified to the right is a number, and stays on one line.

    Where the columns do not fit beside one another, those that are left over stand below in further blocks, the first
    column again in front of each. A title at the left takes the room there is, however narrow the table. Printed, it is
    text; in a notebook HTML, once.

    Args:
        options: as `rich.table.Table` takes them.
    """

    def __init__(self, **options: Any) -> None:
        title = _plain(options.get("title"), "table.title")
        # Below a title of its own rich folds it to the width of the columns.
        self._title_above = title if options.get("title_justify") == "left" else None
        self._options = {**options, "title": None if self._title_above is not None else title}
        self._headers: list[tuple[Any, dict[str, Any]]] = []
        self._cells: list[tuple[tuple[Any, ...], dict[str, Any]] | None] = []
        super().__init__(**self._options)

    def add_column(self, header: Any = "", **options: Any) -> None:  # type: ignore[override]
        """A column, as rich takes it."""
        number = options.get("justify") == "right"
        column = (_plain(header), {"overflow": "fold", **options, "no_wrap": number})
        self._headers.append(column)
        super().add_column(column[0], **column[1])

    def add_row(self, *cells: Any, **options: Any) -> None:
        """A row, as rich takes it; columns that are not there yet come with it."""
        while len(self._headers) < len(cells):
            self.add_column()
        row = tuple(map(_plain, cells))
        self._cells.append((row, options))
        super().add_row(*row, **options)

    def add_section(self) -> None:
        """A line below what was added last."""
        self._cells.append(None)
        super().add_section()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The title, and the blocks that fit."""
        if self._title_above is not None:
            yield self._title_above
        for block in self._blocks(options.max_width):
            yield from block.__rich_console__(console, options)

    def __str__(self) -> str:
        """As text, as wide as the terminal."""
        return as_text(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **options: Any) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": as_html(self)}

    def _blocks(self, width: int) -> Iterator[Table]:
        chosen = self._fitting(width)
        for number, columns in enumerate(chosen):
            own = {**self._options}
            own |= {"title": None} if number else {}
            own |= {"caption": None} if number < len(chosen) - 1 else {}
            block = Table(**own)
            for at in columns:
                header, options = self._headers[at]
                block.add_column(header, **options)
            for row in self._cells:
                if row is None:
                    block.add_section()
                else:
                    cells, options = row
                    block.add_row(*(cells[at] if at < len(cells) else None for at in columns), **options)
            yield block

    def _fitting(self, width: int) -> list[list[int]]:
        """The columns of every block."""
        least = [self._least(at) + FRAME for at in range(len(self._headers))]
        blocks: list[list[int]] = [[]]
        for at in range(len(least)):
            taken = 1 + sum(least[one] for one in blocks[-1])
            if len(blocks[-1]) > 1 and taken + least[at] > width:
                blocks.append([0])
            blocks[-1].append(at)
        return blocks

    def _least(self, at: int) -> int:
        """How narrow a column may become: a number's keeps its width."""
        header, options = self._headers[at]
        cells = [header, *(row[0][at] for row in self._cells if row is not None and at < len(row[0]))]
        widest = max((cell_len(line) for cell in cells for line in str(cell or "").splitlines()), default=0)
        return widest if options["no_wrap"] else min(widest, NARROWEST)


def _plain(cell: Any, style: str = "") -> Any:
    return Text(cell, style=style) if isinstance(cell, str) else cell
