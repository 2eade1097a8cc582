"""Atlases of EfficientNet-Lite0: which channels of a layer made a class, and what else excites them.

Parts of `benchmarks.shown.inside`: each takes something that is told what is being done, and something that saves a
picture under a name, and returns the figures of its part of the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import lrp_compiler as lrp
from benchmarks.faithful import training
from benchmarks.networks import pretrained
from lrp_compiler import concepts
from lrp_compiler.pictures.figure import Picture

Report = Callable[[str], None]
Save = Callable[[str, Picture], None]
BATCH = torch.export.Dim("batch")


def _lite(path: str, x: Tensor) -> tuple[Any, lrp.Explainer, list[str]]:
    """EfficientNet-Lite0, its explainer with conditions on a layer, and its classes."""
    model, labels = pretrained.efficientnet_lite0(), pretrained.imagenet_labels()
    options: dict[str, Any] = {"composite": "epsilon-plus", "target": "index", "dynamic_shapes": {"x": {0: BATCH}}}
    return model, lrp.compile(model, (x[:2],), observe=path, masks=path, **options), labels


def atlas(report: Report, save: Save) -> dict[str, Any]:
    """The head's convolution of EfficientNet-Lite0, 1280 channels of 7 × 7 places, on the cat Chelsea."""
    path, count = "conv_head", 5
    images = [image for _, image in pretrained.photos()] + [photo.image for photo in pretrained.imagenet_photos()]
    pictures = [pretrained.crop(image) for image in images]
    x = torch.stack([pretrained.preprocess(image) for image in images])
    report("compile EfficientNet-Lite0")
    model, explainer, labels = _lite(path, x)
    with torch.no_grad():
        target = int(model(x[:1]).argmax())
    report(f"look through {len(x)} photographs")
    found = concepts.references(explainer, x.split(9), path, by="activation", k=count)
    report("draw the atlas")
    drawn = concepts.atlas(
        explainer, x[:1], found, x, without=[0], target=target, picture=pictures[0], pictures=pictures, labels=labels
    )
    save("atlas_efficientnet_lite0.png", drawn)
    whole = explainer(x[:1], target=target).relevance["x"]
    shares = concepts.channels(explainer, x[:1], path, target=target)[0]
    strongest = shares.argsort()[::-1][:count].tolist()
    # All channels, a hundredth of them at a time: their heatmaps add up to the plain one.
    every = torch.eye(100).repeat_interleave(-(-len(shares) // 100), 1)[:, : len(shares)]
    parts = [{path: row.numpy(), "y": target} for row in every]
    total = torch.zeros_like(whole)
    for at in range(0, len(parts), 10):
        report(f"add up heatmaps under all channels: {at} of {len(parts)} parts")
        total += concepts.conditional(explainer, x[:1], parts[at : at + 10]).relevance["x"].sum(0)
    return {
        "model": "EfficientNet-Lite0",
        "layer": path,
        "composite": "epsilon-plus",
        "photographs": len(x),
        "explained": labels[target],
        "channels": {str(channel): float(shares[channel]) for channel in strongest},
        "heatmaps_off": float((total - whole).abs().max() / whole.abs().max()),
    }


CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
"""Fashion-MNIST's classes."""


def dataset(report: Report, save: Save) -> dict[str, Any]:
    """That convolution over Fashion-MNIST, on the image of which EfficientNet-Lite0 is surest; and, of each channel
    drawn, of which class of clothes its 20 strongest images are."""
    path, count, strongest = "conv_head", 2000, 20
    grey, classes = training.images("t10k")
    grey = (grey[:count] * training.DEVIATION + training.MEAN).clamp(0, 1) * 2 - 1

    def enlarged(pictures: Tensor) -> Tensor:
        size = (224, 224)
        return torch.nn.functional.interpolate(pictures, size, mode="bicubic").clamp(-1, 1).expand(-1, 3, -1, -1)

    report("compile EfficientNet-Lite0")
    model, explainer, labels = _lite(path, enlarged(grey[:2]))
    sure = []
    with torch.no_grad():
        for at, batch in enumerate(grey.split(20)):
            report(f"classify {at * 20} of {count}")
            sure.append(model(enlarged(batch)).softmax(1).max(1))
    best = int(torch.cat([one.values for one in sure]).argmax())
    target = int(torch.cat([one.indices for one in sure])[best])
    x = enlarged(grey[best : best + 1]).contiguous()
    found = concepts.references(
        explainer,
        (enlarged(batch).contiguous() for batch in grey.split(20)),
        path,
        by="activation",
        k=strongest,
        told=lambda so_far: report(f"look through {so_far.seen} of {count}"),
    )
    report("draw the atlas")
    sample = lambda number: enlarged(grey[number : number + 1])[0]  # noqa: E731
    save(
        "atlas_fashion_mnist.png",
        concepts.atlas(explainer, x, found, sample, without=[best], target=target, labels=labels, crop=1.0),
    )
    shares = concepts.channels(explainer, x, path, target=target)[0]
    channels = {}
    for channel in shares.argsort()[::-1][:5].tolist():
        worn = Counter(CLOTHES[int(classes[number])] for number in found.samples[channel] if number >= 0)
        channels[str(channel)] = {"share": float(shares[channel]), "classes": dict(worn.most_common())}
    return {
        "model": "EfficientNet-Lite0",
        "layer": path,
        "composite": "epsilon-plus",
        "images": count,
        "explained": labels[target],
        "of_class": CLOTHES[int(classes[best])],
        "strongest": strongest,
        "channels": channels,
    }


def page(rows: Mapping[str, Any]) -> list[str]:
    """Their part of the page."""
    lines: list[str] = []
    if row := rows.get("atlas"):
        lines += [
            "",
            "## An atlas of one layer",
            "",
            f"{row['model']}, `{row['layer']}`, `{row['composite']}`, over {row['photographs']} photographs; explained "
            f"is {row['explained']}. The heatmaps under all channels, added up, are off the plain one by "
            f"{row['heatmaps_off']:.0e} of its largest pixel (float32).",
            "",
            "![Channels, the photographs that most use them, and where](atlas_efficientnet_lite0.png)",
        ]
    if row := rows.get("dataset"):
        lines += [
            "",
            "## The same layer over a data set",
            "",
            f"{row['images']:,} test images of Fashion-MNIST, enlarged to what {row['model']} takes, which has never "
            f"seen such pictures. Explained is the one of which it is surest: {row['explained']}; the data set calls "
            f"it {row['of_class']}. Of which class are the {row['strongest']} images that most excite each channel?",
            "",
            "| channel | share of Σ\\|relevance\\| | classes |",
            "|---:|---:|---|",
            *(
                f"| {channel} | {one['share']:.1%} | "
                + ", ".join(f"{name} {times}" for name, times in one["classes"].items())
                + " |"
                for channel, one in row["channels"].items()
            ),
            "",
            "![Channels, the images of Fashion-MNIST that most use them, and where](atlas_fashion_mnist.png)",
        ]
    return lines
