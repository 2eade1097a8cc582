"""What the site takes from the repository: pages that lie elsewhere, tables that are made from the code.

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
MADE = {
    "reference/rules.md": tables.rules,
    "reference/kinds.md": tables.kinds,
    "reference/composites.md": tables.composites,
    "reference/command-line.md": tables.command_line,
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s#]+)(#[^()\s]*)?\)")
PART = re.compile(r"<!-- (\w+): from (the README|[\w/]+\.md) -->")


def on_startup(command: str, dirty: bool) -> None:
    """Lay the package out as it installs, before anybody asks where it lies."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for folder, place in LAID_OUT.items():
        shutil.copytree(ROOT / folder, SOURCE / place, ignore=shutil.ignore_patterns("__pycache__", "web"))


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie elsewhere, those that are made, and what they all point at."""
    written = [PAGES / file.src_uri for file in files.documentation_pages()]
    elsewhere = [path for pattern in SHOWN for path in sorted(ROOT.glob(pattern))]
    for path in elsewhere:
        files.append(File.generated(config, _place(path), abs_src_path=str(path)))
    for place, made in MADE.items():
        files.append(File.generated(config, place, content=made()))
    for path in filter(Path.is_file, sorted(EXECUTED.rglob("*"))):
        files.append(File.generated(config, _place(path), abs_src_path=str(path)))
    pointed = {target for path in (*written, *elsewhere) for target in _targets(path)}
    for target in sorted(pointed):
        if target.is_file() and target.suffix != ".md" and not {PAGES, NOTEBOOKS} & {*target.parents}:
            files.append(File.generated(config, _place(target), abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Take in tables of the README and of results, and make the repository's links the site's."""
    markdown = PART.sub(lambda found: _part(found[1], found[2]), markdown)
    if page.file.abs_src_path is None:
        return markdown
    path = Path(page.file.abs_src_path)
    written = NOTEBOOKS / path.name if path.parent == EXECUTED else path
    return LINK.sub(lambda found: _linked(found, written), markdown)


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
