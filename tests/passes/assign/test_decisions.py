"""Where relevance ends because a hard decision stands in between, it is said so."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.errors import InputError, LrpWarning

X, Y = torch.randn(3, 4), torch.randn(3, 4)


class Decided(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.encoder, self.book = nn.Linear(4, 4), nn.Embedding(9, 4)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.function(self, x) if y is None else self.function(self, x, y)


def nearest(model: Decided, x: Tensor) -> Tensor:
    return model.book(torch.cdist(model.encoder(x), model.book.weight).argmin(-1))


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("function", "named"),
    [
        (nearest, "argmin at argmin"),
        (lambda model, x: (model.encoder(x) > 0).to(x.dtype), "gt at gt"),
        (lambda model, x: model.encoder(x).bool().to(x.dtype), "to_copy at"),
        (lambda model, x: functional.one_hot(model.encoder(x).argmax(-1), 4).to(x.dtype), "argmax at argmax"),
    ],
    ids=["nearest", "comparison", "cast", "one-hot"],
)
def test_an_output_behind_a_decision_is_refused_by_its_name(function: Callable, named: str) -> None:
    with pytest.raises(InputError, match="only through a hard decision") as raised:
        lrp.compile(Decided(function).eval(), (X,), composite="attnlrp")

    assert named in str(raised.value)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "function",
    [
        lambda p: torch.log(p + 1e-8),
        lambda p: p.topk(2).values,
        lambda p: p.flip(-1),
        lambda p: (p + (2 * p).softmax(-1)) / 2,
    ],
)
def test_what_a_composite_holds_constant_is_no_decision_of_the_model(function: Callable) -> None:
    model = Decided(lambda model, x: function(model.encoder(x).softmax(-1))).eval()
    words = (
        r"a value that the composite holds constant \(softmax.* explain what comes before it, or choose another comp"
    )
    with pytest.raises(InputError, match=words):
        lrp.compile(model, (X,), composite="cp-lrp")

    assert lrp.compile(model, (X,), composite="attnlrp")(X).relevance["x"].any()


def test_an_input_behind_a_decision_is_warned_of() -> None:
    model = Decided(lambda model, x, y: nearest(model, x) * y).eval()

    with pytest.warns(LrpWarning, match=r"Input 'x' gets no relevance: .* hard decision \(argmin at argmin\)"):
        explainer = lrp.compile(model, (X, Y), composite="attnlrp")

    assert explainer(X, Y).relevance.keys() == {"y"}


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "function",
    [
        lambda model, x: model.encoder(x) * (x > 0),
        lambda model, x: model.encoder(x) + torch.zeros_like(x),
        lambda model, x: nearest(model, x) + x,
    ],
    ids=["mask beside the value", "shape alone", "decision beside the value"],
)
def test_an_input_that_takes_relevance_besides_is_not_warned_of(function: Callable) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LrpWarning)
        assert lrp.compile(Decided(function).eval(), (X,), composite="attnlrp")(X).relevance["x"].any()


def test_an_input_whose_shape_alone_is_read_is_not_warned_of() -> None:
    model = Decided(lambda model, x, y: model.encoder(x) + torch.ones_like(y)).eval()

    with warnings.catch_warnings():
        warnings.simplefilter("error", LrpWarning)
        assert lrp.compile(model, (X, Y), composite="attnlrp")(X, Y).relevance.keys() == {"x"}


MADE_OF_PARTS = {
    "a step": (lambda x: torch.cat([(x[:, :1] > 1).to(x.dtype), x[:, 1:]], 1), "[:, 0]", "gt"),
    "a choice": (lambda x: torch.where(x[:, 3:] > 0, x.abs(), -x), "", ""),
    "a choice by it alone": (lambda x: torch.where(x[:, 3:] > 0, x[:, :3], -x[:, :3]), "[:, 3]", "gt"),
    "the largest of two": (
        lambda x: torch.cat([functional.one_hot(x[:, 1:3].argmax(1), 2).to(x.dtype), x[:, 3:], x[:, :1]], 1),
        "[:, [1, 2]]",
        "argmax",
    ),
    "a gate of itself": (lambda x: x * (x[:, :1] > 0), "", ""),
    "a function of it": (lambda x: x[:, 1:] * (x[:, 0].sigmoid().round() > 0).unsqueeze(1), "[:, 0]", "gt"),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", MADE_OF_PARTS)
def test_elements_behind_a_decision_are_warned_of_by_their_place(case: str) -> None:
    function, elements, name = MADE_OF_PARTS[case]
    x = torch.tensor([[0.7, 1.1, -0.6, 0.4], [1.3, 0.2, 0.9, 0.8]])
    model = Decided(lambda model, x: functional.linear(function(x), model.encoder.weight[:, : function(x).shape[1]]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LrpWarning)
        explainer = lrp.compile(model.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))

    said = [str(warning.message) for warning in caught if issubclass(warning.category, LrpWarning)]
    assert [sentence.partition(" no relevance")[0] for sentence in said] == (
        [f"Elements {elements} of input 'x' get"] if elements else []
    )
    assert all(f"hard decision ({name} at" in sentence for sentence in said)
    lost = [column for column in range(4) if str(column) in elements]
    assert (explainer(x).relevance["x"] == 0).all(0).nonzero().flatten().tolist() == lost
