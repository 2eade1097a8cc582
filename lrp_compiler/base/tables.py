"""Tables: rich's in a terminal, as text, and as HTML for notebooks; however narrow, no number is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .rendered import as_html, as_text

if TYPE_CHECKING:
    from .plain_table import PlainTable

__all__ = ["as_html", "as_text", "plain_table"]


def plain_table(**options: Any) -> PlainTable:
    """A rich table whose texts are texts: `[/x]` and `:smile:` in a name are no markup. A rich `Text` stays one.

    Columns that are justified to the right hold numbers.

    Args:
        options: as `rich.table.Table` takes them.
    """
    from .plain_table import PlainTable

    return PlainTable(**options)
