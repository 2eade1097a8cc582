"""The project's own ops become torch's, with their names' notes and numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from lrp_compiler.passes.graph import Origin, origin, set_origin
from lrp_compiler.passes.joint.lower_own_ops import lower_own_ops
from lrp_compiler.rules import POOL, RECURRENT_GATE, REMAINDER, RESIZE, TRAITS

X = torch.randn(2, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ROWS, COLUMNS = torch.randn(2, 5, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)


def gated(x: Tensor) -> Tensor:
    return RECURRENT_GATE(x.sin(), x.exp())


def pooled(x: Tensor) -> Tensor:
    return POOL(x, [ROWS, COLUMNS])


def resized(x: Tensor) -> Tensor:
    return RESIZE(x, [ROWS, COLUMNS])


def by_matrices(x: Tensor) -> Tensor:
    return torch.einsum("bcij,pi,qj->bcpq", x, ROWS, COLUMNS)


CASES: dict[object, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], set[str]]] = {
    RECURRENT_GATE: (gated, lambda x: x.sin() * x.exp(), {"sin", "exp", "mul"}),
    POOL: (pooled, by_matrices, {"matmul", "t"}),
    RESIZE: (resized, by_matrices, {"matmul", "t"}),
    REMAINDER: (lambda x: REMAINDER(x.sin(), x.exp()), lambda x: x.sin() - x.exp(), {"sin", "exp", "sub"}),
}
"""Own op → a function with it, the same without, and the ops that may be left."""


@pytest.mark.sampled(4)
@pytest.mark.parametrize("op", [op for op, known in TRAITS.items() if known.lowered is not None], ids=str)
def test_every_own_op_becomes_ops_of_torchs(op: object, graph_of: Callable, targets: Callable) -> None:
    function, expected, left = CASES[op]
    module = graph_of(function, X, dynamic=True)
    (own,) = [node for node in module.graph.nodes if node.target is op]
    set_origin(own, Origin("forward", "own", "cell", "signal"))
    own.meta["custom"] = {"mine": 1}

    result = lower_own_ops(module)

    assert result.modified
    assert result.declined == ()
    assert set(targets(result.graph_module)) <= left
    (last,) = result.graph_module.graph.output_node().args[0]
    assert origin(last) == Origin("forward", "own", "cell", "signal")
    assert last.meta["custom"] == {"mine": 1}
    x = torch.randn(4, 3, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(result.graph_module(x)[0], expected(x), rtol=1e-13, atol=1e-13)


def test_every_own_op_is_lowered_where_there_are_several(graph_of: Callable) -> None:
    module = graph_of(lambda x: RECURRENT_GATE(RECURRENT_GATE(x, x + 1), pooled(x).sum()), X)
    (expected,) = module(X)

    result = lower_own_ops(module)

    assert not [node for node in result.graph_module.graph.nodes if getattr(node.target, "namespace", "") == "lrp"]
    torch.testing.assert_close(result.graph_module(X)[0], expected, rtol=1e-13, atol=1e-13)


def test_a_graph_without_them_is_let_be() -> None:
    module = fx.symbolic_trace(nn.ReLU())
    before = str(module.graph)

    result = lower_own_ops(module)

    assert not result.modified
    assert str(result.graph_module.graph) == before
