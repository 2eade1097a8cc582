"""`explain`: a data set, row by row, into Parquet."""

import argparse
import sys
from pathlib import Path

from lrp_compiler.base.counted import counted, pace

from .. import kinds
from ..options import add_check, add_explained_data, add_reference, add_row_options
from ..paths import must_be_onnx
from ..reporting import report

PURPOSE = "explain a data set, however large, into Parquet; goes on where it was stopped"
EXAMPLE = (
    "lrp-compiler explain image.lrp.onnx photos/ -o out --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 "
    "--crop 0.875\n"
    "  lrp-compiler explain text.lrp.onnx reviews.jsonl -o out --tokenizer tokenizer.json --column text=review "
    "--workers 4\n"
    "  lrp-compiler explain image.lrp.onnx /shared/photos -o /shared/out --engine ray --workers 4:64\n"
    '  lrp-compiler explain m.lrp.onnx rows.parquet -o out --column x=pixels --id key --where "label == 3"\n\n'
    "out/relevance.parquet and, of rows that cannot be explained, out/errors.parquet are folders of files, which\n"
    "readers of Parquet take as one. The same command goes on where it was stopped, by whatever."
)


def add_options(command: argparse.ArgumentParser) -> None:
    """The data, how rows become inputs, which ones, and who explains them."""
    add_explained_data(command)
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="a folder, new or to go on with"
    )
    command.add_argument("--target", type=int, metavar="INT", help="class to explain, if compiled with --target index")
    add_reference(command)
    add_row_options(command)
    command.add_argument(
        "--where", metavar="CONDITION", help='which rows: columns, comparisons, in, and, or, not: "label in (3, 5)"'
    )
    bad = command.add_mutually_exclusive_group()
    bad.add_argument(
        "--skip-bad",
        dest="bad",
        action="store_const",
        const="skip",
        default="skip",
        help="write rows that cannot be explained down in errors.parquet (default)",
    )
    bad.add_argument(
        "--fail-fast", dest="bad", action="store_const", const="raise", help="end at the first row that cannot be"
    )
    command.add_argument(
        "--workers",
        type=kinds.workers,
        default=1,
        metavar="N",
        help="processes, which share the cores; with ray, actors, and LEAST:MOST of them (default: %(default)s)",
    )
    command.add_argument(
        "--engine",
        choices=("embedded", "ray"),
        default="embedded",
        help="who explains: processes of this machine, or a Ray cluster, whose nodes all see M.lrp.onnx, DATA and OUT "
        "under the same path (default: %(default)s)",
    )
    command.add_argument(
        "--address",
        metavar="A",
        help="of the Ray cluster; auto: the one that runs here (default: RAY_ADDRESS, else one is started for the job)",
    )
    command.add_argument(
        "--shard-rows", type=int, metavar="N", help="rows of the data in a file (default: about 64 MB of relevance)"
    )
    add_check(command)


def do(arguments: argparse.Namespace) -> None:
    """Explain the data set."""
    must_be_onnx(arguments.explainer, "data sets")
    from lrp_compiler.data import explain

    from ..arrays import load_references

    names = ["id", "target", "mean", "std", "resize", "crop", "size", "tokenizer", "max_length", "where", "limit"]
    names += ["bad", "batch_size", "workers", "engine", "address", "shard_rows", "check"]
    done = explain(
        arguments.explainer,
        arguments.data,
        arguments.output,
        columns=dict(arguments.column),
        **load_references(arguments),
        progress=sys.stderr.isatty(),
        **{name: getattr(arguments, name) for name in names},
    )
    new = done.rows - done.resumed
    how = f"{pace(new / max(done.seconds, 1e-9))} a second" if new else "all of them before"
    said = f"explained {counted(done.explained, 'row')} ({how})"
    lines = [f"{said}, {counted(done.shards, 'file')} in {done.folder}/relevance.parquet"]
    lines += [f"{counted(done.bad, 'row')} could not be explained: {done.folder}/errors.parquet"] * bool(done.bad)
    report(arguments, {**vars(done), "folder": str(done.folder)}, "\n".join(lines))
