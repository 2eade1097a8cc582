"""The files that quantised.py asks: two networks with real weights, written to ONNX and quantised in every way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.export import Dim

from benchmarks.faithful import flipping, images, metrics, reviews, text

CALIBRATED = 20
"""Inputs from which static ranges are taken."""
REVIEWS = 60
STEPS = 24
"""Flips of a photograph."""
BLOCK = 32
Array = np.ndarray
Feeds = dict[str, Array]


@dataclass(frozen=True)
class Network:
    """A network, its inputs, and how it is flipped.

    Args:
        title: for the table.
        composite: by which it is explained.
        module: the network itself.
        shapes: which sizes are open, by input.
        inputs: one feed each.
        abpc: of a forward and of the relevance of every input, one number an input.
    """

    title: str
    composite: str
    module: torch.nn.Module
    shapes: dict[str, Any]
    inputs: list[Feeds]
    abpc: Callable[[Callable[[Feeds], Array], list[Array]], Array]


def efficientnet() -> Network:
    """On labelled photographs."""
    loaded = images.MODELS["efficientnet_lite0"].load(False)
    replacement = flipping.blurred(loaded.x, loaded.sigma)

    def abpc(run: Callable[[Feeds], Array], relevance: list[Array]) -> Array:
        times = flipping.flip_times(torch.from_numpy(np.concatenate(relevance)), 1, STEPS)

        def predict(rows: Tensor) -> Tensor:
            return torch.from_numpy(run({"x": rows.numpy()}))

        return metrics.abpc(flipping.curves(predict, loaded.x, replacement, times, loaded.right)[0])

    feeds = [{"x": row.unsqueeze(0).numpy()} for row in loaded.x]
    shapes = {"x": {0: Dim("batch")}}
    return Network("EfficientNet-Lite0", "epsilon-plus", loaded.model, shapes, feeds, abpc)


def minilm() -> Network:
    """On held-out reviews."""
    tokenizer, model, held_out, _, _ = reviews.trained(quick=True)
    sequences = [np.array(tokenizer(review.text)["input_ids"], np.int64) for review in held_out[:REVIEWS]]
    labels = np.array([review.label for review in held_out[:REVIEWS]])
    mask_id = int(tokenizer.mask_token_id)

    def abpc(run: Callable[[Feeds], Array], relevance: list[Array]) -> Array:
        def classify(several: Sequence[Array]) -> Array:
            found = []
            for start in range(0, len(several), 64):
                ids, mask = text.padded(several[start : start + 64])
                logits = run({"input_ids": ids, "attention_mask": mask})
                found.append(torch.from_numpy(logits).double().softmax(-1).numpy())
            return np.concatenate(found)

        values = [one[0] for one in relevance]
        return metrics.abpc(text.curves(classify, sequences, values, labels, mask_id)[0])

    size = {0: Dim("batch"), 1: Dim("sequence", max=512)}
    feeds = [{"input_ids": ids[None], "attention_mask": np.ones_like(ids)[None]} for ids in sequences]
    return Network("MiniLM", "attnlrp", model, dict.fromkeys(feeds[0], size), feeds, abpc)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def float_file(network: Network, folder: Path) -> Path:
    """The network as ONNX, shapes inferred and constants folded."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    raw, path = folder / "raw.onnx", folder / "float.onnx"
    example = {
        name: torch.from_numpy(array).repeat(2, *[1] * (array.ndim - 1)) for name, array in network.inputs[0].items()
    }
    torch.onnx.export(
        network.module,
        kwargs=example,
        f=raw,
        dynamo=True,
        dynamic_shapes=network.shapes,
        input_names=list(example),
        external_data=False,
        verbose=False,
    )
    quant_pre_process(raw, path, skip_symbolic_shape=True)
    return path


def static(source: Path, path: Path, network: Network, form: str = "QDQ", activations: str = "QInt8") -> None:
    """Quantise and dequantise around layers (or layers of whole numbers), weights by channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Inputs(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(network.inputs[:CALIBRATED])

        def get_next(self) -> Feeds | None:
            return next(self.rest, None)

    only = None if network.composite == "epsilon-plus" else ["MatMul", "Gemm", "Gather"]
    options = {"MatMulConstBOnly": True}
    quantize_static(
        source,
        path,
        Inputs(),
        quant_format=QuantFormat[form],
        per_channel=True,
        activation_type=QuantType[activations],
        weight_type=QuantType.QInt8,
        op_types_to_quantize=only,
        extra_options=options,
    )


def dynamic(source: Path, path: Path, network: Network) -> None:
    """Ranges from each input; convolutions have weights by tensor there, unsigned."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    convolutional = network.composite == "epsilon-plus"
    kind = QuantType.QUInt8 if convolutional else QuantType.QInt8
    quantize_dynamic(source, path, per_channel=not convolutional, weight_type=kind)


def four_bits(source: Path, path: Path, network: Network) -> None:
    """Weights alone: of matrices and tables by onnxruntime's quantiser, of 1 × 1 convolutions as int4 blocks."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = onnx.load(source)
    _as_products(model)
    quantiser = MatMulNBitsQuantizer(
        model, block_size=BLOCK, is_symmetric=False, op_types_to_quantize=("MatMul", "Gather")
    )
    quantiser.process()
    model = quantiser.model.model
    _convolutions_in_blocks(model)
    onnx.save(model, path)


def _as_products(model: onnx.ModelProto) -> None:
    """Dense layers as a product and a sum: the quantiser knows no others."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Gemm" or node.input[1] not in weights:
            nodes.append(node)
            continue
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        array = numpy_helper.to_array(weights[node.input[1]])
        turned = np.ascontiguousarray(array.T if attributes.get("transB") else array)
        weights[node.input[1]].CopyFrom(numpy_helper.from_array(turned, node.input[1]))
        product = f"{node.output[0]}_product"
        nodes.append(helper.make_node("MatMul", node.input[:2], [product], f"{node.name}_product"))
        nodes.append(helper.make_node("Add", [product, node.input[2]], node.output, node.name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _convolutions_in_blocks(model: onnx.ModelProto) -> None:
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        tensor = weights.get(node.input[1]) if node.op_type == "Conv" else None
        if tensor is not None and list(tensor.dims[2:]) == [1, 1] and tensor.dims[1] >= BLOCK:
            array = numpy_helper.to_array(tensor)
            rest = -array.shape[1] % BLOCK
            blocks = np.pad(array, [(0, 0), (0, rest), (0, 0), (0, 0)]).reshape(len(array), -1, BLOCK)
            scale = np.maximum(np.abs(blocks).max(2, keepdims=True) / 7, 1e-9).astype(np.float32)
            whole = np.clip(np.rint(blocks / scale), -8, 7).reshape(len(array), -1)[:, : array.shape[1]]
            names = [f"{tensor.name}_{kind}" for kind in ("int4", "scale", "dense")]
            stored = helper.make_tensor(names[0], TensorProto.INT4, array.shape, whole.astype(np.int8).flatten())
            scales = numpy_helper.from_array(scale.reshape(len(array), -1, 1, 1), names[1])
            model.graph.initializer.extend([stored, scales])
            model.graph.initializer.remove(tensor)
            nodes.append(helper.make_node("DequantizeLinear", names[:2], names[2:], axis=1, block_size=BLOCK))
            node.input[1] = names[2]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, 21)


KINDS: dict[str, Callable[[Path, Path, Network], None]] = {
    "static int8": static,
    "static int8, uint8 activations": partial(static, activations="QUInt8"),
    "static int8, QOperator": partial(static, form="QOperator"),
    "dynamic int8": dynamic,
    "4 bits": four_bits,
}
SHOWN_FOR = dict.fromkeys(("static int8, uint8 activations", "static int8, QOperator"), "EfficientNet-Lite0")
"""Kinds that are made of one network alone."""
NETWORKS: Mapping[str, Callable[[], Network]] = {"EfficientNet-Lite0": efficientnet, "MiniLM": minilm}

# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────
