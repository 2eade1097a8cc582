"""Pictures in few bytes, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from lrp_compiler.base.files import atomic_path
from lrp_compiler.pictures.figure import Picture


def save(picture: Picture, path: Path, dpi: int = 80) -> None:
    """As PNG, in 256 colours."""
    with atomic_path(path) as temporary:
        picture.savefig(temporary, dpi=dpi)
        with Image.open(temporary) as image:
            image.load()
        reduced(image).save(temporary, optimize=True)


def reduced(image: Image.Image) -> Image.Image:
    """In 256 colours, rare ones among them: a third of the bytes."""
    image = image.convert("RGB")
    palette = image.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    return image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
