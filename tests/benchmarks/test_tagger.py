"""A bidirectional LSTM trained here on real text: what its explanation says of why a word begins with a capital."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import lrp_compiler as lrp
from benchmarks.networks.tagger import Tagger, first_words, manual, trained
from lrp_compiler.runtime import OnnxExplainer

BEFORE = 12


@pytest.fixture(scope="module")
def network() -> tuple[Tagger, Tensor]:
    text = manual()
    model, right = trained(text, steps=150)
    assert right >= 0.94  # 93.7 % of the words are small
    return model, first_words(text, 40, before=BEFORE)


def compiled(model: Tagger, ids: Tensor) -> lrp.Explainer:
    sizes = {"ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}}
    target = lrp.Target(1, position="index")
    return lrp.compile(model, (ids[:2, :6],), composite="attnlrp", target=target, dynamic_shapes=sizes)


@pytest.mark.slow
def test_the_first_word_of_a_sentence_is_explained_by_the_full_stop(network: tuple[Tagger, Tensor]) -> None:
    model, ids = network
    position = torch.full((len(ids),), BEFORE)
    capital = model(ids)[:, BEFORE].argmax(-1) == 1
    assert capital.float().mean() >= 0.5

    relevance = compiled(model, ids)(ids, position=position).relevance["ids"][capital]

    assert (relevance.argmax(1) == BEFORE - 1).float().mean() >= 0.8  # chance: 1 of 21
    positive = relevance.clamp(min=0)
    assert (positive[:, BEFORE - 1] / positive.sum(1)).mean() >= 0.4


@pytest.mark.slow
def test_it_is_exact_at_any_length_in_files_too(network: tuple[Tagger, Tensor], tmp_path: Path) -> None:
    model, ids = network
    explainer = compiled(model, ids)
    explainer.to_onnx(tmp_path / "tagger.lrp.onnx")

    for rows, length in ((3, 21), (1, 5)):
        some, position = ids[:rows, :length], torch.full((rows,), length - 1)
        found = explainer(some, position=position)
        torch.testing.assert_close(found.output, model(some))
        said = OnnxExplainer(tmp_path / "tagger.lrp.onnx")(some.numpy(), position=position.numpy())
        largest = float(found.relevance["ids"].abs().max())
        assert np.abs(said.relevance["ids"] - found.relevance["ids"].numpy()).max() <= 1e-5 * largest
    books = explainer.audit(ids, position=torch.full((len(ids),), BEFORE))
    absorbed = sum(sum(entry.absorbed.values()) for entry in books.entries)
    assert books.seed - absorbed - sum(books.inputs.values()) == pytest.approx(0, abs=1e-9 * abs(books.explained))
