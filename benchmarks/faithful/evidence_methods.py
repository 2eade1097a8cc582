"""How much each token of a prompt matters to a whole answer, in this process: ours, gradients, attention.

Explained is the sum of the logits of the answer's tokens, teacher forced. A token's figure is the sum over the features
of its word embedding. Each function takes a question and returns what it finds by name: what the prompt's and perhaps
the answer's tokens got, float64 `[sequence]`, and the seconds of the processor that this alone takes.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from benchmarks.faithful.evidence_questions import Asked
from lrp_compiler.runtime import OnnxExplainer

LONGEST = 2048
POINTS = 10
"""Of integrated gradients."""


class Found(NamedTuple):
    relevance: np.ndarray
    seconds: float


All = dict[str, Found]
"""By method."""

# ── ours ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_explainer(model: Any, composite: str, path: Path) -> None:
    """Compile for answers of any length and write the ONNX file."""
    explainer = lrp.compile(
        model,
        kwargs={"input_ids": torch.arange(16)[None]},
        composite=composite,
        target=lrp.Answer(),
        dynamic_shapes={"input_ids": {1: torch.export.Dim("sequence", min=2, max=LONGEST)}},
    )
    explainer.to_onnx(path)


class Ours:
    """An explainer's file in onnxruntime, one thread; its relevance, and that after one hop."""

    def __init__(self, path: Path, name: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.explainer, self.name = OnnxExplainer(path, session_options=options), name

    def __call__(self, asked: Asked) -> All:
        """One run, and one more for the hop: what landed on a token of the answer is put on it."""
        ids, start = asked.ids[None], len(asked.prompt)
        weights = np.zeros(ids.shape, np.float32)
        weights[0, start:] = 1
        begin = time.process_time()
        found = self.explainer(input_ids=ids, weights=weights)
        first = found.relevance["input_ids"][0].astype(np.float64)
        middle = time.process_time()
        scores = next(iter(found.run.outputs.values()))[0, start - 1 : -1][np.arange(len(asked.answer)), asked.answer]
        weights[0, start:] = first[start:] / scores
        second = self.explainer(input_ids=ids, weights=weights).relevance["input_ids"][0].astype(np.float64)
        second[:start] += first[:start]
        end = time.process_time()
        return {self.name: Found(first, middle - begin), f"{self.name}, 1 hop": Found(second, end - begin)}


# ── gradients ────────────────────────────────────────────────────────────────────────────────────────────────────────


def score(model: Any, prompt: Tensor, asked: Asked) -> Tensor:
    """Σ of the logits of the answer's tokens; only the positions that predict these meet the vocabulary.

    Args:
        model: a causal language model.
        prompt: word embeddings of the prompt `[1, prompt, features]`.
        asked: the question.
    """
    ids = torch.from_numpy(asked.answer)
    embeddings = torch.cat((prompt, model.get_input_embeddings()(ids)[None]), 1)
    logits: Tensor = model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=len(ids) + 1).logits[0, :-1]
    return logits[torch.arange(len(ids)), ids].sum()


def gradient(model: Any, at: Tensor, asked: Asked) -> Tensor:
    x = at.detach().requires_grad_()
    (found,) = torch.autograd.grad(score(model, x, asked), x)
    return found[0]


def of_gradients(model: Any, asked: Asked) -> All:
    """Input × gradient and saliency (Σ of magnitudes, as captum's), of one backward."""
    start = time.process_time()
    x = model.get_input_embeddings()(torch.from_numpy(asked.prompt))[None]
    found = gradient(model, x, asked)
    seconds = time.process_time() - start
    by_name = {"gradient × input": (x[0] * found).sum(-1), "saliency": found.abs().sum(-1)}
    return {name: Found(values.double().numpy(), seconds) for name, values in by_name.items()}


def of_path(model: Any, reference: int, asked: Asked) -> All:
    """Integrated gradients by Gauss and Legendre's points, as captum's, from a prompt of the token `reference`."""
    start = time.process_time()
    table, prompt = model.get_input_embeddings(), torch.from_numpy(asked.prompt)
    x, before = table(prompt)[None], table(torch.full_like(prompt, reference))[None]
    places, weights = np.polynomial.legendre.leggauss(POINTS)
    total = torch.zeros_like(x[0])
    for place, weight in zip(places.tolist(), weights.tolist(), strict=True):
        total += weight / 2 * gradient(model, before + (1 + place) / 2 * (x - before), asked)
    found = ((x - before)[0] * total).sum(-1).double().numpy()
    return {"integrated gradients": Found(found, time.process_time() - start)}


# ── attention ────────────────────────────────────────────────────────────────────────────────────────────────────────


@torch.inference_mode()
def of_attention(model: Any, asked: Asked) -> All:
    """Attention, mean of the heads, at the positions that predict the answer, mean of these.

    That of the last layer, and rolled out: the product over layers of half itself and half the identity (Abnar and
    Zuidema, 2020).
    """
    probabilities: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> Any:
        probabilities.append(output[1][0].mean(0))
        return output[0], None

    model.set_attn_implementation("eager")  # which returns probabilities
    hooks = [layer.self_attn.register_forward_hook(keep) for layer in model.model.layers]
    start = time.process_time()
    try:
        model.model(input_ids=torch.from_numpy(asked.ids)[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
        model.set_attn_implementation("sdpa")
    read, length = len(asked.prompt), len(asked.ids)
    last = found = torch.eye(length)[read - 1 : length - 1]
    for attention in reversed(probabilities):
        found = (found + found @ attention) / 2
    seconds = time.process_time() - start
    by_name = {"attention rollout": found, "attention, last layer": last @ probabilities[-1]}
    return {name: Found(values.mean(0).double().numpy(), seconds) for name, values in by_name.items()}
