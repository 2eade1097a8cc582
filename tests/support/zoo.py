"""Seven published architectures at full depth and op structure, narrow enough for tests, with random weights that live.

Weights as a framework initialises them hide errors: zero biases, neutral normalisations and logits near zero make many
wrong results right. Here every bias, shift, scale and statistic is drawn away from its neutral value, activations have
about unit variance through the whole depth, and logits differ between classes and between inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import timm
import torch
from torch import Tensor, nn
from torch.export import Dim
from torchvision import models as vision
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from .life import calibrate, draw_parameters, narrow, zero_biases

__all__ = ["SEVEN", "VGG16_BN", "Case", "Example", "logits_of", "zero_biases"]


class Fresh(Protocol):
    """Draws new inputs: `length` is the sequence length and has no meaning for images."""

    def __call__(
        self, batch: int = 3, length: int | None = None, seed: int = 1
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]: ...


@dataclass(frozen=True)
class Example:
    """A model in eval mode and what is needed to export it and to try it on other inputs and sizes."""

    model: nn.Module
    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]
    dynamic_shapes: dict[str, Any]
    fresh: Fresh


@dataclass(frozen=True)
class Case:
    """An architecture by name.

    `build(dtype=torch.float32, seed=0, width=8, **options)` divides the published width by `width`; 1 is the published
    model. Vision models take `image_size` and `classes`, text models `length`, `vocabulary`, `attn_implementation`
    ("sdpa" or "eager") and `padded` (adds an attention mask with padding at the end of some rows).
    """

    name: str
    build: Callable[..., Example] = field(repr=False)


def logits_of(output: Any) -> Tensor:
    """Return the logits of a model's output, whether that is a tensor or a transformers ModelOutput."""
    return output if isinstance(output, Tensor) else output.logits


# ---- Images ---------------------------------------------------------------------------------------------------------


def images(batch: int, size: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Coarse coloured patches with some grain, unit variance: noise alone would look the same in every row."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(batch, 3, 5, 5, generator=generator)
    patches = nn.functional.interpolate(patches, size=(size, size), mode="bilinear")
    image = patches + 0.3 * torch.randn(batch, 3, size, size, generator=generator)
    return (image / image.std()).to(dtype)


def _image_example(model: nn.Module, image_size: int, dtype: torch.dtype) -> Example:
    def fresh(batch: int = 3, length: int | None = None, seed: int = 1) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        return (images(batch, image_size, seed, dtype),), {}

    # A sample batch of 1 would specialise the exported graph to it.
    args, kwargs = fresh(batch=2, seed=0)
    return Example(model.eval().to(dtype), args, kwargs, {"x": {0: Dim("batch")}}, fresh)


def convolutional(
    constructor: Callable[..., nn.Module],
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    width: int = 8,
    image_size: int = 64,
    classes: int = 10,
) -> Example:
    with torch.random.fork_rng():
        model = constructor(num_classes=classes)
    if width > 1:
        narrow(model, width, classes)
    draw_parameters(model, seed)
    calibrate(model.eval(), images(8, image_size, seed + 1000, torch.float64), seed)
    return _image_example(model, image_size, dtype)


def vit_b_16(
    dtype: torch.dtype = torch.float32, seed: int = 0, width: int = 8, image_size: int = 64, classes: int = 10
) -> Example:
    with torch.random.fork_rng():
        model = vision.VisionTransformer(
            image_size=image_size,
            patch_size=16,
            num_layers=12,
            num_heads=12,
            hidden_dim=768 // width,
            mlp_dim=3072 // width,
            num_classes=classes,
        )
    draw_parameters(model, seed)
    return _image_example(model, image_size, dtype)


# ---- Text -----------------------------------------------------------------------------------------------------------


def _text_example(model: nn.Module, dtype: torch.dtype, vocabulary: int, length: int, padded: bool) -> Example:
    default_length = length

    def fresh(batch: int = 3, length: int | None = None, seed: int = 1) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        input_ids = torch.randint(3, vocabulary, (batch, length or default_length), generator=generator)
        if not padded:
            return (input_ids,), {}
        attention_mask = torch.ones_like(input_ids)
        tokens = input_ids.shape[1]
        attention_mask[1::2, tokens - tokens // 3 :] = 0
        return (input_ids,), {"attention_mask": attention_mask}

    args, kwargs = fresh(batch=2, seed=0)
    dynamic = {0: Dim("batch"), 1: Dim("sequence", max=model.config.max_position_embeddings)}
    dynamic_shapes = dict.fromkeys(("input_ids", *kwargs), dynamic)
    return Example(model.eval().to(dtype), args, kwargs, dynamic_shapes, fresh)


def text(
    constructor: Callable[..., nn.Module],
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    width: int = 8,
    vocabulary: int = 199,
    length: int = 12,
    attn_implementation: str = "sdpa",
    padded: bool = False,
) -> Example:
    with torch.random.fork_rng():
        model = constructor(width, vocab_size=vocabulary, use_cache=False, attn_implementation=attn_implementation)
    draw_parameters(model, seed)
    if model.config.tie_word_embeddings and (head := model.get_output_embeddings()) is not None:
        # Tied embeddings of unit variance would give logits of variance hidden_size: the last normalisation takes it.
        with torch.no_grad():
            for parameter in _final_normalisation(model).parameters():
                parameter /= head.in_features**0.5
    return _text_example(model, dtype, vocabulary, length, padded)


def _final_normalisation(model: nn.Module) -> nn.Module:
    return next(child for child in reversed(list(model.base_model.children())) if "Norm" in type(child).__name__)


def bert_base(width: int, **options: Any) -> nn.Module:
    return BertForSequenceClassification(
        BertConfig(hidden_size=768 // width, intermediate_size=3072 // width, num_labels=10, **options)
    )


def gpt2_small(width: int, **options: Any) -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_embd=768 // width, bos_token_id=1, eos_token_id=2, **options))


def llama_1b(width: int, **options: Any) -> nn.Module:
    """Llama 3.2 1B: four query heads share a key/value head, embeddings are tied, rotary frequencies are rescaled."""
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=2048 // width,
            intermediate_size=8192 // width,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=64 // width,
            max_position_embeddings=131072,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            bos_token_id=1,
            eos_token_id=2,
            **options,
        )
    )


SEVEN: dict[str, Case] = {
    case.name: case
    for case in (
        # VGG's pooling is the identity at 224 pixels only, as published.
        Case("vgg16", partial(convolutional, vision.vgg16, image_size=224)),
        Case("resnet50", partial(convolutional, vision.resnet50)),
        Case("efficientnet_lite0", partial(convolutional, partial(timm.create_model, "tf_efficientnet_lite0"))),
        Case("vit_b_16", vit_b_16),
        Case("bert", partial(text, bert_base)),
        Case("gpt2", partial(text, gpt2_small)),
        Case("llama", partial(text, llama_1b)),
    )
}

# Needed beside the seven: VGG with batch norm has Zennit's canonizer as its oracle.
VGG16_BN = Case("vgg16_bn", partial(convolutional, vision.vgg16_bn, image_size=224))
