"""Numbers of things, in words. Torch-free."""

from __future__ import annotations


def counted(count: int, what: str) -> str:
    """`1 row`, `0 rows`, `12,000 rows`; of a name that takes no s in the plural, both with a bar: `class|classes`."""
    one, _, several = what.partition("|")
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def pace(rate: float) -> str:
    """How many in a second, to two digits at least: `12,345`, `0.24`."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
