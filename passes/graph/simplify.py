"""Clean-up of the joint graph: no-ops, values computed twice, values nobody reads.

a = mul(x, y); b = mul(x, y); add(to(a, same dtype), b); c = neg(a)        →        a = mul(x, y); add(a, a)
"""

from __future__ import annotations

from torch import fx
from torch.fx.passes.dialect.common.cse_pass import CSEPass
from torch.fx.passes.infra.pass_base import PassResult

from .canonicalise import canonicalise


def simplify(module: fx.GraphModule) -> PassResult:
    """No-ops dropped, common subexpressions merged, dead code removed."""
    module = canonicalise(module).graph_module
    merged = CSEPass()(module)
    graph_module = merged.graph_module if merged is not None else module
    removed = graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return PassResult(graph_module, bool(removed or (merged is not None and merged.modified)))
