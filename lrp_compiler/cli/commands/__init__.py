"""One file for each command, and the table of them: a new command is a file of its own and an entry here."""

import argparse
from typing import Protocol

from . import audit, compile, concepts, coverage, explain, inspect, page, plan, run, serve, summarise, triton, verify


class Command(Protocol):
    """What a command's file holds; what takes long to import, or needs torch, it imports when it is done."""

    PURPOSE: str
    """What it does, as the list of all commands says it."""
    EXAMPLE: str
    """How it is called, and what else one should know before."""

    def add_options(self, command: argparse.ArgumentParser) -> None:
        """Tell its parser what it takes, besides what all commands take."""

    def do(self, arguments: argparse.Namespace) -> None:
        """Do it, once the arguments are parsed."""


COMMANDS: dict[str, Command] = {
    "compile": compile,
    "run": run,
    "explain": explain,
    "summarise": summarise,
    "concepts": concepts,
    "serve": serve,
    "triton": triton,
    "plan": plan,
    "inspect": inspect,
    "coverage": coverage,
    "audit": audit,
    "verify": verify,
    "page": page,
}
"""Name → what stands behind it, in the order in which `--help` lists them."""
