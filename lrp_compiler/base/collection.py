"""Python's garbage collector, while graphs are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLDS = 100_000, 50, 100
"""More objects than this (700 by default) before the youngest are looked through, and fewer rounds through the rest."""


@contextmanager
def rare_collection() -> Iterator[None]:
    """Collect a hundredth as often: graphs are many small objects that stay, and are looked through in vain."""
    before = gc.get_threshold()
    if before[0]:  # 0: it is switched off
        gc.set_threshold(*map(max, before, THRESHOLDS))
    try:
        yield
    finally:
        gc.set_threshold(*before)
