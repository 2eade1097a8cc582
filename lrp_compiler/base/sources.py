"""No command writes over what it reads. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import InputError
from .seal import read_seal

WRITTEN = ("output", "html", "model_explorer")
"""Arguments that name what a command writes; whatever other one names a file may be read."""


def keep_sources(given: Mapping[str, Any]) -> None:
    """Refuse to write over a file that the same command reads, or to write two results to one.

    Args:
        given: the command's arguments by name.

    Raises:
        InputError: an output is one of the inputs, or lies under the same name.
    """
    read = [path for name, value in given.items() if name not in (*WRITTEN, "name") for path in _files_named(value)]
    read += [path.resolve().parent / beside for path in read if path.is_file() for beside in _data_beside(path)]
    written = [Path(given[name]) for name in WRITTEN if given.get(name)]
    places = {path.resolve() for path in written}
    if len(places) < len(written):
        raise InputError(f"{written[0]} is to hold two results: write each to its own file.")
    if given.get("model_explorer"):
        written.append(Path(given["model_explorer"]).with_suffix(".relevance.json"))
    for path in filter(Path.is_file, written):
        if any(_is_in(path, source) for source in read):
            raise InputError(f"{path} is what the command reads, and would be lost: write to another file.")


def _files_named(value: Any) -> list[Path]:
    """The files that an argument names, by itself or behind `NAME=`, each by itself or in a list; of folders only those
    that cannot be anything else (a composite has names as well)."""
    given = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str | Path)]
    texts = [text for one in given for text in (os.fspath(one), os.fspath(one).partition("=")[2])]
    return [path for path in given if isinstance(path, Path)] + [Path(text) for text in texts if os.path.isfile(text)]


def _data_beside(path: Path) -> list[str]:
    """Names of the files that belong to an explainer's."""
    known = read_seal(path)
    return [] if known is None else [name for name in known.data if (path.resolve().parent / name).is_file()]


def _is_in(path: Path, source: Path) -> bool:
    """Whether it is that file, under whatever name, or in that folder."""
    return source.exists() and (path.samefile(source) or path.resolve().is_relative_to(source.resolve()))
