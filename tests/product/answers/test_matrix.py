"""What tokens of a text score, explained: as one target after the other, whatever the model and the padding."""

import copy
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.language_models import COMPOSITE, MODELS, STATIC, TWO_SIDED, VOCABULARY, dims, language_model, texts
from torch import Tensor

import lrp_compiler as lrp
from lrp_compiler.runtime import OnnxExplainer

EVERY = [pytest.param(name, marks=[] if name in ("gpt2", "llama") else pytest.mark.heavy) for name in MODELS]
SIDES = ("left", "right")


@cache
def explainer(name: str, target: Any = None) -> lrp.Explainer:
    """Compiled on a text of another length than those it explains."""
    inputs = texts(name, "right", 7 if name in STATIC else 6, seed=9)
    return lrp.compile(
        language_model(name),
        kwargs=inputs,
        composite=COMPOSITE.get(name, "attnlrp"),
        target=target or lrp.Answer(),
        dynamic_shapes=dims(name, inputs),
    )


def ids_of(name: str, inputs: dict[str, Tensor]) -> Tensor:
    return inputs["decoder_input_ids" if name in TWO_SIDED else "input_ids"]


def one_by_one(name: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Relevance `[tokens but the first, batch, sequence]`, each by an explainer of one class at one position."""
    single, ids = explainer(name, lrp.Target("index", position="index")), ids_of(name, inputs)
    found = [single(**inputs, target=ids[:, at], position=at - 1).relevance for at in range(1, ids.shape[1])]
    return {key: torch.stack([each[key] for each in found]) for key in found[0]}


def of_each(ids: Tensor) -> Tensor:
    """A span for each token but the first."""
    return torch.eye(ids.shape[1], dtype=torch.float64)[1:, None].expand(-1, len(ids), -1)


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", EVERY)
def test_the_matrix_is_that_of_a_loop_of_single_targets(name: str, side: str) -> None:
    inputs = texts(name, side)

    matrix = explainer(name)(**inputs, weights=of_each(ids_of(name, inputs))).relevance

    expected = one_by_one(name, inputs)
    assert matrix.keys() == expected.keys()
    for key, rows in expected.items():
        largest = rows.abs().max()
        assert largest > 1e-3
        assert (matrix[key] - rows).abs().max() < 1e-9 * largest


@pytest.mark.heavy
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", MODELS)
def test_the_file_is_as_near_as_torch_in_float32(name: str, side: str) -> None:
    """No further from float64 than three times what torch in float32 is, or 1e-5 of the largest relevance is."""
    inputs = texts(name, side)
    weights = of_each(ids_of(name, inputs))[:4]
    content, in_float32 = in_file(name)

    theirs = in_float32(**inputs, weights=weights).relevance
    with OnnxExplainer(content) as running:
        found = running(**{key: tensor.numpy() for key, tensor in inputs.items()}, weights=weights.numpy()).relevance

    for key, rows in one_by_one(name, inputs).items():
        expected = rows[:4].numpy()
        off, usual = (np.abs(each - expected).max() for each in (found[key], theirs[key].numpy()))
        assert off < 3 * max(usual, 1e-5 * np.abs(expected).max())


@cache
def in_file(name: str) -> tuple[bytes, lrp.Explainer]:
    """The content of an ONNX file of the model in float32, and the explainer that it was written by."""
    inputs = texts(name, "right", 7 if name in STATIC else 6, seed=9)
    made = lrp.compile(
        copy.deepcopy(language_model(name)).float(),
        kwargs=inputs,
        composite=COMPOSITE.get(name, "attnlrp"),
        target=lrp.Answer(),
        dynamic_shapes=dims(name, inputs),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.lrp.onnx"
        made.to_onnx(path)
        return path.read_bytes(), made


def test_a_span_is_the_sum_of_its_rows() -> None:
    """In float64 throughout, which Llama's norms are not: they calculate in float32 whatever the model's dtype."""
    inputs = texts("gpt2", "left")
    weights = of_each(inputs["input_ids"])

    rows = explainer("gpt2")(**inputs, weights=weights).relevance["input_ids"]
    span = explainer("gpt2")(**inputs, weights=weights[2:5].sum(0)).relevance["input_ids"]
    weighted = explainer("gpt2")(**inputs, weights=2.5 * weights[1] - weights[3]).relevance["input_ids"]

    torch.testing.assert_close(span, rows[2:5].sum(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(weighted, 2.5 * rows[1] - rows[3], rtol=1e-9, atol=1e-12)


SCORES = {
    "logit": (None, lambda z, token: z.gather(-1, token)),
    "centred": (lrp.Answer(score="centred"), lambda z, token: z.gather(-1, token) - z.mean(-1, keepdim=True)),
    "log-probability": (lrp.Answer(score="log-probability"), lambda z, token: z.log_softmax(-1).gather(-1, token)),
    "against": (lrp.Answer(against=7), lambda z, token: z.gather(-1, token) - z[..., 7:8]),
}


@pytest.mark.slow
@pytest.mark.parametrize("score", ["logit", *(pytest.param(each, marks=pytest.mark.heavy) for each in [*SCORES][1:])])
def test_the_books_hold_the_weighted_sum_of_the_scores(score: str) -> None:
    target, by_hand = SCORES[score]
    inputs = texts("gpt2", "right")
    ids = inputs["input_ids"]
    weights = torch.linspace(-1, 2, ids.numel(), dtype=torch.float64).reshape(ids.shape)
    z = language_model("gpt2")(**inputs).logits.detach()[:, :-1]
    expected = float((by_hand(z, ids[:, 1:, None])[..., 0] * weights[:, 1:]).sum())

    books = explainer("gpt2", target).audit(**inputs, weights=weights)
    explanation = explainer("gpt2", target)(**inputs, weights=weights)

    assert books.seed == pytest.approx(expected, rel=1e-9)
    assert abs(books.error) < 1e-9 * books.magnitude
    assert float(explanation.relevance["input_ids"].sum()) == pytest.approx(books.inputs["input_ids"], rel=1e-9)


@pytest.mark.heavy
def test_tokens_given_at_run_time_take_the_place_of_those_that_stand_there() -> None:
    inputs = texts("gpt2", "right")
    ids, weights = inputs["input_ids"], torch.ones(2, 7, dtype=torch.float64)
    chosen = explainer("gpt2", lrp.Answer(tokens="index", against="index"))
    other = (ids + 3) % VOCABULARY

    own = explainer("gpt2")(**inputs, weights=weights).relevance["input_ids"]
    rest = chosen(**inputs, weights=weights, target=other, against=other).relevance["input_ids"]
    swapped = chosen(**inputs, weights=weights, target=other, against=ids).relevance["input_ids"]
    same = chosen(**inputs, weights=weights, target=ids, against=other).relevance["input_ids"]

    assert rest.abs().max() < 1e-12
    torch.testing.assert_close(swapped, -same, rtol=1e-9, atol=1e-12)
    assert (own - same).abs().max() > 1e-3


@pytest.mark.heavy
def test_a_count_of_spans_is_one_graph_and_gives_the_same(tmp_path: Path) -> None:
    inputs = texts("gpt2", "left")
    weights = of_each(inputs["input_ids"])
    several = explainer("gpt2", lrp.Answer(count=6))

    together = several(**inputs, weights=weights).relevance["input_ids"]
    several.save(tmp_path / "m.lrp.pt2")
    loaded = lrp.load(tmp_path / "m.lrp.pt2")(**inputs, weights=weights).relevance["input_ids"]

    assert several.about.choices[0].shape == (6, "batch", "sequence")
    expected = explainer("gpt2")(**inputs, weights=weights).relevance["input_ids"]
    torch.testing.assert_close(together, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(loaded, together, rtol=0, atol=0)


def is_pad(node: torch.fx.Node) -> bool:
    return node.target is torch.ops.aten.pad.default and node.meta["val"].dim() == 3


def test_the_chosen_logits_read_rows_of_the_last_layer_and_no_whole_matrix() -> None:
    """Otherwise the way back through the vocabulary would cost what the way there does."""
    targets = [node.target for node in explainer("gpt2").module.graph.nodes if node.op == "call_function"]

    assert torch.ops.aten.scatter_add.default not in targets
    lengths = {tuple(map(str, node.meta["val"].shape)) for node in explainer("gpt2").module.graph.nodes if is_pad(node)}
    assert all(not size.isdigit() or int(size) == 16 for shape in lengths for size in shape)
    plain = lrp.compile(
        language_model("gpt2"), kwargs=texts("gpt2", "right"), composite="attnlrp", target=lrp.Answer(), optimise=False
    )
    inputs, weights = texts("gpt2", "right"), torch.ones(2, 7, dtype=torch.float64)
    fast = explainer("gpt2")(**inputs, weights=weights).relevance["input_ids"]
    assert torch.ops.aten.scatter_add.default in [node.target for node in plain.module.graph.nodes]
    torch.testing.assert_close(fast, plain(**inputs, weights=weights).relevance["input_ids"], rtol=1e-9, atol=1e-12)
