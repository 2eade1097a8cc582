"""What the documentation's snippets take for granted: a model, its input, files. Tiny, with random weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lrp_compiler as lrp

Names = dict[str, Any]


class Net(nn.Module):
    """Two convolutions, of any height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def image() -> Names:
    """A classifier of five classes, two pictures, and the first as a photo."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    photo = ((x[0] - x[0].min()) / (x[0].max() - x[0].min())).permute(1, 2, 0).numpy()
    return {"model": Net().eval(), "x": x, "photo": photo, "labels": ["cat", "dog", "cup", "car", "hat"]}


def images() -> Names:
    """The same with more pictures."""
    return image() | {"images": torch.randn(6, 3, 16, 16)}


def onnx_file() -> Names:
    """The classifier as a plain ONNX file."""
    names = image()
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        names["model"], (names["x"],), "model.onnx", dynamo=True, dynamic_shapes={"x": {0: batch}}, verbose=False
    )
    return names


def explainer_file() -> Names:
    """Its explainer as a file, and as an object."""
    names = image()
    compiled = lrp.compile(
        names["model"], (names["x"],), composite="epsilon", dynamic_shapes={"x": {0: torch.export.Dim("batch")}}
    )
    compiled.to_onnx("model.lrp.onnx")
    return names | {"compiled": compiled, "x": names["x"].numpy()}


def tokenizer() -> Any:
    """A word a token, with BERT's special ones."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = "a fine film not one good scene in it more In which city does Marta live ? She lives Riga . The capital"
    words += " of France is Paris"
    listed = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *words.split()]
    found = Tokenizer(models.WordLevel({word: number for number, word in enumerate(listed)}, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=found, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )


def text() -> Names:
    """BERT and GPT-2 in small, one tokenizer for both."""
    import transformers as tf

    torch.manual_seed(0)
    made = tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
    bert = tf.BertForSequenceClassification(tf.BertConfig(vocab_size=len(made), num_labels=3, **small))
    tokens = made(["a fine film", "not one good scene in it"], padding=True, return_tensors="pt")
    return {"bert": bert, "tokenizer": made, "tokens": tokens} | decoder(made)


def hugging_face() -> Names:
    """The same, where tokens have no types: a decoder takes none."""
    names = text()
    names["tokenizer"].model_input_names = ["input_ids", "attention_mask"]
    return names


def decoder(made: Any) -> Names:
    """A language model in small."""
    import transformers as tf

    torch.manual_seed(0)
    config = tf.GPT2Config(
        n_layer=1, n_embd=16, n_head=2, n_positions=2048, vocab_size=len(made), bos_token_id=1, eos_token_id=2
    )
    return {"language_model": tf.GPT2LMHeadModel(config).eval()}


def answers() -> Names:
    """The language model by the name that it has on its page; of texts no token is added."""
    from tokenizers import processors

    made = tokenizer()
    made._tokenizer.post_processor = processors.Sequence([])
    made.model_input_names = ["input_ids", "attention_mask"]
    return {"model": decoder(made)["language_model"], "tokenizer": made}


def everything() -> Names:
    """Image, ONNX file and text; the language model in a folder, as one that was fetched."""
    names = onnx_file() | text()
    for part in ("language_model", "tokenizer"):
        names[part].save_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
    return names


def fetched() -> Names:
    """A classifier of texts in a folder, as one that was fetched."""
    names = text()
    for part in ("bert", "tokenizer"):
        names[part].save_pretrained("textattack/bert-base-uncased-SST-2")
    return {}


def segmenter() -> Names:
    """One whose output is a map of four classes."""
    return image() | {"segmenter": nn.Conv2d(3, 4, 3, padding=1).eval()}


def vgg() -> Names:
    """A row of convolutions by VGG16's names: `features.28` is the last."""
    torch.manual_seed(0)

    class Vgg(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = [nn.Identity() for _ in range(30)]
            layers[0], layers[1] = nn.Conv2d(3, 10, 3, padding=1), nn.ReLU()
            layers[12], layers[13] = nn.Conv2d(10, 12, 3, padding=1), nn.ReLU()
            layers[28], layers[29] = nn.Conv2d(12, 64, 3, padding=1), nn.ReLU()
            self.features = nn.Sequential(*layers)
            self.head = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.features(x).mean((2, 3)))

    x = torch.randn(2, 3, 16, 16)
    return {"vgg": Vgg().eval(), "x": x, "mask": (torch.arange(64) % 2).float().expand(2, 64)}


def squeezenet() -> Names:
    """A row of blocks by SqueezeNet's names, beside the classifier."""
    torch.manual_seed(0)

    class Fires(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(
                *(nn.Sequential(nn.Conv2d(3 if n == 0 else 4, 4, 3, padding=1), nn.ReLU()) for n in range(13))
            )
            self.head = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.features(x).mean((2, 3)))

    return image() | {"squeezenet": Fires().eval()}


def own_composite() -> Names:
    """Convolutions, attention at `encoder.layers.*.attn`, and a head."""
    torch.manual_seed(0)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(8, 24)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            return torch.softmax(q @ k.transpose(1, 2), -1) @ v

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Attention()

        def forward(self, x: Tensor) -> Tensor:
            return x + self.attn(x)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(Layer(), Layer())

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.more = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 1)
            self.encoder, self.head = Encoder(), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.more(self.patches(x)).flatten(2).transpose(1, 2)).mean(1))

    return {"model": Model().eval(), "x": torch.randn(2, 3, 16, 16)}


def pictures() -> Names:
    """The classifier's file, and runs of a reader of text and of one of sound."""
    names = explainer_file() | text()
    names["x"] = names["x"][:1]
    explainer = lrp.compile(names["bert"].eval(), kwargs=dict(names["tokens"]))
    listener = nn.Sequential(nn.Conv1d(20, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 48, 3)).eval()
    sound = torch.randn(1, 20, 50)
    return names | {
        "bert_explainer": explainer,
        "text": explainer(**names["tokens"]),
        "sound": lrp.compile(listener, (sound,))(sound),
    }


def data_set() -> Names:
    """Rows of a data set and the explainer that takes them, in files."""
    import pyarrow
    import pyarrow.parquet

    torch.manual_seed(0)
    model, x = nn.Linear(6, 5).eval(), torch.randn(8, 6)
    compiled = lrp.compile(
        Named(model).eval(), (x,), composite="epsilon", dynamic_shapes={"x": {0: torch.export.Dim("n")}}
    )
    compiled.to_onnx("m.lrp.onnx")
    pixels = pyarrow.FixedShapeTensorArray.from_numpy_ndarray(x.numpy())
    label = pyarrow.array([3, 1, 3, 0, 3, 3, 2, 1])
    pyarrow.parquet.write_table(pyarrow.table({"pixels": pixels, "label": label}), "rows.parquet")
    return {"batch": {"x": x.numpy()}}


class Named(nn.Module):
    """A module whose input is called x."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def peers() -> Names:
    """A classifier that all libraries take: of modules that they know, each used once."""
    torch.manual_seed(0)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU()]
            self.features, self.head = nn.Sequential(*layers), nn.Linear(4 * 5 * 5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.features(x).flatten(1))

    made = answers()
    return {
        "model": Plain().eval(),
        "x": torch.randn(2, 3, 16, 16),
        "targets": np.array([3, 1]),
        "llama": made["model"],
        "tokenizer": made["tokenizer"],
        "ids": torch.tensor([[5, 6, 7, 8]]),
    }


STAND_INS: dict[str, Callable[[], Names]] = {
    "README.md": everything,
    "get-started.md": fetched,
    "concepts/lrp.md": dict,
    "concepts/forms.md": image,
    "concepts/composites.md": images,
    "how-to/targets.md": segmenter,
    "how-to/open-sizes.md": image,
    "how-to/hugging-face.md": hugging_face,
    "how-to/answers.md": answers,
    "how-to/onnx-in.md": onnx_file,
    "how-to/loops.md": dict,
    "how-to/own-composite.md": own_composite,
    "how-to/weights.md": image,
    "how-to/latent.md": vgg,
    "how-to/pixel-to-circuit.md": vgg,
    "how-to/pictures.md": pictures,
    "how-to/other-results.md": squeezenet,
    "how-to/run-anywhere.md": explainer_file,
    "how-to/data-sets.md": data_set,
    "inside/graph.md": image,
    "inside/books.md": image,
    "inside/viewer.md": image,
    "coming-from.md": peers,
    "reference/errors.md": image,
    "reference/onnx-file.md": explainer_file,
}
"""Page → what its first block finds. It runs in the folder of the snippets and may leave files there."""
