"""Networks of torchvision, timm and transformers through ONNX: is their file explained as they are themselves?

Each network (small, random weights, `exported/`) is exported by both of torch.onnx's ways, the one that traces
(`dynamo=False`, opsets 11 to 20 in turn) and the one over torch.export (`dynamo=True`, opsets 18 to 20), with open
batch and, where there is one, open length. The explainer compiled from each file is compared with the explainer
compiled from the module, on inputs of other sizes than the example, under three composites, all as shares of Σ|R|:

- *float32*: the module's explainer, float32 against float64: float32's own error; in brackets the same of the file's
- *translation*: the file's against the module's, both in float64, ÷ float32's own error; at most 3. Where it
  is more, *weights* says by how much, as a share, the module's explainer in float64 changes when its weights are
  rounded to other neighbours: exporters fold a batch norm in float32, and no translation undoes that
- *both float32*: the same of both in float32; rounding of either is in it
- *operations*: of the file's explainer for each one of the module's, forward and relevance; at most 1.2

Rows are kept in build/onnx_networks with the files, the table in results/onnx_networks.md; the environment is made in
build/sound.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.base import processes, reporting
from benchmarks.base.places import BUILD
from benchmarks.sound import RESULTS
from benchmarks.sound.outcomes import escaped
from benchmarks.sound.workers import Row, append_row, at_most, read_rows, run, serve

EXAMPLES = """examples:
  python -m benchmarks.sound.onnx_networks                              all networks, an hour
  python -m benchmarks.sound.onnx_networks --resume                     those without a row
  python -m benchmarks.sound.onnx_networks --only torchvision/swin_t    these
  python -m benchmarks.sound.onnx_networks --again                      those that failed
"""
FOLDER = BUILD / "onnx_networks"
COMPOSITES = ("epsilon", "epsilon-plus", "attnlrp")
EXPORTERS = {"dynamo": "torch.export", "script": "tracing"}
MOST_ERROR, MOST_SIZE = 3.0, 1.2
SECONDS, GIGABYTES = 600.0, 6.0
OPSETS = {"dynamo": range(18, 21), "script": range(11, 21)}


def job(key: str) -> Row:
    """Compare one network under one composite."""
    import torch

    from benchmarks.sound.exported import NETWORKS, compared

    name, _, composite = key.partition(" ")
    torch.manual_seed(0)
    subject = NETWORKS[name]()
    place = list(NETWORKS).index(name)
    files = {
        exporter: (FOLDER / f"{name.replace('/', '_')}_{exporter}.onnx", _opset(opsets, place, subject.since))
        for exporter, opsets in OPSETS.items()
    }
    torch.manual_seed(1)
    start = time.process_time()
    try:
        with at_most(SECONDS):
            found = compared(subject, files, composite)
    except Exception as error:
        return {"detail": f"{type(error).__name__}: {error}"[:400]}
    return {"found": found, "seconds": round(time.process_time() - start, 1)}


def _opset(opsets: range, place: int, since: int) -> int:
    known = [opset for opset in opsets if opset >= since]
    return known[place % len(known)]


def work(keys: list[str]) -> None:
    """In the worker."""
    import logging
    import os
    import warnings

    import torch

    import benchmarks.networks.torchvision_operators  # noqa: F401

    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    serve(keys, job, cpu=int(2 * SECONDS), gigabytes=GIGABYTES)


def verdict(figures: dict[str, Any]) -> str:
    """What became of one file: `passed`, or what is wrong."""
    if "error" in figures:
        return "not exported" if figures["error"].startswith("torch.onnx") else "error"
    wrong = [] if figures["double"] <= MOST_ERROR * figures["own"] else ["differs"]
    wrong += [] if figures["size"] <= MOST_SIZE else ["larger"]
    return ", ".join(wrong) or "passed"


def markdown(rows: dict[str, Row]) -> str:
    """The table."""
    lines = [
        "| network | exporter | opset | composite | float32 | translation ÷ float32 | both float32 ÷ float32 "
        "| operations | |",
        "|---|---|---:|---|---:|---:|---:|---:|---|",
    ]
    notes: dict[str, list[str]] = {}
    ended: Counter[str] = Counter()
    networks: dict[tuple[str, str], list[str]] = {}
    for key, row in rows.items():
        name, _, composite = key.partition(" ")
        for exporter, figures in row.get(
            "found", {"": {"opset": "", "error": row.get("detail", row.get("kind"))}}
        ).items():
            end = verdict(figures)
            ended[end] += 1
            networks.setdefault((name, exporter), []).append(end)
            start = f"| {name} | {EXPORTERS.get(exporter, exporter)} | {figures['opset']} | {composite} | "
            if "error" in figures:
                notes.setdefault(escaped(figures["error"]), []).append(f"{name} ({EXPORTERS.get(exporter, '')})")
                lines.append(f"{start}– | – | – | – | {end} |")
                continue
            own = figures["own"]
            numbers = [
                f"{own:.1e} ({figures['file_own']:.1e})",
                f"{figures['double'] / own:.2f}",
                f"{figures['single'] / own:.2f}",
            ]
            # Rows of earlier runs lack the figure.
            by_weights = f" (weights {figures['stored']:.1e})" if end == "differs" and "stored" in figures else ""
            lines.append(f"{start}{' | '.join(numbers)} | {figures['size']:.2f} | {end}{by_weights} |")
    taken = {key: ends for key, ends in networks.items() if "not exported" not in ends}
    whole = sum(set(ends) == {"passed"} for ends in taken.values())
    composites = Counter(key.partition(" ")[2] for key in rows)
    parts = [
        "# Networks through ONNX",
        "Written by `python -m benchmarks.sound.onnx_networks`; its docstring says what is compared.",
        f"{len({name for name, _ in networks})} networks; of {len(taken)} files that torch.onnx writes, {whole} are "
        f"explained as the module is, under each composite asked. Rows: "
        + ", ".join(f"{count} {end}" for end, count in ended.most_common())
        + ". Networks under each composite: "
        + ", ".join(f"{name} {composites[name]}" for name in COMPOSITES)
        + ".",
        "\n".join(lines),
        "## Errors",
        "\n".join(f"- {text}: {', '.join(dict.fromkeys(names))}" for text, names in notes.items()) or "None.",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="LIBRARY/NAME", help="these networks")
    parser.add_argument("--composites", nargs="+", default=COMPOSITES, metavar="NAME", help="these composites")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (1)")
    parser.add_argument("--resume", action="store_true", help="keep the rows of earlier runs")
    parser.add_argument("--again", action="store_true", help="run what failed once more, nothing else")
    parser.add_argument("--here", action="store_true", help="in this environment, with what is installed")
    parser.add_argument("--table", action="store_true", help="write the table of the rows that there are")
    parser.add_argument("--list", action="store_true", help="print the names of all networks")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    if options.list:
        from benchmarks.sound.exported import NETWORKS

        print("\n".join(NETWORKS))
        return
    path = FOLDER / "rows.jsonl"
    rows = read_rows(path)
    if not options.table:
        _run(options, path, rows)
    rows = dict(sorted(rows.items()))
    reporting.write(RESULTS / "onnx_networks.md", markdown(rows))


def _run(options: argparse.Namespace, path: Path, rows: dict[str, Row]) -> None:
    if options.here:
        python: str | Path = sys.executable
    else:
        from benchmarks.sound.environment import python as of_sweep

        python = of_sweep()
    if not (options.resume or options.again or options.only):
        path.unlink(missing_ok=True)
        rows.clear()
    names = options.only or _names(python)
    wanted = [f"{name} {composite}" for composite in options.composites for name in names]
    if options.again:
        wanted = [key for key in wanted if key in rows and not _passed(rows[key])]
    elif options.resume:
        wanted = [key for key in wanted if key not in rows]
    console = reporting.console()

    def found(row: Row) -> None:
        append_row(path, row)
        rows[row["key"]] = row
        ends = {exporter: verdict(figures) for exporter, figures in row.get("found", {}).items()}
        console.print(f"{row['key']}: {ends or row.get('detail')}"[:300], markup=False)

    run(
        lambda keys: processes.command("benchmarks.sound.onnx_networks", "--work", *keys, python=python, quiet=True),
        wanted,
        found,
        jobs=options.jobs,
        chunk=60,
        silence=3600,
        log=FOLDER / "log.txt",
    )


def _passed(row: Row) -> bool:
    return all(
        verdict(figures) in ("passed", "not exported") for figures in row.get("found", {"": {"error": ""}}).values()
    )


def _names(python: str | Path) -> list[str]:
    import subprocess

    command = processes.command("benchmarks.sound.onnx_networks", "--list", python=python, quiet=True)
    done = subprocess.run(command, env=processes.environment(python), stdout=subprocess.PIPE, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "/" in line]


if __name__ == "__main__":
    main()
