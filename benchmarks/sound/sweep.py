"""Libraries as they are: what torch.export takes of them is compiled, balances, and is equal in onnxruntime.

Every family of timm, every model type of transformers that a tiny configuration builds, torchvision, and layers and
models of other libraries (`libraries/`), with random weights, each in a process of its own with limits on time and
memory. Of each: can it be built small? does torch.export take it? has every node a rule? do the books balance in
float64 to 1e-9? is the output the model's, and onnxruntime as exact as torch? (`contract.py`)

Rows are kept in build/sweep, the table in results/sweep.md; the environment is made in build/sound.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.base import processes, reporting
from benchmarks.base.places import BUILD
from benchmarks.sound import RESULTS
from benchmarks.sound.outcomes import FINDINGS, escaped, groups, outcome, published
from benchmarks.sound.workers import Row, append_row, read_rows, run, serve

EXAMPLES = """examples:
  python -m benchmarks.sound.sweep                          all libraries
  python -m benchmarks.sound.sweep --resume                 models without a row
  python -m benchmarks.sound.sweep --only timm/vgg transformers/bert
  python -m benchmarks.sound.sweep --library timm zuko
  python -m benchmarks.sound.sweep --again                  those that torch.export took and that failed
"""
FOLDER = BUILD / "sweep"
SECONDS, GIGABYTES = 900.0, 14.0
PROMISES = ("output", "books", "onnx")
LOST = (*FINDINGS, "refused")
"""What torch.export took, and we did not."""


def job(key: str) -> Row:
    """Build one model and examine it."""
    import torch

    from benchmarks.sound.contract import Asked, hold, named
    from benchmarks.sound.libraries import LIBRARIES, NotBuilt

    library, _, name = key.partition("/")
    torch.manual_seed(0)
    try:
        example = LIBRARIES[library].build(name)
    except NotBuilt as error:
        return {"kind": "not built", "detail": str(error)[:300]}
    except Exception as error:
        return {"kind": "not built", "detail": f"{type(error).__name__}: {error}"[:300]}

    def make(rows: int) -> tuple[Any, ...]:
        inputs = example.make()
        return named(inputs) if isinstance(inputs, dict) else inputs

    options = {"composite": example.composite} | ({} if example.target is None else {"target": example.target})
    asked = Asked(example.model, make, options, promises=PROMISES)
    row = outcome(lambda: hold(asked), SECONDS)
    row["note"] = example.note
    row["float32"] = asked.figures.get("float32")
    if row["kind"] in (*LOST, "no case"):
        reason = _not_exported(asked)
        if reason:
            row = {"kind": "not exported", "detail": reason, "note": example.note, "ours": row.get("detail")}
    return row


def _not_exported(asked: Any) -> str:
    """Why torch.export does not take the model; "" if it does."""
    import torch

    from benchmarks.sound.contract import _given

    args, kwargs = _given(asked.fresh(2, 1))
    try:
        with torch.no_grad():
            torch.export.export(asked.model, args, kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]
    return ""


def work(keys: list[str]) -> None:
    """In the worker."""
    import importlib
    import logging
    import warnings

    import torch

    import benchmarks.networks.torchvision_operators  # noqa: F401
    from benchmarks.sound.contract import warm_up

    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    for library in {key.partition("/")[0] for key in keys} & {"timm", "transformers", "torchvision", "torch_geometric"}:
        importlib.import_module(library)
    warm_up()
    serve(keys, job, cpu=int(2 * SECONDS), gigabytes=GIGABYTES)


def listing() -> None:
    """In the environment of the sweep: print the names of all models."""
    import benchmarks.networks.torchvision_operators  # noqa: F401
    from benchmarks.sound.libraries import LIBRARIES

    for package, library in LIBRARIES.items():
        try:
            names = library.names()
        except ImportError as error:
            print(f"# {package}: {error}")
            continue
        print("\n".join(f"{package}/{name}" for name in names))


def markdown(rows: dict[str, Row]) -> str:
    """The table."""
    libraries = dict.fromkeys(key.partition("/")[0] for key in rows)
    lines = ["| library | models | built | torch.export takes | passed | refused | failed | share |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---:|"]
    for library in (*libraries, ""):
        mine = [row for key, row in rows.items() if not library or key.startswith(f"{library}/")]
        kinds = Counter(row["kind"] for row in mine)
        built = len(mine) - kinds["not built"]
        taken = built - kinds["not exported"] - kinds["no case"]
        failed = sum(kinds[kind] for kind in FINDINGS)
        share = f"{kinds['passed'] / taken:.1%}" if taken else "–"
        cells = [library or "all", len(mine), built, taken, kinds["passed"], kinds["refused"], failed, share]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    late = Counter(text for row in rows.values() for text in row.get("refused", ()))
    values = list(rows.values())
    parts = [
        "# Libraries",
        "Written by `python -m benchmarks.sound.sweep`; its docstring says what is asked. *share*: passed of what "
        "torch.export takes.",
        "\n".join(lines),
        "## Failed",
        _listed(values, FINDINGS),
        "## Refused",
        _listed(values, ("refused",)),
        "Compiled, and refused by the exporter to ONNX:",
        "\n".join(f"- {count} × {escaped(text)}" for text, count in late.most_common()) or "None.",
        "## torch.export does not take",
        _listed(values, ("not exported",)),
        "## Not built small, or not running on the inputs made here",
        "Says nothing about the library.",
        ", ".join(row["key"] for row in values if row["kind"] in ("not built", "no case")) or "None.",
    ]
    return "\n\n".join(parts) + "\n"


def _listed(rows: list[Row], kinds: tuple[str, ...]) -> str:
    lines = []
    for signature, members in groups([{"signature": [row["kind"], row.get("detail")], **row} for row in rows], kinds):
        what = escaped(" · ".join(part for part in signature if part))
        lines.append(f"- {what} ({len(members)}): {', '.join(row['key'] for row in members[:30])}")
        if members[0]["kind"] in FINDINGS:
            lines.append(f"  {escaped(members[0].get('detail', ''))}")
    return "\n".join(lines) or "None."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="LIBRARY/NAME", help="these models")
    parser.add_argument("--library", nargs="+", help="these libraries")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (1)")
    parser.add_argument("--resume", action="store_true", help="keep the rows of earlier runs")
    parser.add_argument("--again", action="store_true", help="run what failed once more, nothing else")
    parser.add_argument("--here", action="store_true", help="in this environment, with what is installed")
    parser.add_argument("--list", action="store_true", help="print the names of all models")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    if options.list:
        listing()
        return
    if options.here:
        python: str | Path = sys.executable
    else:
        from benchmarks.sound.environment import python as of_sweep

        python = of_sweep()
    path = FOLDER / "rows.jsonl"
    rows = read_rows(path)
    if not (options.resume or options.again or options.only or options.library):
        path.unlink(missing_ok=True)
        rows = {}
    wanted = options.only or _names(python)
    if options.library:
        wanted = [key for key in wanted if key.partition("/")[0] in options.library]
    if options.again:
        wanted = [key for key in wanted if rows.get(key, {}).get("kind") in LOST]
    elif options.resume:
        wanted = [key for key in wanted if key not in rows]
    console = reporting.console()

    def found(row: Row) -> None:
        append_row(path, row)
        rows[row["key"]] = row
        console.print(f"{row['key']}: {row['kind']} {row.get('detail') or ''}"[:300], markup=False)

    run(
        lambda keys: processes.command("benchmarks.sound.sweep", "--work", *keys, python=python, quiet=True),
        wanted,
        found,
        jobs=options.jobs,
        chunk=60,
        silence=3600,
        log=FOLDER / "log.txt",
    )
    rows = dict(sorted(rows.items()))
    reporting.write_rows(RESULTS / "sweep.json", published(rows))
    reporting.write(RESULTS / "sweep.md", markdown(rows))
    console.print(Counter(row["kind"] for row in rows.values()))


def _names(python: str | Path) -> list[str]:
    import subprocess

    command = processes.command("benchmarks.sound.sweep", "--list", python=python, quiet=True)
    done = subprocess.run(command, env=processes.environment(python), stdout=subprocess.PIPE, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "/" in line and not line.startswith("#")]


if __name__ == "__main__":
    main()
