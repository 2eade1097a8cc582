"""Model types of transformers, from configurations made tiny."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.networks.architectures.weights import draw_parameters

from .example import Example, Library, NotBuilt
from .tiny_configs import tiny

TASKS = (
    *("MODEL_FOR_SEQUENCE_CLASSIFICATION", "MODEL_FOR_CAUSAL_LM", "MODEL_FOR_IMAGE_CLASSIFICATION"),
    *("MODEL_FOR_AUDIO_CLASSIFICATION", "MODEL_FOR_VIDEO_CLASSIFICATION", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM"),
    *("MODEL_FOR_MASKED_LM", "MODEL_FOR_CTC", "MODEL_FOR_TIME_SERIES_PREDICTION", "MODEL_FOR_SPEECH_SEQ_2_SEQ"),
    *("MODEL_FOR_SEMANTIC_SEGMENTATION", "MODEL_FOR_DEPTH_ESTIMATION", "MODEL_FOR_OBJECT_DETECTION"),
    *("MODEL_FOR_IMAGE_TO_IMAGE", "MODEL_FOR_TOKEN_CLASSIFICATION", "MODEL_FOR_BACKBONE", "MODEL"),
)
"""What is built of a type: the first of these that there is."""
GIVEN = ("bbox", "noise", "noise_sequence")
"""Inputs that a model draws itself, or makes up, unless they are given."""
LENGTH = 12
MOST = 40_000_000
"""Parameters."""


def types() -> list[str]:
    from transformers.models.auto import modeling_auto

    found: dict[str, None] = {}
    for task in TASKS:
        found |= dict.fromkeys(getattr(modeling_auto, f"{task}_MAPPING_NAMES", {}))
    return sorted(found)


def model_of(name: str) -> Example:
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    reasons = []
    for task in TASKS:
        names = getattr(modeling_auto, f"{task}_MAPPING_NAMES", {}).get(name)
        for class_name in (names,) if isinstance(names, str) else tuple(names or ()):
            cls = getattr(transformers, class_name, None)
            if cls is None:
                continue
            try:
                config = tiny(CONFIG_MAPPING[name])
                return _example(class_name, cls, config)
            except Exception as error:
                reasons.append(
                    f"{class_name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                )
    raise NotBuilt((reasons or ["no class of a known task"])[0][:250])


def _example(class_name: str, cls: Any, config: Any) -> Example:
    torch.manual_seed(0)
    config.use_cache = False
    config.dtype = "float32"
    with torch.device("meta"):
        count = sum(p.numel() for p in cls(config).parameters())
    if count > MOST:
        raise NotBuilt(f"the smallest configuration that was found has {count / 1e6:.0f} million parameters")
    model = cls(config).eval().float()
    draw_parameters(model, 0)
    make = _inputs(model, config)
    with torch.no_grad():
        outputs = model(**make())
    target = _target(outputs)
    return Example(model, make, "attnlrp", target, note=class_name)


def _inputs(model: nn.Module, config: Any) -> Callable[[], dict[str, Any]]:
    """By the names of forward's parameters that are needed, or that its main input has."""
    parameters = inspect.signature(model.forward).parameters
    text = getattr(config, "text_config", None) or config
    vocabulary = getattr(text, "vocab_size", None) or 99
    vision = getattr(config, "vision_config", None) or config
    side = getattr(vision, "image_size", None) or 32
    side = tuple(side) if isinstance(side, (list, tuple)) else (side, side)
    channels = getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3
    main = getattr(model, "main_input_name", "input_ids")

    def ids() -> Any:
        return torch.randint(4, min(vocabulary, 90), (2, LENGTH))

    def features() -> Any:
        audio = getattr(config, "encoder_config", None) or config
        bins = getattr(audio, "num_mel_bins", None) or getattr(audio, "input_feat_per_channel", None) or 80
        length = 2 * getattr(audio, "max_source_positions", 50)
        return torch.randn(2, bins, length) if "whisper" in type(model).__name__.lower() else torch.randn(2, 64, bins)

    makers: dict[str, Callable[[], Any]] = {
        "input_ids": ids,
        "decoder_input_ids": lambda: ids()[:, :5],
        "pixel_values": lambda: torch.randn(2, channels, *side),
        "pixel_values_videos": lambda: torch.randn(1, getattr(config, "num_frames", 4), channels, *side),
        "input_values": lambda: torch.randn(2, 2000),
        "input_features": features,
        "past_values": lambda: torch.randn(2, *_series(config)),
        "bbox": lambda: torch.randint(0, 9, (2, LENGTH, 1)).repeat(1, 1, 4),
        "flattened_patches": lambda: torch.cat([torch.ones(2, 9, 2), torch.randn(2, 9, 768)], 2),
        "noise": lambda: torch.rand(2, math.prod(size // _patch(config) for size in side)),
        "noise_sequence": lambda: torch.randn(2, 64, config.model_in_channels),
        "xpath_tags_seq": lambda: torch.zeros(2, LENGTH, 50, dtype=torch.long),
    }
    if "video" in type(model).__name__.lower() or type(model).__name__.startswith(
        ("TimeSformer", "Timesformer", "Vivit", "VJEPA")
    ):
        makers["pixel_values"] = makers["pixel_values_videos"]
    if type(model).__name__.startswith("ASTF") or type(model).__name__.startswith("ASTM"):
        makers["input_values"] = lambda: torch.randn(2, config.max_length, config.num_mel_bins)
    wanted = [name for name in makers if name in parameters and (name == main or name == "decoder_input_ids")]
    if not wanted:
        wanted = [name for name in makers if name in parameters][:1]
    wanted += [n for n, p in parameters.items() if n in makers and p.default is p.empty and n not in wanted]
    wanted += [name for name in GIVEN if name in parameters and name not in wanted]
    if not wanted:
        raise NotBuilt(f"no known input among {', '.join(list(parameters)[:6])}")
    return lambda: {name: makers[name]() for name in wanted}


def _patch(config: Any) -> int:
    size = getattr(config, "patch_size", 1)
    return int(size[0] if isinstance(size, (list, tuple)) else size)


def _series(config: Any) -> tuple[int, ...]:
    length = getattr(config, "context_length", 8)
    lags = getattr(config, "lags_sequence", None)
    channels = getattr(config, "num_input_channels", None)
    return (length + max(lags),) if lags else (length, channels or 1)


def _target(outputs: Any) -> Any:
    """The logits where there are some; else a number made of the first float output."""
    if "logits" in outputs and outputs["logits"].dim() in (2, 3):
        return None
    first = next(
        (key for key, value in outputs.items() if isinstance(value, torch.Tensor) and value.is_floating_point()), None
    )
    if first is None:
        raise NotBuilt("no float output")
    return lambda outputs: outputs[first].flatten(1).mean(1)


TRANSFORMERS = Library("transformers", types, model_of)
