"""The books are kept in float64, whatever precision the model and the casts inside it have."""

import pytest
import torch
from torch import Tensor, fx, nn

import lrp_compiler as lrp
from lrp_compiler.passes.graph import Float64
from lrp_compiler.views.audit import _values

BALANCED = 1e-12


class Attention(nn.Module):
    """What transformers in low precision do: softmax in float32, casts back, a mask of the dtype's lowest value."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.project = nn.Linear(8, 24)
        self.norm = nn.LayerNorm(8)
        self.classes = nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.table(ids)
        dtype = x.dtype
        positions = torch.arange(ids.shape[1], dtype=torch.float32).unsqueeze(-1) * 0.1
        x = x + positions.to(dtype) + torch.full((8,), 0.3, dtype=dtype)
        q, k, v = self.project(x).chunk(3, -1)
        blocked = (1 - mask.to(dtype)).unsqueeze(1) * torch.finfo(dtype).min
        scores = q @ k.transpose(-2, -1) / 8**0.5 + blocked
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(dtype)
        pooled = self.norm(x + weights @ v).mean(1)
        return self.classes(pooled).float()


IDS = torch.tensor([[1, 5, 7, 2], [3, 3, 10, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def attention() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Attention().eval()


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("composite", ["epsilon", "attnlrp"])
def test_a_model_of_any_precision_balances(composite: str, dtype: torch.dtype) -> None:
    explainer = lrp.compile(attention().to(dtype), (IDS, MASK), composite=composite)

    audit = explainer.audit(IDS, MASK)

    assert abs(audit.error) <= BALANCED * audit.magnitude
    assert all(abs(entry.error) <= BALANCED * audit.magnitude for entry in audit.entries)


def test_a_softmax_that_widens_is_run_in_float64() -> None:
    # Only a GPU knows this op, so no model is at hand here that has it.
    graph = fx.Graph()
    x = graph.placeholder("x")
    p = graph.call_function(torch.ops.aten._softmax.default, (x, -1, True))
    graph.output((p,))

    values = _values(Float64, fx.GraphModule(nn.Module(), graph), [torch.tensor([1.0, 2.0, -1.0]).half()])

    # e², e and 1/e over their sum, which float16 knows to three digits.
    assert values[p][1].item() == pytest.approx(0.7053845126982412, rel=1e-14)


class Tie(nn.Module):
    """Class 1 wins by a billionth, which float32 does not see: there the first class wins the tie."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y + 1e-9], 1)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("dtype", "winner"), [(torch.float32, "x"), (torch.float64, "y")])
def test_the_audited_class_is_the_one_that_the_model_picks(dtype: torch.dtype, winner: str) -> None:
    x = torch.ones(1, 1, dtype=dtype)
    explainer = lrp.compile(Tie().eval(), (x, x.clone()), composite="epsilon")

    audit, explanation = explainer.audit(x, x), explainer(x, x)

    assert {name for name, share in audit.inputs.items() if share} == {winner}
    assert {name for name, share in explanation.relevance.items() if share.any()} == {winner}


def test_the_explainer_is_left_in_its_own_precision() -> None:
    x = torch.randn(2, 3)
    explainer = lrp.compile(nn.Linear(3, 2).eval(), (x,), composite="epsilon")
    before = {name: (value.dtype, value.data_ptr()) for name, value in explainer.forward.state_dict().items()}

    explainer.audit(x)

    assert {name: (value.dtype, value.data_ptr()) for name, value in explainer.forward.state_dict().items()} == before
    assert explainer(x).relevance["input"].dtype == torch.float32
