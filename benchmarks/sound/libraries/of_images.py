"""Families of timm, and torchvision's models: the smallest of each, at a small image size where it takes one."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.networks.architectures.weights import draw_parameters

from .example import Example, Library, NotBuilt

SMALL = (
    "test_",
    "atto",
    "femto",
    "pico",
    "nano",
    "tiny",
    "_xxs",
    "_xs",
    "small",
    "_s0",
    "18",
    "14",
    "_t",
    "_s",
    "mini",
)
"""What the names of small ones hold, the smallest first."""
TRIED = 6
"""Of a family: how many are counted to find the smallest."""
PLAIN = (
    *(
        "resnet",
        "vgg",
        "convnext",
        "densenet",
        "efficientnet",
        "regnet",
        "mobilenet",
        "inception",
        "dla",
        "dpn",
        "hrnet",
    ),
    *("xception", "cspnet", "res2net", "resnest", "senet", "sknet", "vovnet", "nasnet", "repvit", "rexnet", "selecsls"),
)
"""Convolutional families, explained by `epsilon-plus`; the others by `attnlrp`."""


def timm_families() -> list[str]:
    from timm.models._registry import _module_to_models

    return sorted(_module_to_models)


def timm_model(family: str) -> Example:
    import timm
    from timm.models._registry import _module_to_models

    models = sorted(_module_to_models[family], key=lambda name: (_rank(name), len(name), name))
    sizes = {}
    for name in models[:TRIED]:
        with torch.device("meta"):
            try:
                sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters())
            except Exception:
                continue
    if not sizes:
        raise NotBuilt("no model of the family can be counted")
    name = min(sizes, key=lambda name: sizes[name])
    side, model = _timm_at(name)
    draw_parameters(model, 0, 1.0)
    composite = "epsilon-plus" if any(part in family for part in PLAIN) else "attnlrp"
    channels = model.pretrained_cfg.get("input_size", (3, 64, 64))[0] if hasattr(model, "pretrained_cfg") else 3
    return Example(model, lambda: (torch.randn(2, channels, side, side),), composite, note=f"{name}, {side} px")


def _timm_at(name: str) -> tuple[int, Any]:
    """The model, at the smallest side that it takes."""
    import timm

    reasons = []
    for side, options in ((64, {"img_size": 64}), (64, {}), (96, {}), (128, {"img_size": 128}), (224, {}), (256, {})):
        try:
            model = timm.create_model(name, num_classes=10, **options).eval()
            channels = model.pretrained_cfg.get("input_size", (3, 64, 64))[0]
            with torch.no_grad():
                model(torch.randn(2, channels, side, side))
            return side, model
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {error}")
    raise NotBuilt(reasons[-1][:200])


def _rank(name: str) -> int:
    return next((place for place, part in enumerate(SMALL) if part in name), len(SMALL))


def torchvision_models() -> list[str]:
    import torchvision

    # One of each architecture: those that differ in width and depth alone are alike.
    skipped = ("quantized", "_b1", "_b2", "_b3", "_b4", "_b5", "_b6", "_b7", "101", "152", "34", "_l", "_m", "_h_14")
    skipped += (
        "8gf",
        "16gf",
        "32gf",
        "128gf",
        "1_6gf",
        "3_2gf",
        "0_75",
        "1_3",
        "x1_0",
        "x1_5",
        "x2_0",
        "169",
        "201",
        "161",
    )
    skipped += (
        "vgg13",
        "vgg16",
        "vgg19",
        "base",
        "large",
        "swin_b",
        "swin_s",
        "swin3d_b",
        "swin3d_s",
        "swin_v2_s",
        "swin_v2_b",
    )
    kept = ("mobilenet_v3_large", "deeplabv3_mobilenet", "lraspp", "ssdlite", "ssd300")
    names = torchvision.models.list_models()
    return [n for n in names if any(k in n for k in kept) or not any(part in n for part in skipped)]


VIDEO = ("r3d", "mc3", "r2plus1d", "s3d", "mvit", "swin3d")
DETECTION = ("rcnn", "retinanet", "fcos", "ssd")


def torchvision_model(name: str) -> Example:
    import torchvision

    options: dict[str, Any] = {"weights": None}
    if any(part in name for part in (*DETECTION, "fcn", "deeplab", "lraspp")):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    model = torchvision.models.get_model(name, **options).eval()
    draw_parameters(model, 0, 1.0)
    shape: tuple[int, ...] = (2, 3, 64, 64)
    if any(part in name for part in VIDEO):
        shape = (1, 3, 16, 64, 64) if "mvit" not in name else (1, 3, 16, 224, 224)
    elif "inception" in name or "vit" in name or "ssd" in name:
        shape = (2, 3, 224, 224) if "inception" not in name else (2, 3, 96, 96)
    if "raft" in name:
        pair = torch.randn(2, 1, 3, 128, 128)
        return Example(model, lambda: (pair[0] + torch.randn(()), pair[1]), target=_flow, note=name)
    if any(part in name for part in DETECTION):
        return Example(model, lambda: ([torch.rand(3, 64, 64)],), note=name)
    dense = any(part in name for part in ("fcn", "deeplab", "lraspp"))
    composite = "attnlrp" if "vit" in name or "swin" in name else "epsilon-plus"
    target = (lambda outputs: outputs["out"][:, 1].mean((1, 2))) if dense else None
    return Example(model, lambda: (torch.randn(shape),), composite, target, note=f"{name}, {shape[-1]} px")


def _flow(outputs: Any) -> Any:
    return outputs[-1].flatten(1).mean(1)


TIMM = Library("timm", timm_families, timm_model)
TORCHVISION = Library("torchvision", torchvision_models, torchvision_model)
