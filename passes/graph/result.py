"""What a pass returns: torch's own result, and why it left some places as they are."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from lrp_compiler.torch_private import PassResult

Declined = tuple[str, str]
"""A node that a rewrite looked at, and why it let it be."""


class Result(PassResult):
    """A rewritten graph.

    Args:
        graph_module: the graph.
        modified: whether anything changed.
        declined: the nodes that almost fitted, and what was missing; the dump shows them.
    """

    declined: tuple[Declined, ...]

    def __new__(cls, graph_module: fx.GraphModule, modified: bool, declined: Iterable[Declined] = ()) -> Result:
        """As torch's, with the reasons besides."""
        result = super().__new__(cls, graph_module, modified)
        assert isinstance(result, cls)
        result.declined = tuple(declined)
        return result
