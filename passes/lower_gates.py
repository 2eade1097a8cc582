"""Gates as ordinary products, once their rule has been applied: no explainer needs an op that is not torch's own.

lrp.gate(signal, gate)      →      mul(signal, gate)
"""

from __future__ import annotations

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from lrp_compiler.rules.gate import RECURRENT_GATE


def lower_gates(module: fx.GraphModule) -> PassResult:
    """Rewrite the joint graph in place."""
    gates = module.graph.find_nodes(op="call_function", target=RECURRENT_GATE)
    for node in gates:
        node.target = torch.ops.aten.mul.Tensor
    module.recompile()
    return PassResult(module, bool(gates))
