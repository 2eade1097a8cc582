"""Relatives that see: networks of convolutions and of attention, maps of features, and SigLIP's other tower."""

from __future__ import annotations

from benchmarks.networks.architectures.architecture import Architecture
from benchmarks.networks.architectures.builders import constructed, convolutional, from_config, local, output
from benchmarks.networks.architectures.configurations import SIGLIP
from benchmarks.networks.architectures.inputs import TEXT, Input, image, tokens
from benchmarks.networks.architectures.modules import UNet
from benchmarks.networks.architectures.sizes import CLASSES, Stages, Width

VISION: dict[str, Architecture] = {
    "siglip2_text": Architecture(
        "SigLIP 2 So400m, text tower",
        output("pooler_output", from_config("SiglipTextModel", "SiglipTextConfig", vocab_size=199, **SIGLIP)),
        {"x": Input(tokens, ("batch", "sequence"))},
        sizes=TEXT,
        longest=64,
    ),
    "swin": Architecture(
        "Swin-T",
        constructed(
            "torchvision.models:SwinTransformer",
            patch_size=[4, 4],
            embed_dim=Width(96),
            depths=Stages((2, 2, 6, 2)),
            num_heads=[3, 6, 12, 24],
            window_size=[7, 7],
            num_classes=CLASSES,
        ),
        image(112),
        width=4,
    ),
    "convnext": Architecture(
        "ConvNeXt-T",
        constructed(
            "timm.models.convnext:ConvNeXt",
            depths=Stages((3, 3, 9, 3)),
            dims=(Width(96), Width(192), Width(384), Width(768)),
            num_classes=CLASSES,
        ),
        image(64),
    ),
    "densenet": Architecture(
        "DenseNet-121",
        constructed(
            "torchvision.models:DenseNet",
            growth_rate=Width(32),
            block_config=Stages((6, 12, 24, 16)),
            num_init_features=Width(64),
            num_classes=CLASSES,
        ),
        image(64),
        "epsilon-plus",
        calibrated=True,
    ),
    "mobilenet_v2": convolutional("MobileNetV2", "torchvision.models:mobilenet_v2"),
    "mobilenet_v3": convolutional("MobileNetV3-L", "torchvision.models:mobilenet_v3_large"),
    "inception": convolutional(
        "Inception v3", "torchvision.models:inception_v3", size=96, aux_logits=False, init_weights=False
    ),
    "regnet": convolutional("RegNetY-400MF", "torchvision.models:regnet_y_400mf", width=1),
    "unet": Architecture(
        "U-Net", local(UNet, base=Width(64)), image(64), "epsilon-plus", calibrated=True, position="sum"
    ),
    "fpn": Architecture(
        "ResNet-18 + FPN (detection)",
        output(
            "0",
            constructed(
                "torchvision.models.detection.backbone_utils:resnet_fpn_backbone",
                backbone_name="resnet18",
                weights=None,
            ),
        ),
        image(64),
        "epsilon-plus",
        width=1,
        calibrated=True,
        position="sum",
    ),
}
