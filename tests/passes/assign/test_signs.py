"""What is ≥ 0 whatever the input; claims are checked on random inputs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lrp_compiler.passes.assign.signs import nonnegative_values
from lrp_compiler.passes.graph.simplify import simplify

X = torch.randn(2, 4, 6)


NEVER_NEGATIVE: list[Callable[[Tensor], Tensor]] = [
    torch.relu,
    torch.sigmoid,
    torch.exp,
    torch.abs,
    lambda x: torch.softmax(x, -1),
    lambda x: x.pow(2),
    lambda x: x.clamp(min=0),
    lambda x: functional.hardtanh(x, 0.0, 6.0),
    lambda x: functional.max_pool1d(x.relu(), 2),
    lambda x: functional.avg_pool1d(x.relu(), 2),
    lambda x: x.relu().mean(-1),
    lambda x: x.relu() + x.abs(),
    lambda x: x.relu() * 2,
    lambda x: x.relu() + 1,
    lambda x: x.relu().cumsum(1),
    lambda x: functional.interpolate(x.relu(), scale_factor=2, mode="linear"),
    lambda x: functional.interpolate(x.relu().unsqueeze(0), size=(5, 7)),
    lambda x: torch.cat([x.relu(), x.exp()], 1),
    lambda x: x.relu().reshape(8, 6).transpose(0, 1)[2],
    lambda x: functional.pad(x.relu(), (1, 1)),
    lambda x: functional.pad(x.relu(), (1, 1), mode="circular"),
    lambda x: x.relu().amax(1),
    lambda x: x.relu().max(1)[0],
    lambda x: x.relu().topk(2)[0],
    lambda x: torch.maximum(x, x.abs()),
    lambda x: torch.minimum(x.relu(), x.abs()),
    lambda x: torch.where(x > 1, x.relu(), x.exp()),
    lambda x: torch.where(x > 1, x.relu(), 0.5),
    lambda x: torch.where(x > 1, x.relu(), torch.zeros(6)),
    lambda x: x.relu().masked_fill(x > 1, 0.5),
    lambda x: x.relu().diagonal(0, 1, 2),
    lambda x: x.relu().unfold(2, 3, 1),
    lambda x: x.relu().repeat(1, 2, 1),
    lambda x: torch.zeros(2, 9, 6).index_add(1, torch.tensor([0, 1, 1, 8]), x.relu()),
    lambda x: x.relu().scatter(1, torch.zeros(2, 1, 6, dtype=torch.int64), x.abs()),
    lambda x: x.clamp(0.5, 2.0),
    lambda x: x.cosh(),
    lambda x: torch.erfc(x),
    lambda x: functional.pixel_shuffle(x.relu().unsqueeze(-1), 2),
    lambda x: x.pow(2).sum(-1).sqrt(),
    lambda x: x.relu() ** 1.5,
    lambda x: x.relu() / 3,
    lambda x: x.relu() / (x.abs() + 1),
    lambda x: functional.dropout(x.relu(), 0.5, training=False),
]
PERHAPS_NEGATIVE: list[Callable[[Tensor], Tensor]] = [
    torch.tanh,
    torch.neg,
    lambda x: x.pow(3),
    lambda x: x.clamp(max=0),
    lambda x: x.clamp(min=-1),
    lambda x: functional.hardtanh(x),
    lambda x: functional.leaky_relu(x),
    lambda x: functional.gelu(x),
    lambda x: x.relu() - x.abs(),
    lambda x: torch.add(x.relu(), x.abs(), alpha=-1),
    lambda x: x.relu() * -2,
    lambda x: x.relu() + -1,
    lambda x: -2 + x.relu(),
    lambda x: x.relu() * x,
    lambda x: x.relu() * torch.tensor(-1.0),
    lambda x: x.relu() + torch.tensor([-1.0]),
    lambda x: torch.cat([x.relu(), x], 1),
    lambda x: functional.pad(x.relu(), (1, 1), value=-1.0),
    lambda x: torch.where(x > 0, x.relu(), x),
    lambda x: torch.where(x > 0, x.relu(), -1.0),
    lambda x: torch.minimum(x.relu(), x),
    lambda x: torch.zeros(2, 9, 6).index_add(1, torch.tensor([0, 1, 1, 8]), x),
    lambda x: x.amin(1),
    lambda x: x.relu() / x,
    lambda x: x.relu().log(),
    lambda x: x.relu().masked_fill(x > 0, -5.0),
    lambda x: x.relu() @ torch.ones(6, 2),
    lambda x: functional.interpolate(x.relu().unsqueeze(0), size=(5, 7), mode="bicubic"),
]


@pytest.fixture(scope="module")
def known(graph_of: Callable) -> dict[Callable, bool]:
    """Which functions' values are known to be ≥ 0, all in one graph: exporting takes longest."""
    functions = [*NEVER_NEGATIVE, *PERHAPS_NEGATIVE]
    forward = simplify(graph_of(lambda x: [function(x) for function in functions], X)).graph_module
    values = nonnegative_values(forward)
    (results,) = forward.graph.output_node().args
    return {function: result in values for function, result in zip(functions, results, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("function", NEVER_NEGATIVE)
def test_a_value_that_cannot_be_negative_is_known(function: Callable, known: dict[Callable, bool]) -> None:
    assert known[function]
    assert function(10 * torch.randn(5, *X.shape).flatten(0, 1)[: X.shape[0]]).min() >= 0


@pytest.mark.parametrize("function", PERHAPS_NEGATIVE)
def test_a_value_that_may_be_negative_is_not_claimed(function: Callable, known: dict[Callable, bool]) -> None:
    assert not known[function]


def test_the_claim_reaches_the_rules(graph_of: Callable) -> None:
    from lrp_compiler.passes.graph.assignment import assignment
    from lrp_compiler.passes.pipeline import analyse
    from lrp_compiler.rules import NONNEGATIVE
    from lrp_compiler.rules.composites import COMPOSITES

    def function(x: Tensor) -> Tensor:
        return functional.conv1d(x.relu(), torch.ones(1, 4, 3)) + functional.conv1d(x, torch.ones(1, 4, 3))

    forward = simplify(graph_of(function, X)).graph_module
    analyse(
        forward, [node.meta["input"] for node in forward.graph.find_nodes(op="placeholder")], COMPOSITES["epsilon"]()
    )

    given = [assignment(node) for node in forward.graph.nodes if node.target is torch.ops.aten.conv1d.default]
    assert [item.facts[NONNEGATIVE] for item in given] == [("input",), ()]
