"""Do other tests say the same? ROAD, and relevance of networks whose weights are made random, on the image models.

ROAD (Rong et al., "A consistent and efficient evaluation strategy for attribution methods", ICML 2022) takes pixels
away as flipping does, and puts noisy means of their neighbours there (Quantus' function), which leave no trace of where
pixels were taken; what is counted is how often the class that was predicted is still predicted. The table holds its
order of methods against that of ABPC (results/faithfulness.json): Kendall's τ.

Randomised weights (MPRT; Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018): layer by layer from the
output, weights are drawn anew (Quantus' order and draw, each layer's own initialisation). The map of the same class by
the same method, compared with the network's own: cosine, and Spearman's rank correlation of places. A method whose maps
stay the same does not explain the weights.

Rows are kept as they come in results/confirmed.json, what is there is not measured again; the table: confirmed.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import benchmarks.networks.torchvision_operators  # noqa: F401  Quantus imports torchvision
from benchmarks.base import reporting
from benchmarks.base.places import RESULTS
from benchmarks.faithful import images, report
from benchmarks.faithful.methods import METHODS, Subject
from benchmarks.faithful.metrics import interval

PATH, TABLE = RESULTS / "confirmed.json", RESULTS / "confirmed.md"
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of the pixels, taken away."""
NOISE = 0.01
SAME = 20
"""Images of which maps of random networks are made."""
STEPS = 8
"""At how many depths, at most, the maps of a network that is partly random are looked at."""
PLAIN = ("gradient-x-input", "integrated-gradients", "smoothgrad", "saliency", "random")
IMAGES = {"cnn_fashion_mnist": 200, "vit_fashion_mnist": 200, "squeezenet1_1": 12, "efficientnet_lite0": 12}
"""Of each model, the first: on photographs ROAD solves systems of 50,000 unknowns, one for each point of a curve."""
ROAD: dict[str, tuple[str, ...]] = {
    "cnn_fashion_mnist": ("epsilon", "epsilon-plus", "epsilon-gamma-box", "attnlrp-gamma(0.25, 0.05)", *PLAIN),
    "vit_fashion_mnist": ("epsilon", "attnlrp", "cp-lrp", "dynamic-lrp", "attnlrp-gamma(0.05, 0.01)", *PLAIN),
    "squeezenet1_1": ("epsilon", "epsilon-plus", "attnlrp-gamma(10, 0.5)", "gradient-x-input", "smoothgrad", "random"),
    "efficientnet_lite0": (
        "epsilon",
        "epsilon-plus",
        "attnlrp-gamma(10, 0.5)",
        "gradient-x-input",
        "smoothgrad",
        "random",
    ),
}
MPRT: dict[str, tuple[str, ...]] = {
    "cnn_fashion_mnist": (
        "epsilon",
        "epsilon-plus",
        "epsilon-gamma-box",
        "attnlrp-gamma(0.25, 0.05)",
        "gradient-x-input",
    ),
    "vit_fashion_mnist": ("epsilon", "attnlrp", "cp-lrp", "attnlrp-gamma(0.05, 0.01)", "gradient-x-input"),
    "squeezenet1_1": ("epsilon", "epsilon-plus", "attnlrp-gamma(10, 0.5)", "gradient-x-input"),
}
EXAMPLES = """examples:
  python -m benchmarks.faithful.confirmed                                    what has no row yet
  python -m benchmarks.faithful.confirmed --only cnn_fashion_mnist --again   of this model, anew
  python -m benchmarks.faithful.confirmed --table                            the table of the rows there are
"""


# ── ROAD ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def road(loaded: images.Loaded, subject: Subject, relevance: Tensor) -> dict[str, list[float]]:
    """After each share of pixels is taken away, the most relevant first and the least relevant first: on which images
    (1, else 0) the class is still predicted; in one list, image by image within each share."""
    from quantus.functions.perturb_func import noisy_linear_imputation

    places = relevance.sum(1).flatten(1)
    # As in flipping, ties are broken by chance.
    shuffled = torch.randperm(places.shape[1], generator=torch.Generator().manual_seed(images.SEED))
    order = shuffled[places[:, shuffled].argsort(1, descending=True, stable=True)].numpy()
    found: dict[str, list[float]] = {}
    for name, ranked in (("morf", order), ("lerf", order[:, ::-1])):
        found[name] = []
        for share in SHARES:
            np.random.seed(images.SEED)  # what Quantus' noise is drawn from
            count = int(share * ranked.shape[1])
            taken = [
                noisy_linear_imputation(arr=x.numpy(), indices=ranks[:count].copy(), noise=NOISE)
                for x, ranks in zip(loaded.x, ranked, strict=True)
            ]
            with torch.inference_mode():
                given = torch.from_numpy(np.stack(taken)).to(loaded.x.dtype)
                said = torch.cat([loaded.model(rows).argmax(-1) for rows in given.split(20)])
            found[name] += (said == subject.target).double().tolist()
    return found


def road_row(loaded: images.Loaded, subject: Subject, method: str) -> dict[str, Any]:
    """Curves of a method, and its figure: the mean over shares of LeRF − MoRF, with its interval over images."""
    curves = road(loaded, subject, METHODS[method].explain(subject))
    by_share = {name: np.array(values).reshape(len(SHARES), -1) for name, values in curves.items()}
    gaps = (by_share["lerf"] - by_share["morf"]).mean(0)
    return {
        "images": len(loaded.x),
        "gap": float(gaps.mean()),
        "interval": interval(gaps, images.SEED),
        **{name: [round(float(value), 4) for value in values.mean(1)] for name, values in by_share.items()},
    }


# ── random weights ───────────────────────────────────────────────────────────────────────────────────────────────────


def likeness(one: Tensor, other: Tensor) -> dict[str, float]:
    """Cosine and Spearman's rank correlation of maps, image by image, in the mean; 0 where one of them is constant."""
    from scipy.stats import spearmanr

    a, b = (maps.sum(1).flatten(1).double().nan_to_num(0.0, 0.0, 0.0) for maps in (one, other))
    ranks = [
        spearmanr(x, y).statistic if x.std() and y.std() else 0.0 for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    return {"cosine": float(torch.cosine_similarity(a, b).mean()), "rank": float(np.mean(ranks))}


def random_networks(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """The network with more and more layers random from the output: as many of Quantus' as are looked at, evenly."""
    from quantus.helpers.model.pytorch_model import PyTorchModel

    count = sum(hasattr(layer, "reset_parameters") for layer in model.modules())
    looked_at = {round(at) for at in np.linspace(1, count, min(STEPS, count))}
    for at, (name, network) in enumerate(PyTorchModel(model).get_random_layer_generator("top_down", images.SEED), 1):
        if at in looked_at:
            yield f"{name} ({at} of {count})", network.eval()


def random_rows(subject: Subject, methods: tuple[str, ...]) -> dict[str, Any]:
    """By method, after each layer looked at: how like the network's own its maps still are."""
    own = {method: METHODS[method].explain(subject) for method in methods}
    rows: dict[str, Any] = {method: [] for method in methods}
    layers = []
    for name, network in random_networks(subject.model):
        layers.append(name)
        for method in methods:
            rows[method].append(likeness(METHODS[method].explain(replace(subject, model=network)), own[method]))
    return {"images": len(subject.x), "layers": layers, "methods": rows}


# ── rows and table ───────────────────────────────────────────────────────────────────────────────────────────────────


def rows() -> dict[str, Any]:
    """What was measured so far: {"road": {model: {method: row}}, "mprt": {model: row}}."""
    return json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {"road": {}, "mprt": {}}


def _agreement(model: str, found: dict[str, Any]) -> str:
    """Kendall's τ of the two orders of methods."""
    from scipy.stats import kendalltau

    flipped = report.read(RESULTS / "faithfulness.json")["rows"]
    known = {
        row["method"]: row["abpc"]
        for row in flipped
        if row["model"] == model and row["metric"] == "flipping" and "abpc" in row
    }
    both = [method for method in found if method in known]
    if len(both) < 3:
        return "no order to compare with"
    tau = kendalltau([found[method]["gap"] for method in both], [known[method] for method in both])
    return f"Kendall's τ with the order by ABPC, {len(both)} methods: {tau.statistic:.2f} (p = {tau.pvalue:.3f})"


def table(found: dict[str, Any]) -> str:
    """Both tests as a page."""
    lines = [
        "# Do other tests say the same?",
        "",
        "Made by `python -m benchmarks.faithful.confirmed`, whose docstring says what is measured.",
        "",
        "## ROAD",
        "",
        "*Gap*: the mean over shares of pixels taken away of LeRF − MoRF, of the share of images whose class stays; "
        "0 is chance. […]: 95 % intervals over images. MoRF and LeRF at "
        + ", ".join(f"{share:.0%}" for share in SHARES)
        + ".",
    ]
    for model, methods in found["road"].items():
        title, count = images.MODELS[model].title, next(iter(methods.values()))["images"]
        lines += ["", f"**{title}**, {count} images. {_agreement(model, methods)}.", ""]
        lines += ["| method | gap | interval | MoRF | LeRF |", "|---|---:|---|---|---|"]
        for method, row in sorted(methods.items(), key=lambda item: -item[1]["gap"]):
            low, high = row["interval"]
            curves = (" ".join(f"{value:.2f}" for value in row[name]) for name in ("morf", "lerf"))
            lines.append(f"| {method} | {row['gap']:.3f} | [{low:.3f}, {high:.3f}] | " + " | ".join(curves) + " |")
    lines += [
        "",
        "## Weights made random, from the output on",
        "",
        "Cosine / Spearman's rank correlation of a method's maps with those of the network as it is.",
    ]
    for model, row in found["mprt"].items():
        lines += ["", f"**{images.MODELS[model].title}**, {row['images']} images.", ""]
        lines += [
            "| random from the output to | " + " | ".join(row["methods"]) + " |",
            "|---" * (len(row["methods"]) + 1) + "|",
        ]
        for at, layer in enumerate(row["layers"]):
            cells = [f"{each[at]['cosine']:.2f} / {each[at]['rank']:.2f}" for each in row["methods"].values()]
            lines.append(f"| {layer} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure what has no row yet, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=IMAGES, default=list(IMAGES), metavar="MODEL", help="these models")
    parser.add_argument("--again", action="store_true", help="measure also what has a row")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    found = rows()
    with reporting.progress(reporting.console()) as bar:
        task = bar.add_task("", total=sum(len(ROAD[model]) + (model in MPRT) for model in options.only))
        for model in () if options.table else options.only:
            bar.update(task, description=f"{model}: load")
            loaded = images.MODELS[model].load(False).first(IMAGES[model])
            subject = images.subject_of(loaded)
            for method in ROAD[model]:
                bar.update(task, description=f"{model}: ROAD of {method}")
                if options.again or method not in found["road"].get(model, {}):
                    found["road"].setdefault(model, {})[method] = road_row(loaded, subject, method)
                    reporting.write_rows(PATH, found)
                bar.advance(task)
            if model in MPRT:
                bar.update(task, description=f"{model}: random weights")
                if options.again or model not in found["mprt"]:
                    few = images.subject_of(loaded.first(SAME))
                    found["mprt"][model] = random_rows(few, MPRT[model])
                    reporting.write_rows(PATH, found)
                bar.advance(task)
    reporting.write(TABLE, table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
