"""Where paths through a graph parted: nearest common dominators, from a tree that is built as one walks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import fx


class Dominators:
    """The tree: of each node the one value that all its operands came through, as far as single steps are known."""

    def __init__(self) -> None:
        self._parents: dict[fx.Node, fx.Node | None] = {}
        self._depth: dict[fx.Node, int] = {}

    def __contains__(self, node: fx.Node) -> bool:
        """Whether it has been put there."""
        return node in self._parents

    def above(self, node: fx.Node) -> Iterator[fx.Node]:
        """All values that what a node is made of came through, the nearest first."""
        above = self._parents.get(node)
        while above is not None:
            yield above
            above = self._parents.get(above)

    def starts(self, node: fx.Node) -> None:
        """A node whose operands do not count."""
        self._parents[node], self._depth[node] = None, 0

    def follows(self, node: fx.Node, operands: Iterable[fx.Node]) -> fx.Node | None:
        """A node, and what it reads; the nearest value that all of that came through, or None."""
        first, *others = operands
        root: fx.Node | None = first
        for other in others:
            root = None if root is None else self._meet(root, other)
        self._parents[node], self._depth[node] = root, 0 if root is None else self._depth[root] + 1
        return root

    def _meet(self, a: fx.Node | None, b: fx.Node | None) -> fx.Node | None:
        while a is not b:
            if a is None or b is None:
                return None
            if self._depth[a] >= self._depth[b]:
                a = self._parents[a]
            else:
                b = self._parents[b]
        return a
