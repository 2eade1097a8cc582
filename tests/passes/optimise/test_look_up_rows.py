"""Relevance of a few chosen outputs of a layer reads their rows; of many it is the product that it was."""

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.passes.optimise.look_up_rows import FEW

SCATTER = torch.ops.aten.scatter_add.default
X = torch.randn(3, 4, 5, dtype=torch.float64)


def targets_of(explainer: lrp.Explainer) -> list[object]:
    return [node.target for node in explainer.module.graph.nodes]


def compiled(chosen: int, optimise: bool) -> lrp.Explainer:
    def score(z: Tensor) -> Tensor:
        return z.gather(-1, (z * 3).topk(chosen).indices)[:, 1:].sum([1, 2])

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 30)).double().eval()
    sizes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length")},)
    return lrp.compile(model, (X,), composite="attnlrp", target=score, dynamic_shapes=sizes, optimise=optimise)


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("chosen", [1, 3])
def test_rows_of_the_chosen_outputs_are_read(chosen: int) -> None:
    fast, plain = compiled(chosen, True), compiled(chosen, False)
    x = torch.randn(2, 7, 5, dtype=torch.float64)

    assert SCATTER not in targets_of(fast)
    assert SCATTER in targets_of(plain)
    torch.testing.assert_close(fast(x).relevance["input"], plain(x).relevance["input"], rtol=1e-12, atol=1e-12)


def test_many_outputs_stay_a_product() -> None:
    assert SCATTER in targets_of(compiled(FEW + 1, True))
