"""A page in one file, offline: style, script and data stand in it, and its policy lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.validate import check_option


def offline_page(title: str, heading: str, legend: str, main: str, data: Any, style: Sequence[str], script: str) -> str:
    """The page.

    Args:
        title: of the page, as text.
        heading: a line below it, as text.
        legend: what colours say and what can be done, as HTML.
        main: what stands in it, as HTML.
        data: plain data that the script finds in the element `data`.
        style: names of files in `web/`, one behind the other.
        script: likewise, of one.
    """
    web = files("lrp_compiler").joinpath("web")
    look = "".join(web.joinpath(name).read_text(encoding="utf-8") for name in style)
    act = web.joinpath(script).read_text(encoding="utf-8")
    # "<" could end the element that the data stands in.
    held = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    policy = f"default-src 'none'; style-src {_digest(look)}; script-src {_digest(act)}; base-uri 'none'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title><style>{look}</style></head>\n"
        f"<body><header><h1>{escape(title)}</h1><p>{escape(heading)}</p><p>{legend}</p></header>\n<main>{main}</main>\n"
        f'<script type="application/json" id="data">{held}</script><script>{act}</script></body></html>\n'
    )


def written(page: str, path: str | os.PathLike[str] | None) -> str:
    """The page, which is written, whole or not at all, where there is a path to write to."""
    if path is not None:
        check_option("path", path, isinstance(path, str | os.PathLike), "the path of a file, or None")
        with atomic_path(path) as temporary:
            temporary.write_text(page, encoding="utf-8", newline="\n")
    return page


def _digest(text: str) -> str:
    """As a Content-Security-Policy names what may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
