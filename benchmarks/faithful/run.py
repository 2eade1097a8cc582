"""Faithful? Every method on real networks by the same metrics, in one run.

Images: pretrained EfficientNet-Lite0, 1, 2 and SqueezeNet 1.1 on labelled photographs; a CNN and a vision transformer
trained here on Fashion-MNIST. Text: a sentiment classifier on reviews, and SmolLM2 on questions about a context. Pixels
or tokens are replaced, the most relevant first and the least relevant first; the more the two curves lie apart, the
more faithful the relevance. benchmarks/README.md says how each number is computed and what it does not show.

Rows are kept as they come in results/faithfulness.json: what is there is not measured again. Tables and curves:
results/faithfulness.md and faithfulness_*.png.
"""

from __future__ import annotations

import argparse
import platform
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.base import reporting
from benchmarks.base.places import BUILD, README, RESULTS
from benchmarks.faithful import images, interface, quantus_metric, report, text
from benchmarks.faithful.methods import METHODS
from benchmarks.faithful.metrics import METRICS
from benchmarks.networks import pretrained

QUICK_RESULTS = BUILD / "faithfulness" / "quick"
PARTS = (images, text, quantus_metric)
SAME = {name: method.same for name, method in METHODS.items() if method.same} | getattr(text, "SAME", {})
"""Methods of peers that compute what one of ours computes."""
EXAMPLES = """examples:
  python -m benchmarks.faithful.run                                         whatever has no row yet
  python -m benchmarks.faithful.run --models squeezenet1_1                  of one model
  python -m benchmarks.faithful.run --methods epsilon-plus random --again   these, measured anew
  python -m benchmarks.faithful.run --quick                                 for CI: does LRP beat chance?
  python -m benchmarks.faithful.run --tables                                tables and curves of the rows there are
"""


def machine() -> dict[str, str]:
    """What the numbers were measured with."""
    packages = ("torch", "onnxruntime", "numpy", "captum", "zennit", "quantus", "transformers")
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except ImportError:
            continue
    return found


def wanted(options: argparse.Namespace, rows: list[dict[str, Any]]) -> Iterator[tuple[Any, str, list[str]]]:
    """(part, model, methods) that have no row yet, or that are asked for again."""
    known = {report.key(row) for row in rows}
    for part in PARTS:
        for name, model in part.MODELS.items():
            if options.models and name not in options.models:
                continue
            every = getattr(model, "quick", ()) if options.quick else model.methods
            methods = [method for method in every if not options.methods or method in options.methods]
            methods = [m for m in methods if options.again or options.quick or (name, model.metric, m) not in known]
            if methods:
                yield part, name, methods


def order() -> list[tuple[str, str]]:
    """Of rows."""
    return [(name, method) for part in PARTS for name, model in part.MODELS.items() for method in model.methods]


def missing(found: dict[str, Any]) -> dict[str, list[str]]:
    """Methods without a row, by model and metric."""
    known = {report.key(row) for row in found["rows"]}
    lists = {
        f"{model.title}, {METRICS[model.metric]}": [m for m in model.methods if (name, model.metric, m) not in known]
        for part in PARTS
        for name, model in part.MODELS.items()
    }
    return {title: names for title, names in lists.items() if names}


def write(folder: Path, found: dict[str, Any]) -> None:
    """Tables and curves; the README's table only with the results that are published."""
    reporting.write(folder / "faithfulness.md", report.markdown(found, SAME, missing(found)))
    for (model, _), rows in report.groups(found["rows"], "flipping").items():
        report.draw(folder / report.picture_name(model), rows)
    # The README shows a complete run or none.
    if folder == RESULTS and not missing(found):
        text_before = README.read_text(encoding="utf-8")
        if (made := report.with_summary(text_before, found)) != text_before:
            reporting.write(README, made)


def shown(found: dict[str, Any]) -> Table:
    """The rows of flipping, for the terminal."""
    result = Table(title="ABPC, 95 % interval", title_justify="left", title_style="bold")
    for column in ("model", "method", "inputs", "ABPC", "interval", "4 × accuracy gap"):
        result.add_column(column, justify="left" if column in ("model", "method") else "right")
    for (model, _), rows in report.groups(found["rows"], "flipping").items():
        for row in rows:
            low, high = row["abpc_interval"]
            cells = (f"{row['abpc']:.3f}", f"{low:.3f} … {high:.3f}", f"{row['paper_abpc']:.2f}")
            result.add_row(model, row["method"], str(row["samples"]), *cells)
    return result


def not_beaten(found: dict[str, Any]) -> list[str]:
    """Sentences: where an interval of ours does not lie above that of chance."""
    compared = report.groups(found["rows"], "flipping")
    said = [] if compared else ["Nothing was compared with chance."]
    for (model, _), rows in compared.items():
        chance = max((row["abpc_interval"][1] for row in rows if row["family"] == "baseline"), default=0.0)
        for row in rows:
            if row["family"] == "ours" and row["abpc_interval"][0] <= chance:
                said.append(f"On {model} {row['method']} does not clearly beat chance.")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = {name: None for part in PARTS for name in part.MODELS}
    methods = {method: None for _, method in order()}
    parser.add_argument("--models", nargs="+", choices=models, metavar="MODEL", help=f"of {', '.join(models)}")
    parser.add_argument(
        "--methods", nargs="+", choices=methods, metavar="METHOD", help="those that a model has of these"
    )
    parser.add_argument("--again", action="store_true", help="measure also what has a row")
    parser.add_argument("--quick", action="store_true", help="few inputs and methods; fails unless LRP beats chance")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    parser.add_argument("--results", type=Path, help="folder for rows, tables and curves (benchmarks/results)")
    parser.add_argument("--threads", type=int, default=2, help="of torch and onnxruntime (2)")
    parser.add_argument("--list", action="store_true", help="name models and their methods")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    console = reporting.console()
    if options.list:
        for part in PARTS:
            for name, model in part.MODELS.items():
                console.print(f"{name} ({model.metric}): {', '.join(model.methods)}", highlight=False, soft_wrap=True)
        return 0
    folder = (options.results or (QUICK_RESULTS if options.quick else RESULTS)).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "faithfulness.json"
    found = report.read(path) if not options.quick else {"machine": {}, "rows": []}
    todo = [] if options.tables else list(wanted(options, found["rows"]))
    if todo:
        found["machine"] = machine()
    failed = False
    with reporting.progress(console) as progress:
        task = progress.add_task("", total=sum(len(methods) for _, _, methods in todo))
        for part, name, names in todo:

            def listener(doing: str, at: str = name) -> None:
                progress.update(task, description=f"{at}: {doing}")

            interface.LISTENERS[:] = [listener]
            try:
                for row in part.measure(name, names, options.quick):
                    found["rows"] = report.put(found["rows"], row, order())
                    report.write(path, found)
                    progress.advance(task)
                    if "failure" in row:
                        progress.console.print(f"{name}, {row['method']}: {row['failure']}", style="red", markup=False)
            except pretrained.UnavailableError as error:
                failed = not options.quick  # there it is enough that something was compared
                progress.advance(task, len(names))
                progress.console.print(f"{name}: {error}", style="red", highlight=False, markup=False)
    write(folder, found)
    console.print(shown(found))
    complaints = not_beaten(found) if options.quick else []
    for sentence in complaints:
        console.print(sentence, style="red", highlight=False)
    return int(failed or bool(complaints))


if __name__ == "__main__":
    sys.exit(main())
