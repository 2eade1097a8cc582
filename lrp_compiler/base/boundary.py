"""Where the library ends and its user begins: whatever goes wrong inside a public function leaves it as one sentence.

    @boundary("compile the model")
    def compile(model, …): ...

An `LrpError`, and an error of the operating system about a file, are sentences already and pass; so does what is no
error of a computation at all (KeyboardInterrupt, SystemExit, MemoryError, warnings raised as errors). Everything else
becomes an `LrpError` with the original as its cause. What the sentence says is read off the traceback: whose code
failed, at which stage, and at which node of which module. So nothing needs to be kept while all goes well. Torch-free.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sysconfig
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from .errors import InputError, InternalError, LrpError, did_you_mean
from .frames import Frame, innermost
from .installed import lacking

P = ParamSpec("P")
T = TypeVar("T")

STAGES = {
    "capture": "capturing the model",
    "passes.decompose": "writing composite ops out",
    "passes.forward": "making the forward graph",
    "passes.assign": "assigning rules",
    "passes.relevance": "propagating relevance",
    "passes.promises": "planning what is kept",
    "passes.joint": "joining forward and relevance",
    "passes.optimise": "simplifying the graph",
    "artefact.provenance": "hashing the model",
    "artefact.storage": "reading or writing a .pt2 file",
    "artefact": "describing the explainer",
    "export.aoti": "compiling with AOTInductor",
    "export": "writing ONNX",
    "views": "showing the explainer",
    "pictures": "drawing",
    "website": "making the page",
    "serving": "serving",
}
"""Room → what is done in it."""
OWN = "lrp_compiler"
NO_PATH = re.compile(r"os\.PathLike.* not ")
"""What Python says of a path that is none, in several wordings."""
MEMORY = ("can't allocate memory", "out of memory", "not enough memory", "bad_alloc", "bad allocation")
LENGTH = 300
"""Of what is quoted from another library's message."""
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class boundary:
    """A decorator, or a context: errors that leave it are sentences.

    Args:
        doing: what is done inside, to follow "cannot": "compile the model".
    """

    def __init__(self, doing: str) -> None:
        self.doing = doing

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """The function, bounded."""

        @functools.wraps(function)
        def bounded(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                sentence = self.said(error, called=function)
                if sentence is error:
                    raise
                raise sentence from error

        return bounded

    def __enter__(self) -> None:
        """Nothing is done."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say what went wrong, if something did."""
        if isinstance(error, Exception):
            sentence = self.said(error)
            if sentence is not error:
                raise sentence from error

    def said(self, error: Exception, called: Callable[..., Any] | None = None) -> Exception:
        """The error itself if it may pass, else the sentence that stands for it."""
        if (absent := lacking(error, self.doing)) is not None:
            return absent
        if isinstance(error, LrpError | MemoryError | Warning) or _is_about_a_file(error):
            return error
        stack = list(_calls(error))
        refused = "" if called is None else _refused(error, called, stack)
        if refused:
            return InputError(refused)
        reason = reason_of(error)
        at = " ".join(filter(None, (_stage(stack), _node(stack))))
        if type(error).__name__ == "GuardOnDataDependentSymNode":
            return LrpError(
                f"Cannot {self.doing}: what is calculated depends on a size that is known only when the model runs"
                f"{at and f' ({at})'}, so give the model fixed sizes there, with padding and a mask for instance."
            )
        if any(word in reason for word in MEMORY):
            return LrpError(
                f"Cannot {self.doing}: there is not enough memory ({reason}); take a smaller batch, or a smaller "
                "memory_budget."
            )
        theirs = next((call for call in reversed(stack) if _is_the_users(call)), None)
        if theirs is not None:
            return LrpError(f"Cannot {self.doing}: {reason}, raised by {_place(theirs)}{at and f', {at}'}.")
        ours = next((call for call in reversed(stack) if _module(call).partition(".")[0] == OWN), None)
        where = "" if ours is None else f" in {_module(ours)}, line {ours.tb_lineno}"
        return InternalError(
            f"Cannot {self.doing}: {reason}{where}{at and f', {at}'}; this is a defect of lrp_compiler, so please "
            "report it with its traceback (on the command line: --debug) and, if you can, the graphs that compile "
            "writes with dump='folder'."
        )


def _refused(error: Exception, called: Callable[..., Any], stack: list[TracebackType]) -> str:
    """What to say of a call that does not fit its function, or names a file by what is no path; "" of anything else."""
    if not isinstance(error, TypeError):
        return ""
    # Nothing of the function itself has run, but for what decorates it; or it hands its options on as they are.
    outside = all(_module(call) in (__name__, "contextlib") for call in stack)
    if outside or re.match(rf"{called.__name__}\(\) (got an unexpected|missing)", str(error)):
        return misspelt(error, called)
    if NO_PATH.search(str(error)):
        return f"A path is a text or a pathlib.Path, not {str(error).rpartition('not ')[2].strip('<>')}."
    return ""


def reason_of(error: BaseException) -> str:
    """`KeyError: 'seed'`: the type and the first line of the message, without a full stop, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # What follows would read as a second sentence.
    text = re.sub(r"[.!?]\s+(?=[A-Z])", "; ", lines[0] if lines else "").rstrip(".:; ")
    text = text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def misspelt(error: TypeError, called: Callable[..., Any]) -> str:
    """What Python says of a call that does not fit a function, and the argument that was meant."""
    text = str(error).rstrip(".").partition(". Did you mean")[0]
    wrong = re.search(r"unexpected keyword argument '([^']*)'", text)
    takes = [name for name in inspect.signature(called).parameters if name != "self"]
    said = text if re.match(r"\w+\(", text) else f"{text[:1].upper()}{text[1:]}"  # a name stays as it is written
    return f"{said}{did_you_mean(wrong[1], takes) if wrong else ''}."


def _is_about_a_file(error: Exception) -> bool:
    """Whether it speaks of a file that the user named; `inspect` says so of source code that it does not find."""
    return isinstance(error, OSError) and not any(_module(call) == "inspect" for call in _calls(error))


def _calls(error: Exception) -> Iterator[TracebackType]:
    """Outermost first."""
    at = error.__traceback__
    while at is not None:
        yield at
        at = at.tb_next


def _module(call: TracebackType) -> str:
    return str(call.tb_frame.f_globals.get("__name__", ""))


def _is_the_users(call: TracebackType) -> bool:
    file = call.tb_frame.f_code.co_filename
    installed = file.startswith(("<", *_INSTALLED)) or "site-packages" in file or "dist-packages" in file
    return not installed and _module(call).partition(".")[0] not in (OWN, "torch")


def _place(call: TracebackType) -> str:
    code = call.tb_frame.f_code
    return f"{os.path.basename(code.co_filename)}:{call.tb_lineno} in {code.co_name}"


def _stage(stack: list[TracebackType]) -> str:
    """`while propagating relevance`: by the first room that was entered."""
    for call in stack:
        inside = _module(call).removeprefix(f"{OWN}.")
        for room, doing in STAGES.items():
            if inside == room or inside.startswith(f"{room}."):
                return f"while {doing}"
    return ""


def _node(stack: list[TracebackType]) -> str:
    """`at relu_1 in layers.0 (model.py:12: return x.relu())`: the node that the innermost pass had in hand."""
    for call in reversed(stack):
        node = call.tb_frame.f_locals.get("node")
        if _module(call).startswith(f"{OWN}.") and isinstance(getattr(node, "meta", None), dict):
            return f"at {describe_node(node)}"
    return ""


def describe_node(node: Any) -> str:
    """Where in the model a node of a graph is: its name, its module, the line that made it, if they are known."""
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(modules[-1][0]) if modules else ""
    found: Frame | None = innermost(node.meta.get("stack_trace"), own=True)
    known = "" if found is None or found.is_torchs else f" ({found.short})"
    return f"{getattr(node, 'name', node)}{f' in {path}' if path else ''}{known}"
