"""The project's own ops as torch's, once their rule has been applied: no explainer needs an op that is not torch's.

lrp.gate(signal, gate); lrp.pool(x, matrices)      →      mul(signal, gate); matmul(A, matmul(x, Bᵀ))
"""

from __future__ import annotations

from torch import fx

from lrp_compiler.passes.graph import Result, write_out
from lrp_compiler.rules import traits


def lower_own_ops(module: fx.GraphModule) -> Result:
    """Rewrite the joint graph in place."""
    own = [(node, lowered) for node in module.graph.nodes if (lowered := traits(node.target).lowered) is not None]
    for node, lowered in own:
        write_out(node, lowered)
    return Result(module, bool(own))
