"""Models that draw random numbers as they run."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.errors import CaptureError

X = torch.randn(4, 6)


class Net(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.hidden, self.classes, self.between = nn.Linear(6, 5), nn.Linear(5, 3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.between(torch.relu(self.hidden(x))))


def attended(h: Tensor, dropout: float) -> Tensor:
    h = h.unsqueeze(1)
    return functional.scaled_dot_product_attention(h, h, h, dropout_p=dropout)[:, 0]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("draw", "op"),
    [
        (lambda h: h + torch.randn_like(h), "randn_like"),
        (lambda h: h * torch.rand(5), "rand"),
        (lambda h: h * torch.bernoulli(h.sigmoid()), ""),
        (lambda h: h + torch.empty_like(h).uniform_(), "uniform"),
        (lambda h: h + torch.normal(0.0, 1.0, (5,)), "normal"),
        (lambda h: h[:, torch.randperm(5)], "randperm"),
        (functional.gumbel_softmax, "exponential"),
    ],
)
def test_noise_is_refused_by_name_and_place(draw: Callable[[Tensor], Tensor], op: str) -> None:
    with pytest.raises(CaptureError, match=rf"draws random numbers.*aten\.{op}.*test_randomness.py:\d+.*input of forw"):
        lrp.compile(Net(draw).eval(), (X,))


@pytest.mark.parametrize(
    "drop",
    [
        lambda h: functional.dropout(h, 0.5, training=True),
        lambda h: functional.alpha_dropout(h, 0.5, training=True),
        lambda h: functional.dropout1d(h.unsqueeze(0), 0.5, training=True)[0],
        lambda h: functional.rrelu(h - 1, training=True),
        lambda h: attended(h, 0.1),
    ],
    ids=["dropout", "alpha_dropout", "dropout1d", "rrelu", "attention"],
)
def test_dropout_that_is_left_on_is_refused(drop: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(CaptureError, match="training"):
        lrp.compile(Net(drop).eval(), (X,))


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "between",
    [
        lambda h: functional.dropout(h, 0.5, training=False),
        lambda h: attended(h, 0.0),
        lambda h: (h + torch.randn_like(h), h)[1],
        lambda h: h * torch.rand_like(h).shape[1],
        lambda h: h + torch.empty_like(h).normal_().fill_(1.0),
    ],
    ids=["dropout", "attention", "unused", "shape", "overwritten"],
)
def test_what_no_output_depends_on_does_no_harm(between: Callable[[Tensor], Tensor]) -> None:
    model = Net(between).eval()

    explainer = lrp.compile(model, (X,))

    torch.testing.assert_close(explainer(X).output, model(X))
