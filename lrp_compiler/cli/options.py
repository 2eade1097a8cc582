"""Groups of options that several commands have in common."""

import argparse
from pathlib import Path

from . import kinds


def add_check(command: argparse.ArgumentParser) -> None:
    """Whether the explainer's file is looked at before it runs."""
    command.add_argument(
        "--no-check", dest="check", action="store_false", help="do not compare the file with the hash in its seal first"
    )


def add_explainer_arguments(command: argparse.ArgumentParser, files: str, about: str = "written by compile") -> None:
    """An explainer, and all that a run of it takes."""
    command.add_argument("explainer", type=Path, metavar=files, help=about)
    add_check(command)
    command.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="[NAME=]FILE.npy",
        help="an input of the model, by position or by name; once for each",
    )
    command.add_argument(
        "--target", type=kinds.target, metavar="INT|FILE.npy", help="class to explain, if compiled with --target index"
    )
    command.add_argument(
        "--masks",
        action="append",
        default=[],
        metavar="PATH=FILE.npy",
        help="what the relevance of this value is multiplied by, [batch, channels]; once for each",
    )
    command.add_argument(
        "--seeds",
        action="append",
        default=[],
        metavar="PATH=FILE.npy",
        help="relevance that is put on this value, in its shape; once for each",
    )
    add_reference(command)


def add_reference(command: argparse.ArgumentParser) -> None:
    """What inputs are compared with."""
    command.add_argument(
        "--reference",
        action="append",
        default=[],
        type=kinds.reference,
        metavar="[INPUT=]NUMBER|blur|FILE.npy",
        help="what inputs are compared with, if compiled with --composite reference (default: zeros; of token ids say "
        "which token)",
    )


def add_explained_data(command: argparse.ArgumentParser) -> None:
    """An explainer's file, and the rows that it is asked about."""
    command.add_argument("explainer", type=Path, metavar="M.lrp.onnx", help="written by compile")
    command.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="a .npy, .parquet or .jsonl file, or a folder of .parquet, of .npy (one for each input) or of pictures",
    )


def add_served_explainer(command: argparse.ArgumentParser) -> None:
    """An explainer that answers requests."""
    command.add_argument("explainer", type=Path, metavar="M.lrp.onnx", help="written by compile")
    command.add_argument("--name", dest="called", metavar="NAME", help="of the model (default: the name of the file)")
    command.add_argument(
        "--max-rows", type=int, default=32, metavar="N", help="that run at once, at most (default: %(default)s)"
    )
    add_check(command)


def add_picture_options(command: argparse.ArgumentParser) -> None:
    """How a picture becomes the network's input."""
    command.add_argument(
        "--mean", type=kinds.numbers, default=[0.0], metavar="X[,X,X]", help="of colours from 0 to 1 (default: 0)"
    )
    command.add_argument(
        "--std", type=kinds.numbers, default=[1.0], metavar="X[,X,X]", help="what they are divided by (default: 1)"
    )
    command.add_argument(
        "--resize",
        choices=("crop", "stretch"),
        default="crop",
        help="crop: the middle of the picture (default); stretch: all of it, at the cost of its proportions",
    )
    command.add_argument(
        "--crop",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="of the shorter side, such as 0.875 (default: %(default)s)",
    )
    command.add_argument("--size", type=int, metavar="N", help="height and width, if the explainer leaves them open")


def add_row_options(command: argparse.ArgumentParser) -> None:
    """How rows of a data set become inputs, and how many run at once."""
    command.add_argument(
        "--column",
        action="append",
        default=[],
        type=kinds.column,
        metavar="INPUT=COLUMN",
        help="the column of an input (or of target, position, …), if it has another name; text=COLUMN: of the texts; "
        "once for each",
    )
    command.add_argument(
        "--id", metavar="COLUMN", help="what tells rows apart (default: id, of pictures their path, else the number)"
    )
    add_picture_options(command)
    command.set_defaults(mean=None, std=None)  # numbers are taken for colours only where they are given
    command.add_argument("--tokenizer", type=Path, metavar="tokenizer.json", help="the model's, if it reads text")
    command.add_argument("--max-length", type=int, metavar="N", help="at how many tokens a text is cut")
    command.add_argument("--limit", type=int, metavar="N", help="only the first N rows of the data")
    command.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="rows at a time (default: %(default)s)"
    )
