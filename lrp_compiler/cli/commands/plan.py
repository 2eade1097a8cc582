"""`plan`: the promises of an explainer, and how each is resolved."""

import argparse
from pathlib import Path

from lrp_compiler.base.progress import stages

from ..compiling import MODEL, add_compile_options, compiled, explainer_in
from ..paths import must_exist
from ..reporting import report_table

PURPOSE = "show which forward values an explainer keeps, and which it rebuilds"
EXAMPLE = (
    "lrp-compiler plan model.pt2 --composite attnlrp --memory-budget 0.5\n  lrp-compiler plan model.lrp.pt2 --json"
)


def add_options(command: argparse.ArgumentParser) -> None:
    """An explainer, or a model and how it is compiled."""
    command.add_argument("model", type=Path, metavar="MODEL|M.lrp.pt2", help=f"{MODEL}, or an explainer's")
    add_compile_options(command)


def do(arguments: argparse.Namespace) -> None:
    """Show the explainer's plan."""
    must_exist(arguments.model)
    with stages("load torch") as progress:
        explainer = explainer_in(arguments.model) or compiled(arguments, progress)
    report_table(arguments, explainer.plan)
