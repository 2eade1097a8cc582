"""What is counted of an explanation of an answer, and the questions that are made for it."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.faithful.evidence import VALUES, chance, values
from benchmarks.faithful.evidence_methods import Ours, of_attention, of_gradients, of_path, write_explainer
from benchmarks.faithful.evidence_questions import PLACES, Asked, questions
from lrp_compiler.runtime import OnnxExplainer

SENTENCE = np.array([0, 0, 0, 1, 1, 2, 2, 2, -1, -1])
"""Three sentences, and two tokens of a question behind them."""


def test_shares_and_hits_are_those_worked_out_by_hand() -> None:
    relevance = np.array([-8.0, 1.0, 0.0, 3.0, -1.0, 1.0, 0.5, 0.5, 2.0, 1.0])

    found = dict(zip(VALUES, values(relevance, SENTENCE, 1, 7.0), strict=True))

    # Positive but for the first token: 1 + 3 + 2 + 3; magnitudes: one more. Sums: 1, 2, 2; per token ½, 1, ⅔.
    assert found["share"] == pytest.approx(3 / 9)
    assert found["absolute"] == pytest.approx(4 / 10)
    assert (found["sum"], found["mean"]) == (1.0, 1.0)
    assert found["sink"] == pytest.approx(8 / 18)
    assert found["seconds"] == 7.0


def test_the_first_token_counts_for_no_sentence() -> None:
    relevance = np.array([100.0, 0.1, 0.1, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])

    found = dict(zip(VALUES, values(relevance, SENTENCE, 0, 0.0), strict=True))

    assert (found["sum"], found["mean"]) == (0.0, 0.0)
    assert found["share"] == pytest.approx(0.2 / 2.2)


def test_chance_is_that_of_the_lengths() -> None:
    found = dict(zip(VALUES, chance(SENTENCE, 2), strict=True))

    assert found["share"] == pytest.approx(3 / 9)
    assert found["sum"] == pytest.approx(3 / 7)
    assert found["mean"] == pytest.approx(1 / 3)


def test_every_answer_stands_in_one_sentence_whose_place_varies() -> None:
    made = list(islice(questions(), 100))

    assert made == list(islice(questions(), 100))
    for question in made:
        holding = [number for number, text in enumerate(question.sentences) if question.answer in text]
        assert holding == [question.supporting]
        assert question.answer not in question.prompt.partition("\n\n")[2]
    fifths = [int(PLACES * question.supporting / len(question.sentences)) for question in made]
    assert min(np.bincount(fifths, minlength=PLACES)) >= 10
    assert len({question.kind for question in made}) == 8


def test_methods_on_a_tiny_model(tmp_path: Path) -> None:
    """A hop is that of the matrix; gradients are autograd's; the path adds up; attention sums to one."""
    import transformers as tf

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = tf.LlamaConfig(vocab_size=40, max_position_embeddings=2048, use_cache=False, **small)
    model = tf.LlamaForCausalLM(config).eval().requires_grad_(False)
    (question,) = islice(questions(), 1)
    ids = np.random.default_rng(0).integers(0, 40, 13)
    one = Asked(question, ids[:9], ids[9:], np.zeros(9, np.int64))

    write_explainer(model, "attnlrp", tmp_path / "m.lrp.onnx")
    found = Ours(tmp_path / "m.lrp.onnx", "ours")(one)
    with OnnxExplainer(tmp_path / "m.lrp.onnx") as explainer:
        matrix = explainer.answer(None, one.prompt, one.answer)
    for name, hops in (("ours", 0), ("ours, 1 hop", 1)):
        expected = matrix.hops(hops).matrix.sum(0)
        assert found[name].relevance == pytest.approx(expected, abs=1e-4 * np.abs(expected).max())

    table = model.get_input_embeddings()
    x = table(torch.from_numpy(one.prompt)).requires_grad_()
    logits = model(inputs_embeds=torch.cat((x, table(torch.from_numpy(one.answer))))[None]).logits[0, 8:-1]
    score = logits[range(4), one.answer].sum()
    score.backward()
    gradients = of_gradients(model, one)
    assert gradients["gradient × input"].relevance == pytest.approx((x * x.grad).sum(-1).detach().numpy(), abs=1e-5)
    assert gradients["saliency"].relevance == pytest.approx(x.grad.abs().sum(-1).numpy(), abs=1e-5)

    before = np.full_like(ids, 3)
    before[9:] = one.answer
    with torch.no_grad():
        other = model(torch.from_numpy(before)[None]).logits[0, 8:-1][range(4), one.answer].sum()
    path = of_path(model, 3, one)["integrated gradients"].relevance.sum()
    assert path == pytest.approx(float(score.detach() - other), rel=0.02, abs=0.01)

    for name, row in of_attention(model, one).items():
        assert row.relevance.sum() == pytest.approx(1, abs=1e-5), name
        assert (row.relevance >= 0).all()
