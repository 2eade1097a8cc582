"""The text half of the faithfulness benchmark: token flipping, the question set, methods against closed forms."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.base import environment
from benchmarks.faithful import answers, questions, reviews, text, text_methods
from benchmarks.faithful.metrics import abpc
from benchmarks.faithful.text_methods import METHODS, Attributed, Batch, Method, Network

pytestmark = pytest.mark.sampled(4)

MASK = 99

# ── flipping ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_most_relevant_tokens_go_first_and_every_step_takes_as_many() -> None:
    relevance = np.array([0.1, -2.0, 3.0, 0.5, 0.0, 1.0])

    times = text.flip_times(relevance, 3, np.random.default_rng(0))

    assert times.tolist() == [2, 3, 1, 2, 3, 1]


def test_short_reviews_are_spread_over_all_steps_and_end_with_all_flipped() -> None:
    times = text.flip_times(np.array([3.0, 2.0, 1.0]), 12, np.random.default_rng(0))

    assert times.tolist() == [1, 5, 9]


def test_ties_are_broken_by_chance() -> None:
    generator = np.random.default_rng(0)

    orders = {tuple(text.flip_times(np.zeros(8), 8, generator)) for _ in range(5)}

    assert len(orders) > 1
    assert all(sorted(order) == list(range(1, 9)) for order in orders)


def test_special_tokens_stay_and_the_last_step_leaves_nothing_else() -> None:
    stack = text.flipped(np.array([101, 7, 8, 9, 102]), np.array([2, 1, 3]), 3, MASK)

    assert stack.tolist() == [
        [101, 7, 8, 9, 102],
        [101, 7, MASK, 9, 102],
        [101, MASK, MASK, 9, 102],
        [101, MASK, MASK, MASK, 102],
    ]


def counting(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Says "positive" with the share of the tokens 7 that are still there, of two."""
    share = np.array([(ids == 7).sum() / 2 for ids in sequences])
    return np.stack([1 - share, share], 1)


def test_curves_of_a_classifier_that_counts_words_are_what_counting_gives() -> None:
    ids = np.array([101, 7, 8, 7, 9, 102])
    knows = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 0.0])

    probability, accuracy = text.curves(counting, [ids], [knows], np.array([1]), MASK, steps=4)

    assert probability.morf.tolist() == [[1, 0.5, 0, 0, 0]]
    assert probability.lerf.tolist() == [[1, 1, 1, 0.5, 0]]
    assert accuracy.morf.tolist() == [[1, 0, 0, 0, 0]]  # at one half each, the first class is said
    assert accuracy.lerf.tolist() == [[1, 1, 1, 0, 0]]
    assert abpc(probability).tolist() == [0.5]


def test_the_wrong_way_round_the_gap_has_the_other_sign() -> None:
    ids = np.array([101, 7, 8, 7, 9, 102])
    wrong = np.array([0.0, -1.0, 0.0, -1.0, 0.0, 0.0])

    probability, _ = text.curves(counting, [ids], [wrong], np.array([1]), MASK, steps=4)

    assert abpc(probability).tolist() == [-0.5]


class Bag(nn.Module):
    """Class logits: sums of a small network over the tokens that the mask leaves."""

    def __init__(self, linear: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 6)
        self.hidden: nn.Module = nn.Identity() if linear else nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.head = nn.Linear(6, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.from_embeddings(self.embedding(input_ids), attention_mask)

    def from_embeddings(self, embeddings: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.hidden(embeddings) * attention_mask.unsqueeze(-1).to(embeddings.dtype)
        logits: Tensor = self.head(hidden.sum(1))
        return logits


@pytest.mark.slow
def test_the_classifier_in_onnxruntime_is_the_model_whatever_the_lengths_and_runs_nothing_twice() -> None:
    model = Bag().eval()
    generator = np.random.default_rng(0)
    sequences = [generator.integers(1, 20, length) for length in (5, 3, 9, 3)]
    sequences.append(sequences[0].copy())

    classify = text.Classifier(model, rows=2)
    found = classify(sequences)

    with torch.no_grad():
        whole = [model(torch.from_numpy(ids)[None], torch.ones(1, len(ids), dtype=torch.int64)) for ids in sequences]
    np.testing.assert_allclose(found, torch.cat(whole).softmax(-1).numpy(), atol=1e-6)
    assert len(classify.known) == 4


# ── methods ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def network(model: nn.Module, draws: int = 4) -> Network:
    size = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=64)}
    shapes = {"input_ids": size, "attention_mask": size}
    return Network("bag", model.eval().requires_grad_(False), reference=1, draws=draws, shapes=shapes)


def batch() -> Batch:
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    return Batch(ids, torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]), torch.tensor([2, 0]))


def contributions(model: Bag, of: Batch) -> np.ndarray:
    """What each token adds to the target's logit of a linear bag, from the weights."""
    weight = model.head.weight.detach()[of.target]
    found = torch.einsum("bsf,bf->bs", model.embedding.weight.detach()[of.input_ids], weight) * of.attention_mask
    return found.numpy()


@pytest.mark.parametrize("name", ["attnlrp", "cp-lrp", "epsilon", "attnlrp-gamma(0.05)"])
def test_relevance_of_a_linear_bag_by_our_composites(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(text_methods, "CACHE", tmp_path)
    model = Bag(linear=True)

    found = METHODS[name].explain(network(model), [batch()]).relevance[0]

    truth = contributions(model, batch())
    if "gamma" in name:  # another rule: only what it conserves is known without it
        assert found.shape == truth.shape
        assert not found[batch().attention_mask.numpy() == 0].any()
    else:
        np.testing.assert_allclose(found, truth, rtol=3e-6, atol=1e-6)


def test_captum_on_a_linear_bag() -> None:
    pytest.importorskip("captum")
    model = Bag(linear=True)
    truth = contributions(model, batch())
    from_reference = truth - contributions(model, batch()._replace(input_ids=torch.ones(2, 4, dtype=torch.int64)))
    magnitude = (model.head.weight.detach()[batch().target].abs().sum(-1)[:, None] * batch().attention_mask).numpy()
    expected = {
        "gradient-x-input": truth,
        "integrated-gradients": from_reference,
        "saliency": magnitude,
        "smoothgrad": magnitude,
    }

    for name, wanted in expected.items():
        found = METHODS[name].explain(network(model), [batch()]).relevance[0]
        np.testing.assert_allclose(found, wanted, rtol=3e-6, atol=1e-6, err_msg=name)


def test_noisy_methods_come_near_the_truth_and_repeat_themselves() -> None:
    pytest.importorskip("captum")
    model = Bag(linear=True)
    truth = contributions(model, batch())
    from_reference = truth - contributions(model, batch()._replace(input_ids=torch.ones(2, 4, dtype=torch.int64)))

    for name, wanted in {"smoothgrad-x-input": truth, "gradient-shap": from_reference}.items():
        first, again = (METHODS[name].explain(network(model, 400), [batch()]).relevance[0] for _ in range(2))
        np.testing.assert_array_equal(first, again)
        # Means of 400 draws.
        assert np.abs(first - wanted).max() < 0.2 * np.abs(wanted).max(), name


def test_a_row_says_how_far_a_peer_is_from_ours_and_why_another_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Attributed:
        raise LookupError("no such variant")

    ones = Attributed([np.ones((2, 4))], 0.5)
    half = Attributed([np.full((2, 4), 0.5)], 0.25)
    table = {
        "ours": Method("ours", lambda *_: ones),
        "peer": Method("peer", lambda *_: half, same="ours"),
        "broken": Method("peer", fails),
    }
    monkeypatch.setattr(text_methods, "METHODS", table)

    rows = list(text_methods.rows_of({"model": "m"}, network(Bag()), [batch()], list(table)))

    (mine, relevance), (theirs, _), (broken, nothing) = rows
    assert relevance is not None
    assert [row.shape for row in relevance] == [(4,), (2,)]  # without padding
    assert (mine["seconds"], theirs["difference"], nothing) == (0.5, 0.5, None)
    assert broken == {"model": "m", "method": "broken", "family": "peer", "failure": "LookupError: no such variant"}


def test_what_fails_of_ours_is_no_row() -> None:
    class Unexplained(nn.Module):
        embedding = nn.Embedding(20, 6)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return torch.linalg.inv(self.embedding(input_ids[:, :6]))[:, 0]

    ids = torch.tensor([[1, 2, 3, 4, 5, 6]]).repeat(2, 1)
    six = Batch(ids, torch.ones_like(ids), torch.tensor([0, 0]))
    model = Network("inverse", Unexplained().eval(), reference=1, draws=1, shapes={})

    with pytest.raises(Exception, match="linalg_inv"):
        list(text_methods.rows_of({}, model, [six], ["attnlrp"]))


def tiny_bert() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import BertConfig, BertModel

    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 64}
    return reviews.ReviewClassifier(BertModel(BertConfig(**sizes), add_pooling_layer=False), 16), sizes


def tiny_llama() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 64, "num_key_value_heads": 2}
    sizes |= {"tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters={"rope_type": "default", "rope_theta": 500.0}))
    return questions.NextToken(model), {**sizes, "rope_theta": 500.0}


@pytest.mark.heavy
@pytest.mark.skipif(not (environment.FOLDER / "complete").exists(), reason="the environment of the peers is not made")
@pytest.mark.parametrize(
    ("name", "tiny", "method"),
    [
        ("reviews", tiny_bert, "lxt attnlrp"),
        ("reviews", tiny_bert, "lxt attnlrp-gamma(0.05)"),
        ("questions", tiny_llama, "lxt attnlrp"),
        ("questions", tiny_llama, "lxt cp-lrp"),
        ("questions", tiny_llama, "lxt attnlrp-gamma(0.05)"),
    ],
)
def test_lxt_in_its_own_process_finds_what_ours_finds(
    name: str,
    tiny: Callable[[], tuple[nn.Module, dict[str, Any]]],
    method: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(text_methods, "CACHE", tmp_path)
    model, configuration = tiny()
    for parameter in model.parameters():  # transformers' own initialisation is so small that logits are nearly alike
        nn.init.normal_(parameter, std=0.3)
    subject = replace(network(model), name=name, configuration=configuration)
    ids = torch.randint(1, 40, (2, 9))
    both = [Batch(ids, torch.ones_like(ids), torch.tensor([0, 1])) for _ in range(2)]

    rows = list(text_methods.rows_of({}, subject, both, [method]))

    assert "failure" not in rows[0][0], rows[0][0]
    assert rows[0][0]["difference"] < 1e-5  # both in float32, which leaves up to 1.4e-6


# ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_answer_stands_once_in_its_context_and_nowhere_else_in_the_prompt() -> None:
    everything = questions.questions()

    assert len(everything) >= 160
    assert len({one.prompt for one in everything}) == len(everything)
    for one in everything:
        assert one.prompt.count(one.answer) == one.context.count(one.answer) == 1, one


def test_each_context_holds_rivals_and_the_asked_fact_stands_in_every_place_alike() -> None:
    places = np.zeros(4, int)
    for one in questions.questions():
        sentences = one.context.rstrip(".").split(". ")
        assert len(sentences) == 4, one
        (place,) = [at for at, sentence in enumerate(sentences) if one.answer in sentence]
        assert sentences[place] == f"{one.lead} {one.answer}"
        places[place] += 1
    assert places.max() - places.min() <= 2


class Words:
    """A tokenizer: words with the space before them."""

    def __call__(self, prompt: str, return_offsets_mapping: bool = False) -> dict[str, Any]:
        starts = [0, *(at for at, letter in enumerate(prompt) if letter in " \n")]
        pairs = list(zip(starts, [*starts[1:], len(prompt)], strict=True))
        return {"input_ids": [hash(prompt[a:b].strip()) % 1000 for a, b in pairs], "offset_mapping": pairs}


def test_tokens_of_the_answer_and_of_the_context_are_found() -> None:
    question = questions.Question(
        "town", "Ann lives in New York now. Tom does not.", "Where?", "Ann lives in", "New York"
    )

    found = questions.asked(question, Words())  # type: ignore[arg-type]

    assert np.flatnonzero(found.answer).tolist() == [3, 4]
    assert np.flatnonzero(found.context).tolist() == list(range(9))
    assert found.first == found.input_ids[3]
    assert len(found.alone) < len(found.input_ids)


def asked(answer: list[int], context: int, length: int) -> questions.Asked:
    places = np.arange(length)
    nothing = np.zeros(0, np.int64)
    return questions.Asked(None, places, np.isin(places, answer), places < context, nothing)  # type: ignore[arg-type]


def test_scores_by_hand() -> None:
    inside, beside = asked([1, 2], 4, 6), asked([0], 4, 6)
    relevance = [np.array([0, 3, 2, 1, 0, 0.0]), np.array([1, 0, 2, 0, 0, 9.0])]

    scores = answers.values([inside, beside], relevance)

    assert scores["top-1"].tolist() == [1, 0]
    assert scores["top-2 IoU"].tolist() == [1, 0]
    assert scores["top-1 in context"].tolist() == [1, 0]
    assert scores["top-2 IoU in context"].tolist() == [1, 0.5]
    assert answers.best_overlap([inside, beside]) == 0.75
