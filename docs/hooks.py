"""What the site takes from the repository: pages that lie elsewhere, and into pages tables that the code makes.

Links in every page are those of the repository, so that they work where Markdown is shown as it is; here they become
the site's. Whatever they point at comes along.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import tables

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "pages"
NOTEBOOKS = ROOT / "docs" / "notebooks"
"""In percent format; a link to one leads to the page that shows it as it ran."""
EXECUTED = ROOT / "build" / "notebooks"
"""What execute.py makes of them."""
SOURCE = ROOT / "build" / "docs-source"
"""The package as it installs, for those who read its docstrings."""
LAID_OUT = {
    "lrp_compiler": "lrp_compiler",
    "passes": "lrp_compiler/passes",
    "rules": "lrp_compiler/rules",
}
SHOWN = (
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "benchmarks/results/*.md",
    "benchmarks/sound/results/*.md",
)
"""Pages that stand where they are written, under the same path."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s#]+)(#[^()\s]*)?\)")
MADE = re.compile(r"<!-- ([\w-]+): made by docs/tables\.py -->")
PART = re.compile(r"<!-- (\w+): from (the README|[\w/]+\.md) -->")
CELL = re.compile(r"<td( style=\"[^\"]*\")?>(.*?)</td>", re.DOTALL)
TAG = re.compile(r"<[^>]+>")
NUMBER = re.compile(r"(?![^\d]*$)[\d\s.,:;/÷×≤≥%()\[\]+\-–−eE]+")
"""Nothing but numbers, and what stands between them."""
SHORT, LONG, WORD = 16, 40, 24
"""Characters up to which a cell stays on one line, from which on its text has a least width, and a word may break."""
NAME = re.compile(r"(?<!>)<code>(lrp_compiler\.[\w.]+)</code>")
"""A thing's own name: it leads to where the reference says what it is, if it does."""
PICTURE = re.compile(r"<p>(<img [^>]*src=\"([^\"]+)\"[^>]*>)</p>")


def on_startup(command: str, dirty: bool) -> None:
    """Lay the package out as it installs, before anybody asks where it lies."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for folder, place in LAID_OUT.items():
        shutil.copytree(ROOT / folder, SOURCE / place, ignore=shutil.ignore_patterns("__pycache__", "web"))


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie elsewhere, and what they all point at."""
    written = [PAGES / file.src_uri for file in files.documentation_pages()]
    elsewhere = [path for pattern in SHOWN for path in sorted(ROOT.glob(pattern))]
    for path in elsewhere:
        files.append(File.generated(config, _place(path), abs_src_path=str(path)))
    for path in filter(Path.is_file, sorted(EXECUTED.rglob("*"))):
        files.append(File.generated(config, _place(path), abs_src_path=str(path)))
    pointed = {target for path in (*written, *elsewhere) for target in _targets(path)}
    for target in sorted(pointed):
        if target.is_file() and target.suffix != ".md" and not {PAGES, NOTEBOOKS} & {*target.parents}:
            files.append(File.generated(config, _place(target), abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Take in tables of the README, of results and of the code, and make the repository's links the site's."""
    markdown = PART.sub(lambda found: _part(found[1], found[2]), markdown)
    path = Path(page.file.abs_src_path)
    written = NOTEBOOKS / path.name if path.parent == EXECUTED else path
    markdown = LINK.sub(lambda found: _linked(found, written), markdown)
    return MADE.sub(lambda found: tables.MADE[found[1]](), markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Say of a table's cells what they hold, lead from names to the reference, and let a picture open in full size."""
    html = CELL.sub(lambda found: f"<td{found[1] or ''}{_kind(found[2])}>{_unescaped(found[2])}</td>", html)
    html = NAME.sub(r'<autoref identifier="\1" optional>\g<0></autoref>', html)
    return PICTURE.sub(r'<p><a class="picture" href="\2" title="Open in full size">\1</a></p>', html)


def _kind(cell: str) -> str:
    """The class of a cell: what stays on one line (numbers, a word or two), long text, long words; of else none."""
    text = TAG.sub("", cell)
    kinds = {
        "whole": len(text) <= SHORT or (len(text) < LONG and bool(NUMBER.fullmatch(text))),
        "long": len(text) >= LONG,
        "word": any(len(word) >= WORD for word in text.split()),
    }
    named = " ".join(kind for kind, holds in kinds.items() if holds)
    return f' class="{named}"' if named else ""


def _unescaped(cell: str) -> str:
    """Where Markdown is shown as it is, a bar in code in a table needs a backslash; here that would be shown."""
    return re.sub(r"<code>.*?</code>", lambda code: code[0].replace("\\|", "|"), cell, flags=re.DOTALL)


def _targets(path: Path) -> Iterator[Path]:
    for _, _, target, _ in LINK.findall(path.read_text(encoding="utf-8")):
        if ":" not in target:
            yield Path(os.path.normpath(path.parent / target))


def _place(path: Path) -> str:
    """Where a file of the repository stands on the site."""
    if path == ROOT / "README.md":
        return "index.md"
    if path.parent == NOTEBOOKS:
        return f"notebooks/{path.stem}.md"
    above = next((folder for folder in (PAGES, EXECUTED.parent) if folder in path.parents), ROOT)
    return path.relative_to(above).as_posix()


def _linked(found: re.Match[str], path: Path) -> str:
    bang, text, target, anchor = found.groups()
    there = Path(os.path.normpath(path.parent / target))
    if ":" in target or not there.exists():
        return found[0]
    if there.is_dir():
        return text
    place = os.path.relpath(_place(there), Path(_place(path)).parent)
    return f"{bang}[{text}]({place}{anchor or ''})"


def _part(name: str, place: str) -> str:
    path = ROOT / ("README.md" if place == "the README" else place)
    written = path.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name}: written by [^\n]* -->(.*?)<!-- end of {name} -->", written, re.DOTALL)
    if found is None:
        raise ValueError(f"{path.name} has no part {name!r}.")
    return found[1].strip()
