"""The forward graph and its assignments as plain data, and back."""

import json

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.passes.graph.assignment import assignment
from lrp_compiler.passes.joint.persist import forward_from_dict, forward_to_dict
from lrp_compiler.rules.registry import FUNCTION


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor, scale: Tensor) -> Tensor:
        x = self.norm(self.embedding(tokens) * scale.unsqueeze(-1))
        x = torch.cat([x, x * torch.sigmoid(1.5 * x)], 1)
        return self.head(x.mean(1))


def again(explainer: lrp.Explainer) -> torch.fx.GraphModule:
    """The forward graph as a file has it."""
    return forward_from_dict(json.loads(json.dumps(forward_to_dict(explainer.forward))), explainer.module)


INPUTS = torch.tensor([[1, 2, 6], [0, 5, 5]]), torch.rand(2, 3)


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("composite", ["epsilon", "attnlrp"])
@pytest.mark.parametrize("target", ["argmax", "index"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_every_assignment_comes_back(composite: str, target: str, dynamic: bool) -> None:
    batch = torch.export.Dim("batch")
    shapes = {"tokens": {0: batch}, "scale": {0: batch}} if dynamic else None
    explainer = lrp.compile(Net().eval(), INPUTS, composite=composite, target=target, dynamic_shapes=shapes)

    forward = again(explainer)

    assert len(forward.graph.find_nodes(op="placeholder")) == 2
    assert described(forward) == described(explainer.forward)
    assert FUNCTION in {target for target, *_ in described(forward)}


def described(forward: torch.fx.GraphModule) -> list[tuple]:
    return [
        (given.target, given.kind, given.rule, dict(given.options), given.active, given.facts)
        for node in forward.graph.nodes
        if (given := assignment(node)) and given.rule
    ]


def test_the_restored_forward_graph_computes_the_model() -> None:
    model = Net().eval()
    explainer = lrp.compile(model, INPUTS, composite="attnlrp")

    forward = again(explainer)

    torch.testing.assert_close(forward(*INPUTS)[0], model(*INPUTS))
