"""What stands at the end of every file that the project writes: the hash of all that stands before it. Torch-free.

    .onnx   the model │ metadata entry  lrp_compiler.seal = {"data": {…}, "pair": {…}} <SHA-256, hex>
    .pt2    the zip   │ its comment     lrp_compiler.seal={…} <SHA-256, hex>

Both formats are what they were to every other reader: protobuf takes entries in any order, a zip ends with a comment.
One pass over the file's bytes checks it, without reading the format. `data` holds the hashes of the files beside it,
`pair` says to which other file it belongs. A seal shows damage and mix-ups; it is no signature: who forges a file can
seal it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from .errors import FormatError

SEAL_KEY = "lrp_compiler.seal"
PARTS = ("forward", "relevance")
"""Of a split explainer, each in a file of its own."""
_HEX = 64
_SEAL = re.compile(rb"lrp_compiler\.seal(?:\x12[\x80-\xff]*[\x00-\x7f]|=)(\{[^\x00]*\}) ([0-9a-f]{64})\Z")
_WINDOW = 1 << 16
"""A seal is not longer than this: no more fits into the comment of a zip."""
_ZIP = b"PK"
_CHUNK = 1 << 20
Source = str | os.PathLike[str] | bytes | BinaryIO
"""A file by its path, its content, or open."""


@dataclass(frozen=True)
class Seal:
    """What a seal says besides the hash.

    Args:
        data: names of the files beside this one that belong to it → SHA-256 of each.
        pair: of the two parts of an explainer: the same for both, of the content of both; "" for a whole explainer.
        part: which of the two it is: "forward" or "relevance".
    """

    data: Mapping[str, str] = field(default_factory=dict)
    pair: str = ""
    part: str = ""


def seal(path: str | os.PathLike[str], about: Seal = Seal()) -> None:
    """Put a seal at the end of a file that has none yet: an ONNX model or a zip without a comment."""
    text = json.dumps({key: value for key, value in asdict(about).items() if value}, sort_keys=True).encode() + b" "
    with open(path, "r+b") as file:
        if file.read(len(_ZIP)) == _ZIP:
            lead = SEAL_KEY.encode() + b"="
            file.seek(-2, os.SEEK_END)  # the length of the comment
            file.write((len(lead) + len(text) + _HEX).to_bytes(2, "little"))
        else:
            value = b"\x12" + varint(len(text) + _HEX)
            key = b"\x0a" + varint(len(SEAL_KEY)) + SEAL_KEY.encode()
            lead = b"\x72" + varint(len(key) + len(value) + len(text) + _HEX) + key + value
        file.seek(0, os.SEEK_END)
        file.write(lead + text)
        file.seek(0)
        digest = _digest(file, None)
        file.write(digest.encode())


def read_seal(source: Source) -> Seal | None:
    """What the seal of a file, or of its content, says; None if there is none. Nothing is checked."""
    found = _SEAL.search(_end(source))
    if found is None:
        return None
    try:
        known = json.loads(found[1])
        return Seal(dict(known.get("data", {})), str(known.get("pair", "")), str(known.get("part", "")))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def check_seal(source: Source, label: str) -> Seal | None:
    """Compare a file, and what lies beside it, with its seal.

    Args:
        source: the file, or its content; an open file has nothing beside it.
        label: how to call it in a message.

    Returns:
        The seal; None if there is none.

    Raises:
        FormatError: a bit has changed, or a file that belongs to it is missing or another.
    """
    known = read_seal(source)
    if known is None:
        return None
    if content_digest(source) != sealed_digest(source):
        raise FormatError(f"{label} is damaged: its content is not what was written (the hash in its seal differs).")
    for name, digest in known.data.items():
        if not isinstance(source, str | os.PathLike):
            raise FormatError(f"{label} needs the file {name!r} beside it: give the path of the file.")
        beside = Path(os.path.realpath(source)).parent / name
        if Path(name).name != name or not beside.is_file():
            raise FormatError(f"{label} is not complete: the file {name!r}, which holds its weights, is not beside it.")
        with open(beside, "rb") as file:
            if _digest(file, None) != digest:
                raise FormatError(f"{label} is damaged: the content of {name!r}, beside it, is not what was written.")
    return known


def without_seal(label: str) -> FormatError:
    """What is wrong with a file of the project that has no seal."""
    return FormatError(
        f"{label} has no seal, the hash of its content at its end: it was cut off, changed, or written by an earlier "
        "release; write it anew, or open it as it is (check=False, --no-check)."
    )


def seal_pair(forward: str | os.PathLike[str], relevance: str | os.PathLike[str], data: tuple[Seal, Seal]) -> None:
    """Seal the two parts of an explainer so that each knows the other by its content.

    Args:
        forward: the one part, without a seal.
        relevance: the other part.
        data: what their seals say otherwise.
    """
    parts = ((PARTS[0], forward, data[0]), (PARTS[1], relevance, data[1]))
    content = [[file_digest(path), sorted(about.data.items())] for _, path, about in parts]
    pair = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    for part, path, about in parts:
        seal(path, Seal(about.data, pair, part))


def check_pair(forward: str | os.PathLike[str], relevance: str | os.PathLike[str]) -> None:
    """Compare two files with their seals, and with each other.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: a file is damaged, or is not this part of an explainer; or the two are not of one explainer.
    """
    seals = []
    for part, path in zip(PARTS, (forward, relevance), strict=True):
        label = repr(os.fspath(path))
        if not os.path.isfile(path):
            raise FileNotFoundError(f"There is no file {label}.")
        known = check_seal(path, label)
        if known is None:
            raise without_seal(label)
        if known.part != part:
            is_what = f"the {known.part} part of one" if known.part else "a whole explainer"
            raise FormatError(f"{label} is not the {part} part of a split explainer, but {is_what}.")
        seals.append(known)
    if seals[0].pair != seals[1].pair:
        raise FormatError(
            f"{os.fspath(forward)!r} and {os.fspath(relevance)!r} do not belong together: they are parts of two "
            "explainers, or of one that was written twice; write both anew by save_split."
        )


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return _digest(file, None)


def content_digest(source: Source) -> str:
    """SHA-256 of all that stands before the hash in a seal, hex."""
    with _opened(source) as file:
        size = file.seek(0, os.SEEK_END) - _HEX
        file.seek(0)
        return _digest(file, size)


def sealed_digest(source: Source) -> str:
    """The hash at a file's end; of a file without a seal, something that equals no hash."""
    return _end(source)[-_HEX:].decode(errors="replace")


def _end(source: Source) -> bytes:
    with _opened(source) as file:
        file.seek(-min(file.seek(0, os.SEEK_END), _WINDOW), os.SEEK_END)
        return file.read()


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            yield file
    else:
        yield BytesIO(source) if isinstance(source, bytes) else source


def _digest(file: Any, size: int | None) -> str:
    """Of the next so many bytes; None: of all."""
    digest, left = hashlib.sha256(), size
    while chunk := file.read(_CHUNK if left is None else min(_CHUNK, left)):
        digest.update(chunk)
        left = None if left is None else left - len(chunk)
    return digest.hexdigest()


def varint(number: int) -> bytes:
    """As protobuf writes lengths."""
    rest, low = divmod(number, 128)
    return bytes([low]) if not rest else bytes([low | 128]) + varint(rest)
