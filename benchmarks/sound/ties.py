"""Do near-ties of max pools make torch and onnxruntime route relevance differently?

    python -m benchmarks.sound.ties

SqueezeNet 1.1, `epsilon-plus`, on labelled photographs, whose relevance in onnxruntime differs from torch's for some of
them by far more than rounding. Where in a window the largest value is, decides where its relevance goes; two runtimes
that round differently may disagree about it where two values are as good as equal. For each photograph: how many
decisions differ and how near the two values are in float64, how far the two relevances lie apart, how far once
onnxruntime is given torch's decisions instead of its own, and how far under the rule `near`, by which values that come
close share. And what that rule costs: its time in onnxruntime, medians of runs in turn. Rows go to results/ties.json,
the table to results/ties.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from torch.nn import functional

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.base.places import BUILD
from benchmarks.networks import pretrained

RESULTS = Path(__file__).resolve().parent / "results"
FOLDER = BUILD / "ties"


class Decided:
    """The explainer in onnxruntime, which tells its pools' decisions, or takes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        model = onnx.load(path)
        self.pools = [node for node in model.graph.node if node.op_type == "MaxPool" and len(node.output) == 2]
        for node in self.pools:
            model.graph.output.append(onnx.helper.make_tensor_value_info(node.output[1], onnx.TensorProto.INT64, None))
        self.tells = onnxruntime.InferenceSession(model.SerializeToString())
        given = onnx.load(path)
        for node in self.pools:
            given.graph.input.append(
                onnx.helper.make_tensor_value_info(node.output[1], onnx.TensorProto.INT64, [None] * 4)
            )
            for other in given.graph.node:
                if other.output[0] == node.output[0]:
                    other.output[1] = ""  # a decision that nobody reads
        self.takes = onnxruntime.InferenceSession(given.SerializeToString())

    def run(self, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Relevance, and where in its map each window's largest value is, pool by pool in the file's order."""
        names = ["relevance.x", *(node.output[1] for node in self.pools)]
        relevance, *decisions = self.tells.run(names, {"x": x})
        return relevance, decisions

    def decided(self, x: np.ndarray, decisions: list[np.ndarray]) -> np.ndarray:
        """Relevance under these decisions."""
        feeds = {node.output[1]: places for node, places in zip(self.pools, decisions, strict=True)}
        return self.takes.run(["relevance.x"], {"x": x, **feeds})[0]


def pooled(model: nn.Module, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What each max pool gets, and where in a map of it each window's largest value is; first pool first."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(pool: nn.Module, given: tuple[torch.Tensor, ...], _: Any) -> None:
        options = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        found.append((given[0], functional.max_pool2d(given[0], *options, return_indices=True)[1]))

    hooks = [module.register_forward_hook(keep) for module in model.modules() if isinstance(module, nn.MaxPool2d)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def in_file(places: torch.Tensor, size: torch.Size) -> np.ndarray:
    """Places as ONNX counts them: through the whole tensor, of one row."""
    offsets = torch.arange(places.shape[1]) * size[2] * size[3]
    return (places + offsets[:, None, None]).numpy()


def farthest(theirs: np.ndarray, ours: np.ndarray) -> float:
    """The largest difference, as a share of the largest relevance."""
    return float(np.abs(theirs - ours).max() / np.abs(ours).max())


def cost(plain: Decided, shared: lrp.OnnxExplainer, x: np.ndarray, runs: int = 15) -> float:
    """Time of one image under the rule `near` ÷ time without it."""
    explainers = {"plain": lrp.OnnxExplainer(plain.path), "shared": shared}
    seconds: dict[str, list[float]] = {name: [] for name in explainers}
    for _ in range(runs):
        for name, explainer in explainers.items():
            start = time.perf_counter()
            explainer(x)
            seconds[name].append(time.perf_counter() - start)
    return statistics.median(seconds["shared"]) / statistics.median(seconds["plain"])


def compare(
    x: torch.Tensor,
    model: nn.Module,
    double: nn.Module,
    explainer: lrp.Explainer,
    file: Decided,
    shared: tuple[lrp.Explainer, lrp.OnnxExplainer],
) -> dict[str, Any]:
    """One photograph."""
    theirs, decisions = file.run(x.numpy())
    ours = explainer(x).relevance["x"].numpy()
    pools = pooled(model, x)[::-1]  # relevance meets the last one first
    exact = pooled(double, x.double())[::-1]
    differing, gaps = 0, []
    for (values, places), found, (precise, _) in zip(pools, decisions, exact, strict=True):
        there = (
            torch.from_numpy(found) - torch.arange(places.shape[1])[:, None, None] * values.shape[2] * values.shape[3]
        )
        flat = precise.flatten(2)
        mine, other = (flat.gather(2, at.flatten(2)) for at in (places, there))
        # Windows of zeros alone are ties as well, and have no relevance to send anywhere.
        counts = (places != there).flatten(2) & (mine > 0)
        differing += int(counts.sum())
        gaps += ((mine - other).abs() / flat.max())[counts].tolist()
    given = file.decided(x.numpy(), [in_file(places, values.shape) for values, places in pools])
    in_torch, in_onnxruntime = shared
    return {
        "differing": differing,
        "widest_gap": max(gaps, default=0.0),
        "apart": farthest(theirs, ours),
        "apart_decided_alike": farthest(given, ours),
        "apart_shared": farthest(in_onnxruntime(x.numpy()).relevance["x"], in_torch(x).relevance["x"].numpy()),
    }


def markdown(rows: dict[str, dict[str, Any]], times: float) -> str:
    """The table."""
    lines = [
        "# Near-ties of max pools",
        "",
        "Written by `python -m benchmarks.sound.ties`; its docstring says more. SqueezeNet 1.1, `epsilon-plus`: "
        "the largest difference between onnxruntime's relevance and torch's, as a share of the largest relevance, as "
        "it is and once onnxruntime's max pools are given torch's decisions. *Windows that differ*: those in which the "
        "two take another place; *gap*: how far the values of both places lie apart in float64, where it is widest, as "
        "a share of the map's largest value. *Shared*: the difference under the rule `near` on max pools, by which "
        f"values within 1 % of the largest share its relevance; it takes {times:.2f} times as long.",
        "",
        "| photograph | windows that differ | gap | apart | decided alike | shared |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        gap = f"{row['widest_gap']:.0e}" if row["differing"] else "–"
        apart = " | ".join(f"{row[key]:.1e}" for key in ("apart", "apart_decided_alike", "apart_shared"))
        lines.append(f"| {name} | {row['differing']} | {gap} | {apart} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=20, help="of the labelled photographs, so many (20)")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the table goes")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    FOLDER.mkdir(parents=True, exist_ok=True)
    model, double = pretrained.squeezenet1_1(), pretrained.squeezenet1_1().double()
    photos = pretrained.imagenet_photos()[: options.photos]
    pixels = torch.stack([pretrained.preprocess_caffe(photo.image) for photo in photos])
    plain = lrp.composites.epsilon_plus()
    near = lrp.Composite("epsilon-plus, near-ties shared", (lrp.Entry("max pool", "near"), *plain.entries))
    batches = {"x": {0: torch.export.Dim("batch")}}
    explainer, sharing = (
        lrp.compile(model, (pixels[:2],), composite=one, dynamic_shapes=batches) for one in (plain, near)
    )
    explainer.to_onnx(FOLDER / "squeezenet1_1.lrp.onnx")
    sharing.to_onnx(FOLDER / "squeezenet1_1_near.lrp.onnx")
    file = Decided(FOLDER / "squeezenet1_1.lrp.onnx")
    shared = sharing, lrp.OnnxExplainer(FOLDER / "squeezenet1_1_near.lrp.onnx")
    rows = {
        photo.name: compare(x.unsqueeze(0), model, double, explainer, file, shared)
        for photo, x in zip(photos, pixels, strict=True)
    }
    times = cost(file, shared[1], pixels[:1].numpy())
    reporting.write_rows(options.folder / "ties.json", {**rows, "time, shared ÷ plain": times})
    reporting.write(options.folder / "ties.md", markdown(rows, times))
    print(markdown(rows, times))
    return 0


if __name__ == "__main__":
    sys.exit(main())
