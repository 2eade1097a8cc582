"""What the room measures, as data: cases with their targets, contenders, and series in which one size grows.

Nothing here imports torch: the peers' environments read it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

REFERENCE = "forward"
"""The contender that all others are measured beside."""
OURS = "explainer"
"""The contender that targets are stated for."""

LEAST = 0.25
"""Memory budget of the `small` file of a case that is to take the least memory."""


@dataclass(frozen=True)
class Case:
    """A network explained by a composite.

    Args:
        name: as the command line takes it.
        title: as the tables show it.
        network: name among `PUBLISHED`, or among `ARCHITECTURES` with sizes:
            "roberta_large/depth=6,sequence=128".
        composite: name of the composite.
        options: of the composite.
        target: at most so many forwards of onnxruntime may an explanation take, the forward included.
        faster: peer → at least so many times as long it should take.
        batches: those that are measured.
        together: at most so many contenders are in memory beside the reference.
        note: said under the table.
        tried: keys of `TRIED`, said where a target is not met.
        open_batch: whether the explainer takes any batch, or the example's alone.
        least: whether the `small` contender gives up time for memory as far as it can: a quarter of the promises is
            kept, nothing that follows from weights alone is.
        rewritten: whether the exporter's rewriter goes over the plain model's file; else it is tidied as ours is.
    """

    name: str
    title: str
    network: str
    composite: str
    options: Mapping[str, Any] = field(default_factory=dict)
    target: float | None = None
    faster: Mapping[str, float] = field(default_factory=dict)
    batches: tuple[int, ...] = (1, 8)
    together: int = 4
    note: str = ""
    tried: tuple[str, ...] = ()
    open_batch: bool = True
    least: bool = False
    rewritten: bool = True

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Case:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**data, "batches": tuple(data["batches"]), "tried": tuple(data["tried"])})

    def to_dict(self) -> dict[str, Any]:
        """The case as plain data."""
        return asdict(self)


def _cases(*cases: Case) -> dict[str, Case]:
    return {case.name: case for case in cases}


BOX: dict[str, Any] = {"low": -4.0, "high": 4.0}
ROBERTA_NOTE = "LXT has no RoBERTa: its BERT of the same sizes stands in for it."
VIT_NOTE = "LXT's own recipe for torchvision's ViT holds attention patterns fixed (CP-LRP): it computes less."
TRIED = {
    "maps": (
        "Tried on maps: the stabiliser behind a ReLU without `Sign` and `Abs` (kept), disjoint pools without indices, "
        "by pools of their windows' corners (kept), denominators as biases of their convolutions (kept), `Softsign` "
        "for a/(a + ε), `Where` and `DepthToSpace` (no gain: each slower than what it replaces). Not done: the factor "
        "a/(a + ε) behind a pool at the pooled size, since then no value of the graph is the relevance of what the "
        "pool reads. What is left are passes over memory, and the runtime's changes of layout around them: its "
        "convolutions work on blocks of channels, its elementwise operators do not."
    ),
    "strides": (
        "A strided convolution's transpose is `ConvTranspose`, which the runtime does not run on blocks of channels "
        "(not tried: one convolution a phase)."
    ),
    "lxt": (
        "LXT explains in the time of PyTorch's gradient, which is about two of onnxruntime's forwards if no parameter "
        "asks for one: what an explanation needs as well, for a forward and its transpose."
    ),
    "gamma": (
        "γ of inputs of both signs: two maps, W and |W|, forward and back instead of one for every pair of signs "
        "(kept); what is left are passes over activations."
    ),
}
"""What was done about the distance to a target, by what stands in the way."""

CASES = _cases(
    Case("vgg16-epsilon", "VGG16 `epsilon`", "vgg16", "epsilon", {}, 2.1, {"zennit": 2.2}, tried=("maps",)),
    Case(
        "vgg16-epsilon-plus",
        "VGG16 `epsilon-plus`",
        "vgg16",
        "epsilon-plus",
        {},
        3.1,
        {"zennit": 2.8},
        tried=("maps",),
        least=True,
    ),
    Case(
        "vgg16-gamma-box",
        "VGG16 `epsilon-gamma-box`",
        "vgg16",
        "epsilon-gamma-box",
        BOX,
        3.3,
        {"zennit": 4.5},
        tried=("maps",),
        least=True,
    ),
    Case(
        "resnet50-epsilon",
        "ResNet-50 `epsilon`",
        "resnet50",
        "epsilon",
        {},
        2.3,
        {"zennit": 4.0},
        tried=("maps", "strides"),
    ),
    Case(
        "resnet50-epsilon-plus",
        "ResNet-50 `epsilon-plus`",
        "resnet50",
        "epsilon-plus",
        {},
        3.3,
        {"zennit": 4.0},
        tried=("maps", "strides"),
        least=True,
    ),
    Case(
        "efficientnet-epsilon-plus",
        "EfficientNetV2-M `epsilon-plus`",
        "efficientnet_v2_m",
        "epsilon-plus",
        {},
        4.8,
        {"zennit": 2.3},
        tried=("maps", "strides"),
        least=True,
    ),
    Case(
        "vit-attnlrp-gamma",
        "ViT-B/16 `attnlrp-gamma`",
        "vit_b_16",
        "attnlrp-gamma",
        {},
        4.2,
        note=VIT_NOTE,
        tried=("gamma",),
        least=True,
    ),
    Case(
        "vit-attnlrp",
        "ViT-B/16 `attnlrp`",
        "vit_b_16",
        "attnlrp",
        {},
        2.15,
        {"lxt": 1.9},
        note=VIT_NOTE,
        tried=("lxt",),
    ),
    Case("bert-attnlrp", "BERT-base, 128 tokens, `attnlrp`", "bert", "attnlrp", {}, 2.15, {"lxt": 1.9}, tried=("lxt",)),
    Case(
        "roberta-attnlrp",
        "RoBERTa-large, 384 tokens, `attnlrp`",
        "roberta_large",
        "attnlrp",
        {},
        2.15,
        {"lxt": 1.9},
        together=1,
        note=ROBERTA_NOTE,
        tried=("lxt",),
    ),
    Case(
        "llama-attnlrp",
        "Llama 3.2 1B, 128 tokens, last position, `attnlrp`",
        "llama",
        "attnlrp",
        {},
        2.05,
        {"lxt": 1.9},
        batches=(1,),
        together=1,
        note="Batch 8 is left out for time and memory: every process holds 4.9 GB of weights.",
    ),
    Case(
        "mamba-cp-lrp",
        "Mamba 130M, 64 tokens, `cp-lrp`",
        "mamba",
        "cp-lrp",
        {},
        2.8,
        together=3,
        note="The plain model's file is tidied as ours is; the exporter's own rewriter does not end on so many nodes.",
        rewritten=False,
    ),
)


@dataclass(frozen=True)
class Contender:
    """Who is measured.

    Args:
        title: as the tables show it.
        module: which one of peers/ makes it: `make(contender name, case, folder, threads)`.
        composites: those that it has; `None`: any.
        networks: names of networks start with one of these; `None`: any.
        own_environment: whether it runs in build/peers.
        optional: measured only when it is named.
    """

    title: str
    module: str
    composites: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    own_environment: bool = False
    optional: bool = False

    def fits(self, case: Case) -> bool:
        """Whether it can explain this case."""
        return (self.composites is None or case.composite in self.composites) and (
            self.networks is None or case.network.startswith(self.networks)
        )


CNNS = ("vgg16", "resnet50", "efficientnet_v2_m")
CONTENDERS = {
    REFERENCE: Contender("onnxruntime, forward", "ours"),
    "explainer": Contender("onnxruntime, explainer", "ours"),
    "small": Contender("onnxruntime, explainer, `small` profile", "ours"),
    "torch-explainer": Contender("PyTorch, explainer", "ours"),
    "torch-compile": Contender("PyTorch, explainer under torch.compile", "ours", optional=True),
    "torch-forward": Contender("PyTorch, forward", "gradient"),
    "gradient": Contender("gradient × input", "gradient"),
    "zennit": Contender("Zennit", "zennit_peer", ("epsilon", "epsilon-plus", "epsilon-gamma-box"), CNNS),
    "lxt": Contender(
        "LXT", "lxt_peer", ("attnlrp", "attnlrp-gamma"), ("vit_b_16", "bert", "roberta_large", "llama"), True
    ),
    "autolrp": Contender(
        "autoLRP", "autolrp_peer", ("epsilon", "epsilon-plus", "attnlrp", "cp-lrp"), own_environment=True
    ),
}
PEERS = ("torch-forward", "gradient", "zennit", "lxt", "autolrp")


@dataclass(frozen=True)
class Series:
    """One size grows, the rest stays.

    Args:
        title: as the table shows it.
        size: "batch", "layers" or "tokens".
        sizes: its values.
        network: with `{}` where the size goes, unless it is the batch.
        composite: name of the composite.
    """

    title: str
    size: str
    sizes: tuple[int, ...]
    network: str
    composite: str

    def case(self, size: int) -> tuple[Case, int]:
        """The case of one point, and its batch."""
        batch = size if self.size == "batch" else 1
        batches = self.sizes if self.size == "batch" else (1,)
        name = f"scaling-{self.network.partition('/')[0]}-{self.size}" + ("" if self.size == "batch" else f"-{size}")
        return Case(name, self.title, self.network.format(size), self.composite, batches=batches), batch


SERIES = {
    "vgg16-batch": Series("VGG16 `epsilon-plus`, by batch", "batch", (1, 2, 4, 8), "vgg16", "epsilon-plus"),
    "bert-batch": Series("BERT-base, 128 tokens, `attnlrp`, by batch", "batch", (1, 2, 4, 8), "bert", "attnlrp"),
    "roberta-layers": Series(
        "RoBERTa-large, 128 tokens, `attnlrp`, by layers",
        "layers",
        (3, 6, 12, 24),
        "roberta_large/depth={},sequence=128",
        "attnlrp",
    ),
    "roberta-tokens": Series(
        "RoBERTa-large, 6 layers, `attnlrp`, by tokens",
        "tokens",
        (64, 128, 256, 500),
        "roberta_large/depth=6,sequence={}",
        "attnlrp",
    ),
}

COMPILED = _cases(
    Case("flan-t5-large", "Flan-T5-large, `attnlrp`", "flan_t5_large/width=1", "attnlrp"),
    Case("mamba-32", "Mamba 130M, 32 tokens, `cp-lrp`", "mamba/sequence=32", "cp-lrp"),
    Case("mamba-32-fixed", "… batch fixed", "mamba/sequence=32", "cp-lrp", open_batch=False),
)
"""Whose compilation and export alone are timed."""
