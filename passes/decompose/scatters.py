"""Views that were written to, as slices and concatenations.

    y = x.clone(); y[:, 1] = z    →    select_scatter(x, z, 1, 1)    →    cat([x[:, :1], z[:, None], x[:, 2:]], 1)

torch.export makes such scatters of in-place writes, and in a layout of its own that a decomposition would have to keep;
in the graph the layout does not matter any more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from lrp_compiler.passes.graph import Result, inline

from .slices import diagonal_scatter, select_scatter, slice_scatter

aten = torch.ops.aten

WRITTEN_OUT: dict[object, Callable[..., object]] = {
    aten.slice_scatter.default: slice_scatter,
    aten.select_scatter.default: select_scatter,
    aten.diagonal_scatter.default: diagonal_scatter,
}


def write_out_scatters(module: fx.GraphModule) -> Result:
    """Rewrite the forward graph in place."""
    found = [node for node in module.graph.nodes if node.target in WRITTEN_OUT]
    for node in found:
        node.replace_all_uses_with(inline(node, WRITTEN_OUT[node.target]))
        module.graph.erase_node(node)
    return Result(module, bool(found))
