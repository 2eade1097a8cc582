"""CP-LRP on the reference models, against autograd with everything detached that CP-LRP holds fixed."""

import pytest
import torch
from support.detached import cp_lrp
from support.fixtures import attnlrp

import lrp_compiler as lrp

pytestmark = pytest.mark.sampled(4)


# AttnLRP is held to the same models in either attention every day.
@pytest.mark.parametrize("attention", [pytest.param("eager", marks=pytest.mark.heavy), "sdpa"])
@pytest.mark.parametrize(("name", "gated"), [("bert", False), ("llama", True), ("gemma3", True)])
def test_relevance_of_tokens_equals_the_detached_gradient(name: str, gated: bool, attention: str) -> None:
    reference = attnlrp(name)
    expected = cp_lrp(reference.model, reference.input_ids, reference.target, gated)
    model = attnlrp(name, attention).model
    explainer = lrp.compile(model, (reference.input_ids,), composite="cp-lrp", target="index")

    relevance = explainer(reference.input_ids, target=reference.target).relevance["input_ids"]

    assert (relevance - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.slow
def test_nothing_is_lost_but_what_biases_and_masks_absorb() -> None:
    """Patterns that are held fixed are constants of the map: unlike AttnLRP's softmax they swallow nothing."""
    reference = attnlrp("bert")
    explainer = lrp.compile(reference.model, (reference.input_ids,), composite="cp-lrp", target="index")

    books = explainer.audit(reference.input_ids, target=reference.target)

    assert set(books.absorbed) <= {"bias", "constant"}
    torch.testing.assert_close(sum(books.inputs.values()) + sum(books.absorbed.values()), books.seed)
