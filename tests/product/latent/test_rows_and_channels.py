"""Which dim of a value holds the rows and which the channels: told by what made it, whether it is masked or not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler import concepts
from lrp_compiler.base.errors import InputError
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(6)


class Steps(nn.Module):
    """A dense layer at every step, on whatever shape `before` makes of the input, and back."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer, self.out, self.how = nn.Linear(3, 5, bias=False), nn.Linear(5, 2, bias=False), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "rows first":
            return self.out(self.layer(x).relu().sum(1))
        if self.how == "steps first":
            return self.out(self.layer(x.transpose(0, 1)).relu().sum(0))
        if self.how == "channels first":
            convolved = nn.functional.conv1d(x.transpose(1, 2), self.layer.weight.unsqueeze(-1))
            return self.out(convolved.relu().sum(2))
        if self.how == "channels last of four":
            return self.out(self.layer(x.unsqueeze(2)).relu().sum((1, 2)))
        return self.out(self.layer(x.flatten(0, 1)).relu().unflatten(0, (-1, x.shape[1])).sum(1))


class Given(nn.Module):
    """The same with the steps first in the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Steps("steps first")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.transpose(0, 1))


def example(how: str) -> tuple[nn.Module, Tensor, str]:
    """A net, three rows of four steps, and what its layer goes by."""
    torch.manual_seed(4)
    x = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(11))
    return Steps(how).eval(), x, "conv1d" if how == "channels first" else "layer"


def compiled(how: str, **options: Any) -> lrp.Explainer:
    net, x, _ = example(how)
    options = {"composite": "attnlrp", "dynamic_shapes": ({0: torch.export.Dim("batch")},), **options}
    return lrp.compile(net, (x,), **options)


def by_hand(how: str) -> np.ndarray:
    """Relevance of each channel for class 1: its activation, summed over steps, times its weight."""
    net, x, _ = example(how)
    with torch.no_grad():
        shares: np.ndarray = ((x @ net.layer.weight.T).relu().sum(1) * net.out.weight[1]).numpy()  # type: ignore
    return shares


KINDS = ["rows first", "steps first", "channels first", "channels last of four"]


@pytest.mark.parametrize("how", KINDS)
def test_channels_of_a_value_that_takes_no_mask(how: str, tmp_path: Path) -> None:
    _, x, path = example(how)
    explainer = compiled(how, target=1, observe=path)
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    explainer.save(tmp_path / "m.lrp.pt2")

    with OnnxExplainer(tmp_path / "m.lrp.onnx") as onnx:
        sums = [
            concepts.channels(explainer, x, path, normalise=False),
            concepts.channels(lrp.load(tmp_path / "m.lrp.pt2"), x, path, normalise=False),
            concepts.channels(onnx, x.numpy(), path, normalise=False),
            concepts.channels(compiled(how, target=1).observe(path), x, path, normalise=False),
        ]

    for found in sums:
        np.testing.assert_allclose(found, by_hand(how), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("by", ["relevance", "activation"])
@pytest.mark.parametrize("how", KINDS)
def test_references_count_rows_whatever_dim_they_are_in(how: str, by: Any) -> None:
    net, x, path = example(how)
    explainer = compiled(how, target=1, observe=path)

    found = concepts.references(explainer, [x[:2], x[2:]], path, by=by, k=3)

    with torch.no_grad():
        values = x @ net.layer.weight.T  # type: ignore[union-attr, operator]
    sums = by_hand(how)
    scores = sums / np.abs(sums).sum(1, keepdims=True) if by == "relevance" else values.amax(1).numpy()
    assert found.seen == 3
    np.testing.assert_array_equal(found.samples, np.argsort(-scores, 0, kind="stable").T)


def test_rows_that_share_a_dim_with_positions_are_told_in_a_sentence() -> None:
    _, x, path = example("rows and steps in one")
    explainer = compiled("rows and steps in one", target=1, observe=path)
    for asked in (
        lambda: concepts.channels(explainer, x, path),
        lambda: concepts.references(explainer, [x], path),
        lambda: concepts.references(explainer, [x], path, by="activation"),
    ):
        with pytest.raises(InputError, match=r"'layer' has shape \[12, 5\], in which no dim is the batch's alone"):
            asked()


@pytest.mark.parametrize("apart", ["channels", "tokens", "both"])
@pytest.mark.parametrize("how", [*KINDS, "rows and steps in one"])
def test_a_graph_of_a_value_whatever_its_first_dim_is(how: str, apart: Any) -> None:
    net, x, path = example(how)
    latent: dict[str, Any] = {"masks": path, "seeds": lrp.Put(path, "unit"), "observe": path, "form": "both"}
    explainer = compiled(how, seed="tensor", **latent)

    graph = concepts.graph(explainer, x[:1], target=1, apart=apart, keep=20, threshold=0)

    with torch.no_grad():
        at = ((x[0] @ net.layer.weight.T).relu() * net.out.weight[1]).numpy()  # type: ignore  # [steps, channels]
    expected = {"channels": at.sum(0), "tokens": at.sum(1), "both": at.T.reshape(-1)}[apart]
    found = {node.id: node.relevance for node in graph.nodes if node.layer == path and not node.rest}
    # What is put on a value as a total is divided by it, stabilised by 1e-6: measured, 5e-5.
    np.testing.assert_allclose(sorted(found.values()), sorted(expected[expected != 0]), rtol=1e-4, atol=1e-6)
    for id, relevance in found.items():
        assert graph.into(id) == {"logit": pytest.approx(relevance, rel=1e-5, abs=1e-6)}
        assert sum(graph.out_of(id).values()) == pytest.approx(relevance, rel=1e-5, abs=1e-6)


def test_a_graph_of_an_input_whose_steps_come_first() -> None:
    torch.manual_seed(4)
    net, x = Given().eval(), torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(11))
    options: dict[str, Any] = {"masks": "net.layer", "seeds": "net.layer", "observe": "net.layer", "seed": "tensor"}
    sizes = ({1: torch.export.Dim("batch")},)
    explainer = lrp.compile(net, (x,), composite="attnlrp", dynamic_shapes=sizes, **options)

    graph = concepts.graph(explainer, x[:, :1], target=1, threshold=0)

    reached = [node.relevance for node in graph.nodes if node.layer == "x"]
    assert len(reached) == 4
    # But for stabilisers of 1e-6 beside values of 0.1: measured, 1.8e-5.
    assert sum(reached) == pytest.approx(float(net(x[:, :1]).detach()[0, 1]), rel=6e-5)
