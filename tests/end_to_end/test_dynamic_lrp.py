"""The composite `dynamic-lrp` against results of the DynamicLRP reference code, in float64."""

import pytest
import torch
from support.fixtures import dynamiclrp_cnn, dynamiclrp_gpt2
from torch import Tensor

import lrp_compiler as lrp


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["eps", "gamma"])
def test_a_cnn(name: str) -> None:
    reference = dynamiclrp_cnn(name)
    options = {"eps": {}, "gamma": {"conv_gamma": 0.25, "linear_gamma": 0.1}}[name]
    explainer = lrp.compile(reference.model, (reference.x,), composite=lrp.composites.dynamic_lrp(**options))

    explanation = explainer(reference.x)

    torch.testing.assert_close(explanation.output, reference.logits)
    assert_close(explanation.relevance["x"], reference.relevance)


@pytest.mark.slow
def test_a_causal_transformer_down_to_both_its_embeddings() -> None:
    reference = dynamiclrp_gpt2()
    table = "transformer.wpe.weight"
    explainer = lrp.compile(reference.model, (reference.input_ids,), composite="dynamic-lrp", wrt=["input_ids", table])

    relevance = explainer(reference.input_ids).relevance

    assert_close(relevance["input_ids"], reference.relevance_word)
    length = reference.input_ids.shape[1]
    assert_close(relevance[table].sum(-1)[:length], reference.relevance_position[0])
    assert relevance[table][length:].eq(0).all()


def test_the_seed_is_one_unless_told_otherwise() -> None:
    reference = dynamiclrp_cnn("eps")
    one = lrp.compile(reference.model, (reference.x,), composite="dynamic-lrp")
    value = lrp.compile(reference.model, (reference.x,), composite="dynamic-lrp", seed="value")

    assert (one.metadata["seed"], value.metadata["seed"]) == ("one", "value")
    logit = reference.logits.max()
    assert_close(value(reference.x).relevance["x"], logit * reference.relevance)
