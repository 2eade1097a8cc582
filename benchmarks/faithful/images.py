"""The image models: pretrained ImageNet networks on photographs, and two that are trained here on Fashion-MNIST."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.faithful import flipping, training
from benchmarks.faithful.interface import say
from benchmarks.faithful.methods import METHODS, OURS, Subject
from benchmarks.faithful.metrics import flipping_row
from benchmarks.networks import pretrained

SEED = 0
FASHION_IMAGES, QUICK_FASHION_IMAGES = 2000, 200
QUICK_PHOTOS = 8

# ── what is explained ────────────────────────────────────────────────────────────────────────────────────────────────

LABELLED = {
    "skimage/data/chelsea.png": ("tabby", "tiger cat", "Egyptian cat"),
    "skimage/data/coffee.png": ("espresso", "coffee mug", "cup"),
    "skimage/data/rocket.jpg": ("missile", "projectile", "space shuttle"),
    "skimage/data/astronaut.png": ("space shuttle",),
    "skimage/data/camera.png": ("tripod", "reflex camera"),
    "sklearn/datasets/images/china.jpg": ("palace", "stupa"),
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg": ("military uniform",),
}
"""Photographs inside installed packages that show an ImageNet class, and every class that counts as right."""


FIRES = ("features.3", "features.6", "features.8", "features.12")
"""SqueezeNet's maps in front of each pool, and its last."""
MBCONV_STAGES = tuple(f"blocks.{stage}" for stage in range(7))
"""EfficientNet's."""


@dataclass(frozen=True)
class Loaded:
    """A model with its images, and how they are measured.

    Args:
        model: in eval mode.
        x: images as it takes them.
        right: which classes count as right, bool `[n, classes]`.
        low, high: what a pixel can be, one number a channel.
        patch: side of what is flipped, in pixels.
        sigma: of the Gaussian blur behind flipped places, in pixels.
        rows: images at once: (explained, flipped).
        about: on what, for the table.
        background: images that GradientSHAP draws its baselines from.
        runtime: what flipped images are classified in, "onnxruntime" or "torch", whichever is faster.
        stages: modules whose outputs are summed over by methods that sum over layers.
    """

    model: nn.Module
    x: Tensor
    right: Tensor
    low: tuple[float, ...]
    high: tuple[float, ...]
    patch: int
    sigma: float
    rows: tuple[int, int]
    about: str
    background: Tensor
    runtime: str = "onnxruntime"
    stages: tuple[str, ...] = ()

    def first(self, count: int) -> Loaded:
        """The same with fewer images."""
        return replace(self, x=self.x[:count], right=self.right[:count])


def labelled_photos() -> list[tuple[Image.Image, list[int]]]:
    """Foolbox's twenty labelled ImageNet photographs, then those of `LABELLED`, each with its right classes."""
    names = pretrained.imagenet_labels()
    found = [(photo.image, [photo.label]) for photo in pretrained.imagenet_photos()]
    for path, labels in LABELLED.items():
        package, _, inside = path.partition("/")
        with (files(package) / inside).open("rb") as file:
            found.append((Image.open(file).convert("RGB"), [names.index(label) for label in labels]))
    return found


def _photos(
    load: Callable[[], nn.Module],
    preprocess: Callable[[Image.Image], Tensor],
    low: tuple[float, ...],
    high: tuple[float, ...],
    stages: tuple[str, ...],
    quick: bool,
) -> Loaded:
    photos = labelled_photos()[: QUICK_PHOTOS if quick else None]
    x = torch.stack([preprocess(image) for image, _ in photos])
    right = torch.zeros(len(photos), 1000, dtype=torch.bool)
    for row, (_, labels) in zip(right, photos, strict=True):
        row[labels] = True
    # Black, grey and white: what GradientSHAP draws from, since there is no set of photographs to draw from.
    ends = torch.tensor([low, high]).view(2, -1, 1, 1)
    background = torch.cat((ends, ends.mean(0, keepdim=True))).expand(-1, *x.shape[1:]).contiguous()
    about = f"{len(photos)} labelled photographs"
    return Loaded(load(), x, right, low, high, 1, x.shape[-1] / 16, (4, 1), about, background, stages=stages)


def _efficientnet(number: int, quick: bool) -> Loaded:
    load = partial(pretrained.efficientnet_lite, number) if number else pretrained.efficientnet_lite0
    size = pretrained.EFFICIENTNET_LITE_SIZES[number]
    return _photos(load, partial(pretrained.preprocess, size=size), (-1.0,) * 3, (1.0,) * 3, MBCONV_STAGES, quick)


def _squeezenet(quick: bool) -> Loaded:
    low = tuple(-mean for mean in pretrained.CAFFE_MEAN)
    high = tuple(255 - mean for mean in pretrained.CAFFE_MEAN)
    return _photos(pretrained.squeezenet1_1, pretrained.preprocess_caffe, low, high, FIRES, quick)


def _fashion(name: str, patch: int, rows: int, runtime: str, quick: bool) -> Loaded:
    """The first test images, as they come: they are in no order."""
    model = training.trained(f"{name}_quick" if quick else name, say)
    count = QUICK_FASHION_IMAGES if quick else FASHION_IMAGES
    x, labels = (part[:count] for part in training.images("t10k"))
    background = training.images("train")[0][:100]
    right = labels[:, None] == torch.arange(training.CLASSES)
    say("measure accuracy")
    about = (
        f"Fashion-MNIST, {training.accuracy(model):.1%} right on all 10,000 test images; the first {count} explained"
    )
    bounds, sigma = ((training.LOW,), (training.HIGH,)), training.SIZE / 8
    return Loaded(model, x, right, *bounds, patch, sigma, (100, rows), about, background, runtime)


# ── the models ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Model:
    """A model by its title: how it is had, and by which methods it is explained (under `--quick`: by which few)."""

    title: str
    load: Callable[[bool], Loaded]
    methods: tuple[str, ...]
    quick: tuple[str, ...] = ()
    metric: str = "flipping"


QUICK = ("epsilon-plus", "gradient-x-input", "random")
REFERENCES = ("reference", "reference-blurred")
TOLD = ("attnlrp-gamma(0.05, 0.01)-blurred", "attnlrp-gamma(0.25, 0.05)-blurred")
LAST = (
    "gradient-x-input",
    "integrated-gradients",
    "integrated-gradients-blurred",
    "smoothgrad",
    "saliency",
    "gradient-shap",
    "random",
)
FEWER = ("integrated-gradients-blurred(1)", "integrated-gradients-blurred(5)")
"""What integrated gradients owe to their twenty points."""
# On a network of convolutions and ReLUs attnlrp and cp-lrp are gradient × input, which captum computes.
CNN = (
    *(name for name in OURS if not name.startswith(("attnlrp", "cp-lrp", "reference"))),
    *("attnlrp-gamma(0.05, 0.01)", "attnlrp-gamma(0.25, 0.05)", "attnlrp-gamma(1, 0.05)", "attnlrp-gamma(10, 0.5)"),
    *(*REFERENCES, *TOLD, *(name for name in METHODS if name.startswith("zennit"))),
    *LAST,
)
FASHION_CNN = (
    *("epsilon", "epsilon-plus", "epsilon-alpha2-beta1", "epsilon-gamma-box", "epsilon-gamma-box(0.1)", "dynamic-lrp"),
    *("attnlrp-gamma(0.1, 0.01)", "attnlrp-gamma(0.25, 0.05)"),
    *("attnlrp-gamma(1, 0.05)", "attnlrp-gamma(0.25, 0.05)-averaged", "attnlrp-gamma(0.25, 0.05)-blurred"),
    *("attnlrp-gamma(0.25, 0.05)-averaged-blurred", "attnlrp-gamma(0.05, 0.01)-averaged-blurred"),
    *REFERENCES,
    *("zennit epsilon", "zennit epsilon-plus", "zennit epsilon-alpha2-beta1", "zennit epsilon-gamma-box"),
    *(*LAST, *FEWER),
)
# Zennit's composites differ on convolutions alone, and the transformer has but one, which comes first.
VIT = (
    *("epsilon", "attnlrp", "cp-lrp", "dynamic-lrp", "attnlrp-gamma(0.05, 0.01)", "attnlrp-gamma(0.25, 0.05)"),
    *("cp-lrp-gamma(0.25, 0.05)", "attnlrp-gamma(0, 0)-averaged", "attnlrp-gamma(0, 0)-blurred"),
    *("attnlrp-gamma(0, 0)-averaged-blurred", "attnlrp-gamma(0.05, 0.01)-averaged-blurred"),
    *(*REFERENCES, *(name for name in METHODS if name.startswith("lxt"))),
    *(*LAST, *FEWER, "integrated-gradients-blurred, norms fixed"),
)
SOME = (
    *("epsilon", "epsilon-plus", "epsilon-gamma-box", "attnlrp-gamma(1, 0.05)", "attnlrp-gamma(10, 0.5)"),
    *("epsilon-plus-over-stages", *REFERENCES),
    *("zennit epsilon", "zennit epsilon-plus", "zennit epsilon-gamma-box"),
    *("gradient-x-input", "integrated-gradients", "smoothgrad", "random"),
)
MODELS: dict[str, Model] = {
    "efficientnet_lite0": Model("EfficientNet-Lite0", partial(_efficientnet, 0), CNN, QUICK),
    "efficientnet_lite1": Model("EfficientNet-Lite1", partial(_efficientnet, 1), SOME),
    "efficientnet_lite2": Model("EfficientNet-Lite2", partial(_efficientnet, 2), SOME),
    "squeezenet1_1": Model("SqueezeNet 1.1", _squeezenet, SOME),
    "cnn_fashion_mnist": Model(
        "CNN on Fashion-MNIST", partial(_fashion, "cnn_fashion_mnist", 1, 4, "onnxruntime"), FASHION_CNN
    ),
    "vit_fashion_mnist": Model("ViT on Fashion-MNIST", partial(_fashion, "vit_fashion_mnist", 4, 2, "torch"), VIT),
}

# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def predictor(loaded: Loaded) -> flipping.Predict:
    """The forward that flipped images go through."""
    if loaded.runtime == "torch":
        return lambda rows: loaded.model(rows)
    say("write the forward to ONNX")
    return in_onnxruntime(loaded.model, loaded.x)


def in_onnxruntime(model: nn.Module, x: Tensor) -> flipping.Predict:
    """A few times faster than torch on convolutions."""
    import onnxruntime

    batch = torch.export.Dim("batch")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, (x[:2],), path, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda rows: torch.from_numpy(session.run(None, {name: rows.numpy()})[0])


def subject_of(loaded: Loaded) -> Subject:
    """What methods are told: the images and the classes that the model predicts for them."""
    with torch.inference_mode():
        predicted = torch.cat([loaded.model(rows).argmax(-1) for rows in loaded.x.split(100)])
    replacement = flipping.blurred(loaded.x, loaded.sigma)
    bounds = {"low": loaded.low, "high": loaded.high}
    return Subject(
        loaded.model,
        loaded.x,
        predicted.clone(),
        **bounds,
        replacement=replacement,
        background=loaded.background,
        rows=loaded.rows[0],
        seed=SEED,
        stages=loaded.stages,
    )


def explained(subject: Subject, methods: Iterable[str], about: dict[str, Any]) -> Iterator[Any]:
    """Of each method the row's head, relevance (None: it failed, the head says why) and the CPU seconds it took,
    those of processes that it started included."""
    for method in methods:
        head = about | {"method": method, "family": METHODS[method].family}
        say(f"explain by {method}")
        start = sum(os.times()[:4])
        try:
            relevance = METHODS[method].explain(subject)
        except Exception as error:  # what a peer cannot do is a row too
            if METHODS[method].family == "ours":
                raise
            yield head | {"failure": f"{type(error).__name__}: {error}".splitlines()[0][:300]}, None, 0.0
        else:
            yield head, relevance, sum(os.times()[:4]) - start


def measure(name: str, methods: list[str] | None, quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each method, as soon as it is measured (see the package's docstring)."""
    model = MODELS[name]
    say("load")
    loaded = model.load(quick)
    predict = predictor(loaded)
    subject = subject_of(loaded)
    right = int(loaded.right.gather(1, subject.target[:, None]).sum())
    about = {"model": name, "title": model.title, "metric": model.metric}
    about["about"] = f"{loaded.about}, {right:,} of them classified rightly"
    for row, relevance, seconds in explained(subject, methods or (model.quick if quick else model.methods), about):
        if relevance is None:
            yield row
            continue
        say(f"flip by {row['method']}")
        times = flipping.flip_times(relevance, loaded.patch, seed=SEED)
        both = flipping.curves(predict, loaded.x, subject.replacement, times, loaded.right, loaded.rows[1])
        yield row | flipping_row(*both, seed=SEED, seconds=seconds, note=METHODS[row["method"]].about)
