"""Explanations in forwards: how long an explanation takes, beside the forward of the same model and beside its peers.

For every case of cases.py, at 1 and 2 threads and at batch 1 and 8, each contender in a process of its own, kept
alive and told over a pipe to run once, so that their runs alternate in time (A B C A B C …):

    forward          the plain model, exported by torch.onnx (dynamo), in onnxruntime
    explainer        our ONNX file, by the same options; an explanation includes its forward
    small            our file of the `small` profile, under `lean_options`; where that is not the least memory of all,
                     with a memory budget of ¼ and weights not folded (the notes below the tables say where)
    torch-explainer  our explainer in PyTorch
    torch-forward    the model in PyTorch
    gradient         gradient × input
    zennit, lxt, autolrp   where they have the composite and the network; LXT and autoLRP in build/peers

Published width and depth, random weights, float32, batch open in both files. Everyone explains the largest logit
(at the last position); no parameter asks for a gradient.

    seconds   median of the runs after two for warming up, and quartiles
    ratio     … as a multiple of the forward that ran in between
    peak      resident memory at most while it explains, libraries and weights included (VmHWM, counted from the loaded
              process on)
    cpu       CPU time over wall time of the runs; `others`: cores that other processes took in the meantime
    cosine    of a peer's relevance to ours, on the same input: 1 if it computes the same
    floor     what the ratio cannot go below: products counted from the graph (floor.py)

Rows are kept in results/speed.json, tables in results/speed.md and, shorter, in the README. A failure is a row with its
reason. Files lie in build/speed while a case is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.base import reporting
from benchmarks.base.places import README, RESULTS
from benchmarks.speed.cases import CASES, COMPILED, CONTENDERS, OURS, PEERS, REFERENCE, SERIES, Case
from benchmarks.speed.files import prepared
from benchmarks.speed.measure import measure, wait_for_calm
from benchmarks.speed.worker import WorkerError

EXAMPLES = """examples:
  python -m benchmarks.speed.run                                     whatever has no row yet
  python -m benchmarks.speed.run --cases vgg16-epsilon bert-attnlrp  these, again
  python -m benchmarks.speed.run --quick --threads 2 --peers zennit lxt
  python -m benchmarks.speed.run --compile                           seconds of compile + export, of large models
  python -m benchmarks.speed.run --scaling                           how cost grows with batch, layers and tokens
"""

# ── how cost grows ───────────────────────────────────────────────────────────────────────────────────────────────────


def scale(name: str, threads: int, runs: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Seconds of forward and explainer at each size of a series, and the fits."""
    series = SERIES[name]
    points: dict[int, dict[str, float]] = {}
    cases: dict[str, tuple[Case, list[tuple[int, int]]]] = {}
    for size in series.sizes:
        case, batch = series.case(size)
        cases.setdefault(case.name, (case, []))[1].append((size, batch))
    worst = 0.0
    for case, wanted in cases.values():
        report(f"{case.name}: compile")
        with prepared(case) as (folder, _):
            rows = measure(case, folder, (REFERENCE, OURS), threads, [batch for _, batch in wanted], runs, report)
        for size, batch in wanted:
            contenders = rows[batch]["contenders"]
            points[size] = {who: contenders[who]["seconds"] for who in (REFERENCE, OURS)}
            worst = max(worst, rows[batch]["others"])
    fits = {who: fit(points.keys(), [point[who] for point in points.values()]) for who in (REFERENCE, OURS)}
    return {"threads": threads, "date": str(date.today()), "others": worst, "points": points, "fits": fits}


def fit(sizes: Any, seconds: Sequence[float]) -> dict[str, float]:
    """Least squares: seconds = start + slope · size; R²; and the exponent of seconds ∝ size^exponent."""
    import numpy as np

    x, y = np.array(list(sizes), dtype=float), np.array(seconds)
    slope, start = np.polyfit(x, y, 1)
    rest = float(((y - start - slope * x) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    exponent = np.polyfit(np.log(x), np.log(y), 1)[0]
    return {"start": float(start), "slope": float(slope), "r2": 1 - rest, "exponent": float(exponent)}


# ── all of them ──────────────────────────────────────────────────────────────────────────────────────────────────────


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    packages = ("torch", "onnxruntime", "onnx", "onnxscript", "zennit", "transformers", "numpy")
    versions = {name: version(name) for name in packages} | {"python": platform.python_version()}
    peers = {"lxt": "2.1 (transformers 4.52.4)", "autolrp": "0.2.0"}
    return {"cpu": model, "cores": os.cpu_count(), "memory_gb": round(memory), "versions": versions | peers}


def setting(threads: int, batch: int) -> str:
    """The key of a row."""
    return f"{threads}x{batch}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases", nargs="+", choices=[*CASES, *COMPILED], metavar="NAME", help="these, whether or not they have rows"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1], help="of each contender (2 1)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8], help="those that a case has, of these (1 8)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="besides our own; none: nobody")
    parser.add_argument("--optional", nargs="+", default=[], choices=[n for n, c in CONTENDERS.items() if c.optional])
    parser.add_argument("--runs", type=int, default=9, help="timed runs of each contender (9)")
    parser.add_argument("--quick", action="store_true", help="three runs, 2 threads, batch 1")
    parser.add_argument("--scaling", action="store_true", help="only how cost grows with batch, layers and tokens")
    parser.add_argument("--series", nargs="+", choices=SERIES, default=list(SERIES), help="with --scaling: only these")
    parser.add_argument("--compile", action="store_true", help="only seconds of compile + export, of large models")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for speed.json and speed.md")
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait for an idle machine (120)")
    parser.add_argument("--keep", action="store_true", help="keep the files in build/speed")
    parser.add_argument("--list", action="store_true", help="name the cases")
    options = parser.parse_args()
    if options.quick:
        options.runs, options.threads, options.batches = 3, options.threads[:1], options.batches[:1]
    console = reporting.console()
    if options.list:
        for case in CASES.values():
            console.print(f"{case.name:26} {case.title}", highlight=False)
        return
    measured = measure_series if options.scaling else measure_compilation if options.compile else measure_cases
    measured(options, console)


def measure_cases(options: argparse.Namespace, console: Any) -> None:
    path = options.results / "speed.json"
    found = read(path)
    wanted = {name: missing(case, options, found) for name, case in CASES.items() if name in (options.cases or CASES)}
    wanted = {name: settings for name, settings in wanted.items() if settings}
    with reporting.progress(console) as progress:
        task = progress.add_task("", total=sum(len(settings) for settings in wanted.values()))
        for name, settings in wanted.items():
            case = CASES[name]
            progress.update(task, description=f"{name}: compile")
            try:
                with prepared(case, options.keep) as (folder, made):
                    found["files"][name] = made

                    def report(text: str, at: str = name) -> None:
                        progress.update(task, description=f"{at}, {text}")

                    for threads in dict.fromkeys(threads for threads, _ in settings):
                        # Ascending: the peak of a small batch must not hold what a large one left behind.
                        wait_for_calm(options.patience, report)
                        batches = sorted(batch for count, batch in settings if count == threads)
                        names = contenders(case, options)
                        rows = measure(case, folder, names, threads, batches, options.runs, report)
                        for batch, row in rows.items():
                            merge(found["rows"].setdefault(name, {}), setting(threads, batch), row)
                        write(path, found)
                        progress.advance(task, len(batches))
            except WorkerError as error:
                found["files"][name] = {"failure": str(error)}
                write(path, found)
            progress.console.print(f"{name}: {found['files'][name].get('failure', 'done')}", highlight=False)


def measure_series(options: argparse.Namespace, console: Any) -> None:
    path = options.results / "speed.json"
    found = read(path)
    with reporting.progress(console) as progress:
        task = progress.add_task("", total=len(options.series))
        for name in options.series:

            def report(text: str, at: str = name) -> None:
                progress.update(task, description=f"{at}, {text}")

            wait_for_calm(options.patience, report)
            found["scaling"][name] = scale(name, options.threads[0], options.runs, report)
            write(path, found)
            progress.advance(task)


def measure_compilation(options: argparse.Namespace, console: Any) -> None:
    path = options.results / "speed.json"
    found = read(path)
    with reporting.progress(console) as progress:
        wanted = [n for n in COMPILED if (n in options.cases if options.cases else n not in found["compiled"])]
        task = progress.add_task("", total=len(wanted))
        for name in wanted:
            case = COMPILED[name]
            wait_for_calm(options.patience, lambda text, at=name: progress.update(task, description=f"{at}, {text}"))
            progress.update(task, description=f"{name}: compile")
            with prepared(case, alone=True) as (_, made):
                found["compiled"][name] = made | {"date": str(date.today())}
            write(path, found)
            progress.advance(task)


def contenders(case: Case, options: argparse.Namespace) -> list[str]:
    """Those asked for that fit the case."""
    asked = {name for name, c in CONTENDERS.items() if not c.optional and name not in PEERS}
    asked |= {*options.peers, *options.optional}
    return [name for name, contender in CONTENDERS.items() if name in asked and contender.fits(case)]


def missing(case: Case, options: argparse.Namespace, found: dict[str, Any]) -> list[tuple[int, int]]:
    """(threads, batch) to be measured: all where cases are named, else those of which somebody has no row."""
    rows = found["rows"].get(case.name, {})
    names = contenders(case, options)
    return [
        (threads, batch)
        for threads in options.threads
        for batch in options.batches
        if batch in case.batches
        and (
            options.cases
            or any(name not in rows.get(setting(threads, batch), {}).get("contenders", {}) for name in names)
        )
    ]


def merge(rows: dict[str, Any], key: str, row: dict[str, Any]) -> None:
    """Put a new row over an older one, of which other contenders stay."""
    known = rows.get(key, {"contenders": {}})
    rows[key] = known | row | {"date": str(date.today()), "contenders": known["contenders"] | row["contenders"]}


def read(path: Path) -> dict[str, Any]:
    """What was measured so far."""
    empty: dict[str, Any] = {"machine": {}, "files": {}, "rows": {}, "scaling": {}, "compiled": {}}
    return empty | (json.loads(path.read_text()) if path.exists() else {})


def write(path: Path, found: dict[str, Any]) -> None:
    """Rows and tables; the README's only with the results that are published."""
    from benchmarks.speed.table import markdown, with_summary

    found["machine"] = machine()
    for part in ("files", "rows"):
        found[part] = {name: found[part][name] for name in CASES if name in found[part]}
    reporting.write_rows(path, found)
    found = json.loads(path.read_text())
    profiles = path.with_name("speed_profile.json")
    known = json.loads(profiles.read_text()) if profiles.exists() else {}
    reporting.write(path.with_suffix(".md"), markdown(found, known))
    if path.parent == RESULTS:
        text = README.read_text(encoding="utf-8")
        if (made := with_summary(text, found)) != text:
            reporting.write(README, made)


if __name__ == "__main__":
    main()
