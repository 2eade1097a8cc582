"""Quantised files, explained as they run: EfficientNet-Lite0 and MiniLM with real weights.

Each network is written to ONNX, and that file quantised in three ways: static (quantise and dequantise around every
layer, and once layers of whole numbers, int8 weights by channel, ranges from some of the inputs), dynamic (ranges from
each input as it comes, int8 weights) and in 4 bits (weights alone, in blocks of 32). The first two are what
`onnxruntime.quantization` makes, and so are the 4 bits of matrices; those of the 1 × 1 convolutions, for which it has
none, are DequantizeLinear of int4 blocks.
MiniLM is the classifier of film reviews of `benchmarks.faithful`, in its quick form.

Of each file: whether every node, given what onnxruntime has there, makes the same of it; whether the outputs of the
explainer's file are the deployed file's, beside what onnxruntime's own levels of optimisation differ by; the books; the
explanation beside that of the float file, for the class that the float network predicts; and how faithful both are to
the quantised network (ABPC of `benchmarks.faithful`, the network's own predicted class), with the interval of their
difference.

The table is results/quantised.md. Exit status 1: books that are open, a node that is off by more than a step, or a file
that is larger than it may be.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.export import Dim

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.base.places import BUILD
from benchmarks.faithful import flipping, images, metrics, reviews, text
from benchmarks.sound import RESULTS
from lrp_compiler.base.quiet import quiet
from lrp_compiler.onnx_in.parity import STORED, node_by_node

EXAMPLES = """examples:
  python -m benchmarks.sound.quantised                      all, half an hour; writes the table
  python -m benchmarks.sound.quantised --only static        files whose names hold this; the other rows stay
"""
FOLDER = BUILD / "quantised"
LARGEST = 1.15
"""How many times as large as the quantised file the explainer's may be."""
CALIBRATED = 20
"""Inputs from which static ranges are taken."""
REVIEWS = 60
STEPS = 24
"""Flips of a photograph."""
COMPARED = 2
"""Inputs that go through node by node."""
BLOCK = 32
TOP = 0.1
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


def static(source: Path, path: Path, network: Network, form: str = "QDQ") -> None:
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
    "static int8, QOperator": partial(static, form="QOperator"),
    "dynamic int8": dynamic,
    "4 bits": four_bits,
}
SHOWN_FOR = {"static int8, QOperator": "EfficientNet-Lite0"}
"""Kinds that are made of one network alone."""
NETWORKS: Mapping[str, Callable[[], Network]] = {"EfficientNet-Lite0": efficientnet, "MiniLM": minilm}

# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def session(path: Path, level: str = "ENABLE_ALL") -> Callable[[Feeds], list[Array]]:
    """A file in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    found = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feeds: found.run(None, feeds)


def compiled(network: Network, path: Path) -> tuple[lrp.Explainer, Path]:
    """The explainer, and its file; the class is given in each call."""
    example = tuple(torch.from_numpy(np.concatenate([array, array])) for array in network.inputs[0].values())
    explainer = lrp.compile(path, example, composite=network.composite, target="index")
    written = path.with_suffix(".lrp.onnx")
    explainer.to_onnx(written)
    return explainer, written


def explained(run: Callable[[Feeds], list[Array]], inputs: list[Feeds], classes: Array) -> tuple[Array, list[Array]]:
    """Logits, and the relevance of each input for its class."""
    found = [run({**feeds, "target": classes[at : at + 1]}) for at, feeds in enumerate(inputs)]
    return np.concatenate([one[0] for one in found]), [one[1] for one in found]


def steps_off(module: Any, feeds: Feeds) -> tuple[int, float, float]:
    """Node by node: how many steps whole numbers are off at most, the share that is, and how far floats are off."""
    most, off, numbers, floats = 0, 0, 0, 0.0
    tensors = [torch.from_numpy(array) for array in feeds.values()]
    for _, got, want in node_by_node(module, feeds, tensors):
        if got.dtype in STORED:
            steps = np.abs(got.numpy().astype(np.int64) - want.astype(np.int64))
            most, off, numbers = (
                max(most, int(steps.max(initial=0))),
                off + int((steps > 0).sum()),
                numbers + steps.size,
            )
        elif got.is_floating_point() and np.isfinite(want).all() and want.size:
            scale = float(np.abs(want).max()) or 1.0
            floats = max(floats, float(np.abs(got.numpy() - want).max()) / scale)
    return most, off / max(numbers, 1), floats


def overlap(first: Array, second: Array) -> float:
    """Share of the most relevant tenth that two explanations have in common."""
    count = max(1, round(TOP * first.size))
    tops = [set(np.argsort(-one.ravel(), kind="stable")[:count].tolist()) for one in (first, second)]
    return len(tops[0] & tops[1]) / count


def cosine(first: Array, second: Array) -> float:
    """Of two explanations."""
    a, b = (one.ravel().astype(np.float64) for one in (first, second))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _first_of(run: Callable[[Feeds], list[Array]], feeds: Feeds) -> Array:
    return run(feeds)[0]


def measure(name: str, only: str, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """A row for each file of a network."""
    chosen = [kind for kind in KINDS if only in kind and SHOWN_FOR.get(kind, name) == name]
    say(f"{name}: load, export")
    network = NETWORKS[name]()
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    source = float_file(network, folder)
    say(f"{name}: compile the float file")
    _, written = compiled(network, source)
    run_float = session(source)
    classes = np.concatenate([run_float(feeds)[0] for feeds in network.inputs]).argmax(1).astype(np.int64)
    explain_float = session(written)
    _, floats = explained(explain_float, network.inputs, classes)
    for kind in chosen:
        say(f"{name}, {kind}: quantise, compile")
        path = folder / f"{kind.replace(' ', '_').replace(',', '')}.onnx"
        KINDS[kind](source, path, network)
        explainer, written = compiled(network, path)
        deployed, explain, unfused = session(path), session(written), session(path, "DISABLE_ALL")
        say(f"{name}, {kind}: compare")
        want, plain = (np.concatenate([run(feeds)[0] for feeds in network.inputs]) for run in (deployed, unfused))
        got, relevance = explained(explain, network.inputs, classes)
        scale = float(np.abs(want).max())
        module = lrp.from_onnx(path)
        off = [steps_off(module, feeds) for feeds in network.inputs[:COMPARED]]
        tensors = [torch.from_numpy(array) for array in network.inputs[0].values()]
        books = explainer.audit(*tensors, target=torch.from_numpy(classes[:1]))
        own_classes = want.argmax(1).astype(np.int64)
        own = explained(explain, network.inputs, own_classes)[1]
        theirs = explained(explain_float, network.inputs, own_classes)[1]
        say(f"{name}, {kind}: flip")
        ours, other = (network.abpc(partial(_first_of, deployed), each) for each in (own, theirs))
        yield {
            "network": network.title,
            "file": kind,
            "inputs": len(network.inputs),
            "bytes": path.stat().st_size,
            "float_bytes": source.stat().st_size,
            "explainer": written.stat().st_size / path.stat().st_size,
            "steps": max(one[0] for one in off),
            "ties": max(one[1] for one in off),
            "floats_off": max(one[2] for one in off),
            "forward": float(np.abs(got - want).max()) / scale,
            "levels": float(np.abs(plain - want).max()) / scale,
            "same_class": float((got.argmax(1) == want.argmax(1)).mean()),
            "float_class": float((want.argmax(1) == classes).mean()),
            "books": abs(float(books.error)) / float(books.magnitude),
            "cosine": [cosine(a, b) for a, b in zip(relevance, floats, strict=True)],
            "overlap": [overlap(a, b) for a, b in zip(relevance, floats, strict=True)],
            "abpc": float(ours.mean()),
            "abpc_float": float(other.mean()),
            "difference": metrics.difference(ours, other),
        }


def document(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table."""
    about = (
        f"`python -m benchmarks.sound.quantised`: onnxruntime {onnxruntime.__version__}, torch {torch.__version__}. "
        f"EfficientNet-Lite0 by `epsilon-plus` on {rows[0]['inputs']} labelled photographs, MiniLM (a classifier of "
        f"film reviews, trained on a tenth of them) by `attnlrp` on {rows[-1]['inputs']} held-out reviews. Static "
        f"ranges are from the first {CALIBRATED} inputs. onnxruntime's dynamic quantiser has the weights of "
        "convolutions by tensor."
    )
    columns = (
        "*Nodes*: each node given what onnxruntime has there, on the first inputs: how many steps whole numbers are "
        "off at most, what share of them, and how far floats are off, as a share of the largest. *Outputs*: how far "
        "those of the explainer's file are from the deployed file's, both in onnxruntime as it comes, as a share of "
        "the largest logit; in brackets, how far the deployed file's own are from those without onnxruntime's "
        "optimisations: a number between two steps that is rounded the other way is another number from there on. "
        "*Class*: the share of inputs on which the explainer's file predicts the deployed file's class; in brackets, "
        "on which the deployed file predicts the float file's."
    )
    names = ("network", "file", "MB (of float's)", "explainer ÷ file", "nodes", "outputs", "class", "books")
    lines = ["# Quantised files, explained as they run", "", about, "", columns, ""]
    lines += [f"| {' | '.join(names)} |", "|---|---|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        size = f"{row['bytes'] / 1e6:.1f} ({row['bytes'] / row['float_bytes']:.0%})"
        nodes = f"{row['steps']}, {row['ties']:.1e}, {row['floats_off']:.0e}"
        outputs = f"{row['forward']:.1e} ({row['levels']:.1e})"
        same = f"{row['same_class']:.0%} ({row['float_class']:.0%})"
        lines.append(
            f"| {row['network']} | {row['file']} | {size} | {row['explainer']:.3f} | {nodes} | {outputs} | {same} | "
            f"{row['books']:.0e} |"
        )
    lines += [
        "",
        "The explanation beside that of the float file, for the class that the float network predicts: cosine and "
        "share of the most relevant tenth in common, means over the inputs (the least in brackets). *ABPC* on the "
        "quantised network, for the class that it predicts: of its own explanation and of the float file's; the mean "
        "of their difference with its interval of 95 %.",
        "",
        "| network | file | cosine | top tenth | ABPC, its own | ABPC, float's | difference |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        near, both = (f"{np.mean(row[key]):.3f} ({np.min(row[key]):.3f})" for key in ("cosine", "overlap"))
        mean, (low, high) = row["difference"]
        lines.append(
            f"| {row['network']} | {row['file']} | {near} | {both} | {row['abpc']:.3f} | {row['abpc_float']:.3f} | "
            f"{mean:+.3f} [{low:+.3f}, {high:+.3f}] |"
        )
    return "\n".join(lines) + "\n"


def is_sound(row: Mapping[str, Any]) -> bool:
    """Whether the books are closed, no node is off by more than a step, and the file is as small as it must be."""
    return bool(row["books"] <= 1e-9 and row["steps"] <= 1 and row["explainer"] <= LARGEST)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="files whose names hold this")
    parser.add_argument("--network", default="", metavar="TEXT", help="networks whose names hold this")
    arguments = parser.parse_args()
    on = reporting.console()
    measured: list[dict[str, Any]] = []
    with quiet(output=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in NETWORKS:
            if arguments.network in name:
                for row in measure(name, arguments.only, on.print):
                    measured.append(row)
                    write(row)
                    on.print({key: value for key, value in row.items() if key not in ("cosine", "overlap")})
                    on.print({key: float(np.mean(row[key])) for key in ("cosine", "overlap")})
    return int(not all(map(is_sound, measured)))


def write(row: dict[str, Any]) -> None:
    """A row among those that are known, and the table."""
    path = RESULTS / "quantised.json"
    known = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    rows = {(one["network"], one["file"]): one for one in [*known, row]}
    order = [(name, kind) for name in NETWORKS for kind in KINDS]
    found = sorted(rows.values(), key=lambda one: order.index((one["network"], one["file"])))
    reporting.write_rows(path, {"rows": found})
    reporting.write(RESULTS / "quantised.md", document(found))


if __name__ == "__main__":
    sys.exit(main())
