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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.base.places import BUILD
from benchmarks.faithful import metrics
from benchmarks.sound import RESULTS
from benchmarks.sound.quantised_files import CALIBRATED, KINDS, NETWORKS, SHOWN_FOR, Array, Feeds, Network, float_file
from lrp_compiler.base.quiet import quiet
from lrp_compiler.onnx_in.parity import STORED, node_by_node

EXAMPLES = """examples:
  python -m benchmarks.sound.quantised                      all, half an hour; writes the table
  python -m benchmarks.sound.quantised --only static        files whose names hold this; the other rows stay
"""
FOLDER = BUILD / "quantised"
LARGEST = 1.15
"""How many times as large as the quantised file the explainer's may be."""
COMPARED = 2
"""Inputs that go through node by node."""
TOP = 0.1


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


LEVELS = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED")
"""Of onnxruntime's optimisation, besides the one that is taken where nothing is said."""


def levels(path: Path, inputs: list[Feeds], want: Array) -> dict[str, float]:
    """What onnxruntime's own levels make of a file: the largest difference from the usual one, and how often the class
    is the same at the least, over all levels."""
    found = []
    for level in LEVELS:
        run = session(path, level)
        found.append(np.concatenate([run(feeds)[0] for feeds in inputs]))
    return {
        "levels": max(float(np.abs(one - want).max()) for one in found) / float(np.abs(want).max()),
        "levels_class": min(float((one.argmax(1) == want.argmax(1)).mean()) for one in found),
    }


def steps_off(module: Any, feeds: Feeds) -> tuple[int, float, float]:
    """Node by node: how many steps whole numbers are off at most, the share that is, and how far floats are off."""
    most, off, numbers, floats = 0, 0, 0, 0.0
    tensors = [torch.from_numpy(array) for array in feeds.values()]
    for _, got, want, _real in node_by_node(module, feeds, tensors):
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
        deployed, explain = session(path), session(written)
        say(f"{name}, {kind}: compare")
        want = np.concatenate([deployed(feeds)[0] for feeds in network.inputs])
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
            **levels(path, network.inputs, want),
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
        "convolutions by tensor. Both sides of a comparison are of one run; rows may be of several."
    )
    columns = (
        "*Nodes*: each node given what onnxruntime has there, on the first inputs: how many steps whole numbers are "
        "off at most, what share of them, and how far floats are off, as a share of the largest. *Outputs*: how far "
        "those of the explainer's file are from the deployed file's, both in onnxruntime as it comes, as a share of "
        "the largest logit. *Class*: the share of inputs on which the explainer's file predicts the deployed file's "
        "class; in brackets, on which the deployed file predicts the float file's. *Levels*: the same of the deployed "
        "file itself, where onnxruntime optimises it less: what it fuses adds whole numbers, what it does not adds "
        "floats, and a number between two steps that is rounded the other way is another number from there on."
    )
    names = ("network", "file", "MB (of float's)", "explainer ÷ file", "nodes", "outputs", "class", "levels", "books")
    lines = ["# Quantised files, explained as they run", "", about, "", columns, ""]
    lines += [f"| {' | '.join(names)} |", "|---|---|---:|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        size = f"{row['bytes'] / 1e6:.1f} ({row['bytes'] / row['float_bytes']:.0%})"
        nodes = f"{row['steps']}, {row['ties']:.1e}, {row['floats_off']:.0e}"
        own = f"{row['levels']:.1e}, {row['levels_class']:.0%}"
        same = f"{row['same_class']:.0%} ({row['float_class']:.0%})"
        lines.append(
            f"| {row['network']} | {row['file']} | {size} | {row['explainer']:.3f} | {nodes} | {row['forward']:.1e} | "
            f"{same} | {own} | {row['books']:.0e} |"
        )
    earlier = [f"{row['network']} {row['file']}" for row in rows if row.get("earlier")]
    lines += [
        "",
        *(
            [
                "Explained with quantisations passed straight through, as this composite no longer does: "
                f"{'; '.join(earlier)}.",
                "",
            ]
            if earlier
            else []
        ),
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
