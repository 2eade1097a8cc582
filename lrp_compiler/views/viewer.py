"""A page that shows an explainer: its two graphs side by side, its promises, and where the relevance of a run went.

    explainer.to_html("graph.html", x)

One file without any outside request: `web/graph/` has the page, dagre (of npm, MIT) places the nodes, and both are
written into it with the data, under a policy that lets nothing else run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.npm import Package, copy_package

from .graph_data import GraphData

DAGRE = Package("@dagrejs/dagre", "3.1.3", {"dist/dagre.min.js": "dagre.js", "LICENSE": "LICENSE"})
SCRIPTS = ("tree.js", "layout.js", "draw.js", "panel.js", "looks.js", "search.js", "app.js")
"""In the order in which they build on one another."""


def write_viewer(
    data: GraphData, path: str | os.PathLike[str], *, title: str = "", dagre: str | os.PathLike[str] | None = None
) -> None:
    """Write the page. The file appears whole or not at all.

    Args:
        data: what it shows.
        path: of the page, ending in `.html` if browsers are to know what it is.
        title: of the page; by default the name of the model's class, or else of the composite.
        dagre: folder with the unpacked npm package @dagrejs/dagre; by default npm fetches it once.

    Raises:
        InputError: `dagre` is not that package.
        LrpError: npm is not there, or fails.
        OSError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        library, licence = _dagre(dagre)
        named = title or data.summary["model"] or f"Explainer, {data.summary['composite']}"
        known = {"title": named, **data.to_dict()}
        web = files("lrp_compiler").joinpath("web", "graph")
        own = [web.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS]
        script = "\n".join([f"/* dagre\n{licence}*/", library, '(() => { "use strict";', *own, "})();"])
        style = web.joinpath("style.css").read_text(encoding="utf-8")
        parts = {
            "title": escape(known["title"]),
            "style": style,
            "hash:style": _digest(style),
            "hash:script": _digest(script),
            # "<" could end the element that the data stands in.
            "data": _json(known).replace("<", "\\u003c"),
            "script": script,
        }
        page = web.joinpath("index.html").read_text(encoding="utf-8")
        pieces = page.split("{{")
        text = pieces[0] + "".join(parts[name] + rest for name, rest in (piece.split("}}", 1) for piece in pieces[1:]))
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _dagre(source: str | os.PathLike[str] | None) -> tuple[str, str]:
    """The library and its licence."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "dagre"
        copy_package(DAGRE, folder, source)
        library = (folder / "dagre.js").read_text(encoding="utf-8")
        # The page has no source map to point to.
        lines = [line for line in library.splitlines() if not line.startswith("//# sourceMappingURL")]
        return "\n".join(lines), (folder / "LICENSE").read_text(encoding="utf-8")


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _digest(text: str) -> str:
    """As a Content-Security-Policy names what may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
