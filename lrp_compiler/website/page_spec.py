"""What a page must know about its explainer, as plain data for `site.json`. Torch-free.

What a page has no way to show is refused here, with an `InputError` of one sentence.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lrp_compiler.base.counted import counted
from lrp_compiler.base.errors import FormatError, InputError
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.seal import read_seal
from lrp_compiler.base.specs import TensorSpec

Numbers = float | Sequence[float]

_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_TAKES = f"A page takes pictures, float32[batch, 3, height, width], or text, int64 {', '.join(_TEXT_INPUTS)}"
_TOKENS = 512


def declared(source: Path) -> tuple[list[str], set[str]]:
    """What lies beside an ONNX file as its external data, and the names of its inputs.

    Only files that the seal names are parts of the model, and it names them by their content: a model that says that
    its weights are in another file of the folder, or elsewhere, does not get at what it did not know before.
    """
    import onnx

    model = onnx.load(source, load_external_data=False)
    found = list(dict.fromkeys(_locations(model.graph)))
    known = read_seal(source)
    for location in found:
        if known is None or location not in known.data:
            raise FormatError(f"{source} refers to a file that its seal does not name ({location}): write it anew.")
    return found, {value.name for value in model.graph.input}


def _locations(graph: Any) -> Iterator[str]:
    tensors = [
        *graph.initializer,
        *(part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices)),
    ]
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        tensors += [attribute.t, *attribute.tensors]
        for inner in (attribute.g, *attribute.graphs):
            yield from _locations(inner)
    for tensor in tensors:
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def main_input(inputs: Sequence[TensorSpec]) -> TensorSpec:
    """The input that the visitor gives: `input_ids`, or else the first."""
    return next((spec for spec in inputs if spec.name == "input_ids"), inputs[0])


def explanation(about: Metadata, inputs: Sequence[TensorSpec], extra: set[str], name: str) -> dict[str, Any]:
    """What is predicted and explained, and how the file calls it.

    Args:
        about: what the explainer's file says about it.
        inputs: the model's own.
        extra: names of the graph's other inputs.
        name: how to call the file in a message.
    """
    if about.differences:
        raise InputError(
            f"{name} compares each input with a reference (composite {about.name!r}), and on a page nobody could give "
            "one: compile it by another composite."
        )
    if extra - {"target"}:
        raise InputError(f"{name} takes {', '.join(sorted(extra))} at run time: a page can only choose the target.")
    if about.reduce:
        reduced = ", ".join(about.reduce)
        raise InputError(
            f"{name} returns relevance reduced by {reduced}, and a page draws all of it: leave reduce out."
        )
    output = about.outputs[about.explained if about.explained < len(about.outputs) else 0]
    following = len(output.shape) == 3 and about.explains.get("position") in (None, "last", "last-unpadded")
    if not following and len(output.shape) != 2:
        raise InputError(f"A page shows outputs [batch, classes], not {output.name} of shape {list(output.shape)}.")
    main = main_input(inputs)
    relevance = {entry.input: entry.tensor for entry in about.relevance if entry.form == "total"}.get(main.name)
    if relevance is None or len(relevance.shape) != len(main.shape):
        raise InputError(f"{name} has no single relevance of {main.name}: compile it for that input and one target.")
    return {
        "composite": about.named_why,
        "classes": output.shape[-1],
        "output": {"name": output.name, "next": following, "score": about.score},
        "accounted": about.scale == "logit" and about.seed == "value",
        "relevance": relevance.name,
        "seed": about.seed,
        "target": _target("target" in extra, about.picks, about.target),
    }


def _target(taken: bool, classes: Any, label: Any) -> dict[str, Any]:
    if taken:
        return {"mode": "index", "number": None, "text": "chosen on this page"}
    if classes == "argmax":
        return {"mode": "argmax", "number": None, "text": "always the class with the largest score"}
    if isinstance(classes, int):
        return {"mode": "fixed", "number": classes, "text": f"always class {classes}"}
    return {"mode": "fixed", "number": None, "text": str(label)}


def read_labels(path: Path, classes: int | None) -> list[str]:
    """The names of the classes: one a line, or a JSON list."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: save it in that encoding.") from error
    try:
        labels = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} starts like a JSON list, but is none ({error}).") from error
    if not all(isinstance(label, str | int | float) for label in labels):
        raise InputError(f"{path} is a list of something else than names: one name for each class is wanted.")
    if classes is not None and len(labels) != classes:
        raise InputError(f"{path} names {counted(len(labels), 'class|classes')}; the explainer has {classes}.")
    return [str(label).strip() for label in labels]


def image_input(inputs: Sequence[TensorSpec], size: int | None) -> dict[str, Any]:
    """The size of the picture, and what the network calls it."""
    (spec, *more), shape = inputs, inputs[0].shape
    if more or len(shape) != 4 or shape[1] not in (1, 3):
        raise InputError(f"{_TAKES}, not {', '.join(map(str, inputs))}.")
    _check_batch(inputs)
    height, width = (dim if isinstance(dim, int) else size for dim in shape[2:])
    if height is None or width is None:
        raise InputError(f"{spec} leaves the size of the picture open: give --size.")
    if size is not None and (height, width) != (size, size):
        raise InputError(f"{spec} has a size of its own: leave out --size.")
    return {"name": spec.name, "channels": shape[1], "height": height, "width": width}


def preprocessing(channels: int, mean: Numbers, std: Numbers, resize: str, crop: float) -> dict[str, Any]:
    """How a picture becomes the network's input."""
    numbers = {}
    for name, value in {"mean": mean, "std": std}.items():
        values = [float(value)] if isinstance(value, int | float) else [float(number) for number in value]
        numbers[name] = values * channels if len(values) == 1 else values
        if len(numbers[name]) != channels or not all(map(math.isfinite, values)):
            raise InputError(f"The {name} is one number or {channels}, one for each channel, not {value!r}.")
    if 0 in numbers["std"]:
        raise InputError("The std must not be 0: colours are divided by it.")
    if not 0 < crop <= 1:
        raise InputError(f"The crop is a share of the picture's shorter side, such as 0.875, not {crop!r}.")
    return {**numbers, "resize": one_of(resize, "crop", "stretch"), "crop": crop}


def text_input(inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """What the network calls ids, mask and types, and how many tokens it takes."""
    names = [spec.name for spec in inputs]
    # One int64 input alone may be called as it likes.
    kinds = names if len(names) > 1 or names[0] in _TEXT_INPUTS else ["input_ids"]
    wrong = [spec for spec in inputs if spec.dtype != "int64" or len(spec.shape) != 2]
    if wrong or "input_ids" not in kinds or not set(kinds) <= set(_TEXT_INPUTS):
        raise InputError(f"{_TAKES}, not {', '.join(map(str, inputs))}.")
    _check_batch(inputs)
    length = main_input(inputs).shape[1]
    fixed = length if isinstance(length, int) else None
    return {"names": dict(zip(kinds, names, strict=True)), "length": fixed, "most": fixed or _TOKENS}


def read_tokenizer(
    path: str | os.PathLike[str] | None, takes: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Path]]:
    """What the page must know about the tokenizer, and its files by the place that they get.

    `takes["most"]` falls to the number of tokens that the tokenizer would cut a text at.
    """
    if path is None:
        raise InputError("An explainer of text needs --tokenizer: the tokenizer.json of its model.")
    source = Path(path)
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        truncation, padding = content.get("truncation") or {}, content.get("padding") or {}
        content["model"]
        most = truncation.get("max_length") or _TOKENS
        pad = padding.get("pad_id", 0)
        if not isinstance(most, int) or not isinstance(pad, int) or most < 1:
            raise TypeError("truncation and padding")
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{source} is no tokenizer.json as Hugging Face's fast tokenizers write it.") from error
    takes["most"] = min(takes["most"], most)
    known = {"file": "model/tokenizer.json", "config": None, "pad": pad}
    copies = {"model/tokenizer.json": source}
    config = source.with_name("tokenizer_config.json")
    if config.is_file():
        known["config"] = "model/tokenizer_config.json"
        copies["model/tokenizer_config.json"] = config
    return known, copies


def one_of(value: str, *choices: str) -> str:
    """The value, if it is one of the choices."""
    if value not in choices:
        raise InputError(f"{value!r} is none of {', '.join(choices)}.")
    return value


def _check_batch(inputs: Sequence[TensorSpec]) -> None:
    if any(spec.shape and isinstance(spec.shape[0], int) and spec.shape[0] != 1 for spec in inputs):
        raise InputError(f"A page explains one at a time, not {inputs[0]}: compile with a dynamic batch.")
