"""The command line: the same engine as `lrp.compile` and the runtime, for shells and pipelines.

Results go to stdout, progress and errors to stderr. Exit code 0: done; 1: one sentence on stderr says what is wrong;
2: the command was called wrongly; 130: interrupted. `--debug` prints an error's traceback as well. `run` and `verify`
on an `.onnx` file, `explain`, `summarise`, `concepts`, `serve`, `triton` and `page` need no torch; every other command
imports it when it runs. `--help` imports little.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import LrpError, LrpWarning, UnsupportedOpError
from lrp_compiler.base.sources import keep_sources

from .extensions import import_extension
from .parser import make_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit code, 0 or 1.

    Raises:
        SystemExit: with code 2, if the arguments are wrong; with code 0, after `--help`.
    """
    arguments = make_parser().parse_args(argv)
    try:
        # torch warns its developers; -W and PYTHONWARNINGS still show it.
        with warnings.catch_warnings(), _any_text(sys.stdout), boundary(f"do {arguments.name}"):
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", LrpWarning)
            warnings.showwarning = partial(_show_warning, warnings.showwarning)
            keep_sources(vars(arguments))
            for name in arguments.imports:
                import_extension(name)
            arguments.do(arguments)
            sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has seen enough, as in `… | head`; what is left in the buffer must not fail when Python ends.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 1
    except KeyboardInterrupt:
        print("lrp-compiler: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (LrpError, OSError, MemoryError, Warning) as error:
        if arguments.debug:
            traceback.print_exception(error)
        print(f"lrp-compiler: error: {_sentence(error)}", file=sys.stderr)
        return 1
    return 0


def _show_warning(others: Callable[..., None], message: Warning | str, category: type[Warning], *place: Any) -> None:
    if issubclass(category, LrpWarning):
        print(f"lrp-compiler: warning: {message}", file=sys.stderr)
    else:
        others(message, category, *place)


INTERRUPTED = 130
"""What shells call a command that Ctrl+C ended."""


RULES_COME_FROM = (
    "Write it into a module, my_rules.py in this folder, behind import torch and import lrp_compiler as lrp, and give "
    "the command --import my_rules."
)
"""What a message about ops without a rule adds on the command line."""


def _sentence(error: Exception) -> str:
    # The operating system's own errors print as "[Errno 13] Permission denied: 'r.npz'".
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, UnsupportedOpError):
        return f"{error}\n{RULES_COME_FROM}"
    return str(error) or ("There is not enough memory." if isinstance(error, MemoryError) else type(error).__name__)


@contextmanager
def _any_text(stream: Any) -> Iterator[None]:
    """What the terminal's encoding lacks is written as an escape, instead of failing."""
    if not hasattr(stream, "reconfigure"):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors=before)
