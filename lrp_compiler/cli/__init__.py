"""The command line: what a shell may say, and what is done for it; each command is a file in `commands/`."""

from .main import main
from .parser import make_parser

__all__ = ["main", "make_parser"]
