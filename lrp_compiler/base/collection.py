"""Python's garbage collector, while graphs are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

THRESHOLDS = 100_000, 50, 100
"""More objects than this (700 by default) before the youngest are looked through, and fewer rounds through the rest."""
_lock = Lock()
_inside: list[tuple[int, int, int]] = []
"""For every block that runs, in whatever thread, the thresholds that its end would bring back."""


@contextmanager
def rare_collection() -> Iterator[None]:
    """Collect a hundredth as often: graphs are many small objects that stay, and are looked through in vain.

    Of several threads the first changes the thresholds and the last brings them back.
    """
    with _lock:
        before = gc.get_threshold() if not _inside else _inside[0]
        _inside.append(before)
        if before[0]:  # 0: it is switched off
            gc.set_threshold(*map(max, before, THRESHOLDS))
    try:
        yield
    finally:
        with _lock:
            _inside.pop()
            if not _inside:
                gc.set_threshold(*before)
