"""From a language model and a prompt to an explained answer, in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lrp_compiler.answering import ids_of
from lrp_compiler.answers import AnswerExplanation
from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.validate import check_option
from lrp_compiler.compiler import compile as compile_explainer
from lrp_compiler.passes.forward import Answer
from lrp_compiler.rules.composite import Composite

LONGEST = ("max_position_embeddings", "n_positions", "max_sequence_length")
"""What configurations call the most tokens that a model takes."""


@boundary("explain the answer")
def explain_answer(
    model: Any,
    tokenizer: Any,
    prompt: Any,
    answer: Any = None,
    *,
    composite: str | Composite = "attnlrp",
    target: Answer | None = None,
    hops: int = 0,
    max_new_tokens: int = 64,
    open_lengths: bool = True,
    generate: Mapping[str, Any] | None = None,
    reference: Any = None,
    progress: Callable[[str], None] | None = None,
) -> AnswerExplanation:
    """Let a language model answer, and explain every token of the answer.

    The model is compiled for this one call. For several texts compile once, `lrp.compile(…, target=lrp.Answer())`, and
    call `Explainer.answer`.

    Args:
        model: of transformers, in eval mode; a decoder, or an encoder–decoder.
        tokenizer: its tokenizer; None where prompt and answer are ids.
        prompt: a text, messages of a chat (which the tokenizer's template makes a text of), or ids.
        answer: a text (with the space that it begins with, if it does) or ids; None: what `model.generate` writes,
            greedily unless `generate` says otherwise.
        composite: which rule where, as `compile` takes it.
        target: what is scored; default `lrp.Answer()`, the logit of each token.
        hops: how many times relevance of answer tokens is sent on through them (see `AnswerExplanation.hops`).
        max_new_tokens: of the answer, where it is generated.
        open_lengths: whether the model is compiled for texts of any length; False for models that torch.export unrolls
            along the sequence.
        generate: further arguments of `model.generate`.
        reference: with `composite="reference"`, what the prompt is compared with: see `Explainer.answer`.
        progress: called with the name of each stage when it starts: `generate`, those of `compile`, `explain`.

    Raises:
        InputError: prompt, answer or target do not fit, or the model cannot generate.
        CaptureError: torch.export cannot trace the model.
    """
    check_option("target", target, isinstance(target, Answer | None), "an lrp.Answer")
    check_option("progress", progress, progress is None or callable(progress), "a function of the stage's name")
    report = progress or (lambda stage: None)
    config = getattr(model, "config", None)
    read = ids_of(tokenizer, prompt)
    if not read:
        raise InputError("The prompt holds no token: nothing could explain the answer.")
    two = bool(getattr(config, "is_encoder_decoder", False))
    start = [_start(config)] if two else None
    if answer is None:
        report("generate")
        wrote = _generated(model, read, {"max_new_tokens": max_new_tokens, "do_sample": False, **(generate or {})})
        start, wrote = (wrote[:1], wrote[1:]) if two else (None, wrote[len(read) :])
        if not wrote:
            raise InputError("The model wrote nothing: give an answer, or let it write more by max_new_tokens=.")
    else:
        wrote = ids_of(tokenizer, answer, whole=False)
    texts = {"input_ids": read, "decoder_input_ids": [*(start or []), *wrote]}
    texts = texts if two else {"input_ids": [*read, *wrote]}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    example = {name: torch.tensor([ids], device=device) for name, ids in texts.items()}
    most = next((int(getattr(config, name)) for name in LONGEST if getattr(config, name, None)), None)
    lengths = {name: {1: torch.export.Dim(f"{name}_length", min=2, max=most)} for name in texts}
    explainer = compile_explainer(
        model,
        kwargs=example,
        composite=composite,
        target=target or Answer(),
        dynamic_shapes=lengths if open_lengths else None,
        progress=report,
    )
    report("explain")
    return explainer.answer(tokenizer, read, wrote, decoder_start=start, hops=hops, reference=reference)


def _start(config: Any) -> int:
    """The token that a decoder starts with."""
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    raise InputError("The model's config does not say what its decoder starts with (decoder_start_token_id): set it.")


def _generated(model: Any, read: list[int], options: Mapping[str, Any]) -> list[int]:
    """What the model writes; of a decoder behind what it read."""
    if not callable(getattr(model, "generate", None)):
        raise InputError("The model has no generate(): give the answer.")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    ids = torch.tensor([read], device=device)
    with torch.no_grad():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return [int(number) for number in getattr(found, "sequences", found)[0]]
