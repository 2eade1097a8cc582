"""How much each token matters to a logit: our composites, LXT, captum's methods on the embeddings, and chance.

A token's figure is the sum over the features of its word embedding. Every method explains the same logit of the same
network on the same inputs. Signs say for (+) or against (−) that logit; saliency and SmoothGrad, which average
magnitudes as captum does by default, have none, and "smoothgrad-x-input" is SmoothGrad with a sign.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from benchmarks.base import environment, processes
from benchmarks.base.places import BUILD
from benchmarks.faithful.interface import say
from benchmarks.faithful.lxt_tokens import IN, OUT
from benchmarks.networks import pretrained
from lrp_compiler.runtime import OnnxExplainer

CACHE = BUILD / "faithfulness"
SEED = 0


class Batch(NamedTuple):
    """Sequences, padded at their ends, and the class whose logit is explained."""

    input_ids: Tensor
    """int64 `[batch, sequence]`."""
    attention_mask: Tensor
    """int64 `[batch, sequence]`: 0 at padding."""
    target: Tensor
    """int64 `[batch]`."""


@dataclass(frozen=True)
class Network:
    """A network of tokens, and what methods need to know of it.

    Args:
        name: by which LXT's process builds it (see `lxt_tokens.NETWORKS`).
        model: in eval mode; `forward(input_ids, attention_mask)` and `from_embeddings(embeddings, attention_mask)`
            return logits `[batch, classes]`; `embedding` is the table of word embeddings.
        reference: id of the token that says nothing: integrated gradients and GradientSHAP start there.
        draws: how many points, or noisy copies, integrated gradients, SmoothGrad and GradientSHAP take.
        shapes: open sizes, as `lrp.compile` takes them.
        configuration: of the encoder, as plain data, for LXT's process.
    """

    name: str
    model: Any
    reference: int
    draws: int
    shapes: dict[str, Any]
    configuration: Mapping[str, Any] = field(default_factory=dict)


class Attributed(NamedTuple):
    """What a method found: an array `[batch, sequence]` for each batch, and the CPU seconds it took to explain them."""

    relevance: list[np.ndarray]
    seconds: float


Explain = Callable[[Network, Sequence[Batch]], Attributed]


def one_by_one(attribute: Callable[[Batch], np.ndarray], batches: Sequence[Batch]) -> Attributed:
    """Batch after batch, timed."""
    start = time.process_time()
    found = [attribute(batch) for batch in batches]
    return Attributed(found, time.process_time() - start)


# ── ours ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def session_options() -> onnxruntime.SessionOptions:
    """As many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return options


def ours(composite: lrp.Composite, network: Network, batches: Sequence[Batch]) -> Attributed:
    """An explainer, compiled to ONNX and run in onnxruntime; the file does not outlive the run."""
    example = batches[0]
    explainer = lrp.compile(
        network.model,
        kwargs={"input_ids": example.input_ids, "attention_mask": example.attention_mask},
        composite=composite,
        target="index",
        seed="value",  # also of dynamic-lrp, whose own seed 1 turns all signs round where a logit is negative
        dynamic_shapes=network.shapes,
    )
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        path = Path(folder) / "model.lrp.onnx"
        explainer.to_onnx(path)
        del explainer
        with OnnxExplainer(path, session_options=session_options()) as run:

            def attribute(batch: Batch) -> np.ndarray:
                ids, mask, target = (tensor.numpy() for tensor in batch)
                found: np.ndarray = run(input_ids=ids, attention_mask=mask, target=target).relevance["input_ids"]
                return found

            return one_by_one(attribute, batches)


GAMMAS = (0.05, 0.25)
OURS: dict[str, lrp.Composite] = {
    "epsilon": lrp.composites.epsilon(),
    "attnlrp": lrp.composites.attnlrp(),
    "cp-lrp": lrp.composites.cp_lrp(),
    **{f"attnlrp-gamma({gamma:g})": lrp.composites.attnlrp_gamma(linear=gamma) for gamma in GAMMAS},
    "dynamic-lrp": lrp.composites.dynamic_lrp(),
}
"""By name; `epsilon-plus` and its relatives are `epsilon` where nothing is a convolution."""

# ── captum ───────────────────────────────────────────────────────────────────────────────────────────────────────────

NOISE = 0.5
"""Deviation of the noise in those of the table's entries: about a tenth of the range that most of them lie in."""


class OfEmbeddings(nn.Module):
    """The network as a function of word embeddings, as captum wants it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.model = network.model

    def forward(self, embeddings: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model.from_embeddings(embeddings, attention_mask)
        return logits


Options = Callable[[Network, Tensor], dict[str, Any]]
"""Network and embeddings `[batch, sequence, features]` → what captum's `attribute` is given besides."""


def captum(name: str, options: Options, network: Network, batches: Sequence[Batch]) -> Attributed:
    """captum 0.9 on the word embeddings; a method "Noise X" is X behind a NoiseTunnel."""
    from captum import attr

    made = getattr(attr, name.removeprefix("Noise "))(OfEmbeddings(network))
    made = attr.NoiseTunnel(made) if name.startswith("Noise ") else made
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # GradientShap draws baselines by numpy

    def attribute(batch: Batch) -> np.ndarray:
        x = network.model.embedding(batch.input_ids).detach().requires_grad_()
        given = {"target": batch.target, "additional_forward_args": (batch.attention_mask,)}
        found: np.ndarray = made.attribute(x, **given, **options(network, x)).detach().sum(-1).numpy()
        return found

    return one_by_one(attribute, batches)


def reference(network: Network, x: Tensor) -> Tensor:
    """The embeddings of one sequence that says nothing, `[1, sequence, features]`."""
    nothing = network.model.embedding(torch.tensor([network.reference])).detach()
    return nothing.expand(1, *x.shape[1:]).contiguous()


def deviation(network: Network) -> float:
    return NOISE * float(network.model.embedding.weight.std())


def _path(network: Network, x: Tensor) -> dict[str, Any]:
    return {"n_steps": network.draws, "baselines": reference(network, x).expand_as(x).contiguous()}


def _noise(network: Network, x: Tensor) -> dict[str, Any]:
    return {"nt_type": "smoothgrad", "nt_samples": network.draws, "stdevs": deviation(network)}


def _shap(network: Network, x: Tensor) -> dict[str, Any]:
    return {"n_samples": network.draws, "stdevs": deviation(network), "baselines": reference(network, x)}


CAPTUM: dict[str, tuple[str, Options]] = {
    "gradient-x-input": ("InputXGradient", lambda _, __: {}),
    "integrated-gradients": ("IntegratedGradients", _path),
    "smoothgrad": ("Noise Saliency", _noise),
    "smoothgrad-x-input": ("Noise InputXGradient", _noise),
    "saliency": ("Saliency", lambda _, __: {}),
    "gradient-shap": ("GradientShap", _shap),
}

# ── LXT and chance ───────────────────────────────────────────────────────────────────────────────────────────────────


def lxt(variant: str, network: Network, batches: Sequence[Batch]) -> Attributed:
    """LXT 2.1 in build/peers, on the same weights and ids, which travel in files."""
    job = {"network": network.name, "variant": variant, "configuration": dict(network.configuration)}
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        torch.save({"job": job, "state": network.model.state_dict(), "batches": list(map(tuple, batches))}, folder / IN)
        python, asked = environment.python(), (folder, torch.get_num_threads())
        command = processes.command("benchmarks.faithful.lxt_tokens", *asked, python=python, quiet=True)
        done = subprocess.run(command, capture_output=True, text=True, env=processes.environment(python))
        if done.returncode:
            raise pretrained.UnavailableError(f"LXT ended with: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        found = torch.load(folder / OUT, weights_only=True)
    return Attributed([relevance.numpy() for relevance in found["relevance"]], found["seconds"])


def chance(network: Network, batches: Sequence[Batch]) -> Attributed:
    """Normal noise."""
    generator = np.random.default_rng(SEED)
    return one_by_one(lambda batch: generator.standard_normal(batch.input_ids.shape), batches)


@dataclass(frozen=True)
class Method:
    """How relevance is had; `same`: the method of ours that computes the same by other means."""

    family: str
    explain: Explain
    same: str | None = None


METHODS: dict[str, Method] = {
    **{name: Method("ours", partial(ours, composite)) for name, composite in OURS.items()},
    "lxt attnlrp": Method("peer", partial(lxt, "attnlrp"), same="attnlrp"),
    "lxt cp-lrp": Method("peer", partial(lxt, "cp-lrp"), same="cp-lrp"),
    "lxt attnlrp-gamma(0.05)": Method("peer", partial(lxt, "attnlrp-gamma"), same="attnlrp-gamma(0.05)"),
    **{name: Method("peer", partial(captum, *of)) for name, of in CAPTUM.items()},
    "random": Method("baseline", chance),
}


def rows_of(
    head: Mapping[str, Any], network: Network, batches: Sequence[Batch], methods: Sequence[str]
) -> Iterator[tuple[dict[str, Any], list[np.ndarray] | None]]:
    """Of each method the head of its row, and relevance sequence by sequence, without padding.

    The row of a peer's method that computes the same as one of ours says by how much the two differ. A peer's method
    that cannot be run has no relevance (`None`), and its row says why.
    """
    known: dict[str, Attributed] = {}

    def attributed(name: str) -> Attributed:
        if name not in known:
            say(f"explain by {name}")
            known[name] = METHODS[name].explain(network, batches)
        return known[name]

    for name in methods:
        method = METHODS[name]
        row = {**head, "method": name, "family": method.family}
        try:
            found = attributed(name)
        except Exception as error:  # what a peer cannot do is a row too
            if method.family == "ours":
                raise
            yield row | {"failure": f"{type(error).__name__}: {error}".splitlines()[0][:300]}, None
            continue
        row["seconds"] = found.seconds
        if method.same:
            row["difference"] = difference(batches, found, attributed(method.same))
            row["note"] = f"differs from ours by {row['difference']:.0e} of a sequence's largest relevance"
        yield row, sequences_of(batches, found)


def sequences_of(batches: Sequence[Batch], found: Attributed) -> list[np.ndarray]:
    """Relevance `[sequence]` of each sequence, without padding."""
    pairs = zip(batches, found.relevance, strict=True)
    return [
        row[mask] for batch, rows in pairs for row, mask in zip(rows, batch.attention_mask.bool().numpy(), strict=True)
    ]


def difference(batches: Sequence[Batch], first: Attributed, second: Attributed) -> float:
    """The median over sequences of the largest difference, as a share of the sequence's largest relevance."""
    pairs = zip(sequences_of(batches, first), sequences_of(batches, second), strict=True)
    return float(np.median([np.abs(one - other).max() / np.abs(other).max() for one, other in pairs]))
