"""A folder of pictures as rows; and one picture as a network's input."""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.files import atomic_path

from .parquet import Parquet
from .window import Window

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
LIST = "pictures.parquet"
IMAGE = "image"
"""The column of the pictures."""
_AT_ONCE = 65536


class Pictures:
    """The pictures of a folder, in whatever depth, in the order of their names. Their ids are their paths in it.

    The list of them is kept in a file: of ten million names nobody needs more than a window at a time.

    Args:
        folder: with the pictures.
        output: where the list is kept.
    """

    columns = (IMAGE,)

    def __init__(self, folder: Path, output: Path) -> None:
        self._folder = folder.resolve()
        self.files = [output / LIST]
        with (
            atomic_path(self.files[0]) as temporary,
            pq.ParquetWriter(temporary, pa.schema({"id": pa.string()})) as out,
        ):
            for names in _names(self._folder):
                out.write_table(pa.table({"id": pa.array(names, pa.string())}))
        self._list = Parquet(self.files, "id")
        self.id_type = pa.string()

    @property
    def rows(self) -> int:
        """How many there are."""
        return self._list.rows

    def read(self, start: int, stop: int, size: int, columns: Collection[str]) -> Iterator[Window]:
        """Rows `start` to `stop`, at most `size` at a time: the pictures' paths."""
        for window in self._list.read(start, stop, size, []):
            paths = [os.path.join(self._folder, name) for name in window.ids.to_pylist()]
            yield Window(dict.fromkeys(columns, paths), window.ids, window.numbers)


def _names(folder: Path) -> Iterator[list[str]]:
    """Paths in the folder, a list at a time."""
    found: list[str] = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        inside = os.path.relpath(place, folder)
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in PICTURES:
                path = name if inside == "." else os.path.join(inside, name)
                try:
                    path.encode()
                except UnicodeEncodeError as error:
                    raise InputError(f"The name of {path!a} is no text in UTF-8: rename it.") from error
                found.append(path.replace(os.sep, "/"))
        if len(found) >= _AT_ONCE:
            yield found
            found = []
    yield found


def read_picture(given: Any, channels: int, height: int, width: int, how: dict[str, Any]) -> np.ndarray:
    """One picture as the network takes it.

    Args:
        given: its path, its file's content, or both as Hugging Face's data sets have them (`{"bytes": …, "path": …}`).
        channels: 1 or 3.
        height, width: of the input.
        how: `mean` and `std` for each channel, `resize` and `crop`, as `website.page_spec.preprocessing` has them.

    Returns:
        float32 `[channels, height, width]`: (colour − mean) / std, colours in [0, 1].

    Raises:
        InputError: it cannot be read.
    """
    from PIL import Image, ImageOps

    if isinstance(given, dict):
        given = given.get("bytes") or given.get("path")
    if not isinstance(given, str | bytes | os.PathLike):
        raise InputError(f"A picture is its file's path or content, not {type(given).__name__}.")
    if not isinstance(given, bytes) and os.path.exists(given) and not os.path.isfile(given):
        raise InputError(f"{os.fspath(given)} is no file.")
    try:
        with Image.open(io.BytesIO(given) if isinstance(given, bytes) else given) as opened:
            whole = _of_eight_bits(ImageOps.exif_transpose(opened), opened.format)
            image = whole.convert("RGB" if channels == 3 else "L")
    except InputError:
        raise
    except Exception as error:  # pillow's readers raise all sorts of things on damaged files
        raise InputError(f"The picture cannot be read ({reason_of(error)}).") from error
    share = how["crop"] if how["resize"] == "crop" else 1.0
    wide = share * min(image.width, image.height * width / height) if how["resize"] == "crop" else image.width
    high = wide * height / width if how["resize"] == "crop" else image.height
    left, top = (image.width - wide) / 2, (image.height - high) / 2
    box = (left, top, left + wide, top + high)
    seen = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    colours = np.asarray(seen, np.float32).reshape(height, width, channels).transpose(2, 0, 1) / np.float32(255)
    return scaled(colours, how)


def _of_eight_bits(image: Any, kind: str | None) -> Any:
    """A picture whose colours have 16 bits with 8: pillow's own conversion cuts off what is above 255.

    Raises:
        InputError: its numbers have 32 bits, of which nobody says how large they may be.
    """
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    if image.mode == "F" or (image.mode == "I" and kind != "PNG"):  # a PNG has no more than 16
        raise InputError(
            f"The picture has {'floating' if image.mode == 'F' else 'whole'} numbers of 32 bits, and what is white is "
            "not said: save it with 8 or 16 bits a colour."
        )
    numbers = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.round(numbers / (WHITE_OF_16 / 255)).astype(np.uint8))


WHITE_OF_16 = 65535


def scaled(colours: np.ndarray, how: dict[str, Any]) -> np.ndarray:
    """(colour − mean) / std, of `[…, channels, height, width]`."""
    mean, std = (np.asarray(how[name], np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
    return (colours - mean) / std
