"""`verify`: whether a file is sound, and explains the model that it was made of."""

import argparse
from pathlib import Path

from lrp_compiler.base.errors import InputError, LrpError
from lrp_compiler.base.progress import stages

from .. import kinds
from ..paths import must_exist
from ..reporting import report_table

PURPOSE = "check that a file is sound and explains the model it was made of; exit code 1 if not"
EXAMPLE = (
    "lrp-compiler verify M.lrp.onnx --against MODEL.pt2\n"
    "  lrp-compiler verify text.lrp.onnx --input input_ids=ids.npy --json\n"
    "  lrp-compiler verify M.lrp.onnx --against MODEL.pt2 --runtime openvino"
)


def add_options(command: argparse.ArgumentParser) -> None:
    """The file, and what it is held against."""
    command.add_argument("explainer", type=Path, metavar="M.lrp.onnx|M.lrp.pt2", help="the file")
    command.add_argument(
        "--runtime",
        choices=("onnxruntime", "openvino", "node", "aoti"),
        help="run it there as well, and compare its relevance with float64 (without --against, with onnxruntime)",
    )
    command.add_argument("--against", type=Path, metavar="MODEL", help="the model: for the books and for float64")
    command.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=FILE.npy",
        help="run on this (default: random values in the example's sizes); once for each",
    )
    command.add_argument("--seed", type=kinds.count, default=0, metavar="N", help="of the random values (default: 0)")
    command.add_argument(
        "--pair", type=Path, metavar="FILE", help="the other part, if the file is one of a split explainer's two"
    )


def do(arguments: argparse.Namespace) -> None:
    """Check the file."""
    from ..arrays import load_inputs

    must_exist(arguments.explainer)
    args, inputs = load_inputs(arguments.input)
    with stages("verify"):
        from lrp_compiler.check.verify import verify

        if args:
            raise InputError("verify takes its inputs by name: --input NAME=FILE.npy.")
        found = verify(
            arguments.explainer, arguments.against, inputs, arguments.seed, arguments.pair, arguments.runtime
        )
    report_table(arguments, found)
    failed = [check.name for check in found.checks if check.passed is False]
    if failed:
        raise LrpError(f"{arguments.explainer} is not sound: {', '.join(failed)} failed.")
