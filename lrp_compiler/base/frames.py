"""Stack traces as text: where in the user's source something comes from. Torch-free."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import PurePath
from typing import NamedTuple


class Frame(NamedTuple):
    """One frame of a stack trace.

    Args:
        path: of the file.
        line: its number.
        code: the line itself; "" if it is not known.
    """

    path: str
    line: int
    code: str

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.path}:{self.line}"

    @property
    def is_torchs(self) -> bool:
        """Whether it lies in torch itself."""
        return re.search(r"(^|/)torch/", self.path.replace("\\", "/")) is not None

    @property
    def short(self) -> Frame:
        """The same without the folder."""
        return self._replace(path=PurePath(self.path.replace("\\", "/")).name)

    def __str__(self) -> str:
        """`file:line: code`."""
        return f"{self.place}: {self.code}" if self.code else self.place


def frames(trace: str | None) -> list[Frame]:
    """The frames of a trace as Python prints it, the innermost last."""
    lines = [line.strip() for line in (trace or "").splitlines()]
    found = []
    for line, below in pairwise([*lines, ""]):
        match = re.match(r'File "([^"]+)", line (\d+)', line)
        if match:
            found.append(Frame(match[1], int(match[2]), "" if below.startswith("File ") else below))
    return found


def innermost(trace: str | None, own: bool = False) -> Frame | None:
    """The innermost frame; `own`: of those outside torch, if there is one."""
    found = frames(trace)
    outside = [frame for frame in found if not frame.is_torchs] if own else []
    return (outside or found)[-1] if found else None
