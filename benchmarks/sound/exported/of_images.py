"""Networks of images: torchvision's and timm's architectures, narrow and shallow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.networks.architectures.weights import draw_parameters

from .subject import ATTENTION, Subject


def _subject(model: nn.Module, side: int) -> Subject:
    draw_parameters(model.eval(), 0, 1.0)
    attends = any(isinstance(part, nn.MultiheadAttention) for part in model.modules())
    return Subject(
        model, lambda batch, length: (torch.randn(batch, 3, side, side),), since=ATTENTION if attends else 11
    )


def _torchvision(side: int, make: Callable[[Any], nn.Module]) -> Subject:
    import torchvision

    return _subject(make(torchvision.models), side)


def _named(name: str, side: int, **options: Any) -> Callable[[], Subject]:
    return partial(_torchvision, side, lambda models: models.get_model(name, weights=None, num_classes=10, **options))


def _made(side: int, make: Callable[[Any], nn.Module]) -> Callable[[], Subject]:
    return partial(_torchvision, side, make)


def _largest(build: Callable[[], Subject]) -> Callable[[], Subject]:
    """Explained by its largest output: of a network that ends in a ReLU any other may be 0, which nothing explains."""
    return lambda: dataclasses.replace(build(), target="argmax")


def _swin(models: Any, second: bool) -> nn.Module:
    more = (
        {"block": models.swin_transformer.SwinTransformerBlockV2}
        | {"downsample_layer": models.swin_transformer.PatchMergingV2}
        if second
        else {}
    )
    return models.SwinTransformer([4, 4], 24, [2, 1], [2, 4], [4, 4], num_classes=10, **more)


def _without_pool(model: nn.Module, features: int) -> nn.Module:
    """The dense layers for maps of one place: the average pool to 6 or 7 places has no name in old files."""
    model.avgpool = nn.Identity()
    model.classifier = nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10))
    return model


def _alexnet(models: Any) -> nn.Module:
    return _without_pool(models.alexnet(weights=None), 256)


def _vgg(models: Any) -> nn.Module:
    return _without_pool(models.vgg11_bn(weights=None), 512)


def _convnext(models: Any) -> nn.Module:
    settings = [models.convnext.CNBlockConfig(16, 32, 1), models.convnext.CNBlockConfig(32, None, 1)]
    return models.ConvNeXt(settings, num_classes=10)


def _mobilenet_v3(models: Any) -> nn.Module:
    kind = models.mobilenetv3.InvertedResidualConfig
    settings = [kind(16, 3, 16, 16, True, "RE", 2, 1, 1), kind(16, 3, 32, 24, False, "RE", 2, 1, 1)]
    settings += [kind(24, 5, 48, 24, True, "HS", 1, 1, 1)]
    return models.MobileNetV3(settings, 64, num_classes=10)


def _efficientnet(models: Any) -> nn.Module:
    plain, fused = models.efficientnet.MBConvConfig, models.efficientnet.FusedMBConvConfig
    settings = [fused(2, 3, 2, 16, 16, 1), plain(4, 3, 2, 16, 24, 2), plain(6, 5, 1, 24, 32, 1)]
    return models.EfficientNet(settings, 0.2, num_classes=10)


def _maxvit(models: Any) -> nn.Module:
    return models.MaxVit((32, 32), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=10)


def _timm(name: str | Callable[[Any], nn.Module], side: int, **options: Any) -> Callable[[], Subject]:
    def build() -> Subject:
        import timm

        timm.layers.set_fused_attn(False)  # tracing cannot export timm's calls of the fused one
        if callable(name):
            return _subject(name(timm), side)
        return _subject(timm.create_model(name, pretrained=False, num_classes=10, **options), side)

    return build


IMAGES: Mapping[str, Callable[[], Subject]] = {
    "torchvision/resnet18": _named("resnet18", 64),
    "torchvision/resnext50": _made(
        64, lambda models: models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], 10, groups=4, width_per_group=8)
    ),
    "torchvision/alexnet": _made(64, _alexnet),
    "torchvision/vgg11_bn": _made(32, _vgg),
    "torchvision/densenet": _made(64, lambda models: models.DenseNet(12, (2, 2, 2), 16, num_classes=10)),
    "torchvision/inception_v3": _named("inception_v3", 96, aux_logits=False, init_weights=False),
    "torchvision/mobilenet_v2": _named("mobilenet_v2", 64, width_mult=0.25),
    "torchvision/mobilenet_v3": _made(64, _mobilenet_v3),
    "torchvision/mnasnet": _named("mnasnet0_5", 64),
    "torchvision/efficientnet": _made(64, _efficientnet),
    "torchvision/regnet_y_400mf": _named("regnet_y_400mf", 64),
    "torchvision/shufflenet_v2": _named("shufflenet_v2_x0_5", 64),
    "torchvision/squeezenet1_1": _largest(_named("squeezenet1_1", 64)),
    "torchvision/convnext": _made(64, _convnext),
    "torchvision/vit": _made(32, lambda models: models.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10)),
    "torchvision/swin_t": _made(64, partial(_swin, second=False)),
    "torchvision/swin_v2_t": _made(64, partial(_swin, second=True)),
    "torchvision/maxvit": _made(32, _maxvit),
    "timm/test_resnet": _timm("test_resnet", 64),
    "timm/test_byobnet": _timm("test_byobnet", 64),
    "timm/test_efficientnet_gn": _timm("test_efficientnet_gn", 64),
    "timm/test_convnext2": _timm("test_convnext2", 64),
    "timm/test_nfnet": _timm("test_nfnet", 64),
    "timm/test_vit3": _timm("test_vit3", 160),
    "timm/mixer": _timm(lambda timm: timm.models.MlpMixer(10, 32, patch_size=8, num_blocks=2, embed_dim=32), 32),
    "timm/xcit": _timm("xcit_nano_12_p8_224", 64, img_size=64, embed_dim=32, depth=2, num_heads=4),
    "timm/levit": _timm("levit_128s", 64, img_size=64, embed_dim=(32, 48, 64), num_heads=(2, 3, 4), depth=(1, 1, 1)),
    "timm/convmixer": _timm(lambda timm: timm.models.ConvMixer(16, 2, 5, 4, num_classes=10), 32),
    "timm/ghostnet": _timm("ghostnet_050", 64),
    "timm/mobilevit": _timm("mobilevit_xxs", 64),
    "timm/eva02": _timm("eva02_tiny_patch14_224", 56, img_size=56, embed_dim=48, depth=2, num_heads=4),
}
