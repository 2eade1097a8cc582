"""AttnLRP against results of LXT, in float64."""

import pytest
import torch
from support.fixtures import attnlrp

import lrp_compiler as lrp

pytestmark = pytest.mark.sampled(3)


@pytest.mark.sampled(12)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["bert", "llama", "gemma3"])
def test_relevance_of_tokens_equals_lxts(name: str, attention: str) -> None:
    reference = attnlrp(name, attention)
    explainer = lrp.compile(reference.model, (reference.input_ids,), composite="attnlrp", target="index")

    explanation = explainer(reference.input_ids, target=reference.target)

    error = (explanation.relevance["input_ids"] - reference.relevance).abs().max()
    assert error <= 1e-6 * reference.relevance.abs().max()
    if attention == "eager":  # with sdpa the softmax's precision differs from the reference's
        torch.testing.assert_close(explanation.output["logits"], reference.logits, rtol=1e-9, atol=1e-9)
