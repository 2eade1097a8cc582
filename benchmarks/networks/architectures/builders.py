"""What makes a model of sizes: a configuration, a constructor, a network that is narrowed afterwards."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.networks import torchvision_operators  # noqa: F401  # constructors import torchvision
from benchmarks.networks.architectures.architecture import Architecture
from benchmarks.networks.architectures.inputs import TEXT, ids, image
from benchmarks.networks.architectures.modules import Output
from benchmarks.networks.architectures.sizes import CLASSES, resolve
from benchmarks.networks.architectures.weights import MAP_GAIN, narrow


def from_config(model: str, config: str, **options: Any) -> Callable[[int, int | None, str | None], nn.Module]:
    """A model of transformers, by the names of its class and of its configuration's class."""

    def build(width: int, depth: int | None, attention: str | None) -> nn.Module:
        transformers = importlib.import_module("transformers")
        given = resolve(options, width, depth)
        if attention:
            given["attn_implementation"] = attention
        made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**given))
        return made

    return build


def constructed(path: str, **options: Any) -> Callable[[int, int | None, str | None], nn.Module]:
    """What a constructor (`package.module:name`) makes of sizes."""

    def build(width: int, depth: int | None, attention: str | None) -> nn.Module:
        module, name = path.split(":")
        made: nn.Module = getattr(importlib.import_module(module), name)(**resolve(options, width, depth))
        return made

    return build


def narrowed(path: str, **options: Any) -> Callable[[int, int | None, str | None], nn.Module]:
    """A network of convolutions whose constructor has no width: its maps are cut afterwards."""

    def build(width: int, depth: int | None, attention: str | None) -> nn.Module:
        model = constructed(path, num_classes=CLASSES, **options)(width, depth, attention)
        if width > 1:
            narrow(model, width)
        return model

    return build


def local(cls: type[nn.Module], **options: Any) -> Callable[[int, int | None, str | None], nn.Module]:
    """A model of modules.py."""
    return lambda width, depth, attention: cls(**resolve(options, width, depth))


def output(key: str, module: Callable[..., nn.Module]) -> Callable[[int, int | None, str | None], nn.Module]:
    """One output of a model that takes one input."""
    return lambda *sizes: Output(module(*sizes), key)


def text(
    title: str,
    model: str,
    config: str,
    width: int = 8,
    paper: bool = False,
    gain: float = MAP_GAIN,
    **options: Any,
) -> Architecture:
    """A language model of transformers."""
    options = {"use_cache": False, **options} if "CausalLM" in model or "LMHead" in model else options
    build = from_config(model, config, **options)
    return Architecture(title, build, ids(), width=width, sizes=TEXT, paper=paper, gain=gain)


def convolutional(title: str, path: str, size: int = 64, paper: bool = False, **options: Any) -> Architecture:
    """A convolutional network of torchvision."""
    width = options.pop("width", 8)
    return Architecture(
        title, narrowed(path, **options), image(size), "epsilon-plus", width, calibrated=True, paper=paper
    )
