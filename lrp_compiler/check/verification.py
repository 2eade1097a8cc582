"""What `verify` answers: questions, each with what was found. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lrp_compiler.base.tables import as_html, as_text, plain_table

Result = tuple[list[np.ndarray], dict[str, np.ndarray]]
"""What one run gives: outputs, flat, and relevances by their keys."""


@dataclass(frozen=True)
class Check:
    """One question, and its answer: `passed` is None where it could not be asked."""

    name: str
    passed: bool | None
    found: str
    warns: bool = False
    """Whether it passed, but should be looked at."""


@dataclass
class Verification:
    """All checks of a file."""

    path: str
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed is not False for check in self.checks)

    @property
    def not_asked(self) -> list[str]:
        """Names of the checks that could not be made; `found` of each says why."""
        return [check.name for check in self.checks if check.passed is None]

    def to_dict(self) -> dict[str, Any]:
        """The checks as plain data."""
        checks = [vars(check) for check in self.checks]
        return {"path": self.path, "passed": self.passed, "not_asked": self.not_asked, "checks": checks}

    def table(self) -> Any:
        """The checks as a rich table."""
        from rich.text import Text

        left = f"not asked: {', '.join(self.not_asked)}; the lines above say why" if self.not_asked else None
        table = plain_table(title=self.path, title_justify="left", caption=left, caption_justify="left")
        for column in ("check", "", "found"):
            table.add_column(column, overflow="fold")
        words = {True: Text("passed", "green"), False: Text("FAILED", "red"), None: "not asked"}
        for check in self.checks:
            table.add_row(check.name, Text("look", "yellow") if check.warns else words[check.passed], check.found)
        return table

    def __str__(self) -> str:
        """The table as text."""
        return as_text(self.table())

    def _repr_html_(self) -> str:
        return as_html(self.table())
