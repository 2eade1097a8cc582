"""Straight-through estimators: what was decided upon has the relevance of the decision."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.whole import Between, holds, in_precision, runs_in_onnxruntime, survives_files
from torch import Tensor, nn
from torch.nn import functional

pytestmark = pytest.mark.sampled(12)

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(7))
CODES = torch.randn(9, 4, generator=torch.Generator().manual_seed(8))


def nearest(z: Tensor) -> Tensor:
    book = CODES.to(z.dtype)
    return functional.embedding(torch.cdist(z, book).argmin(-1), book)


def above(z: Tensor) -> Tensor:
    return (z > 0).to(z.dtype)


def chosen(p: Tensor) -> Tensor:
    return functional.one_hot(p.argmax(-1), 4).to(p.dtype)


DECIDED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "nearest code": (lambda z: z + (nearest(z) - z).detach(), nearest),
    "in another order": (lambda z: nearest(z).detach() - z.detach() + z, nearest),
    "taken away from": (lambda z: z - (z - nearest(z)).detach(), nearest),
    "turned round": (lambda z: -((z - nearest(z)).detach() - z), nearest),
    "spikes": (lambda z: above(z) + (z.sigmoid() - z.sigmoid().detach()), above),
    # A quantisation: what rounding adds is a constant to `attnlrp`, so that z counts, not what it was rounded to.
    "rounded": (lambda z: z + (torch.round(z * 4) / 4 - z).detach(), lambda z: z),
    "signs": (lambda z: (torch.sign(z) - z).detach() + z, torch.sign),
}


@pytest.mark.parametrize("name", DECIDED)
def test_relevance_of_the_decision_is_that_of_what_was_decided_upon(name: str, tmp_path: Path) -> None:
    """The head's share of what was decided upon is the relevance of z; the stem hands on `x W / z` of it."""
    written, value = DECIDED[name]
    model = in_precision(Between(written), torch.float64)
    x = X.double()

    explainer = holds(model, (x,))

    z = model.stem(x)
    R = value(z) * model.head.weight[0]
    found = explainer(x).relevance["x"]
    wanted = x * ((R / (z + 1e-6 * torch.where(z < 0, -1.0, 1.0))) @ model.stem.weight)
    exact = x * ((R / z) @ model.stem.weight)
    # Which forms relevance has in between decides whether the stabiliser of the total form is in it.
    assert min(float((found - one).abs().max()) for one in (wanted, exact)) <= 1e-9
    survives_files(explainer, (x,), tmp_path)
    runs_in_onnxruntime(model, (x,), None, tmp_path)


def test_a_choice_made_of_probabilities_passes_the_softmax() -> None:
    model = Between(lambda z: (lambda p: chosen(p) - p.detach() + p)(z.softmax(-1)))

    books = holds(model, (X,)).audit(X.double())

    function = next(entry for entry in books.entries if entry.node.startswith("add"))
    assert function.relevance_out == pytest.approx(function.relevance_in, rel=1e-12)
    assert books.magnitude > 0


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z + (CODES[0].to(z.dtype) - z),  # a constant: nothing was decided
        lambda z: z + (nearest(z) - 0.5 * z),  # z stays
        lambda z: z + nearest(z),
    ],
    ids=["a constant", "half of it", "both"],
)
def test_other_sums_stay_sums(function: Callable) -> None:
    model = in_precision(Between(function), torch.float64)
    x = X.double()

    explainer = holds(model, (x,))

    y = x.clone().requires_grad_()
    model(y)[:, 0].sum().backward()
    torch.testing.assert_close(explainer(x).relevance["x"], y.grad * x, rtol=1e-9, atol=1e-12)


@pytest.mark.heavy
def test_a_long_sum_is_followed_in_linear_time() -> None:
    class Long(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = x
            for step in range(300):
                total = total + x.roll(step, -1)
            return total

    holds(Long(), (X,))


def test_a_number_that_is_added_to_indices_is_no_term() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(9, 4), nn.Linear(12, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids + 2).flatten(1))

    explainer = holds(Shifted(), (torch.tensor([[0, 1, 5], [2, 2, 3]]),), composite="epsilon")

    assert [entry.input for entry in explainer.about.relevance] == ["ids"]
