"""From a prompt and an answer to the matrix between their tokens, whatever runs the explainer. Torch-free.

one run for each block of rows: weights [rows, batch, sequence], 1 at the row's own token    →    relevance
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.counted import counted
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.reductions import HALF, SUMS
from lrp_compiler.base.references import PREFIX, references_by_input
from lrp_compiler.base.results import Results
from lrp_compiler.base.run import to_numpy
from lrp_compiler.base.validate import check_option, shortened, whole_number
from lrp_compiler.pictures.vocabulary import Vocabulary

from .answers import AnswerExplanation, Part, Piece

MASK = "attention_mask"
DECODER = "decoder_"
HOW = "compile with target=lrp.Answer()"


class ExplainsAnswers:
    """What explains a text's tokens, if it was compiled with `target=lrp.Answer()`: torch's explainer, and a file's."""

    @property
    def about(self) -> Metadata:
        """What it says about itself."""
        raise NotImplementedError

    def _explain_arrays(self, **arrays: Any) -> Results[Any]:
        """Its call: inputs and weights by name, numpy arrays → explanation."""
        raise NotImplementedError

    @boundary("explain the answer")
    def answer(
        self,
        tokenizer: Any,
        prompt: Any,
        answer: Any,
        *,
        decoder_start: Any = None,
        hops: int = 0,
        rows_per_run: int | None = None,
        reference: Any = None,
        **inputs: Any,
    ) -> AnswerExplanation:
        """Explain every token of an answer by the tokens before it; with `target=lrp.Answer()` only.

        Args:
            tokenizer: of transformers or of tokenizers; None where prompt and answer are ids, and go by these.
            prompt: a text, messages of a chat, or ids `[sequence]`.
            answer: a text (with the space that it begins with, if it does), or ids: what the model wrote.
            decoder_start: of an encoder–decoder the ids that its decoder starts with.
            hops: how many times relevance of answer tokens is sent on through them: see `AnswerExplanation.hops`.
            rows_per_run: how many rows of the matrix one call explains (default: all): in torch they share the forward,
                in a file each is a run. `Answer(count=…)` explains so many in one graph.
            reference: where relevance is of differences (`composite="reference"`), what the prompt is compared with:
                the id of a token (a mask's) that stands for each of its tokens, or ids `[prompt]`. The answer is held
                as it is, and a row sums to what its token scores more than behind that prompt.
            inputs: further inputs of the model by name, `[1, …]`; attention masks are ones.

        Raises:
            InputError: prompt, answer or explainer do not fit; one sentence says what.
        """
        about = self.about
        ids = _ids_name(about)
        encoder = ids.removeprefix(DECODER) if ids.startswith(DECODER) else None
        read, wrote = ids_of(tokenizer, prompt), ids_of(tokenizer, answer, whole=False)
        starts = [] if decoder_start is None else ids_of(None, decoder_start)
        _check(read, wrote, starts, encoder)
        strange = [token for token in wrote if not 0 <= token < (about.classes or token + 1)]
        if strange:
            raise InputError(
                f"The answer holds token {strange[0]}, but the model has {about.classes} tokens, from 0 on."
            )
        before = read if encoder is None else starts
        text = [*before, *wrote]
        texts = {ids: text} | ({} if encoder is None else {encoder: read})
        given = _inputs(about, texts, inputs, ids)
        there = _at_reference(about, given, encoder or ids, read, reference)
        fits = rows_per_run is None or (whole_number(rows_per_run) or 0) >= 1
        check_option("rows_per_run", rows_per_run, fits, "a whole number from 1 up")
        names = [ids] if encoder is None else [encoder, ids]
        explain, start = self._explain_arrays, len(before)
        matrix, z, heading = _matrix(about, explain, given | there, names, start, len(wrote), rows_per_run)
        scores = _scores(about, z, np.array(wrote))
        if there:
            behind = _logits_there(about, explain, given, there, ids, start, len(wrote))
            scores = scores - _scores(about, behind, np.array(wrote))
        sides: tuple[tuple[Part, list[int]], ...] = (("prompt", read), ("start", starts), ("answer", wrote))
        parts = [part for part, numbers in sides for _ in numbers]
        columns = _pieces(tokenizer, [*read, *starts, *wrote], parts)
        put = scores if about.seed == "value" else np.ones(len(wrote))
        found = AnswerExplanation(columns[-len(wrote) :], columns, matrix, scores, put, heading)
        return found.hops(hops) if hops else found


def ids_of(tokenizer: Any, text: Any, whole: bool = True) -> list[int]:
    """The ids of a text.

    Args:
        tokenizer: of transformers or of tokenizers; None where ids are given.
        text: a text, messages of a chat (dicts with role and content), or ids: of the whole or of one row.
        whole: whether it stands by itself: a tokenizer then adds its special tokens.

    Raises:
        InputError: it is none of these, or needs a tokenizer.
    """
    said = isinstance(text, str) or (isinstance(text, list | tuple) and text and isinstance(text[0], Mapping))
    if said and tokenizer is None:
        raise InputError("A text needs a tokenizer: give one, or the ids.")
    if isinstance(text, str):
        if hasattr(tokenizer, "encode_batch"):
            return list(tokenizer.encode(text, add_special_tokens=whole).ids)
        return list(tokenizer(text, add_special_tokens=whole)["input_ids"])
    if said:
        if not hasattr(tokenizer, "apply_chat_template"):
            raise InputError("Messages of a chat need a tokenizer of transformers, which knows the model's template.")
        return list(tokenizer.apply_chat_template(text, add_generation_prompt=True, return_dict=True)["input_ids"])
    array = to_numpy(text) if whole_number(text) is None else np.array([text])
    array = array.reshape(-1) if array.ndim == 2 and len(array) == 1 else array
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise InputError("Prompt and answer are texts, or the ids of one: whole numbers [sequence].")
    return [int(number) for number in array]


def _check(read: Sequence[int], wrote: Sequence[int], starts: Sequence[int], encoder: str | None) -> None:
    if not read:
        raise InputError("The prompt holds no token: nothing could explain the answer.")
    if not wrote:
        raise InputError("The answer holds no token: there is nothing to explain.")
    if encoder is not None and not starts:
        raise InputError(
            "This is an encoder–decoder: say by decoder_start= which ids its decoder starts with "
            "(model.config.decoder_start_token_id)."
        )
    if encoder is None and starts:
        raise InputError("decoder_start= is an encoder–decoder's, and this explainer's model has no decoder's ids.")


def _ids_name(about: Metadata) -> str:
    """The input that holds the text."""
    if not about.explains_answer:
        raise InputError(f"This explainer was compiled for {about.target!r}, and explains no answers: {HOW}.")
    if [spec.name for spec in about.choices] != ["weights"] or not about.explains.get("ids"):
        raise InputError(
            f"This explainer was compiled for {about.target} and takes tokens at run time: call it with weights= and "
            f"these, or {HOW}."
        )
    name = str(about.explains["ids"])
    if name not in {entry.input for entry in about.relevance}:
        raise InputError(f"This explainer does not return the relevance of {name!r}: compile without wrt=.")
    if not set(about.reduce) <= {SUMS, HALF}:
        raise InputError(
            f"This explainer's relevance is reduced by {', '.join(about.reduce)}, and a matrix holds every token's: "
            "call it with weights=, or compile without reduce."
        )
    return name


def _inputs(about: Metadata, texts: dict[str, list[int]], given: dict[str, Any], ids: str) -> dict[str, Any]:
    """All inputs, `[batch, …]`; in a batch that is fixed all rows are alike."""
    apart = references_by_input(about, None)
    own = [spec for spec in about.inputs if spec.name not in apart]
    for spec in own:
        if spec.name in given or spec.name in texts:
            continue
        if not spec.name.endswith(MASK):
            raise InputError(f"The explainer also takes {spec.name!r}: give it by name.")
        of = f"{spec.name.removesuffix(MASK)}input_ids"
        given[spec.name] = [[1] * len(texts[of if of in texts else ids])]
    low = about.ranges.get("batch", (None, None))[0] or 1
    arrays = {}
    for spec in own:
        rows = spec.shape[0] if spec.shape and isinstance(spec.shape[0], int) else low
        array = to_numpy(given[spec.name]) if spec.name in given else np.array([texts[spec.name]])
        repeats = rows if array.ndim and len(array) == 1 else 1
        arrays[spec.name] = np.repeat(array, repeats, 0).astype(spec.dtype, copy=False)
    return arrays


def _matrix(
    about: Metadata,
    explain: Callable[..., Any],
    given: Mapping[str, np.ndarray],
    names: Sequence[str],
    start: int,
    count: int,
    per_run: int | None,
) -> tuple[np.ndarray, np.ndarray, str]:
    """Relevance of all tokens for each of the answer's, the logits that predict those, and the explainer's heading."""
    spec = about.choices[0]
    step = about.several or per_run or count
    blocks, z, heading = [], np.empty(0), ""
    batch, sequence = given[names[-1]].shape
    for first in range(0, count, step):
        rows = range(first, min(first + step, count))
        weights = np.zeros((about.several or len(rows), batch, sequence), spec.dtype.replace("bfloat16", "float32"))
        weights[range(len(rows)), 0, [start + row for row in rows]] = 1
        explanation = explain(**given, weights=weights)
        # Of every span the first row of the batch: the others are like it.
        block = [to_numpy(explanation.relevance[name])[: len(rows), 0] for name in names]
        blocks.append(np.concatenate([each.reshape(*each.shape[:2], -1).sum(-1) for each in block], 1))
        if not first:
            z = _logits(about, explanation, start, count)
            heading = explanation.run.heading
    return np.concatenate(blocks).astype(np.float64), z, heading


def _logits(about: Metadata, explanation: Any, start: int, count: int) -> np.ndarray:
    """Of the tokens behind the first `start`, `[tokens, vocabulary]`."""
    outputs = list(explanation.run.outputs.values())
    return to_numpy(outputs[about.explained][0, start - 1 : start - 1 + count]).astype(np.float64)


def _at_reference(
    about: Metadata, given: Mapping[str, np.ndarray], name: str, read: Sequence[int], reference: Any
) -> dict[str, np.ndarray]:
    """`reference.<input>` of every input that has one, where relevance is of differences: the prompt is another one.

    Args:
        about: what the explainer says about itself.
        given: its other inputs.
        name: that which holds the prompt, in front.
        read: the prompt.
        reference: what was said instead of it.
    """
    wanted = references_by_input(about, reference)
    if not wanted:
        return {}
    if reference is None:
        raise InputError(
            "This explainer compares two prompts: say by reference= which token stands for each of the prompt's "
            "(tokenizer.mask_token_id or pad_token_id, say), or give ids, as many as the prompt has."
        )
    number = whole_number(reference)
    try:
        other = [number] * len(read) if number is not None else ids_of(None, reference)
    except InputError as error:
        raise InputError(
            f"reference={shortened(reference)}: give the id of a token, or ids, as many as the prompt has."
        ) from error
    if len(other) != len(read):
        raise InputError(f"The reference has {counted(len(other), 'id')}, but the prompt {len(read)}.")
    strange = [token for token in other if not 0 <= token < (about.classes or 2**31)]
    if strange:
        raise InputError(f"The reference holds token {strange[0]}, which the model does not have.")
    found = {key: given[key.removeprefix(PREFIX)].copy() for key in wanted}
    found[f"{PREFIX}{name}"][:, : len(other)] = other
    return found


def _logits_there(
    about: Metadata,
    explain: Callable[..., Any],
    given: Mapping[str, np.ndarray],
    there: Mapping[str, np.ndarray],
    ids: str,
    start: int,
    count: int,
) -> np.ndarray:
    """The same logits behind the other prompt."""
    spec = about.choices[0]
    weights = np.zeros((about.several or 1, *given[ids].shape), spec.dtype.replace("bfloat16", "float32"))
    own = {key: there.get(f"{PREFIX}{key}", value) for key, value in given.items()}
    return _logits(about, explain(**own, **there, weights=weights), start, count)


def _scores(about: Metadata, z: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """What each token scored, `[tokens]`, of logits `[tokens, vocabulary]`."""
    score: np.ndarray = z[np.arange(len(ids)), ids]
    against = about.explains.get("against")
    if against is not None:
        return score - z[:, against]
    if about.explains.get("score") == "centred":
        return np.asarray(score - z.mean(1))
    if about.explains.get("score") == "log-probability":
        largest = z.max(1)
        return np.asarray(score - largest - np.log(np.exp(z - largest[:, None]).sum(1)))
    return score


def _pieces(tokenizer: Any, ids: Sequence[int], parts: Sequence[Part]) -> tuple[Piece, ...]:
    vocabulary = None if tokenizer is None else Vocabulary(tokenizer)
    pieces = []
    for at, (number, part) in enumerate(zip(ids, parts, strict=True)):
        before = ids[at - 1] if at and parts[at - 1] == part else None
        if vocabulary is None:
            pieces.append(Piece(f"<{number}>", (number,), (at,), part))
            continue
        starts, special = vocabulary.starts_word(before, number), number in vocabulary.special
        pieces.append(Piece(vocabulary.piece(number), (number,), (at,), part, starts, special))
    return tuple(pieces)
