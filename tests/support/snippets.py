"""The code blocks of the documentation: what is run, what is not and why."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "pages"
FENCE = re.compile(r"(?:^<!-- (not run|needs)[: ]+([^\n]*?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Args:
        language: as the fence says.
        code: its lines.
        line: of the page, at which the code begins.
        reason: why it is not run; empty: it is.
        needs: a package without which it is not.
    """

    language: str
    code: str
    line: int
    reason: str
    needs: str


@cache
def pages() -> dict[str, Path]:
    """Every page with the name that it goes by: its path in `docs/pages`; the README's is its own."""
    found = {path.relative_to(PAGES).as_posix(): path for path in sorted(PAGES.rglob("*.md"))}
    return {"README.md": ROOT / "README.md", **found}


@cache
def blocks(page: str) -> tuple[Block, ...]:
    """The blocks of a page, in order."""
    text = pages()[page].read_text(encoding="utf-8")
    assert text.count("\n```") % 2 == 0, f"{page}: a block does not end"
    return tuple(
        Block(
            language=found[3],
            code=found[4],
            line=text.count("\n", 0, found.start(4)) + 1,
            reason=found[2] if found[1] == "not run" else "",
            needs=found[2] if found[1] == "needs" else "",
        )
        for found in FENCE.finditer(text)
    )


def commands(code: str) -> Iterator[list[str]]:
    """The arguments of every `lrp-compiler` in a block of the command line."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["lrp-compiler"]:
            yield words[1:]
