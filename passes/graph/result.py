"""What a pass returns: torch's own result, and why it left some places as they are."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from lrp_compiler.torch_private import PassResult

Declined = tuple[str, str]
"""A node that a rewrite looked at, and why it let it be."""


class Result(PassResult):
    """A rewritten graph, its code written anew if anything changed.

    Args:
        graph_module: the graph.
        modified: whether anything changed. Most passes find nothing to do, and looking takes less time than writing
            the code of a graph.
        declined: the nodes that almost fitted, and what was missing; the dump shows them.
    """

    declined: tuple[Declined, ...]

    def __new__(cls, graph_module: fx.GraphModule, modified: bool, declined: Iterable[Declined] = ()) -> Result:
        """As torch's, with the reasons besides."""
        if modified:
            graph_module.recompile()
        result = super().__new__(cls, graph_module, modified)
        assert isinstance(result, cls)
        result.declined = tuple(declined)
        return result
