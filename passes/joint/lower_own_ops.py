"""The project's own ops as torch's, once their rule has been applied: no explainer needs an op that is not torch's.

lrp.gate(signal, gate); lrp.pool(x, matrices)      →      mul(signal, gate); matmul(A, matmul(x, Bᵀ))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from lrp_compiler.passes.graph.inline import write_out
from lrp_compiler.rules.operators.gate import RECURRENT_GATE
from lrp_compiler.rules.operators.interpolation import along
from lrp_compiler.rules.operators.pooling import POOL

LOWERED: dict[Any, Callable[..., torch.Tensor]] = {RECURRENT_GATE: torch.mul, POOL: along}


def lower_own_ops(module: fx.GraphModule) -> PassResult:
    """Rewrite the joint graph in place."""
    own = [node for node in module.graph.nodes if node.target in LOWERED]
    for node in own:
        write_out(node, LOWERED[node.target])
    module.recompile()
    return PassResult(module, bool(own))
