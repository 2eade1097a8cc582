"""Does tuning help? `lrp.tune` on calibration inputs, then the tuned composite beside the default one on others.

For every model and composite: `lrp.tune` with its own default grid chooses the options on the calibration inputs; the
tuned composite and the default one are then compiled anew and measured on held-out inputs, by the pixel flipping of
run.py (49 steps, another implementation than the one that tune has). Both sides show the same blurred image where
pixels are flipped. ABPC is the mean gap LeRF − MoRF of the predicted class's probability; the gain is the mean
difference between both composites, input by input, with its 95 % bootstrap interval.

    photographs      every second one calibrates, the others are held out
    Fashion-MNIST    test images that training has not seen: the first 200 calibrate, the next 1,000 are held out

Rows are kept in results/tuning.json as soon as they are finished, the table in results/tuning.md.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import lrp_compiler as lrp
from benchmarks.base import reporting
from benchmarks.base.places import BUILD, RESULTS
from benchmarks.faithful import flipping, images, metrics
from benchmarks.faithful.interface import LISTENERS
from lrp_compiler.tuning.tuned import Trial, Tuned, as_words

SEED = 0
STEPS = 20
"""Of tuning; what is held out is flipped in 49."""
EXAMPLES = """examples:
  python -m benchmarks.faithful.tuning                                  whatever has no row yet
  python -m benchmarks.faithful.tuning --models squeezenet1_1 --again   that model, measured anew
  python -m benchmarks.faithful.tuning --quick                          one small network, written to build/tuning
"""
Report = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """A model of images.py, the composites that are tuned for it, and how its inputs are divided.

    Args:
        composites: by name.
        calibration, held_out: how many inputs; None: every second one calibrates, the others are held out.
        quick: the same of `--quick`.
    """

    composites: tuple[str, ...]
    calibration: int | None = None
    held_out: int | None = None
    quick: tuple[int, int] | None = None

    def division(self, count: int, quick: bool) -> tuple[slice, slice]:
        """Which inputs calibrate, and which are held out."""
        if self.calibration is None or self.held_out is None:
            return slice(0, count, 2), slice(1, count, 2)
        first, second = self.quick if quick and self.quick else (self.calibration, self.held_out)
        return slice(0, first), slice(first, first + second)


GAMMAS = ("epsilon-gamma-box", "attnlrp-gamma")
CASES = {
    "efficientnet_lite0": Case(GAMMAS),
    "squeezenet1_1": Case(GAMMAS),
    "cnn_fashion_mnist": Case(GAMMAS, 200, 1000, quick=(40, 160)),
    # Its one convolution is the first layer, which takes the box.
    "vit_fashion_mnist": Case(("attnlrp-gamma",), 200, 1000),
}
QUICK = {"cnn_fashion_mnist": "epsilon-gamma-box"}

# ── one model, one composite ─────────────────────────────────────────────────────────────────────────────────────────


class Subject:
    """A model with its inputs divided, and the forward that flipped images go through."""

    def __init__(self, name: str, quick: bool, report: Report) -> None:
        report("load")
        self.name, self.case, self.title = name, CASES[name], images.MODELS[name].title
        self.loaded = images.MODELS[name].load(quick)
        self.replacement = flipping.blurred(self.loaded.x, self.loaded.sigma)
        self.calibration, self.held_out = self.case.division(len(self.loaded.x), quick)
        self.predict = images.predictor(self.loaded)

    def options(self, composite: str) -> dict[str, Any]:
        """What is settled: the box, where the composite has one."""
        return {"low": self.loaded.low, "high": self.loaded.high} if composite.endswith("-box") else {}

    def row(self, composite: str, report: Report) -> dict[str, Any]:
        """Tune on one part, measure on the other."""
        x, start = self.loaded.x, time.perf_counter()
        tuned = lrp.tune(
            self.loaded.model,
            x[self.calibration],
            composite=composite,
            options=self.options(composite),
            features=self.loaded.patch,
            baseline=self.replacement[self.calibration],
            steps=STEPS,
            seed=SEED,
            progress=report,
        )
        seconds = time.perf_counter() - start
        held_out = {}
        for which, trial in (("default", tuned.default), ("tuned", tuned.best)):
            report(f"measure the {which} composite on held-out inputs")
            held_out[which] = self.abpc(trial.composite)
        return _row(self.title, composite, tuned, held_out) | {"seconds": round(seconds, 1)}

    def abpc(self, composite: lrp.Composite) -> np.ndarray:
        """ABPC of each held-out input."""
        x, loaded = self.loaded.x[self.held_out], self.loaded
        rows = min(loaded.rows[0], len(x))
        batch = torch.export.Dim("batch")
        explainer = lrp.compile(loaded.model, (x[:2],), composite=composite, dynamic_shapes=({0: batch},))
        relevance = torch.cat([next(iter(explainer(part).relevance.values())) for part in x.split(rows)])
        times = flipping.flip_times(relevance, loaded.patch, seed=SEED)
        probability, _ = flipping.curves(
            self.predict, x, self.replacement[self.held_out], times, loaded.right[self.held_out], loaded.rows[1]
        )
        return metrics.abpc(probability)


def _row(title: str, composite: str, tuned: Tuned, held_out: dict[str, np.ndarray]) -> dict[str, Any]:
    gain, interval = metrics.difference(held_out["tuned"], held_out["default"], SEED)
    return {
        "title": title,
        "composite": composite,
        "seed": SEED,
        "steps": {"calibration": STEPS, "held out": flipping.STEPS},
        "inputs": {"calibration": len(tuned.inputs), "held out": len(held_out["tuned"])},
        "default": {"options": tuned.default.options, **_measured(held_out["default"])},
        "tuned": {"options": tuned.options, **_measured(held_out["tuned"])},
        "gain": gain,
        "gain_interval": interval,
        "calibration_gain": tuned.best.gain.mean,
        "estimated_gain": _finite(tuned.held_out_gain),
        "notes": tuned.notes,
        "trials": [_trial(trial) for trial in tuned.trials],
    }


def _measured(samples: np.ndarray) -> dict[str, Any]:
    return {"abpc": float(samples.mean()), "interval": metrics.interval(samples, SEED)}


def _trial(trial: Trial) -> dict[str, Any]:
    score = trial.score
    return {
        "options": trial.options,
        "abpc": _finite(score.mean),
        "interval": [_finite(score.low), _finite(score.high)],
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────

TITLES = (
    "model",
    "composite",
    "inputs: calibration / held out",
    "default",
    "ABPC",
    "tuned",
    "ABPC",
    "gain on held-out inputs (95 %)",
    "gain on calibration inputs",
)


def markdown(rows: dict[str, Any]) -> str:
    """The table, and what it shows."""
    better = sorted({row["title"] for row in rows.values() if row["gain_interval"][0] > 0})
    worse = sorted({row["title"] for row in rows.values() if row["gain_interval"][1] < 0})
    models = len({row["title"] for row in rows.values()})
    lines = [TITLES, ["---"] * 2 + ["---:"] * (len(TITLES) - 2), *map(_cells, rows.values())]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    said = f"On {len(better)} of {models} models a tuned composite beats its default on held-out inputs (the interval "
    said += f"of the gain lies above 0): {', '.join(better) or 'none'}. On {len(worse)} one is worse (below 0): "
    said += f"{', '.join(worse) or 'none'}."
    head = "# Tuned against default\n\nMade by `python -m benchmarks.faithful.tuning`, which says how."
    return f"{head}\n\n{said}\n\n{table}\n"


def _cells(row: dict[str, Any]) -> list[str]:
    low, high = row["gain_interval"]
    counts = f"{row['inputs']['calibration']:,} / {row['inputs']['held out']:,}"
    cells = [row["title"], row["composite"], counts]
    for which in ("default", "tuned"):
        found = row[which]
        within = f"{found['interval'][0]:.3f} to {found['interval'][1]:.3f}"
        cells += [as_words(found["options"]), f"{found['abpc']:.3f} ({within})"]
    return [*cells, f"{row['gain']:+z.3f} ({low:+z.3f} to {high:+z.3f})", f"{row['calibration_gain']:+z.3f}"]


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES), help="which (all)")
    parser.add_argument("--again", action="store_true", help="measure what has a row already")
    parser.add_argument("--quick", action="store_true", help="one small network, few images: a minute or two")
    options = parser.parse_args()
    path = (BUILD / "tuning" if options.quick else RESULTS) / "tuning.json"
    rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() and not options.quick else {}
    pairs = [
        (name, composite)
        for name in (QUICK if options.quick else options.models)
        for composite in ([QUICK[name]] if options.quick else CASES[name].composites)
        if options.again or f"{name} {composite}" not in rows
    ]
    console = reporting.console()
    subject: Subject | None = None
    with reporting.progress(console) as progress:
        task = progress.add_task("", total=len(pairs))
        for name, composite in pairs:

            def report(doing: str, at: str = f"{name}, {composite}") -> None:
                progress.update(task, description=f"{at}: {doing}")

            LISTENERS[:] = [report]
            if subject is None or subject.name != name:
                subject = Subject(name, options.quick, report)
            rows[f"{name} {composite}"] = subject.row(composite, report)
            ordered = {
                key: rows[key] for n, case in CASES.items() for c in case.composites if (key := f"{n} {c}") in rows
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            reporting.write_rows(path, ordered)
            reporting.write(path.with_suffix(".md"), markdown(ordered))
            progress.advance(task)
    console.print(markdown(rows), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
