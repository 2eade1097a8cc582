"""Clean-up of the joint graph: no-ops, values computed twice, values nobody reads.

a = mul(x, y); b = mul(x, y); add(to(a, same dtype), b); c = neg(a)        →        a = mul(x, y); add(a, a)
"""

from __future__ import annotations

from torch import fx

from lrp_compiler.torch_private import CSEPass

from .canonicalise import canonicalise
from .result import Result


def simplify(module: fx.GraphModule) -> Result:
    """No-ops dropped, common subexpressions merged, dead code removed."""
    spelled = canonicalise(module)
    merged = CSEPass()(spelled.graph_module)
    graph_module = merged.graph_module if merged is not None else spelled.graph_module
    removed = graph_module.graph.eliminate_dead_code()
    left = {node.name for node in graph_module.graph.nodes}
    declined = [(node, reason) for node, reason in spelled.declined if node in left]
    return Result(graph_module, bool(removed or (merged is not None and merged.modified)), declined)
