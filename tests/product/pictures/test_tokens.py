"""Relevance of texts: pieces and words, on a page, in a terminal and drawn."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.explanations import LABELS, LOGITS, images, made
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from lrp_compiler.base.errors import InputError
from lrp_compiler.explanation import Explanation
from lrp_compiler.pictures.common import BLUE, RED, STRONGEST

WORDPIECES = ["[PAD]", "[CLS]", "[SEP]", "the", "shop", "##ping", "<script>", "s", "##s", "##e", "e", "\x1b[31m", "."]


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(dict(zip(WORDPIECES, range(len(WORDPIECES)), strict=True)), unk_token="s"))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    return tokenizer


def byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["ĠMar", "ta", "Ġlives", "<|end|>"]
    vocabulary = {token: number for number, token in enumerate([*alphabet, *words[:3]])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(words[3], special=True)])
    return tokenizer


def spaces() -> Tokenizer:
    vocabulary = [("<unk>", 0.0), ("▁Mar", -1.0), ("ta", -1.0), ("▁lives", -1.0), ("▁", -2.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, False))
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def wrapped(tokenizer: Tokenizer) -> Any:
    from transformers import PreTrainedTokenizerFast

    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    known = special if tokenizer.token_to_id("[CLS]") is not None else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **known)


FEW = ["[UNK]", "the", "plot", "is", "dull", "and", "##ly", "##s"]


def few_pieces(prefix: str = "##", decoded: bool = True) -> Tokenizer:
    """A vocabulary with hardly a piece that goes on with a word."""
    words = {token.replace("##", prefix): number for number, token in enumerate(FEW)}
    model = models.WordPiece(words, unk_token="[UNK]", continuing_subword_prefix=prefix)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix=prefix) if decoded else None
    return tokenizer


def words_alone() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(FEW)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def of_letters() -> Tokenizer:
    """BPE with the end of a word written into its last piece, of two pieces each."""
    text = "the plot is dull and"
    ends = [f"{word[-1]}</w>" for word in text.split()]
    starts = [word[:-1] for word in text.split()]
    letters = list(dict.fromkeys([*"".join(starts), *starts, *ends]))
    merges = [(part[:at], part[at]) for part in starts for at in range(1, len(part))]
    letters += [part[:at] for part in starts for at in range(1, len(part)) if part[:at] not in letters]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(letters))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.WhitespaceSplit(), decoders.BPEDecoder()
    return tokenizer


@pytest.mark.parametrize("by_transformers", [False, True], ids=["tokenizers", "transformers"])
@pytest.mark.parametrize(
    "tokenizer",
    [few_pieces(), few_pieces("@@"), few_pieces(decoded=False), words_alone(), of_letters()],
    ids=["wordpiece", "another prefix", "without a decoder", "words", "word ends"],
)
def test_words_are_those_that_the_text_has_whatever_the_vocabulary_holds(
    tokenizer: Tokenizer, by_transformers: bool
) -> None:
    """The words of the text are known; a vocabulary may hold few pieces, or none of a word's own."""
    ids = np.array([tokenizer.encode("the plot is dull and").ids])
    shares = np.ones(ids.shape)
    given = wrapped(tokenizer) if by_transformers else tokenizer

    (row,) = made({"input_ids": shares}, {"input_ids": ids}, logits=LOGITS[:1]).tokens(given, words=True)

    assert [text.strip() for text, _ in row] == ["the", "plot", "is", "dull", "and"]
    assert "the plot is dull and" in re.sub(r"\s+", " ", re.sub(r"\x1b\[[\d;]*m", "", row.ansi()))


@pytest.mark.parametrize("prefix", ["##", "@@"])
def test_pieces_of_few_are_put_together(prefix: str) -> None:
    tokenizer = few_pieces(prefix)
    ids = np.array([[tokenizer.token_to_id(token) for token in ("the", "plot", f"{prefix}s", "dull", f"{prefix}ly")]])

    (row,) = made({"input_ids": np.ones(ids.shape)}, {"input_ids": ids}, logits=LOGITS[:1]).tokens(
        tokenizer, words=True
    )

    assert list(row) == [("the", 1.0), ("plots", 2.0), ("dullly", 2.0)]


IDS = np.array([[1, 3, 4, 5, 6, 2], [1, 3, 12, 2, 0, 0]])

MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])

SHARES = np.array([[0.5, -0.25, 1.0, 2.0, -4.0, 0.125], [1.0, 2.0, -1.0, 0.5, 0.0, 0.25]])


def sentence(**metadata: Any) -> Explanation[np.ndarray]:
    return made({"input_ids": SHARES}, {"input_ids": IDS, "attention_mask": MASK}, **metadata)


@pytest.mark.parametrize("wrap", [lambda tokenizer: tokenizer, wrapped])
def test_tokens_are_pairs_row_by_row_without_padding(wrap: Any) -> None:
    first, second = sentence().tokens(wrap(wordpiece()))
    assert list(first) == [
        ("[CLS]", 0.5),
        ("the", -0.25),
        ("shop", 1.0),
        ("##ping", 2.0),
        ("<script>", -4.0),
        ("[SEP]", 0.125),
    ]
    assert list(second) == [("[CLS]", 1.0), ("the", 2.0), (".", -1.0), ("[SEP]", 0.5)]
    assert second.left_out == {"padding": 0.25}
    assert first[1:3] == [("the", -0.25), ("shop", 1.0)]


@pytest.mark.parametrize("wrap", [lambda tokenizer: tokenizer, wrapped])
@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("special", [False, True])
def test_tokens_and_what_is_left_out_add_up_to_the_relevance(wrap: Any, words: bool, special: bool) -> None:
    rows = sentence().tokens(wrap(wordpiece()), words=words, special=special)
    for row, shares in zip(rows, SHARES, strict=True):
        assert sum(share for _, share in row) + sum(row.left_out.values()) == pytest.approx(shares.sum())
        assert ("[CLS]" in dict(row)) == special
        assert row.case.sum == shares.sum()


def test_pieces_of_a_word_are_added_up() -> None:
    (first, _) = sentence().tokens(wordpiece(), words=True)
    assert ("shopping", 3.0) in list(first)
    assert first.pieces[2].ids == (4, 5)


@pytest.mark.parametrize("wrap", [lambda tokenizer: tokenizer, wrapped])
def test_bytes_are_read_as_text(wrap: Any) -> None:
    tokenizer = byte_level()
    number = tokenizer.token_to_id
    written = ["ĠMar", "ta", "Ġlives", "Ċ", "Ã", "©", "<|end|>"]
    ids = np.array([[number(token) for token in written]])
    explanation = made({"input_ids": np.arange(1.0, 8.0)[np.newaxis]}, {"input_ids": ids}, LOGITS[:1])
    (row,) = explanation.tokens(wrap(tokenizer))
    assert [token for token, _ in row] == [" Mar", "ta", " lives", "\n", "Ã", "©", "<|end|>"]
    (row,) = explanation.tokens(wrap(tokenizer), words=True)
    assert list(row) == [(" Marta", 3.0), (" lives", 3.0), ("\n", 4.0), ("é", 11.0), ("<|end|>", 7.0)]


@pytest.mark.parametrize("wrap", [lambda tokenizer: tokenizer, wrapped])
def test_a_lower_line_is_a_space(wrap: Any) -> None:
    explanation = made({"ids": np.array([[1.0, 2.0, 4.0]])}, {"ids": np.array([[1, 2, 3]])}, LOGITS[:1])
    (row,) = explanation.tokens(wrap(spaces()))
    assert list(row) == [(" Mar", 1.0), ("ta", 2.0), (" lives", 4.0)]
    (row,) = explanation.tokens(wrap(spaces()), words=True)
    assert list(row) == [(" Marta", 3.0), (" lives", 4.0)]


def test_features_are_added_up_and_embeddings_need_their_ids() -> None:
    shares = np.stack([SHARES, 2 * SHARES], -1)
    kept = made({"input_ids": shares}, {"input_ids": IDS}).tokens(wordpiece())
    assert kept[0][0] == ("[CLS]", 1.5)
    embedded = made({"inputs_embeds": shares}, {"inputs_embeds": shares})
    assert embedded.tokens(wordpiece(), ids=IDS)[0][0] == ("[CLS]", 1.5)
    with pytest.raises(InputError, match="needs relevance of tokens"):
        embedded.tokens(wordpiece())
    with pytest.raises(InputError, match=r"ids have shape \[2, 5\], relevance has \[6\] a row"):
        embedded.tokens(wordpiece(), ids=IDS[:, :5])


def test_a_predicted_token_names_the_target() -> None:
    logits = np.zeros((2, 6, 13))
    logits[:, -1, 4] = 3.0
    rows = sentence(logits=logits).tokens(wordpiece())
    assert rows[0].caption.startswith("“shop” (class 4): logit 3, Σ relevance")
    tagged = sentence(logits=np.ones((2, 6, 5))).tokens(wordpiece())  # fewer classes than tokens: tags
    assert tagged[0].caption.startswith("class 0: ")
    assert sentence(logits=logits).tokens(wordpiece(), labels=str)[0].caption.startswith("4 (class 4)")


def test_several_targets_are_rows_of_their_own() -> None:
    explanation = made(
        {"input_ids": np.stack([SHARES, -SHARES])},
        {"input_ids": IDS},
        explains={"classes": [0, {"pair": [1, 0]}]},
        target=[0, (1, 0)],
    )
    rows = explanation.tokens(wordpiece(), labels=LABELS, rows=0)
    assert [row.case.name for row in rows] == ["cat (class 0)", "dog − cat (classes 1 − 0)"]
    assert rows[0][0][1] == -rows[1][0][1] == 0.5


def test_html_is_escaped_and_holds_the_numbers() -> None:
    rows = sentence(composite={"name": "<i>mine</i>"}).tokens(wordpiece(), labels=lambda _: "<b>fish</b>")
    page = rows.html()
    assert page == rows._repr_html_()
    assert not re.search("<(script|b|i)>", page)
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;fish&lt;/b&gt; (class 1): logit 5, Σ relevance -0.625" in page
    assert "composite &lt;i&gt;mine&lt;/i&gt;, target argmax" in page
    assert ">+0.12</span>" in page
    assert ">+0.12</span>" not in rows.html(numbers=False)
    strongest = f"rgba({', '.join(map(str, BLUE))}, {STRONGEST:.3f})".replace(" ", "")
    assert f'title="-4, id 6" style="background:{strongest}' in page
    assert rows[0]._repr_html_().count("<p") == 2


def test_html_with_a_path_is_a_whole_page_in_that_file(tmp_path: Path) -> None:
    rows = sentence().tokens(wordpiece(), labels=LABELS)

    for name, one in (("all", rows), ("first", rows[0])):
        fragment = one.html()
        page = one.html(tmp_path / f"{name}.html", title="a <b> c")
        assert (tmp_path / f"{name}.html").read_text(encoding="utf-8") == page
        assert page.startswith("<!doctype html>")
        assert fragment in page
        assert page.count("<title>a &lt;b&gt; c</title>") == page.count("<body") == page.count("</html>") == 1
        assert one.html() == fragment  # and nothing else is written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.html", "first.html"]
    assert "+0.12" not in rows.html(str(tmp_path / "bare.html"), numbers=False).replace('title="+0.12', "")


@pytest.mark.parametrize("path", [False, 3, ["page.html"]])
def test_html_takes_a_path_and_nothing_else(path: Any) -> None:
    for one in (sentence().tokens(wordpiece()), sentence().tokens(wordpiece())[0]):
        with pytest.raises(InputError, match=r"^path is the path of a file, or None, not "):
            one.html(path)


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """WCAG 2's contrast ratio of two sRGB colours in 0 … 255."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [part / 3294.6 if part <= 10.31 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("end", [RED, BLUE])
@pytest.mark.parametrize("strength", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize(("page", "ink"), [((255,) * 3, (0,) * 3), ((17,) * 3, (238,) * 3)])
def test_tokens_are_legible_on_light_and_dark(end: tuple, strength: float, page: tuple, ink: tuple) -> None:
    opacity = STRONGEST * strength
    behind = tuple(opacity * part + (1 - opacity) * below for part, below in zip(end, page, strict=True))
    assert contrast(ink, behind) > 4.5


def test_a_terminal_gets_colours_and_nothing_that_steers_it() -> None:
    ids = np.array([[11, 3]])
    explanation = made({"input_ids": np.array([[2.0, -2.0]])}, {"input_ids": ids}, LOGITS[:1])
    shown = explanation.tokens(wordpiece(), labels=lambda _: "\x1b[31m").ansi()
    codes = re.findall(r"\x1b\[[\d;]*m", shown)
    assert set(codes) <= {"\x1b[0m", "\x1b[38;2;0;0;0m", *(code for code in codes if code.startswith("\x1b[48;2;"))}
    assert r"\x1b[31m" in shown
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert plain.splitlines()[2] == r"\x1b[31m the"
    expected = [round(255 + STRONGEST * (part - 255)) for part in RED]
    assert f"\x1b[48;2;{';'.join(map(str, expected))}m" in shown


def test_colours_of_tokens_end_where_they_are_told() -> None:
    strongest = sentence().tokens(wordpiece())[0]
    assert [strongest.strength(piece) for piece in strongest.pieces] == [0.125, -0.0625, 0.25, 0.5, -1.0, 0.03125]
    shared = sentence().tokens(wordpiece(), limit=2.0)
    assert [row.limit for row in shared] == [2.0, 2.0]
    assert shared[0].strength(shared[0].pieces[4]) == -1.0
    half = sentence().tokens(wordpiece(), percentile=50)[0]
    assert half.limit == np.median(np.abs(SHARES[0]))


def test_tokens_can_be_drawn() -> None:
    figure = sentence().tokens(wordpiece(), words=True).figure("A title")
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said[:2] == [
        "A title",
        "composite epsilon-plus, target argmax; red speaks for the target, blue against it; "
        "colours are scaled for each row",
    ]
    assert {"shopping", "+3", "<script>", "-4"} <= set(said)
    colours = {text: patch.get_facecolor() for text, patch in zip(said[4::2], figure.axes[0].patches, strict=False)}
    assert len(colours) > 0
    figure.savefig(io.BytesIO(), format="png", dpi=30)


def test_tokens_of_what_is_none_are_refused() -> None:
    with pytest.raises(InputError, match="A tokenizer of transformers or of tokenizers is wanted, not str"):
        sentence().tokens("bert")
    with pytest.raises(InputError, match=r"needs relevance of tokens, \[batch, sequence\]; here is x"):
        made({"x": images()}).tokens(wordpiece())
    with pytest.raises(InputError, match="choose with input="):
        made({"a": SHARES, "b": SHARES}, {"a": IDS, "b": IDS}).tokens(wordpiece())
    assert len(made({"a": SHARES, "b": SHARES}, {"a": IDS, "b": IDS}).tokens(wordpiece(), input="b")) == 2
