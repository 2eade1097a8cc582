"""Run the cells of tutorial.py and write the page that shows them: benchmarks/results/tutorial.md.

    python -m benchmarks.shown.tutorial_page

Code, what it prints, and the pictures that cells end in or `display`. A minute or two on two cores.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks.base import reporting
from benchmarks.base.places import RESULTS
from benchmarks.shown import saved
from lrp_compiler.pictures.figure import Picture

SOURCE = Path(__file__).resolve().with_name("tutorial.py")
CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)


def cells(source: str) -> Iterator[tuple[bool, str]]:
    """(is text, content) of each cell of a script in percent format."""
    _, *parts = CELL.split(source)
    for kind, content in zip(parts[::2], parts[1::2], strict=True):
        text = "markdown" in kind
        yield text, re.sub(r"^# ?", "", content, flags=re.MULTILINE).strip() if text else content.strip()


def shown_code(content: str) -> str:
    """The code without what is meant for the linter."""
    return re.sub("  # noqa.*", "", content)


def run(code: str, names: dict[str, Any], show: Callable[[Any], None]) -> str:
    """Run a cell as a notebook would: what it prints is returned, and what its last expression makes is shown."""
    tree = ast.parse(code)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None  # type: ignore[attr-defined]
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(tree, SOURCE.name, "exec"), names)
        if last is not None:
            show(eval(compile(last, SOURCE.name, "eval"), names))
    return printed.getvalue()


def page(folder: Path) -> str:
    """The page; its pictures are written to the folder."""
    lines: list[str] = []
    shown: list[str] = []

    def show(value: Any) -> None:
        if isinstance(value, Picture):
            name = f"tutorial_{len(shown) + 1}.png"
            saved.save(value, folder / name)
            shown.append(f"![{value.get_suptitle().splitlines()[0]}]({name})")

    names: dict[str, Any] = {"__name__": "__main__", "display": show}
    for text, content in cells(SOURCE.read_text(encoding="utf-8")):
        if text:
            lines += [content, ""]
            continue
        before = len(shown)
        printed = run(content, names, show)
        lines += ["```python", shown_code(content), "```", ""]
        lines += ["```", printed.rstrip(), "```", ""] if printed else []
        lines += [line for picture in shown[before:] for line in (picture, "")]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where page and pictures go")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    options.folder.mkdir(parents=True, exist_ok=True)
    reporting.write(options.folder / "tutorial.md", page(options.folder))
    print(f"Written: {options.folder / 'tutorial.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
