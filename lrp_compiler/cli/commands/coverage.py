"""`coverage`: which nodes of a model have a rule."""

import argparse
from pathlib import Path

from lrp_compiler.base.counted import counted
from lrp_compiler.base.errors import LrpError
from lrp_compiler.base.progress import stages

from ..compiling import MODEL
from ..paths import must_exist
from ..reporting import report_table

PURPOSE = "list which nodes of a model have a rule, without compiling it; exit code 1 if one has none"
EXAMPLE = "lrp-compiler coverage model.pt2 --json"


def add_options(command: argparse.ArgumentParser) -> None:
    """The model."""
    command.add_argument("model", type=Path, metavar="MODEL", help=MODEL)


def do(arguments: argparse.Namespace) -> None:
    """Look every node up."""
    must_exist(arguments.model)
    with stages("capture"):
        import lrp_compiler as lrp

        coverage = lrp.coverage(arguments.model)
    report_table(arguments, coverage)
    if coverage.uncovered:
        ops = ", ".join(dict.fromkeys(node.op for node in coverage.uncovered))
        without = counted(len(coverage.uncovered), "node has|nodes have")
        raise LrpError(f"{without} no relevance rule ({ops}): lrp-compiler compile says how to give one.")
