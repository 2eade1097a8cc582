"""Coefficients of differences foretell what patching a value does: exactly where what is behind it is linear in it, and
in sum wherever the value is all that the output depends on."""

import torch
from torch import Tensor, nn

import lrp_compiler as lrp


class Network(nn.Module):
    """Norm, gate and softmax in front of a value and behind it."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.before, self.value, self.norm = nn.Linear(6, 8), nn.Linear(8, 8), nn.LayerNorm(8)
        self.gate, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def behind(self, value: Tensor) -> Tensor:
        if self.linear:
            return self.last(value)
        normed = self.norm(value)
        return self.last(nn.functional.silu(self.gate(normed)) * normed + normed.softmax(-1))

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.value(nn.functional.gelu(self.before(x))))


def network(linear: bool) -> Network:
    torch.manual_seed(0)
    return Network(linear).double().eval()


def test_all_that_changes_in_a_value_is_the_change_of_the_output() -> None:
    model = network(linear=False)
    x, other = torch.randn(2, 4, 6, dtype=torch.float64)
    explainer = lrp.compile(model, (x,), target=1, composite="reference", observe="value", form="unit")
    g = explainer(x, reference=other).coefficients["value"]
    change = explainer.activation("value", x) - explainer.activation("value", other)
    with torch.no_grad():
        effect = model(x)[:, 1] - model(other)[:, 1]
    torch.testing.assert_close((change * g).sum(1), effect, rtol=1e-10, atol=1e-10)


def test_a_linear_way_is_foretold_feature_by_feature() -> None:
    model = network(linear=True)
    x, other = torch.randn(2, 4, 6, dtype=torch.float64)
    explainer = lrp.compile(model, (x,), target=1, composite="reference", observe="value", form="unit")
    g = explainer(x, reference=other).coefficients["value"]
    now, then = explainer.activation("value", x), explainer.activation("value", other)
    with torch.no_grad():
        for feature in range(8):
            patched = then.clone()
            patched[:, feature] = now[:, feature]
            effect = model.last(patched)[:, 1] - model(other)[:, 1]
            torch.testing.assert_close((now - then)[:, feature] * g[:, feature], effect, rtol=1e-10, atol=1e-10)
