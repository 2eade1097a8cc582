"""The scores of a text's tokens, put into the graph: against sums over the model's own logits, written out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from lrp_compiler.base.errors import InputError
from lrp_compiler.passes.forward import Answer, Target, explained_in, explained_value, select_answer
from lrp_compiler.passes.graph import copied

VOCABULARY = 7
IDS = torch.tensor([[3, 1, 4, 1, 5], [2, 6, 0, 3, 3], [1, 1, 0, 6, 2]])
OTHERS = torch.tensor([[0, 6, 2, 2, 1], [5, 5, 4, 3, 2], [0, 1, 2, 3, 4]])


class Model(nn.Module):
    """Logits of the next token, of a table."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float64))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.table[input_ids].cumsum(1) * attention_mask.unsqueeze(-1)


MODEL = Model().eval()
PUBLIC = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
MASK = torch.ones_like(IDS)


@pytest.fixture(scope="module")
def exported(graph_of: Callable) -> fx.GraphModule:
    return graph_of(MODEL, IDS[:2], MASK[:2], dynamic=True)


@pytest.fixture
def graph(exported: fx.GraphModule) -> fx.GraphModule:
    """Of two rows; everything is calculated for three."""
    return copied(exported)


def logarithm_of_sum(z: Tensor) -> float:
    return float(z.exp().sum().log())


BY_HAND: dict[str, tuple[Answer, Callable[[Tensor, int, int], float]]] = {
    "a logit": (Answer(), lambda z, token, other: float(z[token])),
    "a centred one": (Answer("centred"), lambda z, token, other: float(z[token] - z.sum() / VOCABULARY)),
    "a logarithm of a probability": (
        Answer("log-probability"),
        lambda z, token, other: float(z[token]) - logarithm_of_sum(z),
    ),
    "against one token": (Answer(against=4), lambda z, token, other: float(z[token] - z[4])),
    "against tokens given": (Answer(against="index"), lambda z, token, other: float(z[token] - z[other])),
    "tokens given": (Answer(tokens="index"), lambda z, token, other: float(z[other])),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_token_scores_by_what_stands_before_it(name: str, graph: fx.GraphModule) -> None:
    answer, score = BY_HAND[name]

    explained, known = select_answer(graph, 0, "logits", answer, PUBLIC)

    assert explained_value(graph) is explained
    assert known == (replace(answer, ids="input_ids") if answer.tokens == "own" else answer)
    graph.graph.output_node().args = (explained,)
    graph.recompile()
    given = [OTHERS] * len(answer.inputs)
    found = graph(IDS, MASK, *given)
    logits = MODEL(IDS, MASK).detach()
    wanted = [
        [0.0, *(score(logits[row, at - 1], int(IDS[row, at]), int(OTHERS[row, at])) for at in range(1, 5))]
        for row in range(3)
    ]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_run_time_tokens_are_inputs_behind_the_models(graph: fx.GraphModule) -> None:
    select_answer(graph, 0, "logits", Answer(tokens="index", against="index"), PUBLIC)

    places = graph.graph.find_nodes(op="placeholder")
    assert [place.meta["input"] for place in places] == ["input_ids", "attention_mask", "target", "against"]
    assert [place.meta.get("seed") for place in places] == [None, None, "target", "against"]
    assert all(place.meta["val"].dtype == torch.int64 for place in places[2:])


def test_ids_are_known_by_name_or_as_the_only_ones(graph: fx.GraphModule) -> None:
    """A decoder's come before an encoder's, a mask is no text."""
    decoder = {"input_ids": "input_ids", "attention_mask": "decoder_input_ids"}
    alone = {"input_ids": "words", "attention_mask": "words_attention_mask"}

    assert select_answer(graph, 0, "logits", Answer(), decoder)[1].ids == "decoder_input_ids"
    assert select_answer(graph, 0, "logits", Answer(), alone)[1].ids == "words"
    assert select_answer(graph, 0, "logits", Answer(ids="input_ids"), decoder)[1].ids == "input_ids"


@pytest.mark.parametrize(
    ("answer", "public", "words"),
    [
        (Answer(ids="words"), PUBLIC, "no ids 'words' of a text; inputs of whole numbers, two dims: input_ids, att"),
        (Answer(), {"input_ids": "words", "attention_mask": "sentence"}, "ids of the text are not known"),
        (Answer(against=7), PUBLIC, "against=7.*out of range: there are 7 tokens, 0 to 6"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(answer: Answer, public: Any, words: str, graph: fx.GraphModule) -> None:
    with pytest.raises(InputError, match=words):
        select_answer(graph, 0, "logits", answer, public)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda ids: ids.double(), r"explains logits \[batch, sequence, vocabulary\]"),
        (lambda ids: ids[:, :1, None].double().expand(-1, 1, 9), "two tokens at least"),
        (lambda ids: ids[:, 1:, None].double().expand(-1, 4, 9), "they are not of one text"),
    ],
    ids=["no logits", "one token", "another length"],
)
def test_an_output_that_is_no_texts_logits_is_refused(function: Any, words: str, graph_of: Callable) -> None:
    graph = graph_of(function, IDS)
    (place,) = graph.graph.find_nodes(op="placeholder")

    with pytest.raises(InputError, match=words):
        select_answer(graph, 0, "logits", Answer(), {place.meta["input"]: "input_ids"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"score": "logits"}, "did you mean 'logit'"),
        ({"tokens": "all"}, "'own' or 'index'"),
        ({"against": -1}, "the number of a token"),
        ({"against": True}, "the number of a token"),
        ({"count": 0}, "from 1 up"),
        ({"ids": 3}, "a name"),
        ({"against": 3, "score": "centred"}, "leave the score out"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Answer(**options)


@pytest.mark.parametrize(
    "explained",
    [
        Answer(),
        Answer("centred", "index", None, 3, "logits", "words"),
        Answer(against=4),
        Target(3),
        Target([0, (1, 2)]),
    ],
)
def test_there_and_back_through_plain_data(explained: Answer | Target) -> None:
    assert explained_in(explained.to_dict()) == explained


def test_it_is_called_by_what_is_scored() -> None:
    assert str(Answer(score="centred", count=3)) == "Answer(score='centred')"
    assert Answer(count=3).targets == 3
    assert Answer().targets is None
