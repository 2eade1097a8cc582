"""Which explanation is the most faithful? Candidates for what the library might offer, on the benchmark's networks.

Relevance of differences (`differences.py`), relevance summed over the outputs of several layers, softmax temperatures,
and attention patterns held fixed in the first half of the layers, each beside parts of itself, so that it can be seen
what it owes its figure to. Inputs, flipping and figures are those of `run.py`, whose rows of pretrained networks are
compared with as they stand; on networks that are trained here peers are measured anew, on the first `--inputs`.

Rows are kept as they come in results/candidates.json; the table: results/candidates.md.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.base.places import RESULTS
from benchmarks.faithful import flipping, images, report, training
from benchmarks.faithful.differences import Rules, explain, exported, gim
from benchmarks.faithful.methods import METHODS, Subject
from benchmarks.faithful.metrics import difference, flipping_row

BATCH = torch.export.Dim("batch")
SMOOTHED = 5.0
"""σ of the Gaussian over relevance, in pixels: what sums over coarse maps may owe to coarseness alone."""
Explain = Callable[[slice], Tensor]


@dataclass(frozen=True)
class Case:
    """A network with its inputs, and the modules that relevance is summed over."""

    name: str
    loaded: images.Loaded
    subject: Subject
    layers: tuple[str, ...]


# ── candidates: what is compiled before the clock runs, and a function of some rows ──────────────────────────────────


def known(name: str, case: Case) -> Explain:
    """A method of `run.py`; its compilation counts as well."""

    def run(rows: slice) -> Tensor:
        some = Subject(
            **(vars(case.subject) | {f: getattr(case.subject, f)[rows] for f in ("x", "target", "replacement")})
        )
        return METHODS[name].explain(some)

    return run


def references(case: Case) -> dict[str, Tensor]:
    """Images of which x is the difference, by name."""
    x = case.subject.x
    return {
        "blurred": case.subject.replacement,
        "zero": torch.zeros_like(x),
        "own mean": x.mean((1, 2, 3), keepdim=True).expand_as(x),
    }


def differences(reference: str, rules: Rules, case: Case) -> Explain:
    program = exported(case.loaded.model, (case.subject.x[:2],), ({0: BATCH},))
    against, subject = references(case)[reference], case.subject
    return lambda rows: explain(program, subject.x[rows], against[rows], subject.target[rows], rules)[0]


def compiled(composite: lrp.Composite, observed: Sequence[str], case: Case) -> Callable[[slice], dict[str, Tensor]]:
    """Relevance of the image under "" and of the layers by name."""
    x = case.subject.x
    explainer = lrp.compile(
        case.loaded.model, (x[:2],), composite=composite, observe=observed, dynamic_shapes=({0: BATCH},)
    )

    def run(rows: slice) -> dict[str, Tensor]:
        with torch.no_grad():
            found = dict(explainer(x[rows]).relevance)
        return {"": found.pop(next(iter(found)))} | found

    return run


def to_image(relevance: Tensor, side: int) -> Tensor:
    """Relevance of a layer as a map of `[batch, 1, side, side]` with the same sum, but for that of a class token."""
    mode = "bilinear"
    if relevance.dim() == 3:
        tokens, mode = relevance.sum(-1), "nearest"
        places = int(tokens.shape[1] ** 0.5)
        relevance = tokens[:, -(places**2) :].unflatten(1, (1, places, places))
    coarse = relevance.sum(1, keepdim=True)
    return functional.interpolate(coarse, size=(side, side), mode=mode) * (coarse[0].numel() / side**2)


def summed(composite: lrp.Composite, form: Callable[[Tensor], Tensor], case: Case, with_image: bool = True) -> Explain:
    """Over the outputs of the layers, and the image's own."""
    run = compiled(composite, case.layers, case)

    def total(rows: slice) -> Tensor:
        found = run(rows)
        own = found.pop("")
        maps = [form(to_image(relevance, own.shape[-1])) for relevance in found.values()]
        return sum(maps, form(own.sum(1, keepdim=True)) * with_image)

    return total


def aggregated(composite: lrp.Composite, case: Case) -> Explain:
    """The same over maps of channels, by the library's own option."""
    x = case.subject.x
    explainer = lrp.compile(
        case.loaded.model, (x[:2],), composite=composite, aggregate=case.layers, dynamic_shapes=({0: BATCH},)
    )

    def run(rows: slice) -> Tensor:
        (found,) = explainer(x[rows]).aggregate.values()
        return found[:, None]

    return run


def last(case: Case) -> Case:
    """Of the layers the last alone."""
    return replace(case, layers=case.layers[-1:])


def fine(case: Case) -> Case:
    """Without the last two layers, whose maps are EfficientNet's coarsest, 7 × 7."""
    return replace(case, layers=case.layers[:-2])


def smoothed(explain: Explain) -> Explain:
    return lambda rows: flipping.blurred(explain(rows).sum(1, keepdim=True), SMOOTHED)


def alone(composite: lrp.Composite, case: Case) -> Explain:
    run = compiled(composite, (), case)
    return lambda rows: run(rows)[""]


def half_fixed(case: Case) -> Explain:
    """AttnLRP, but attention patterns of the first half of the layers are held fixed."""
    first = case.layers[: len(case.layers) // 2]
    entries = tuple(lrp.Entry("softmax", "fixed", path=path) for path in first)
    return alone(lrp.Composite("half-fixed", (*entries, *lrp.composites.attnlrp().entries)), case)


PLUS, ATTENTION = lrp.composites.epsilon_plus(), lrp.composites.attnlrp()
Candidates = dict[str, Callable[[Case], Explain]]


def same(relevance: Tensor) -> Tensor:
    return relevance


def peers(*names: str) -> Candidates:
    """Methods of `run.py`, measured anew."""
    return {name: partial(known, name) for name in names}


def of_differences() -> Candidates:
    return {
        "differences from the blurred image": lambda case: differences("blurred", Rules(), case),
        "differences from zero": lambda case: differences("zero", Rules(), case),
    }


def of_layers(name: str, composite: lrp.Composite) -> Candidates:
    return {
        f"{name}, summed over layers": lambda case: summed(composite, same, case),
        f"{name}, summed over layers, without the image": lambda case: summed(composite, same, case, False),
        f"{name}, magnitudes summed over layers": lambda case: summed(composite, Tensor.abs, case),
    }


PHOTOS: Candidates = {
    "epsilon-plus, summed over layers": lambda case: aggregated(PLUS, case),
    "epsilon-plus, of the last of these layers": lambda case: summed(PLUS, same, last(case), False),
    "epsilon-plus, smoothed": lambda case: smoothed(alone(PLUS, case)),
    **of_differences(),
}
TRANSFORMER: Candidates = {
    **peers("integrated-gradients-blurred"),
    **of_differences(),
    **peers("attnlrp", "attnlrp-gamma(0, 0)-blurred", "integrated-gradients-blurred(1)"),
    "differences from the blurred image, norms fixed": lambda case: differences("blurred", Rules(norm="fixed"), case),
    "gim(2)": lambda case: differences("zero", gim(2.0), case),
    **of_layers("attnlrp", ATTENTION),
    "differences from the blurred image, patterns fixed": lambda case: differences(
        "blurred", Rules(softmax="fixed"), case
    ),
    "differences from the blurred image, derivatives at x": lambda case: differences(
        "blurred", Rules(slope="gradient"), case
    ),
    **peers("integrated-gradients"),
    "differences from the own mean": lambda case: differences("own mean", Rules(), case),
    "gim(2), times the difference from the blurred image": lambda case: differences("blurred", gim(2.0), case),
    "attnlrp, patterns fixed in the first half": half_fixed,
    "gim(1)": lambda case: differences("zero", gim(1.0), case),
}
BLOCKS = tuple(f"encoder.layers.encoder_layer_{layer}" for layer in range(4))
MODELS: dict[str, tuple[tuple[str, ...], Candidates, tuple[str, ...]]] = {
    "squeezenet1_1": (images.FIRES, PHOTOS, ("smoothgrad", "epsilon-plus")),
    "efficientnet_lite0": (
        images.MBCONV_STAGES,
        PHOTOS | {"epsilon-plus, summed over layers but for the coarsest": lambda case: aggregated(PLUS, fine(case))},
        ("zennit epsilon-plus", "epsilon-plus", "smoothgrad"),
    ),
    "vit_fashion_mnist": (BLOCKS, TRANSFORMER, ()),
}
"""The layers that are summed over, the candidates, and whose rows of `run.py` are shown with them."""

# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def case_of(name: str, inputs: int, unfinished: bool) -> tuple[Case, str]:
    """A network, and what is said of it."""
    layers = MODELS[name][0]
    checkpoint = training.FOLDER / f"{name}.training.pt"
    if unfinished and name in training.RECIPES and checkpoint.exists():
        recipe = training.RECIPES[name]
        state, model = torch.load(checkpoint, weights_only=True), recipe.build()
        model.load_state_dict(state["model"])
        x, labels = (part[:inputs] for part in training.images("t10k"))
        right = labels[:, None] == torch.arange(training.CLASSES)
        bounds, about = ((training.LOW,), (training.HIGH,)), f"after {state['epochs']} of {recipe.epochs} epochs"
        rest = (*bounds, 4, training.SIZE / 8, (100, 2), about, training.images("train")[0][:100], "torch")
        loaded = images.Loaded(model.eval(), x, right, *rest)
    else:
        loaded = images.MODELS[name].load(False).first(inputs)
    subject = images.subject_of(loaded)
    right = float(loaded.right.gather(1, subject.target[:, None]).float().mean())
    return Case(
        name, loaded, subject, layers
    ), f"{loaded.about}; {right:.1%} of {len(loaded.x)} inputs classified rightly"


def seconds_of(run: Explain, case: Case, rows: int) -> tuple[Tensor, float]:
    """Relevance of all inputs, and CPU seconds."""
    start, found = time.process_time(), []
    for at in range(0, len(case.subject.x), rows):
        found.append(run(slice(at, at + rows)).detach())
    return torch.cat(found), time.process_time() - start


def measured(name: str, case: Case, about: str, names: Sequence[str]) -> Iterator[report.Row]:
    """A row for each candidate; `forwards`: its time in those of the forward beside it."""
    predict = images.predictor(case.loaded)

    def forward(rows: slice) -> Tensor:
        with torch.no_grad():
            return case.loaded.model(case.subject.x[rows])

    for method in names:
        run, rows = MODELS[name][1][method](case), case.subject.rows
        one = min(seconds_of(forward, case, rows)[1] for _ in range(2))
        relevance, seconds = seconds_of(run, case, len(case.subject.x) if method in METHODS else rows)
        times = flipping.flip_times(relevance, case.loaded.patch, seed=images.SEED)
        both = flipping.curves(
            predict, case.loaded.x, case.subject.replacement, times, case.loaded.right, case.loaded.rows[1]
        )
        head = {"model": name, "title": images.MODELS[name].title, "method": method, "about": about}
        family = METHODS[method].family if method in METHODS else "candidate"
        yield flipping_row(*both, seed=images.SEED, **head, family=family, seconds=seconds, forwards=seconds / one)


def shown(rows: Sequence[report.Row], others: Mapping[str, Sequence[report.Row]]) -> str:
    """A table for each model."""
    parts = [
        "# Candidates",
        "Written by `python -m benchmarks.faithful.candidates` from `candidates.json`; "
        "[what was found](../README.md#candidates). […]: 95 % bootstrap intervals over inputs; differences are paired. "
        "*forwards*: CPU time, without compilation, as a multiple of the forward's in torch: eager code on small "
        "networks, mostly overhead on the ViT. Rows of photographs without it are those of `run.py`.",
    ]
    for name in MODELS:
        mine = [row for row in rows if row["model"] == name]
        if not mine:
            continue
        every = sorted([*mine, *others.get(name, ())], key=lambda row: -row["abpc"])
        best = next(row for row in every if row["family"] == "peer")
        lines = []
        for row in every:
            mean, bounds = difference(row["abpc_samples"], best["abpc_samples"])
            to_best = "" if row is best else report.number(mean, bounds, "+")
            method = f"**{row['method']}**" if row["family"] == "candidate" else row["method"]
            forwards = f"{row['forwards']:.1f}" if "forwards" in row and row["family"] != "ours" else ""
            lines.append([method, report.number(row["abpc"], row["abpc_interval"]), to_best, forwards])
        titles = ("method", "ABPC", f"to {best['method']}", "forwards")
        parts += [f"## {mine[0]['title']}", mine[0]["about"] + ".", report.table(titles, lines)]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="of these alone")
    parser.add_argument("--inputs", type=int, default=200, help="of networks with many: the first so many (200)")
    parser.add_argument("--unfinished", action="store_true", help="a network in training as it is after its last epoch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for rows and tables (benchmarks/results)")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    console, path = reporting.console(), options.results / "candidates.json"
    found, published = report.read(path), report.read(RESULTS / "faithfulness.json")["rows"]
    order = [(name, method) for name, (_, candidates, _) in MODELS.items() for method in candidates]
    for name in () if options.tables else options.models:
        there = {row["method"] for row in found["rows"] if row["model"] == name}
        names = [m for m in MODELS[name][1] if m not in there and m in (options.methods or MODELS[name][1])]
        if not names:
            continue
        for row in measured(name, *case_of(name, options.inputs, options.unfinished), names):
            found["rows"] = report.put(found["rows"], row, order)
            report.write(path, found)
            console.print(
                f"{name}, {row['method']}: {report.number(row['abpc'], row['abpc_interval'])}", highlight=False
            )
    others = {n: [r for r in published if r["model"] == n and r["method"] in MODELS[n][2]] for n in MODELS}
    reporting.write(options.results / "candidates.md", shown(found["rows"], others))
    return 0


if __name__ == "__main__":
    sys.exit(main())
