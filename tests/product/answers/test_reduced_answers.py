"""Relevance of an answer's tokens that is reduced in the graph: its books, and the matrix where all of it is left."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.language_models import language_model

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.check.verify import verify
from lrp_compiler.runtime import OnnxExplainer

PROMPT, ANSWER = [5, 6, 7, 8, 9], [10, 11, 12, 13]
IDS = torch.tensor([[*PROMPT, *ANSWER]])
WEIGHTS = torch.tensor([[0, 0, 0, 0, 0, 1, 0.5, 0, -2]], dtype=torch.float64)


@cache
def compiled(answer: lrp.Answer, *reduce: str) -> lrp.Explainer:
    return lrp.compile(
        language_model("gpt2"),
        kwargs={"input_ids": IDS},
        composite="attnlrp",
        target=answer,
        dynamic_shapes={"input_ids": {1: torch.export.Dim("sequence", min=2, max=32)}},
        reduce=list(reduce),
    )


def scores(answer: lrp.Answer) -> torch.Tensor:
    """What the tokens from the second on score, worked out from the model's own logits."""
    z = language_model("gpt2")(input_ids=IDS).logits[0, :-1].detach().double()
    z = {"logit": z, "centred": z - z.mean(-1, keepdim=True), "log-probability": z.log_softmax(-1)}[answer.score]
    return z[range(len(z)), IDS[0, 1:]]


@pytest.mark.parametrize(
    "score",
    [
        "log-probability",
        pytest.param("logit", marks=pytest.mark.heavy),
        pytest.param("centred", marks=pytest.mark.heavy),
    ],
)
def test_what_was_absorbed_is_the_weighted_scores_minus_the_sums(score: Any) -> None:
    answer = lrp.Answer(score=score)
    found = compiled(answer, "sums")(input_ids=IDS, weights=WEIGHTS)
    sums = found.relevance["input_ids"].double().sum(-1)

    np.testing.assert_allclose(found.sums["input_ids"], sums, rtol=1e-5, atol=1e-6)
    expected = (WEIGHTS[0, 1:] * scores(answer)).sum() - sums
    np.testing.assert_allclose(found.sums["absorbed"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_of_several_spans_each_has_its_sums_and_the_file_says_the_same(tmp_path: Path) -> None:
    explainer = compiled(lrp.Answer(), "signs")
    spans = torch.stack([WEIGHTS, 3 * WEIGHTS])
    found = explainer(input_ids=IDS, weights=spans)
    np.testing.assert_allclose(found.sums["absorbed"][1], 3 * found.sums["absorbed"][0], rtol=1e-9, atol=1e-12)

    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    assert all(check.passed is not False for check in verify(tmp_path / "m.lrp.onnx").checks)
    with OnnxExplainer(tmp_path / "m.lrp.onnx") as opened:
        again = opened(input_ids=IDS.numpy(), weights=spans.numpy())
    for name, sums in found.sums.items():
        np.testing.assert_allclose(again.sums[name], sums, rtol=3e-6, atol=1e-6)


@pytest.mark.slow
def test_a_matrix_is_made_of_relevance_that_holds_every_token() -> None:
    whole = compiled(lrp.Answer()).answer(None, PROMPT, ANSWER)
    np.testing.assert_allclose(
        compiled(lrp.Answer(), "float16").answer(None, PROMPT, ANSWER).matrix, whole.matrix, rtol=2**-11, atol=1e-6
    )


@pytest.mark.parametrize(
    "name",
    ["signs", pytest.param("patch:2", marks=pytest.mark.heavy), pytest.param("top:3", marks=pytest.mark.heavy)],
)
def test_a_matrix_is_not_made_of_less(name: str) -> None:
    with pytest.raises(InputError, match=f"reduced by {name}, and a matrix holds every token's"):
        compiled(lrp.Answer(), name).answer(None, PROMPT, ANSWER)
