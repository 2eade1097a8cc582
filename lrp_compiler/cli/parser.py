"""The parser of the command line, made from the table of commands."""

import argparse
from typing import Any

from .commands import COMMANDS, Command


def make_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(
        prog="lrp-compiler",
        description="Compile a model into its explainer, and run it.",
        epilog="example:\n  lrp-compiler compile model.pt2 -o model.lrp.onnx --composite epsilon-plus\n"
        "  lrp-compiler run model.lrp.onnx --input x.npy -o relevance.npz",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        _add(subparsers, name, command)
    return parser


def _add(subparsers: Any, name: str, command: Command) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=command.PURPOSE,
        description=command.PURPOSE[0].upper() + command.PURPOSE[1:] + ".",
        epilog=f"example:\n  {command.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error, too")
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="first import this Python module, found from here, too: it registers operators and rules; once for each",
    )
    command.add_options(parser)
    parser.set_defaults(name=name, do=command.do)
