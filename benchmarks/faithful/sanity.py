"""Does relevance hang on what a network learned, and does a second way of taking pixels away order methods alike?

On the two networks that are trained on Fashion-MNIST, with metrics of Quantus 0.6:

- MPRT (Adebayo et al., 2018): weights are drawn anew, from the last layer downwards, one layer more each time.
  Relevance that hardly changes does not hang on what was learned. Cosine and Spearman's rank correlation with the
  explanation of the trained network, means over images. Of every network the class is explained that the trained one
  predicts.
- ROAD (Rong et al., 2022): the most relevant pixels are filled in from their neighbours (a linear system, with a little
  noise), so that what is taken away shows as little as can be. Share of images whose class stays, at each percentage.
- What else a number may hang on: explained alone or in a batch, in float64, in bfloat16.

Rows are kept as they come in results/sanity.json: what is there is not measured again. The table: results/sanity.md.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import benchmarks.networks.torchvision_operators  # noqa: F401  Quantus imports torchvision
from benchmarks.base import reporting
from benchmarks.base.places import RESULTS
from benchmarks.faithful import images, report
from benchmarks.faithful.methods import METHODS, Subject
from benchmarks.faithful.metrics import interval

MODELS = ("cnn_fashion_mnist", "vit_fashion_mnist")
OURS = {
    "cnn_fashion_mnist": ("epsilon", "attnlrp-gamma(0.1, 0.01)", "epsilon-plus", "epsilon-gamma-box", "dynamic-lrp"),
    "vit_fashion_mnist": ("attnlrp", "cp-lrp", "attnlrp-gamma(0.05, 0.01)", "dynamic-lrp"),
}
"""The second of the CNN's and the first of the transformer's are what `auto` takes."""
BOTH = ("reference", "reference-blurred")
PEERS = ("gradient-x-input", "integrated-gradients", "integrated-gradients-blurred", "smoothgrad", "saliency")
CHANCE = "random"
DRAWN = "smoothgrad"
"""Adds noise that is drawn anew each time, in float32: what it hangs on else cannot be told."""
RANDOMISED, FILLED = 100, 500
"""Images of MPRT, and of ROAD."""
PERCENTAGES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A network with its images, as methods are told of them."""

    name: str
    title: str
    subject: Subject

    def first(self, count: int) -> Case:
        """The same with fewer images."""
        some = {field: getattr(self.subject, field)[:count] for field in ("x", "target", "replacement")}
        return replace(self, subject=replace(self.subject, **some))


def case_of(name: str) -> Case:
    model = images.MODELS[name]
    return Case(name, model.title, images.subject_of(model.load(False).first(FILLED)))


def explained(method: str, subject: Subject) -> Tensor:
    """Relevance of pixels, `[images, 1, height, width]`."""
    return METHODS[method].explain(subject).sum(1, keepdim=True)


# ── weights drawn anew ───────────────────────────────────────────────────────────────────────────────────────────────


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the rows of `[images, pixels]`; 0 where one is nothing."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    found: np.ndarray = np.divide((a * b).sum(-1), norms, out=np.zeros_like(norms), where=norms > 0)
    return found


def ranks(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of the rows of `[images, pixels]`; 0 where one says nothing."""
    from scipy.stats import rankdata

    first, second = (rankdata(each, axis=-1) for each in (a, b))
    return cosine(first - first.mean(-1, keepdims=True), second - second.mean(-1, keepdims=True))


def randomised(method: str, case: Case) -> Row:
    """By Quantus: means over images for each layer that was drawn anew, the network's last first."""
    import quantus

    subject = case.first(RANDOMISED).subject

    def explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
        return explained(method, replace(subject, model=model.eval())).numpy()

    def both(a: np.ndarray, b: np.ndarray, batched: bool = True) -> np.ndarray:
        return np.stack((cosine(a, b), ranks(a, b)), axis=-1)

    metric = quantus.MPRT(similarity_func=both, abs=False, normalise=False, disable_warnings=True)
    scores = metric(
        model=case.subject.model,
        x_batch=subject.x.numpy(),
        y_batch=subject.target.numpy(),
        a_batch=explained(method, subject).numpy(),
        explain_func=explain,
        batch_size=RANDOMISED,
        device="cpu",
    )
    means = np.array([np.mean(scores[layer], axis=0) for layer in scores])
    return {"layers": list(scores), "cosine": means[:, 0].tolist(), "rank": means[:, 1].tolist()}


# ── pixels filled in ─────────────────────────────────────────────────────────────────────────────────────────────────


def filled(method: str, case: Case) -> Row:
    """By Quantus: the share of images whose class stays, at each percentage; `stays`: the mean over these."""
    import quantus

    np.random.seed(images.SEED)  # of the noise on what is filled in
    metric = quantus.ROAD(percentages=list(PERCENTAGES), normalise=False, disable_warnings=True)
    metric.custom_postprocess = lambda **_: None
    scores = metric(
        model=case.subject.model,
        x_batch=case.subject.x.numpy(),
        y_batch=case.subject.target.numpy(),
        a_batch=explained(method, case.subject).numpy(),
        batch_size=len(case.subject.x),
        device="cpu",
    )
    kept = np.concatenate([np.asarray(batch, np.float64) for batch in scores])
    stays = kept.mean(1)
    return {
        "kept": kept.mean(0).tolist(),
        "stays": float(stays.mean()),
        "interval": interval(stays, images.SEED),
        "stays_samples": [round(float(value), 6) for value in stays],
    }


# ── what else it hangs on ────────────────────────────────────────────────────────────────────────────────────────────


def settings(method: str, case: Case) -> Row:
    """How far relevance is from that of a batch of 100 in float32: largest difference as a share of an image's largest
    relevance, median over images; of bfloat16 also the rank correlation."""
    subject = case.first(RANDOMISED).subject
    known = explained(method, subject)
    largest = known.abs().amax((1, 2, 3)).clamp(min=torch.finfo(known.dtype).tiny)

    def off(found: Tensor) -> float:
        return float(((found.to(known.dtype) - known).abs().amax((1, 2, 3)) / largest).median())

    def cast(dtype: torch.dtype) -> Tensor:
        values = {field: getattr(subject, field).to(dtype) for field in ("x", "replacement", "background")}
        return explained(method, replace(subject, model=copy.deepcopy(subject.model).to(dtype), **values))

    half = cast(torch.bfloat16)
    rank = ranks(known.flatten(1).double().numpy(), half.flatten(1).double().numpy())
    return {
        "alone": off(explained(method, replace(subject, rows=1))),
        "float64": off(cast(torch.float64)),
        "bfloat16": off(half),
        "bfloat16_rank": float(rank.mean()),
    }


CHECKS: dict[str, Callable[[str, Case], Row]] = {"randomised": randomised, "filled": filled, "settings": settings}

# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def of(rows: Sequence[Row], model: str, check: str) -> list[Row]:
    return [row for row in rows if row["model"] == model and row["check"] == check]


def bold(row: Row) -> str:
    return f"**{row['method']}**" if row["family"] == "ours" else row["method"]


def randomised_table(rows: Sequence[Row]) -> str:
    """A row a method: cosine / rank correlation with how many layers drawn anew, and how many are the network's."""
    layers = len(rows[0]["layers"]) - 1
    shown = sorted({1, 2, layers // 4, layers // 2, 3 * layers // 4, layers} - {0})
    titles = ["method", *(f"{count} of {layers}" for count in shown)]
    lines = [
        [bold(row), *(f"{row['cosine'][count]:+.2f} / {row['rank'][count]:+.2f}" for count in shown)]
        for row in sorted(rows, key=lambda row: abs(row["rank"][-1]))
    ]
    return report.table(titles, lines)


def filled_table(rows: Sequence[Row], flipped: Mapping[str, Row]) -> str:
    """The best first, each beside its place by flipping."""
    titles = ["method", "class stays", *(f"{each} %" for each in PERCENTAGES[::2]), "comprehensiveness, blurred"]
    lines = []
    for row in sorted(rows, key=lambda row: row["stays"]):
        cells = [bold(row), report.number(row["stays"], row["interval"]), *(f"{v:.2f}" for v in row["kept"][::2])]
        known = flipped.get(row["method"])
        lines.append([*cells, report.number(known["comprehensiveness"]) if known else "–"])
    return report.table(titles, lines)


def agreement(rows: Sequence[Row], flipped: Mapping[str, Row]) -> str:
    """A sentence: do both ways order the methods alike?"""
    both = [row for row in rows if row["method"] in flipped and row["family"] != "baseline"]
    if len(both) < 3:
        return ""
    stays = np.array([[-row["stays"] for row in both]])
    figures = {
        "comprehensiveness (the most relevant first, filled with blur)": "comprehensiveness",
        "ABPC (both orders)": "abpc",
    }
    said = [
        f"{ranks(stays, np.array([[flipped[row['method']][key] for row in both]]))[0]:+.2f} with {title}"
        for title, key in figures.items()
    ]
    return f"Rank correlation of the {len(both)} methods' order, chance left out: {', '.join(said)}."


def settings_table(rows: Sequence[Row]) -> str:
    titles = ["method", "alone", "float64", "bfloat16", "bfloat16, rank correlation"]
    keys = ("alone", "float64", "bfloat16")
    lines = [[bold(row), *(f"{row[key]:.0e}" for key in keys), f"{row['bfloat16_rank']:.3f}"] for row in rows]
    return report.table(titles, lines)


def markdown(found: Mapping[str, Any], flipped: Sequence[Row]) -> str:
    parts = [
        "# Sanity",
        "Written by `python -m benchmarks.faithful.sanity` from `sanity.json`; "
        "[what is measured](../README.md#sanity). Bold: ours. […]: 95 % bootstrap intervals over images.",
    ]
    for model in MODELS:
        rows, known = found["rows"], {r["method"]: r for r in flipped if r["model"] == model and "failure" not in r}
        if drawn := of(rows, model, "randomised"):
            parts += [
                f"## {drawn[0]['title']}: weights drawn anew",
                "Cosine / rank correlation with the explanation of the trained network, means over "
                f"{RANDOMISED} images, "
                "with so many layers drawn anew, the last ones first. 0: nothing is left of it.",
                randomised_table(drawn),
            ]
        if pixels := of(rows, model, "filled"):
            parts += [
                f"## {pixels[0]['title']}: the most relevant pixels filled in (ROAD)",
                f"Share of {FILLED} images whose class stays, mean over {len(PERCENTAGES)} percentages and at some of "
                "them; small is good.",
                filled_table(pixels, known),
                agreement(pixels, known),
            ]
        if hangs := of(rows, model, "settings"):
            parts += [
                f"## {hangs[0]['title']}: alone or in a batch, other precisions",
                "Largest difference to float32 in a batch of 100, as a share of an image's largest relevance; medians.",
                settings_table(hangs),
            ]
    return "\n\n".join(part for part in parts if part) + "\n"


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def wanted(rows: Sequence[Row], options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """(model, check, method) that have no row yet."""
    known = {(row["model"], row["check"], row["method"]) for row in rows}
    for model in options.models:
        methods = (*OURS[model], *BOTH, *PEERS, CHANCE)
        for check in options.checks:
            for method in methods if check == "filled" else methods[:-1]:
                if check == "settings" and method == DRAWN:
                    continue
                if (not options.methods or method in options.methods) and (model, check, method) not in known:
                    yield model, check, method


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL")
    parser.add_argument("--checks", nargs="+", choices=CHECKS, default=tuple(CHECKS), metavar="CHECK")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="of these alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    console, path = reporting.console(), RESULTS / "sanity.json"
    found = report.read(path)
    cases: dict[str, Case] = {}
    todo = [] if options.tables else list(wanted(found["rows"], options))
    with reporting.progress(console) as progress:
        task = progress.add_task("", total=len(todo))
        for model, check, method in todo:
            progress.update(task, description=f"{model}: {check}, {method}")
            case = cases.get(model) or cases.setdefault(model, case_of(model))
            head = {"model": model, "title": case.title, "check": check, "method": method}
            row = head | {"family": METHODS[method].family} | CHECKS[check](method, case)
            found["rows"].append(row)
            report.write(path, found)
            progress.advance(task)
    flipped = report.read(RESULTS / "faithfulness.json")["rows"]
    reporting.write(RESULTS / "sanity.md", markdown(found, [row for row in flipped if row["metric"] == "flipping"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
