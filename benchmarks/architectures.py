"""Published architectures, built from configuration: full depth and op structure, random weights that live.

Weights as a framework initialises them hide errors: zero biases, neutral normalisations and logits near zero make many
wrong results right. Here every bias, shift, scale and statistic is drawn away from its neutral value, and activations
have about unit variance through the whole depth.

    architecture = ARCHITECTURES["gpt2"]
    model = architecture.build(width=8)                    # an eighth of the published width
    kwargs = architecture.inputs(2)                        # example inputs for a batch of 2
    lrp.compile(model, kwargs=kwargs, dynamic_shapes=architecture.dynamic_shapes)
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pretrained  # noqa: F401  # makes torchvision importable
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional
from torch.utils import _pytree as pytree

# ── sizes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Width(NamedTuple):
    """A size that is divided when the model is narrowed."""

    published: int

    def at(self, width: int, depth: int | None) -> int:
        return max(1, self.published // width)


class Depth(NamedTuple):
    """A number of layers."""

    published: int

    def at(self, width: int, depth: int | None) -> int:
        return depth or self.published


class Vocabulary(NamedTuple):
    """A number of tokens; a narrow model has `NARROW_VOCABULARY`."""

    published: int

    def at(self, width: int, depth: int | None) -> int:
        return self.published if width == 1 else NARROW_VOCABULARY


class Stages(NamedTuple):
    """Numbers of blocks, stage by stage: a depth is the most that a stage keeps."""

    published: tuple[int, ...]

    def at(self, width: int, depth: int | None) -> tuple[int, ...]:
        return tuple(min(blocks, depth or blocks) for blocks in self.published)


NARROW_VOCABULARY = 199
SIZES = (Width, Depth, Vocabulary, Stages)


def resolve(tree: Any, width: int, depth: int | None) -> Any:
    """`tree` with its sizes as numbers."""
    return pytree.tree_map(
        lambda leaf: leaf.at(width, depth) if isinstance(leaf, SIZES) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, SIZES),
    )


# ── architectures ────────────────────────────────────────────────────────────────────────────────────────────────────


class Input(NamedTuple):
    """An input: what draws it, and its shape, dynamic dims by name."""

    draw: Callable[[tuple[int, ...], torch.Generator], Tensor]
    shape: tuple[str | int, ...]


MAP_GAIN = 1.5
"""Above 1, so that attention picks tokens: where it averages them all, every input ends in nearly the same logits."""


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Args:
        title: what the paper or its authors call it.
        module: `(width, depth, attention)` → the model, before its weights are drawn.
        takes: its inputs by argument name.
        composite: what it is mostly explained with.
        width: the published width is divided by this unless something else is asked for.
        sizes: dynamic dim → the size of the example, then those of fresh inputs.
        calibrated: every map and batch norm is brought to unit variance (networks without normalisation need it).
        unscaled: end of the name of the query maps of attention that does not divide by √d, and that d.
        position: where in an output with more dims than batch and classes, as `lrp.Target` takes it.
        longest: what dynamic dims end at, be it for a table of positions.
        gain: scale of the maps' weights; 1 keeps the variance.
        paper: one of the fifteen of the paper's Table 5.
    """

    title: str
    module: Callable[[int, int | None, str | None], nn.Module] = field(repr=False)
    takes: Mapping[str, Input] = field(repr=False)
    composite: str = "attnlrp"
    width: int = 8
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    calibrated: bool = False
    unscaled: tuple[str, int] | None = None
    position: str | None = None
    longest: int = 512
    gain: float = MAP_GAIN
    paper: bool = False

    def build(
        self, *, width: int | None = None, depth: int | None = None, attention: str | None = None, seed: int = 0
    ) -> nn.Module:
        """The model in eval mode.

        Args:
            width: divides the published width; default: the architecture's own.
            depth: number of layers; default: as published.
            attention: "eager" or "sdpa", for models of transformers.
            seed: of the weights.
        """
        with torch.random.fork_rng():
            model = self.module(width or self.width, depth, attention)
        draw_parameters(model.eval(), seed, self.gain)
        if self.unscaled:
            ending, size = self.unscaled
            for name, parameter in model.named_parameters():
                if name.endswith(ending):
                    parameter.data /= math.sqrt(max(1, size // (width or self.width)))
        if self.calibrated:
            calibrate(model, self.inputs(8, seed=seed + 1000), seed)
        return model

    def inputs(self, batch: int, which: int = 0, seed: int = 1) -> dict[str, Tensor]:
        """Inputs of that batch size; `which` of `sizes` the other dynamic dims have."""
        generator = torch.Generator().manual_seed(seed)
        known = {"batch": batch} | {name: sizes[which] for name, sizes in self.sizes.items()}
        return {
            name: draw(tuple(known[size] if isinstance(size, str) else size for size in shape), generator)
            for name, (draw, shape) in self.takes.items()
        }

    @property
    def dynamic_shapes(self) -> dict[str, dict[int, Any]]:
        """As torch.export takes it."""
        names = {size for _, shape in self.takes.values() for size in shape if isinstance(size, str)}
        dims = {name: self.dim(name) for name in sorted(names)}
        return {
            name: {index: dims[size] for index, size in enumerate(shape) if isinstance(size, str)}
            for name, (_, shape) in self.takes.items()
        }

    def dim(self, name: str) -> Any:
        """A dynamic dim; windows must fit into it."""
        if name == "batch":
            return Dim(name)
        sizes = self.sizes[name]
        return Dim(name, min=max(2, min(sizes) // 4), max=max(self.longest, 3 * max(sizes)))


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
    """A model of this file."""
    return lambda width, depth, attention: cls(**resolve(options, width, depth))


def output(key: str, module: Callable[..., nn.Module]) -> Callable[[int, int | None, str | None], nn.Module]:
    """One output of a model that takes one input."""
    return lambda *sizes: Output(module(*sizes), key)


CLASSES = 10

# ── inputs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def patches(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Coarse patches with some grain, unit variance: noise alone would look the same in every row."""
    space = shape[2:]
    coarse = torch.randn(*shape[:2], *(5,) * len(space), generator=generator)
    mode = ("linear", "bilinear", "trilinear")[len(space) - 1]
    image = functional.interpolate(coarse, size=space, mode=mode) + 0.3 * torch.randn(shape, generator=generator)
    return image / image.std()


def noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def tokens(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Token ids above the special ones."""
    return torch.randint(3, NARROW_VOCABULARY, shape, generator=generator)


def flattened_patches(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Pix2Struct's: row and column of each patch (counted from 1), then its pixels."""
    drawn = torch.randn(shape, generator=generator)
    index = torch.arange(shape[1], dtype=drawn.dtype)
    columns = max(1, math.isqrt(shape[1]))
    drawn[..., 0], drawn[..., 1] = index // columns + 1, index % columns + 1
    return drawn


def nodes_of_a_graph(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, GRAPH_NODES, shape, generator=generator)


GRAPH_NODES = 6


def image(size: int, name: str = "x") -> dict[str, Input]:
    return {name: Input(patches, ("batch", 3, size, size))}


def ids(length: str | int = "sequence", *names: str) -> dict[str, Input]:
    return {name: Input(tokens, ("batch", length)) for name in names or ("input_ids",)}


TEXT: dict[str, Any] = {"sequence": (12, 7, 9, 17)}
BOTH: dict[str, Any] = {"sequence": (12, 7, 9, 17), "target_sequence": (6, 5, 9, 11)}


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


# ── small networks of our own ────────────────────────────────────────────────────────────────────────────────────────


class Output(nn.Module):
    """One output of a model: a key of what it returns."""

    def __init__(self, model: nn.Module, key: str) -> None:
        super().__init__()
        self.model, self.key = model, key

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.model(x)[self.key]
        return result


class UNet(nn.Module):
    """Ronneberger et al. 2015: four levels, skips are concatenated, transposed convolutions on the way up."""

    def __init__(self, base: int) -> None:
        super().__init__()
        sizes = [base * 2**level for level in range(5)]
        self.down = nn.ModuleList(self.block(a, b) for a, b in zip([3, *sizes], sizes, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * size, size, 2, 2) for size in sizes[:-1])
        self.merge = nn.ModuleList(self.block(2 * size, size) for size in sizes[:-1])
        self.head = nn.Conv2d(base, CLASSES, 1)

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Module:
        layers = ((nn.Conv2d(i, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()) for i in (inputs, outputs))
        return nn.Sequential(*(layer for group in layers for layer in group))

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else functional.max_pool2d(x, 2))
            skips.append(x)
        for level in reversed(range(4)):
            x = self.merge[level](torch.cat([skips[level], self.up[level](x)], 1))
        return self.head(x)


class M5(nn.Module):
    """Dai et al. 2016: raw audio through 1-D convolutions, global average pooling."""

    def __init__(self, base: int) -> None:
        super().__init__()
        plan = [(1, base, 80, 4), (base, base, 3, 1), (base, 2 * base, 3, 1), (2 * base, 4 * base, 3, 1)]
        self.features = nn.Sequential(
            *(
                layer
                for inputs, outputs, kernel, stride in plan
                for layer in (
                    nn.Conv1d(inputs, outputs, kernel, stride),
                    nn.BatchNorm1d(outputs),
                    nn.ReLU(),
                    nn.MaxPool1d(4),
                )
            )
        )
        self.head = nn.Linear(4 * base, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean(-1))


class Recurrent(nn.Module):
    """Two bidirectional recurrent layers and a head on the last step."""

    def __init__(self, kind: str, size: int) -> None:
        super().__init__()
        self.recurrent = getattr(nn, kind)(8, size, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


class Attention(nn.Module):
    """`nn.MultiheadAttention` with a residual, and a head on the mean."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, 4, batch_first=True)
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x + self.attention(x, x, x)[0]).mean(1))


class Encoder(nn.Module):
    """`nn.TransformerEncoder` and a head on the mean."""

    def __init__(self, size: int, layers: int, norm_first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(size, 4, 4 * size, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


class MessagePassing(nn.Module):
    """Two graph layers: messages along edges are added up with `index_add`, one graph a row."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.messages = nn.ModuleList(nn.Linear(size, size) for _ in range(2))
        self.own = nn.ModuleList(nn.Linear(size, size) for _ in range(2))
        self.head = nn.Linear(size, CLASSES)

    def forward(self, x: Tensor, source: Tensor, destination: Tensor) -> Tensor:
        for message, own in zip(self.messages, self.own, strict=True):
            sent = message(x).index_select(1, source)
            x = torch.relu(own(x) + torch.zeros_like(x).index_add(1, destination, sent))
        return self.head(x.sum(1))


# ── the zoo ──────────────────────────────────────────────────────────────────────────────────────────────────────────

TRANSFORMERS_ENCODER: dict[str, Any] = {
    "hidden_size": Width(768),
    "intermediate_size": Width(3072),
    "num_hidden_layers": Depth(12),
}
LABELS: dict[str, Any] = {"num_labels": CLASSES}
LLAMA3_ROPE: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SIGLIP: dict[str, Any] = {
    "hidden_size": Width(1152),
    "intermediate_size": Width(4304),
    "num_hidden_layers": Depth(27),
    "num_attention_heads": 16,
}
SPEECH: dict[str, Any] = {
    "vocab_size": 32,
    "conv_dim": [Width(512)] * 7,
    "num_conv_pos_embedding_groups": 16,
    "num_hidden_layers": Depth(24),
    "num_attention_heads": 16,
    "hidden_size": Width(1024),
    "intermediate_size": Width(4096),
}
SAMPLES = {"samples": (4000, 3000, 3600, 5000)}
WAVE = {"input_values": Input(noise, ("batch", "samples"))}

ARCHITECTURES: dict[str, Architecture] = {
    # The fifteen of the paper's Table 5. VGG's pooling is the identity at 224 pixels only, as published.
    "vgg16": convolutional("VGG16", "torchvision.models:vgg16", size=224, paper=True),
    "resnet50": convolutional("ResNet-50", "torchvision.models:resnet50", paper=True),
    "vit_b_16": Architecture(
        "ViT-B/16",
        constructed(
            "torchvision.models:VisionTransformer",
            image_size=64,
            patch_size=16,
            num_layers=Depth(12),
            num_heads=12,
            hidden_dim=Width(768),
            mlp_dim=Width(3072),
            num_classes=CLASSES,
        ),
        image(64),
        paper=True,
    ),
    "efficientnet_v2_m": convolutional("EfficientNetV2-M", "torchvision.models:efficientnet_v2_m", paper=True),
    "siglip2": Architecture(
        "SigLIP 2 So400m, vision tower",
        output(
            "pooler_output",
            from_config("SiglipVisionModel", "SiglipVisionConfig", image_size=56, patch_size=14, **SIGLIP),
        ),
        image(56),
        paper=True,
    ),
    "wav2vec2": Architecture(
        "Wav2Vec2 XLS-R 300M",
        from_config(
            "Wav2Vec2ForCTC",
            "Wav2Vec2Config",
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            conv_bias=True,
            **SPEECH,
        ),
        WAVE,
        sizes=SAMPLES,
        paper=True,
    ),
    "whisper": Architecture(
        "Whisper small",
        from_config(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            vocab_size=Vocabulary(51865),
            d_model=Width(768),
            encoder_layers=Depth(12),
            decoder_layers=Depth(12),
            encoder_attention_heads=12,
            decoder_attention_heads=12,
            encoder_ffn_dim=Width(3072),
            decoder_ffn_dim=Width(3072),
            max_source_positions=32,  # 1500 as published: 30 seconds
            use_cache=False,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        ),
        {"input_features": Input(noise, ("batch", 80, 64)), **ids("target_sequence", "decoder_input_ids")},
        sizes={"target_sequence": BOTH["target_sequence"]},
        paper=True,
    ),
    "gpt2": text(
        "GPT-2",
        "GPT2LMHeadModel",
        "GPT2Config",
        paper=True,
        n_embd=Width(768),
        n_layer=Depth(12),
        vocab_size=Vocabulary(50257),
        bos_token_id=1,
        eos_token_id=2,
    ),
    "roberta_large": text(
        "RoBERTa-large",
        "RobertaForSequenceClassification",
        "RobertaConfig",
        paper=True,
        # A norm behind each of 48 additions halves what is below: at 1.5 the tokens get a millionth of the logit.
        gain=0.7,
        hidden_size=Width(1024),
        intermediate_size=Width(4096),
        num_hidden_layers=Depth(24),
        num_attention_heads=16,
        max_position_embeddings=514,
        type_vocab_size=1,
        vocab_size=Vocabulary(50265),
        layer_norm_eps=1e-5,
        **LABELS,
    ),
    "llama": text(
        "Llama 3.2 1B",
        "LlamaForCausalLM",
        "LlamaConfig",
        paper=True,
        hidden_size=Width(2048),
        intermediate_size=Width(8192),
        num_hidden_layers=Depth(16),
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=Width(64),
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        rope_parameters=LLAMA3_ROPE,
        vocab_size=Vocabulary(128256),
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gemma3": text(
        "Gemma 3 270M",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        paper=True,
        hidden_size=Width(640),
        intermediate_size=Width(2048),
        num_hidden_layers=Depth(18),
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=Width(256),
        query_pre_attn_scalar=Width(256),
        sliding_window=Width(64),  # 512 as published: here it cuts the short sequences
        max_position_embeddings=32768,
        vocab_size=Vocabulary(262144),
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    ),
    "qwen3": text(
        "Qwen3 0.6B",
        "Qwen3ForCausalLM",
        "Qwen3Config",
        paper=True,
        hidden_size=Width(1024),
        intermediate_size=Width(3072),
        num_hidden_layers=Depth(28),
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=Width(128),
        tie_word_embeddings=True,
        max_position_embeddings=40960,
        vocab_size=Vocabulary(151936),
        bos_token_id=1,
        eos_token_id=2,
    ),
    "flan_t5_large": Architecture(
        "Flan-T5-large",
        from_config(
            "T5ForConditionalGeneration",
            "T5Config",
            d_model=Width(1024),
            d_kv=Width(64),
            d_ff=Width(2816),
            num_layers=Depth(24),
            num_decoder_layers=Depth(24),
            num_heads=16,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            vocab_size=Vocabulary(32128),
            use_cache=False,
        ),
        ids() | ids("target_sequence", "decoder_input_ids"),
        sizes=BOTH,
        unscaled=("Attention.q.weight", 64),
        paper=True,
    ),
    "deplot": Architecture(
        "DePlot (Pix2Struct)",
        from_config(
            "Pix2StructForConditionalGeneration",
            "Pix2StructConfig",
            vision_config={
                "hidden_size": Width(768),
                "patch_embed_hidden_size": 12,
                "d_ff": Width(2048),
                "d_kv": Width(64),
                "num_hidden_layers": Depth(12),
                "num_attention_heads": 12,
                "seq_len": 64,
            },
            text_config={
                "vocab_size": Vocabulary(50244),
                "hidden_size": Width(768),
                "d_kv": Width(64),
                "d_ff": Width(2048),
                "num_layers": Depth(12),
                "num_heads": 12,
                "use_cache": False,
            },
            use_cache=False,
        ),
        {"flattened_patches": Input(flattened_patches, ("batch", "sequence", 14))}
        | ids("target_sequence", "decoder_input_ids"),
        sizes=BOTH,
        unscaled=("query.weight", 64),
        paper=True,
    ),
    # The scan unrolls: the length is fixed.
    "mamba": Architecture(
        "Mamba 130M",
        from_config(
            "MambaForCausalLM",
            "MambaConfig",
            hidden_size=Width(768),
            num_hidden_layers=Depth(24),
            state_size=16,
            time_step_rank=Width(48),
            vocab_size=Vocabulary(50280),
            use_cache=False,
        ),
        ids(32),
        composite="cp-lrp",  # the selection gates, and gates are held fixed
        paper=True,
    ),
    # Relatives.
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
    "distilbert": text(
        "DistilBERT",
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        dim=Width(768),
        hidden_dim=Width(3072),
        n_layers=Depth(6),
        vocab_size=Vocabulary(30522),
        **LABELS,
    ),
    "albert": text(
        "ALBERT base v2",
        "AlbertForSequenceClassification",
        "AlbertConfig",
        embedding_size=Width(128),
        num_attention_heads=12,
        vocab_size=Vocabulary(30000),
        **TRANSFORMERS_ENCODER,
        **LABELS,
    ),
    "deberta": text(
        "DeBERTa base",
        "DebertaForSequenceClassification",
        "DebertaConfig",
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        max_relative_positions=-1,
        position_biased_input=False,
        type_vocab_size=0,
        vocab_size=Vocabulary(50265),
        **TRANSFORMERS_ENCODER,
        **LABELS,
    ),
    "deberta_v3": text(
        "DeBERTa v3 base",
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        relative_attention=True,
        position_buckets=256,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        max_relative_positions=-1,
        position_biased_input=False,
        type_vocab_size=0,
        vocab_size=Vocabulary(128100),
        **{**TRANSFORMERS_ENCODER, "num_attention_heads": 12},
        **LABELS,
    ),
    "electra": text(
        "ELECTRA base",
        "ElectraForSequenceClassification",
        "ElectraConfig",
        embedding_size=Width(768),
        num_attention_heads=12,
        vocab_size=Vocabulary(30522),
        **TRANSFORMERS_ENCODER,
        **LABELS,
    ),
    "opt": text(
        "OPT 125M",
        "OPTForCausalLM",
        "OPTConfig",
        hidden_size=Width(768),
        ffn_dim=Width(3072),
        num_hidden_layers=Depth(12),
        word_embed_proj_dim=Width(768),
        vocab_size=Vocabulary(50272),
    ),
    "gpt_neox": text(
        "GPT-NeoX (Pythia 160M)",
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        num_attention_heads=12,
        vocab_size=Vocabulary(50304),
        bos_token_id=1,
        eos_token_id=2,
        **TRANSFORMERS_ENCODER,
    ),
    "mistral": text(
        "Mistral 7B",
        "MistralForCausalLM",
        "MistralConfig",
        width=32,
        hidden_size=Width(4096),
        intermediate_size=Width(14336),
        num_hidden_layers=Depth(32),
        head_dim=Width(128),
        sliding_window=Width(256),  # 4096 as published: here it cuts the short sequences
        vocab_size=Vocabulary(32000),
    ),
    "phi": text(
        "Phi-1.5",
        "PhiForCausalLM",
        "PhiConfig",
        width=16,
        hidden_size=Width(2048),
        intermediate_size=Width(8192),
        num_hidden_layers=Depth(24),
        num_attention_heads=32,
        vocab_size=Vocabulary(51200),
    ),
    "bloom": text(
        "BLOOM 560M",
        "BloomForCausalLM",
        "BloomConfig",
        hidden_size=Width(1024),
        n_layer=Depth(24),
        n_head=16,
        vocab_size=Vocabulary(250880),
    ),
    "mixtral": text(
        "Mixtral 8×7B",
        "MixtralForCausalLM",
        "MixtralConfig",
        width=64,
        hidden_size=Width(4096),
        intermediate_size=Width(14336),
        num_hidden_layers=Depth(32),
        vocab_size=Vocabulary(32000),
        experts_implementation="batched_mm",
    ),
    "bart": Architecture(
        "BART base",
        from_config(
            "BartForConditionalGeneration",
            "BartConfig",
            d_model=Width(768),
            encoder_layers=Depth(6),
            decoder_layers=Depth(6),
            encoder_attention_heads=12,
            decoder_attention_heads=12,
            encoder_ffn_dim=Width(3072),
            decoder_ffn_dim=Width(3072),
            vocab_size=Vocabulary(50265),
            use_cache=False,
        ),
        ids() | ids("target_sequence", "decoder_input_ids"),
        sizes=BOTH,
    ),
    "clip": Architecture(
        "CLIP ViT-B/32",
        from_config(
            "CLIPModel",
            "CLIPConfig",
            text_config={
                "hidden_size": Width(512),
                "intermediate_size": Width(2048),
                "num_hidden_layers": Depth(12),
                "vocab_size": Vocabulary(49408),
                "eos_token_id": 198,
                "bos_token_id": 197,
            },
            vision_config={
                "hidden_size": Width(768),
                "intermediate_size": Width(3072),
                "num_hidden_layers": Depth(12),
                "image_size": 64,
                "patch_size": 32,
            },
            projection_dim=Width(512),
        ),
        {"input_ids": Input(tokens, ("texts", "sequence")), "pixel_values": Input(patches, ("batch", 3, 64, 64))},
        sizes=TEXT | {"texts": (6, 5, 7, 8)},
        longest=77,
    ),
    "hubert": Architecture(
        "HuBERT base",
        from_config(
            "HubertForCTC",
            "HubertConfig",
            **SPEECH
            | {
                "hidden_size": Width(768),
                "intermediate_size": Width(3072),
                "num_hidden_layers": Depth(12),
                "num_attention_heads": 12,
            },
        ),
        WAVE,
        sizes=SAMPLES,
    ),
    "mamba2": Architecture(
        "Mamba-2 130M",
        from_config(
            "Mamba2ForCausalLM",
            "Mamba2Config",
            hidden_size=Width(768),
            num_hidden_layers=Depth(24),
            head_dim=Width(64),
            num_heads=24,
            state_size=Width(128),
            n_groups=1,
            chunk_size=Width(128),  # 256 as published
            vocab_size=Vocabulary(50288),
            use_cache=False,
        ),
        ids(32),
        composite="cp-lrp",  # the selection gates, and gates are held fixed
    ),
    "lstm": Architecture(
        "nn.LSTM", local(Recurrent, kind="LSTM", size=Width(128)), {"x": Input(noise, ("batch", 12, 8))}
    ),
    "gru": Architecture("nn.GRU", local(Recurrent, kind="GRU", size=Width(128)), {"x": Input(noise, ("batch", 12, 8))}),
    "multihead_attention": Architecture(
        "nn.MultiheadAttention",
        local(Attention, size=Width(256)),
        {"x": Input(noise, ("batch", "sequence", 32))},
        sizes=TEXT,
    ),
    "transformer_encoder": Architecture(
        "nn.TransformerEncoder",
        local(Encoder, size=Width(256), layers=Depth(6)),
        {"x": Input(noise, ("batch", "sequence", 32))},
        sizes=TEXT,
    ),
    "conv1d_audio": Architecture(
        "M5 (1-D convolutions)",
        local(M5, base=Width(128)),
        {"x": Input(noise, ("batch", 1, 4000))},
        "epsilon-plus",
        calibrated=True,
    ),
    "conv3d_video": Architecture(
        "R3D-18 (3-D convolutions)",
        narrowed("torchvision.models.video:r3d_18"),
        {"x": Input(patches, ("batch", 3, 8, 32, 32))},
        "epsilon-plus",
        calibrated=True,
    ),
    "graph": Architecture(
        "Graph layers (index_add)",
        local(MessagePassing, size=16),
        {
            "x": Input(noise, ("batch", GRAPH_NODES, 16)),
            "source": Input(nodes_of_a_graph, ("edges",)),
            "destination": Input(nodes_of_a_graph, ("edges",)),
        },
        "epsilon",
        width=1,
        sizes={"edges": (14, 9, 12, 20)},
    ),
}

# ── weights with life ────────────────────────────────────────────────────────────────────────────────────────────────

BatchNorm = nn.modules.batchnorm._BatchNorm
Convolution = nn.modules.conv._ConvNd


def draw_parameters(model: nn.Module, seed: int, gain: float = MAP_GAIN) -> None:
    """Draw every parameter: maps and token embeddings that keep activations alive, biases and scales off neutral."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    tokens_table = {id(_token_table(module)) for module in model.modules()}
    # The `Conv1D` of transformers keeps its weight transposed: [in, out].
    transposed = {id(module.weight) for module in model.modules() if type(module).__name__ == "Conv1D"}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            kind = name.rpartition(".")[2]
            normal = torch.randn(parameter.shape, generator=generator)
            if "bias" in kind:
                drawn = 0.2 * normal
            elif id(parameter) in tokens_table:
                drawn = normal
            elif id(parameter) in embeddings or not ("weight" in kind or "proj" in kind):
                # Positions, segments and class tokens are the same in every row; they must not drown what differs.
                drawn = 0.5 * normal
            elif parameter.ndim == 1:
                drawn = 0.5 + torch.rand(parameter.shape, generator=generator)
            else:
                stacked = parameter.ndim == 3 and "proj" in kind  # experts: [experts, out, in]
                first = id(parameter) in transposed
                fan_in = parameter.shape[-1] if stacked else parameter.shape[0] if first else parameter[0].numel()
                drawn = gain * normal / fan_in**0.5
            parameter.copy_(drawn)
        for name, buffer in model.named_buffers():
            if "running" in name:
                uniform = 0.5 + torch.rand(buffer.shape, generator=generator)
                buffer.copy_(uniform if name.endswith("var") else 0.4 * (uniform - 1))


def _token_table(module: Any) -> Tensor | None:
    """Weights of the embedding that a model of transformers names as that of its input."""
    try:
        table = module.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return table.weight if isinstance(table, nn.Embedding) else None


def calibrate(model: nn.Module, example: Mapping[str, Tensor], seed: int) -> None:
    """Bring every map and batch norm to about unit variance on `example`, in one forward pass in float64.

    Without it, variance drifts by orders of magnitude over the depth of a network without normalisation, and random
    running statistics do the same to one with batch norm.
    """
    generator = torch.Generator().manual_seed(seed)

    def scale_map(module: Any, inputs: tuple[Tensor, ...], result: Tensor) -> Tensor:
        dim = 1 if isinstance(module, Convolution) else result.ndim - 1
        shape = [-1 if index == dim else 1 for index in range(result.ndim)]
        if module.bias is not None:
            # Centred channels keep the inputs distinguishable: without, deep ReLU networks answer nearly a constant.
            mean = result.mean([index for index in range(result.ndim) if index != dim])
            result = result - mean.view(shape)
            module.bias -= mean
        scale = 1 / result.std()
        module.weight *= scale
        if module.bias is None:
            return result * scale
        shift = 0.2 * torch.randn(module.bias.shape, generator=generator, dtype=result.dtype)
        module.bias.mul_(scale).add_(shift)
        return result * scale + shift.view(shape)

    def set_statistics(module: Any, inputs: tuple[Tensor, ...]) -> None:
        dims = [0, *range(2, inputs[0].ndim)]
        mean, variance = inputs[0].mean(dims), inputs[0].var(dims)
        variance = variance.clamp(min=0.05 * float(variance.mean()))  # a channel that slept may wake up elsewhere
        shift = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        spread = 0.5 + torch.rand(mean.shape, generator=generator, dtype=mean.dtype)
        module.running_mean.copy_(mean + 0.2 * variance.sqrt() * shift)
        module.running_var.copy_(variance * spread)

    precision = next(model.parameters()).dtype
    model.double()
    handles = [
        module.register_forward_pre_hook(set_statistics)
        if isinstance(module, BatchNorm)
        else module.register_forward_hook(scale_map)
        for module in model.modules()
        if isinstance(module, (BatchNorm, Convolution, nn.Linear))
    ]
    with torch.no_grad():
        model(**{name: x.double() if x.is_floating_point() else x for name, x in example.items()})
    for handle in handles:
        handle.remove()
    model.to(precision)


def narrow(model: nn.Module, width: int) -> None:
    """Divide the channels of every convolution, batch norm and dense layer by `width`; image and classes stay."""
    for module in model.modules():
        if isinstance(module, Convolution):
            module.groups = max(1, module.groups // width)
            module.in_channels = module.in_channels if module.in_channels <= 3 else module.in_channels // width
            module.out_channels //= width
            shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
        elif isinstance(module, nn.Linear):
            module.in_features //= width
            module.out_features = CLASSES if module.out_features == CLASSES else module.out_features // width
            shape = (module.out_features, module.in_features)
        elif isinstance(module, BatchNorm):
            module.num_features //= width
            shape = (module.num_features,)
            for name in ("running_mean", "running_var"):
                setattr(module, name, torch.empty(shape))
        else:
            continue
        module.weight = nn.Parameter(torch.empty(shape))
        if module.bias is not None:
            module.bias = nn.Parameter(torch.empty(shape[0]))


PAPER = tuple(name for name, architecture in ARCHITECTURES.items() if architecture.paper)
