"""The forward graph and its assignments, carried by the joint graph."""

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.passes.forward.target import Target
from lrp_compiler.passes.graph.assignment import assignment
from lrp_compiler.passes.joint.persist import restore_forward
from lrp_compiler.rules.registry import FUNCTION


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor, scale: Tensor) -> Tensor:
        x = self.norm(self.embedding(tokens) * scale.unsqueeze(-1))
        x = torch.cat([x, x * torch.sigmoid(x)], 1)
        return self.head(x.mean(1))


INPUTS = torch.tensor([[1, 2, 6], [0, 5, 5]]), torch.rand(2, 3)


@pytest.mark.parametrize("composite", ["epsilon", "attnlrp"])
@pytest.mark.parametrize("target", ["argmax", "index"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_every_assignment_comes_back(composite: str, target: str, dynamic: bool) -> None:
    batch = torch.export.Dim("batch")
    shapes = {"tokens": {0: batch}, "scale": {0: batch}} if dynamic else None
    explainer = lrp.compile(Net().eval(), INPUTS, composite=composite, target=target, dynamic_shapes=shapes)

    joint, forward = restore_forward(explainer.program, inputs=2, outputs=1, explained=0, target=Target())

    assert len(forward.graph.find_nodes(op="placeholder")) == 2
    assert len(joint.graph.find_nodes(op="placeholder")) == (3 if target == "index" else 2)
    assert described(forward) == described(explainer.forward)
    assert FUNCTION in {target for target, *_ in described(forward)}


def described(forward: torch.fx.GraphModule) -> list[tuple]:
    return [
        (given.target, given.kind, given.rule, dict(given.options), given.active, tuple(given.nonnegative))
        for node in forward.graph.nodes
        if (given := assignment(node)) and given.rule
    ]


def test_the_restored_forward_graph_computes_the_model() -> None:
    model = Net().eval()
    explainer = lrp.compile(model, INPUTS, composite="attnlrp")

    _, forward = restore_forward(explainer.program, inputs=2, outputs=1, explained=0, target=Target())

    torch.testing.assert_close(forward(*INPUTS)[0], model(*INPUTS))
