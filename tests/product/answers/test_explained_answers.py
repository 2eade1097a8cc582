"""From a prompt to the matrix of an answer: its sums, its hops, its page and its file; and what does not fit."""

import dataclasses
import json
import re
import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.language_models import VOCABULARY, language_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import lrp_compiler as lrp
from lrp_compiler.answers import AnswerExplanation
from lrp_compiler.base.errors import FormatError, InputError, LrpError
from lrp_compiler.runtime import OnnxExplainer

PROMPT, ANSWER = [5, 6, 7, 8, 9], [10, 11, 12, 13]
SENTENCE = ["Ada", "was", "born", "in", "London.", "Where", "was", "she", "born?", "In", "London."]


@cache
def explainer() -> lrp.Explainer:
    return lrp.compile(
        language_model("gpt2"),
        kwargs={"input_ids": torch.tensor([[*PROMPT, 3]])},
        composite="attnlrp",
        target=lrp.Answer(),
        dynamic_shapes={"input_ids": {1: torch.export.Dim("sequence", min=2, max=32)}},
    )


@cache
def file_of() -> bytes:
    path = Path("m.lrp.onnx")
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        explainer().to_onnx(Path(folder) / path)
        return (Path(folder) / path).read_bytes()


def tokenizer() -> Tokenizer:
    """A token a word, with ▁ for the space."""
    words = dict.fromkeys(f"▁{word}" for word in SENTENCE)
    vocabulary = {"<unk>": 0, "<a>": 1, "<b>": 2, **{word: 3 + at for at, word in enumerate(words)}}
    found = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    return found


@cache
def made() -> AnswerExplanation:
    return explainer().answer(None, PROMPT, ANSWER)


@pytest.mark.slow
def test_the_rows_are_runs_with_weight_one_at_their_token() -> None:
    ids = torch.tensor([[*PROMPT, *ANSWER]])
    z = language_model("gpt2")(input_ids=ids).logits[0].detach()

    for row, token in enumerate(ANSWER):
        weights = torch.zeros(1, 9, dtype=torch.float64)
        weights[0, 5 + row] = 1
        expected = explainer()(input_ids=ids, weights=weights).relevance["input_ids"][0]
        np.testing.assert_allclose(made().matrix[row], expected, rtol=1e-9, atol=1e-12)
        assert made().scores[row] == pytest.approx(float(z[4 + row, token]), rel=1e-9)
        assert (made().matrix[row, 5 + row :] == 0).all()
    np.testing.assert_allclose(made().absorbed, made().put - made().matrix.sum(1))
    np.testing.assert_array_equal(made().sink, made().matrix[:, 0])


@pytest.mark.parametrize("rows_per_run", [1, 3, 9])
def test_blocks_of_rows_make_the_same_matrix(rows_per_run: int) -> None:
    found = explainer().answer(None, PROMPT, ANSWER, rows_per_run=rows_per_run)

    np.testing.assert_allclose(found.matrix, made().matrix, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_file_makes_the_same_matrix_without_torch(tmp_path: Path) -> None:
    with OnnxExplainer(file_of()) as running:
        found = running.answer(None, PROMPT, ANSWER, hops=1)

    np.testing.assert_allclose(found.matrix, made().hops(1).matrix, atol=1e-6 * np.abs(made().matrix).max())
    (tmp_path / "m.lrp.onnx").write_bytes(file_of())
    code = (
        "import sys; from lrp_compiler.runtime import OnnxExplainer; "
        f"e = OnnxExplainer('m.lrp.onnx').answer(None, {PROMPT}, {ANSWER}); e.html('a.html'); e.save('a.json'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(AnswerExplanation.load(tmp_path / "a.json").matrix, made().matrix, atol=1e-5)


def by_hand() -> AnswerExplanation:
    """Five tokens, of which the last three are the answer; its numbers are easy to follow."""
    from lrp_compiler.answers import Piece

    words = ["Why", "so", "Because", "of", "rain."]
    columns = tuple(Piece(word, (at,), (at,), "prompt" if at < 2 else "answer") for at, word in enumerate(words))
    matrix = np.array([[3.0, 1, 0, 0, 0], [0, 2, 4, 0, 0], [1, 1, 2, 3, 0]])
    scores = np.array([5.0, 8, 10])
    return AnswerExplanation(columns[2:], columns, matrix, scores, scores, "composite c, target answer")


def test_hops_are_matrix_products() -> None:
    P, Q, s = by_hand().matrix[:, 2:], by_hand().matrix[:, :2], np.array([5.0, 8, 10])
    A = P @ np.diag(1 / s)

    once, twice, often = (by_hand().hops(count) for count in (1, 2, 7))

    np.testing.assert_allclose(once.matrix[:, :2], Q + A @ Q)
    np.testing.assert_allclose(once.matrix[:, 2:], A @ P)
    np.testing.assert_allclose(twice.matrix[:, :2], Q + A @ Q + A @ A @ Q)
    np.testing.assert_allclose(often.matrix[:, 2:], 0)
    # By pencil: of row 1 the first answer token got 4 of its score 5, so it sends 4/5 of [3, 1] on.
    np.testing.assert_allclose(once.matrix[1, :2], [0 + 4 / 5 * 3, 2 + 4 / 5 * 1])
    assert (once.hopped, twice.hopped, by_hand().hops(0).hopped) == (1, 2, 0)


def test_a_hop_is_what_the_program_explains_when_the_answers_tokens_are_seeded_again() -> None:
    row, ids = 3, torch.tensor([[*PROMPT, *ANSWER]])
    weights = torch.zeros(1, 9, dtype=torch.float64)
    weights[0, 5:] = torch.tensor(made().matrix[row, 5:] / made().scores)

    sent = explainer()(input_ids=ids, weights=weights).relevance["input_ids"][0].numpy()

    expected = made().matrix[row] * ([1] * 5 + [0] * 4) + sent
    np.testing.assert_allclose(made().hops(1).matrix[row], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_sums_by_word_and_by_sentence() -> None:
    found = lrp.explain_answer(
        language_model("gpt2"), tokenizer(), " ".join(SENTENCE[:9]), " ".join(SENTENCE[9:]), open_lengths=False
    )
    words, sentences = found.by("word"), found.by("sentence")

    assert [piece.text.strip() for piece in words.columns] == SENTENCE
    np.testing.assert_allclose(words.matrix, found.matrix)
    assert [piece.text.strip() for piece in sentences.columns] == [
        "Ada was born in London.",
        "Where was she born?",
        "In London.",
    ]
    expected = np.stack([found.matrix[:, a:b].sum() for a, b in ((0, 5), (5, 9), (9, 11))])
    np.testing.assert_allclose(sentences.matrix[0], expected)
    np.testing.assert_allclose(sentences.scores, found.scores.sum())
    np.testing.assert_allclose(found.spans(range(1, 2), [0, 1]).matrix[1], found.matrix.sum(0))


@pytest.mark.slow
def test_the_model_writes_the_answer_where_none_is_given() -> None:
    model, stages = language_model("gpt2"), list[str]()
    wrote = model.generate(torch.tensor([PROMPT]), do_sample=False, max_new_tokens=3)[0, 5:].tolist()

    found = lrp.explain_answer(model, None, PROMPT, max_new_tokens=3, open_lengths=False, progress=stages.append)

    assert [piece.ids[0] for piece in found.rows] == wrote
    assert (stages[0], stages[-1]) == ("generate", "explain")
    assert len(stages) > 3


@pytest.mark.slow
def test_sentences_of_a_tokenizer_without_spaces_are_written_with_them() -> None:
    """WordPiece leaves them out: between words there is one, before `##` none, and special tokens stand alone."""
    pieces = ["[CLS]", "ada", "was", "rest", "##less", ".", "where", "was", "she", "[SEP]"]
    found = Tokenizer(models.WordPiece({"[UNK]": 0, **{piece: 1 + at for at, piece in enumerate(pieces)}}))
    found.pre_tokenizer, found.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    found.add_special_tokens(["[CLS]", "[SEP]"])

    by_token = lrp.explain_answer(
        language_model("gpt2"), found, "[CLS]ada was restless.", " where was she[SEP]", open_lengths=False
    )

    texts = [piece.text for piece in by_token.by("sentence").columns]
    assert texts == ["[CLS]", "ada was restless .", "where was she", "[SEP]"]
    assert "restless" in [piece.text for piece in by_token.by("word").columns]


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_encoder_decoder_explains_by_both_its_texts(name: str) -> None:
    found = lrp.explain_answer(language_model(name), None, PROMPT, max_new_tokens=4)

    parts = [piece.part for piece in found.columns]
    assert parts == ["prompt"] * 5 + ["start"] + ["answer"] * len(found.rows)
    assert np.abs(found.matrix[:, :5]).max() > 1e-4
    assert found.first == [0, 5]


def test_a_saved_explanation_is_the_same(tmp_path: Path) -> None:
    made().hops(1).save(tmp_path / "a.json")

    found = AnswerExplanation.load(tmp_path / "a.json")

    assert found.to_dict() == made().hops(1).to_dict()
    (tmp_path / "b.json").write_text(json.dumps({"matrix": []}))
    with pytest.raises(FormatError, match=r"holds no explanation of an answer"):
        AnswerExplanation.load(tmp_path / "b.json")


def test_the_page_holds_all_of_it_and_asks_for_nothing() -> None:
    page = by_hand().html(title="<b>")

    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert [column["text"] for column in data["columns"]] == ["Why", "so", "Because", "of", "rain."]
    assert [column["row"] for column in data["columns"]] == [-1, -1, 0, 1, 2]
    assert [row["values"] for row in data["rows"]] == [*by_hand().matrix.tolist(), [4, 4, 6, 3, 0]]
    assert "<b>" not in page
    assert not re.search(r"https?://|src=|@import", page)


def test_a_table_needs_pandas_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(LrpError, match="pip install pandas"):
        made().to_pandas()


IDS = torch.tensor([[5, 6, 7, 8]])
NAN = np.full((1, 4), np.nan)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, r"The weights are missing: this explainer was compiled with target=lrp.Answer\(\)"),
        ({"weights": np.ones((1, 3))}, "Input 'weights' has size 3 in dimension 'sequence', an input before it 4"),
        ({"weights": np.ones(4)}, r"Input 'weights' has shape \[4\], but \[1, sequence\] is wanted"),
        ({"weights": np.ones((0, 1, 4))}, r"No span is given: weights has shape \[0, …\]"),
        ({"weights": NAN}, "The weights hold NaN or an infinite number"),
        ({"weights": "all"}, "cannot be read as an array of numbers|has dtype str"),
        ({"weights": np.ones((1, 4)), "target": 3}, r"compile with target=lrp.Answer\(tokens='index'\)"),
        ({"weights": np.ones((1, 4)), "against": 3}, r"compile with target=lrp.Answer\(against='index'\)"),
    ],
)
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_weights_that_do_not_fit_end_in_a_sentence(runtime: str, given: dict[str, Any], sentence: str) -> None:
    running = explainer() if runtime == "torch" else OnnxExplainer(file_of())

    with pytest.raises(InputError, match=sentence) as raised:
        running(input_ids=IDS if runtime == "torch" else IDS.numpy(), **given)
    assert "\n" not in str(raised.value)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (
            {"score": "logits"},
            r"Answer\(score=…\) is 'logit', 'centred' or 'log-probability' \(did you mean 'logit'\?\)",
        ),
        ({"tokens": "next"}, r"Answer\(tokens=…\) is 'own' or 'index'"),
        ({"against": -1}, r"Answer\(against=…\) is the number of a token, 'index' or None, not -1"),
        ({"against": VOCABULARY}, rf"Answer\(against={VOCABULARY}\) is out of range: there are {VOCABULARY} tokens"),
        ({"against": 3, "score": "centred"}, "is a difference of two logits"),
        ({"count": True}, r"Answer\(count=…\) is how many spans there are at once"),
        ({"count": 0}, r"Answer\(count=…\) is how many spans there are at once"),
        ({"ids": "ids"}, "There are no ids 'ids' of a text"),
    ],
)
def test_what_cannot_be_an_answer_ends_in_a_sentence(target: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        lrp.compile(language_model("gpt2"), kwargs={"input_ids": IDS}, target=lrp.Answer(**target))


def test_a_text_of_one_token_is_refused() -> None:
    with pytest.raises(InputError, match="An Answer needs a text of two tokens at least"):
        lrp.compile(language_model("gpt2"), kwargs={"input_ids": IDS[:, :1]}, target=lrp.Answer())
    with pytest.raises(InputError, match="The text has one token alone"):
        explainer()(input_ids=IDS[:, :1], weights=np.ones((1, 1)))


def test_models_of_no_texts_and_seeds_are_refused() -> None:
    with pytest.raises(InputError, match=r"An Answer explains logits \[batch, sequence, vocabulary\]"):
        lrp.compile(torch.nn.Linear(3, 4).eval(), (torch.randn(2, 3),), target=lrp.Answer())
    with pytest.raises(InputError, match="seed='one' does not go with an Answer"):
        lrp.compile(language_model("gpt2"), kwargs={"input_ids": IDS}, target=lrp.Answer(), seed="one")


@pytest.mark.parametrize(
    ("prompt", "answer", "options", "sentence"),
    [
        ([], ANSWER, {}, "The prompt holds no token"),
        (PROMPT, [], {}, "The answer holds no token"),
        ("Why?", ANSWER, {}, "A text needs a tokenizer"),
        ([0.5], ANSWER, {}, "Prompt and answer are texts, or the ids of one"),
        (PROMPT, [VOCABULARY], {}, f"The answer holds token {VOCABULARY}, but the model has {VOCABULARY}"),
        (PROMPT, ANSWER, {"decoder_start": 0}, "decoder_start= is an encoder–decoder's"),
        (PROMPT, ANSWER, {"rows_per_run": 0}, "rows_per_run is a whole number from 1 up"),
        (PROMPT, ANSWER, {"hops": -1}, "hops is a whole number from 0 up"),
    ],
)
def test_what_cannot_be_explained_ends_in_a_sentence(
    prompt: Any, answer: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        explainer().answer(None, prompt, answer, **options)


def test_sums_that_are_no_sums_end_in_a_sentence() -> None:
    with pytest.raises(InputError, match="Relevance hops from token to token, not by word"):
        made().by("word").hops(1)
    with pytest.raises(InputError, match=r"A span is a range of rows, 0 to 3, not \[9\]"):
        made().spans([9])


@pytest.mark.heavy
@pytest.mark.parametrize("width", [1200, 390])
def test_a_token_that_is_pointed_at_lights_its_sources(width: int, tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    from benchmarks.shown import headless

    if headless.chromium() is None:
        pytest.skip("there is no chromium")
    by_hand().html(tmp_path / "a.html")
    size = {"viewport": {"width": width, "height": 800}}
    with (
        headless.served(tmp_path) as address,
        headless.browser() as started,
        headless.visit(started, f"{address}/a.html", **size) as visit,
    ):
        lit = "span => [...document.querySelectorAll('.text span')].map(each => each.style.background !== '')"
        tokens = visit.page.locator("#answer .row")
        visit.page.mouse.move(1, 1)
        whole = visit.page.evaluate(lit)
        tokens.nth(1).hover()
        second = visit.page.evaluate(lit)
        tokens.nth(0).click()
        visit.page.mouse.move(1, 1)
        pinned = visit.page.evaluate(lit)

        # The answer stands above the prompt.
        assert whole == [True, True, False, True, True]
        assert second == [True, False, False, False, True]
        assert pinned == [False, False, False, True, True]
        assert "score 5" in " ".join(visit.page.locator("#facts").inner_text().split())
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        assert (visit.foreign(), visit.complaints) == ([], [])


@pytest.mark.heavy
@pytest.mark.parametrize("width", [1200, 390])
def test_a_notebook_shows_the_page_as_tall_as_it_is(width: int, tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    from benchmarks.shown import headless

    if headless.chromium() is None:
        pytest.skip("there is no chromium")
    short = by_hand()
    prompt = tuple(short.columns[0]._replace(text="reason", tokens=(at,)) for at in range(80))
    answer = tuple(piece._replace(tokens=(80 + at,)) for at, piece in enumerate(short.rows))
    matrix = np.ones((3, 83))
    long = dataclasses.replace(short, rows=answer, columns=prompt + answer, matrix=matrix)
    (tmp_path / "notebook.html").write_text(f"<!doctype html>{long._repr_html_()}", encoding="utf-8")
    size = {"viewport": {"width": width, "height": 800}}
    with (
        headless.served(tmp_path) as address,
        headless.browser() as started,
        headless.visit(started, f"{address}/notebook.html", **size) as visit,
    ):
        frame = visit.page.locator("iframe")

        height, shown, inside = frame.evaluate(
            "({ contentDocument: page, clientHeight, clientWidth }) => "
            "[page.documentElement.scrollHeight, clientHeight, page.documentElement.scrollWidth <= clientWidth]"
        )

        assert (height <= shown, inside) == (True, True)
        assert shown > 512


def _compared(kind: str, model: Any) -> lrp.Explainer:
    ids, start = torch.tensor([[*PROMPT, 3]]), torch.tensor([[0, 3]])
    given = {"input_ids": ids} if kind == "gpt2" else {"input_ids": ids, "decoder_input_ids": start}
    shapes = {name: {1: torch.export.Dim(f"{name}_length", min=2, max=32)} for name in given}
    return lrp.compile(model, kwargs=given, composite="reference", target=lrp.Answer(), dynamic_shapes=shapes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "t5"])
@pytest.mark.parametrize("reference", [2, [4, 4, 6, 2, 9]])
def test_an_answer_is_compared_with_that_to_another_prompt(kind: str, reference: Any, tmp_path: Path) -> None:
    """By two forwards of the model: rows sum to what their token scores more; the answer itself is held."""
    model = deepcopy(language_model(kind)).double()
    compared = _compared(kind, model)
    start = None if kind == "gpt2" else 0
    there = [reference] * len(PROMPT) if isinstance(reference, int) else reference

    found = compared.answer(None, PROMPT, ANSWER, decoder_start=start, reference=reference)

    def logits(prompt: list[int]) -> Any:
        with torch.no_grad():
            if kind == "gpt2":
                return model(torch.tensor([[*prompt, *ANSWER]])).logits[0, len(prompt) - 1 : -1].numpy()
            text = torch.tensor([[0, *ANSWER]])
            return model(input_ids=torch.tensor([prompt]), decoder_input_ids=text).logits[0, :-1].numpy()

    risen = (logits(PROMPT) - logits(there))[range(len(ANSWER)), ANSWER]
    # Both models' norms and softmaxes calculate in float32 where they like to.
    np.testing.assert_allclose(found.scores, risen, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.matrix.sum(1), risen, rtol=0, atol=1e-6)
    assert not found.matrix[:, len(PROMPT) :].any()
    if isinstance(reference, list):
        assert (found.matrix[:, 4] == 0).all()  # the same token
    path = tmp_path / "m.lrp.onnx"
    _compared(kind, deepcopy(language_model(kind)).float()).to_onnx(path)
    with OnnxExplainer(path) as opened:
        again = opened.answer(None, PROMPT, ANSWER, decoder_start=start, reference=reference)
    np.testing.assert_allclose(again.matrix, found.matrix, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (None, "say by reference="),
        ([1, 2], "has 2 ids, but the prompt 5"),
        (1.5, "give the id of a token"),
        ("blur", "give the id of a token"),
        (2**63, "which the model does not have"),
        (-1, "which the model does not have"),
    ],
)
def test_a_wrong_other_prompt_is_a_sentence(reference: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        _compared("gpt2", language_model("gpt2")).answer(None, PROMPT, ANSWER, reference=reference)
    with pytest.raises(InputError, match="composite='reference'"):
        explainer().answer(None, PROMPT, ANSWER, reference=2)
