"""The networks on which the contract of the ONNX file is held."""

from functools import cache

from torch import nn

import lrp_compiler as lrp
from benchmarks.networks.architectures import ARCHITECTURES

# (width, depth, names of the open sizes of every input, name of the explained output)
NETWORKS = {
    "resnet50": (16, None, {"x": ["batch", 3, 64, 64]}, "output"),
    "roberta_large": (32, 1, {"input_ids": ["batch", "sequence"]}, "logits"),
    "llama": (32, 1, {"input_ids": ["batch", "sequence"]}, "logits"),
    "bart": (
        32,
        1,
        {"input_ids": ["batch", "sequence"], "decoder_input_ids": ["batch", "decoder_input_ids_sequence"]},
        "logits",
    ),
}


def build(name: str) -> nn.Module:
    """The network, narrow and shallow: one block where the published one repeats many."""
    width, depth, *_ = NETWORKS[name]
    model: nn.Module = ARCHITECTURES[name].build(width=width, depth=depth)
    for stage in (f"layer{number}" for number in range(1, 5) if name == "resnet50"):
        setattr(model, stage, getattr(model, stage)[:1].eval())
    return model


@cache
def explainer(name: str) -> lrp.Explainer:
    """The network's explainer, its target given at run time."""
    architecture = ARCHITECTURES[name]
    return lrp.compile(
        build(name),
        kwargs=architecture.inputs(2),
        composite=architecture.composite,
        target=lrp.Target("index", position=architecture.position),
        dynamic_shapes=architecture.dynamic_shapes,
    )
