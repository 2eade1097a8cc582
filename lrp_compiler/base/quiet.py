"""Keep torch's own noise off the terminal; what matters is raised.

Printing, logging and warning are of the whole process, and so is much that torch changes while it captures, traces and
exports. So one thread at a time is inside; what is put in place there looks at the thread, and lets the others through;
and when the block ends the process is as it was, whatever others have done to it meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

LOGGERS = (
    *("torch.export", "torch.fx", "torch._dynamo", "torch._export", "torch._subclasses", "torch.onnx"),
    *("onnxscript", "onnx_ir"),
)
_one = threading.RLock()


@contextlib.contextmanager
def quiet(*, output: bool = False) -> Iterator[None]:
    """Silence torch's loggers and warnings about its own internals inside the block, for this thread alone.

    Args:
        output: swallow what is printed, too: a failing export dumps the whole graph.
    """
    thread = threading.get_ident()
    with _one, contextlib.ExitStack() as stack:
        stack.enter_context(_without_warnings(thread))
        stack.enter_context(_without_records(thread))
        if output:
            stack.enter_context(_without_prints(thread, "stdout"))
            stack.enter_context(_without_prints(thread, "stderr"))
        yield


@contextlib.contextmanager
def as_before(*names: str) -> Iterator[None]:
    """Keep the records of these loggers off the terminal, of all threads; what the block changes of them, and what it
    has SIGTERM do, is taken back at its end.

    Args:
        names: of loggers with handlers of their own.
    """
    loggers = [logging.getLogger(name) for name in names]
    handlers = [handler for logger in loggers for handler in logger.handlers]
    kept: list[logging.Logger | logging.Handler] = [*loggers, *handlers]
    levels = [(one, one.level) for one in kept]
    stops = signal.getsignal(signal.SIGTERM)
    for handler in handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for one, level in levels:
            one.setLevel(level)
        if threading.current_thread() is threading.main_thread() and stops is not None:
            signal.signal(signal.SIGTERM, stops)


@contextlib.contextmanager
def without_prints_of(*names: str) -> Iterator[None]:
    """Swallow what threads of these names print, of those that run when the block begins."""
    with contextlib.ExitStack() as stack:
        for thread in threading.enumerate():
            if thread.name in names and thread.ident is not None:
                stack.enter_context(_without_prints(thread.ident, "stdout"))
                stack.enter_context(_without_prints(thread.ident, "stderr"))
        yield


@contextlib.contextmanager
def without_stderr() -> Iterator[None]:
    """Send what anything in this process writes to stderr, whatever its language, nowhere; for a short call."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class _Matching:
    """What `warnings` takes for a compiled pattern: it matches in one thread."""

    def __init__(self, pattern: str, thread: int) -> None:
        self.pattern, self.thread = re.compile(pattern, re.IGNORECASE), thread

    def match(self, text: str) -> Any:
        return threading.get_ident() == self.thread and self.pattern.match(text)


@contextlib.contextmanager
def _without_warnings(thread: int) -> Iterator[None]:
    module = _Matching(r"(torch|copyreg|onnxscript|onnx_ir)(\.|$)", thread)
    message = _Matching(r".*LeafSpec.*", thread)
    own: list[Any] = [("ignore", None, Warning, module, 0), ("ignore", message, FutureWarning, None, 0)]
    lists = [warnings.filters]
    lists[0][:0] = own  # type: ignore[index]
    try:
        yield
    finally:
        # Somebody may stand between `catch_warnings` and its end, with a copy of the filters, or the filters kept.
        for filters in (*lists, warnings.filters):
            filters[:] = [known for known in filters if not any(known is mine for mine in own)]  # type: ignore[index]


class _Elsewhere(logging.Filter):
    """Drops the records that one thread makes in torch's loggers."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self.thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        theirs = any(record.name == name or record.name.startswith(f"{name}.") for name in LOGGERS)
        return not (theirs and record.thread == self.thread)


@contextlib.contextmanager
def _without_records(thread: int) -> Iterator[None]:
    handlers = {logging.lastResort, *logging.getLogger().handlers}
    known = logging.getLogger().manager.loggerDict
    names = {name for name in list(known) if any(name == each or name.startswith(f"{each}.") for each in LOGGERS)}
    for name in {*names, *(parent for each in LOGGERS for parent in _parents(each))}:
        handlers |= set(logging.getLogger(name).handlers)
    added = [(handler, _Elsewhere(thread)) for handler in handlers if handler is not None]
    for handler, fresh in added:
        handler.addFilter(fresh)
    try:
        yield
    finally:
        for handler, fresh in added:
            handler.removeFilter(fresh)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


class _Sieve:
    """A stream that swallows what one thread writes, until it is opened; all else is that of the stream behind it."""

    def __init__(self, behind: Any, thread: int) -> None:
        self.behind: Any = behind
        self.thread: int | None = thread

    def write(self, text: str) -> Any:
        return len(text) if threading.get_ident() == self.thread else self.behind.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


@contextlib.contextmanager
def _without_prints(thread: int, name: str) -> Iterator[None]:
    before = getattr(sys, name)
    while isinstance(before, _Sieve) and before.thread is None:  # somebody had kept it, and put it back
        before = before.behind
    if before is None:  # a program without a terminal
        yield
        return
    sieve = _Sieve(before, thread)
    setattr(sys, name, sieve)
    try:
        yield
    finally:
        sieve.thread = None
        if getattr(sys, name) is sieve:
            setattr(sys, name, before)
