"""Networks at their published width and input size, random weights that live: what bytes and seconds are measured on.

`ARCHITECTURES` has many more, narrow and on small inputs; where it has the same network this takes it from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.networks.architectures import (
    ARCHITECTURES,
    CLASSES,
    calibrate,
    constructed,
    draw_parameters,
    from_config,
    patches,
    tokens,
)

Inputs = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class Published:
    """A network.

    Args:
        title: what its authors call it, and the size of its input.
        build: makes it, in eval mode.
        inputs: seed → inputs of batch 1.
        composite: what it is mostly explained with.
    """

    title: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    composite: str


def _image(seed: int) -> dict[str, Tensor]:
    return {"x": patches((1, 3, 224, 224), torch.Generator().manual_seed(seed))}


def _text(length: int) -> Inputs:
    return lambda seed: {"input_ids": tokens((1, length), torch.Generator().manual_seed(seed))}


def _convolutional(path: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = constructed(path, num_classes=CLASSES)(1, None, None)
        draw_parameters(model.eval(), 0)
        images = patches((4, 3, 224, 224), torch.Generator().manual_seed(1000))
        calibrate(model, {"x": images}, 0)
        return model

    return build


def _drawn(make: Callable[[int, int | None, str | None], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with torch.random.fork_rng():
            model = make(1, None, None)
        draw_parameters(model.eval(), 0)
        return model

    return build


VIT: dict[str, Any] = {"image_size": 224, "patch_size": 16, "num_layers": 12, "num_heads": 12}
BERT: dict[str, Any] = {"num_labels": CLASSES}

PUBLISHED: dict[str, Published] = {
    "vgg16": Published("VGG16, 224²", _convolutional("torchvision.models:vgg16"), _image, "epsilon-plus"),
    "resnet50": Published("ResNet-50, 224²", _convolutional("torchvision.models:resnet50"), _image, "epsilon-plus"),
    "vit_b_16": Published(
        "ViT-B/16, 224²",
        _drawn(
            constructed(
                "torchvision.models:VisionTransformer", hidden_dim=768, mlp_dim=3072, num_classes=CLASSES, **VIT
            )
        ),
        _image,
        "attnlrp",
    ),
    "bert": Published(
        "BERT-base, 128 tokens",
        _drawn(from_config("BertForSequenceClassification", "BertConfig", **BERT)),
        _text(128),
        "attnlrp",
    ),
    "roberta_large": Published(
        "RoBERTa-large, 384 tokens",
        lambda: ARCHITECTURES["roberta_large"].build(width=1),
        _text(384),
        "attnlrp",
    ),
    "llama": Published(
        "Llama 3.2 1B, 16 layers, 128 tokens",
        lambda: ARCHITECTURES["llama"].build(width=1),
        _text(128),
        "attnlrp",
    ),
    "efficientnet_v2_m": Published(
        "EfficientNetV2-M, 224²", _convolutional("torchvision.models:efficientnet_v2_m"), _image, "epsilon-plus"
    ),
    "mamba": Published(
        "Mamba 130M, 24 layers, 64 tokens", lambda: ARCHITECTURES["mamba"].build(width=1), _text(64), "cp-lrp"
    ),
}
"""By the name that the benchmarks take."""
