"""The architectures of the zoo in a size for every run: narrow, and with fewer of the blocks that repeat."""

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .life import calibrate
from .zoo import SEVEN, VGG16_BN, Example, images

# A second block of a stage differs from its first in a convolutional network, in a transformer it does not. Stages are
# alike: only the first that has a second block keeps it.
CONVOLUTIONAL = ("vgg16", "resnet50", "efficientnet_lite0")
COMPOSITE = dict.fromkeys(SEVEN, "attnlrp") | dict.fromkeys(CONVOLUTIONAL, "epsilon-plus")
"""Each network with the composite that it is mostly explained with."""
# By the published width. In EfficientNet's narrowest stage only one channel would be left, which z⁺ mostly finds empty.
WIDTHS = {"efficientnet_lite0": 8}


@cache
def small(name: str, dtype: torch.dtype = torch.float32) -> Example:
    """Return the architecture; the same object for every caller, so whoever changes the model takes a copy.

    The weights are the same numbers in every dtype.
    """
    if dtype != torch.float32:
        return _cast(small(name), dtype)
    example = {**SEVEN, VGG16_BN.name: VGG16_BN}[name].build(width=WIDTHS.get(name, 16))
    blocks = list(_repeated(name, example.model))
    kept = 2 if name in CONVOLUTIONAL else 1
    for owner, attribute in blocks:
        stage = getattr(owner, attribute)
        setattr(owner, attribute, stage[:kept].eval())
        if len(stage) > 1:
            kept = 1
    if config := getattr(example.model, "config", None):
        config.num_hidden_layers = 1
    if blocks and name in CONVOLUTIONAL:
        # Statistics belong to the depth at which they were taken.
        calibrate(example.model, images(8, example.args[0].shape[-1], 1000, torch.float64), seed=0)
    return example


def _repeated(name: str, model: Any) -> Iterator[tuple[nn.Module, str]]:
    """Where the sequences of equal blocks are."""
    if name == "resnet50":
        yield from ((model, f"layer{number}") for number in range(1, 5))
    elif name == "efficientnet_lite0":
        yield from ((model.blocks, str(number)) for number in range(len(model.blocks)))
    elif name == "vit_b_16":
        yield model.encoder, "layers"
    elif name == "bert":
        yield model.bert.encoder, "layer"
    elif name == "gpt2":
        yield model.transformer, "h"
    elif name == "llama":
        yield model.model, "layers"


def _cast(example: Example, dtype: torch.dtype) -> Example:
    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    def fresh(**options: Any) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        args, kwargs = example.fresh(**options)
        return tuple(map(cast, args)), {name: cast(value) for name, value in kwargs.items()}

    model = copy.deepcopy(example.model).to(dtype)
    return Example(model, tuple(map(cast, example.args)), example.kwargs, example.dynamic_shapes, fresh)
