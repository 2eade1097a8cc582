"""Sizes as published, and as they are where a model is narrowed or cut short."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.utils import _pytree as pytree

CLASSES = 10
"""What every classifier here tells apart."""


class Width(NamedTuple):
    """A size that is divided when the model is narrowed."""

    published: int

    def at(self, width: int, depth: int | None) -> int:
        return max(1, self.published // width)


class Depth(NamedTuple):
    """A number of layers."""

    published: int

    def at(self, width: int, depth: int | None) -> int:
        return depth or self.published


class Vocabulary(NamedTuple):
    """A number of tokens; a narrow model has `NARROW_VOCABULARY`."""

    published: int

    def at(self, width: int, depth: int | None) -> int:
        return self.published if width == 1 else NARROW_VOCABULARY


class Stages(NamedTuple):
    """Numbers of blocks, stage by stage: a depth is the most that a stage keeps."""

    published: tuple[int, ...]

    def at(self, width: int, depth: int | None) -> tuple[int, ...]:
        return tuple(min(blocks, depth or blocks) for blocks in self.published)


NARROW_VOCABULARY = 199
SIZES = (Width, Depth, Vocabulary, Stages)


def resolve(tree: Any, width: int, depth: int | None) -> Any:
    """`tree` with its sizes as numbers."""
    return pytree.tree_map(
        lambda leaf: leaf.at(width, depth) if isinstance(leaf, SIZES) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, SIZES),
    )
