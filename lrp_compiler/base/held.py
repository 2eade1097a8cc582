"""A file that stays open after it was loaded, for what is read of it later. Torch-free.

Replaced or removed, it is what it was: the name leads elsewhere, the open file does not. Written to in place, by `cp`
for instance, it is another file under everybody's hands; that is noticed and refused.
"""

from __future__ import annotations

import io
import mmap
import os
import weakref
from threading import Lock
from typing import Any, BinaryIO, cast

from .errors import FormatError
from .seal import content_digest, sealed_digest


class HeldFile:
    """An open file, read by any number of threads and of processes that were forked.

    Args:
        source: the path of the file, or its content.
        name: what it is called in messages.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes, name: str) -> None:
        """Open it."""
        self.name = name
        self._content = source if isinstance(source, bytes) else None
        self._file = None if isinstance(source, bytes) else open(source, "rb", buffering=0)  # noqa: SIM115
        if self._file is not None:
            weakref.finalize(self, self._file.close)
        self._lock = Lock()
        self._state = self._stated()
        self._digest = ""

    def reader(self) -> BinaryIO:
        """The file from its start, with a place of its own to read at."""
        if self._content is not None:
            return io.BytesIO(self._content)
        return cast(BinaryIO, io.BufferedReader(_Reader(self._file, self._lock)))

    def memory(self) -> Any:
        """Its bytes as memory that can be written to, which changes nothing else; read when they are first used."""
        if self._file is None:
            return bytearray(self._content or b"")
        return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)

    def remember(self) -> None:
        """Take note of what the file holds, by its seal, to know it again."""
        self._digest = sealed_digest(self.reader())

    def check_unchanged(self) -> None:
        """Raise `FormatError` if somebody has written to the file since it was opened.

        A new time of change alone (`touch`) is no change: the content is compared with the hash then.
        """
        state = self._stated()
        if state == self._state:
            return
        if state[:1] != self._state[:1] or content_digest(self.reader()) != self._digest:
            raise FormatError(
                f"{self.name!r} was written to after it was loaded: load it again, and have it replaced where it is in "
                "use (by a rename, as Explainer.save does it)."
            )
        self._state = state

    def close(self) -> None:
        """Close it, where nothing was loaded."""
        if self._file is not None:
            self._file.close()

    def _stated(self) -> tuple[int, ...]:
        """Size and time of change."""
        if self._file is None:
            return ()
        known = os.fstat(self._file.fileno())
        return known.st_size, known.st_mtime_ns


class _Reader(io.RawIOBase):
    """Reads an open file at a place of its own: that of the file is shared with threads and forked processes."""

    def __init__(self, file: Any, lock: Lock) -> None:
        self._file, self._lock, self._at = file, lock, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        ends = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}
        self._at = offset + (ends[whence] if whence in ends else os.fstat(self._file.fileno()).st_size)
        return self._at

    def readinto(self, buffer: Any) -> int:
        if hasattr(os, "preadv"):
            count: int = os.preadv(self._file.fileno(), [buffer], self._at)
        else:
            with self._lock:
                self._file.seek(self._at)
                count = self._file.readinto(buffer)
        self._at += count
        return count
