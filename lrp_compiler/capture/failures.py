"""Why torch.export did not take a model: in a sentence that says where, and what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.frames import innermost
from lrp_compiler.base.quiet import quiet
from lrp_compiler.torch_private import data_dependent_lines

from .shape_hints import Larger, holds_throughout, shape_hint

REMEDY = "use torch.where or torch.cond instead of a Python if, and no .item()"
MOST = 3
"""Lines that are named."""


def itself_fails(error: Exception) -> str:
    """The sentence about a model that does not run."""
    return f"The model itself fails on the example inputs: {reason_of(error)}{_raised_at(error)}."


def other_ways(error: Exception) -> list[dict[str, bool]]:
    """Options with which torch.export may take the model that it did not take."""
    text = str(error)
    if "not a known type" in text:
        return []
    if holds_throughout(text):
        # Checked as the program runs instead: `2 * (h // 2) - 2 < h` holds for all sizes, but torch cannot prove it.
        return [{"prefer_deferred_runtime_asserts_over_guards": True}]
    # Dynamo reads the code instead of running it on symbols, and takes some models that cannot be run so.
    return [] if shape_hint(text) else [{"strict": True}]


def why_not_exported(error: Exception, drafted: Callable[[], Any], larger: Larger | None = None) -> str:
    """The sentence about a model that runs by itself.

    Args:
        error: what torch.export raised.
        drafted: makes torch's draft of an export, which goes on where an export stops.
        larger: what came of larger examples; None: nobody tried any.
    """
    text, kind = str(error), type(error).__name__
    if "not a known type" in text:
        return _unknown_output(text)
    if "data-dependent" in text or "DataDependent" in kind or "bool()" in text or "is_nonzero" in text:
        found = _user_frame(text) or _user_frame(getattr(error, "msg", "") or "")
        places = list(dict.fromkeys([*([found] if found else []), *_drafted(drafted)]))
        more = f" and {len(places) - MOST} more" if len(places) > MOST else ""
        where = f" ({', '.join(places[:MOST])}{more})" if places else ""
        return (
            f"torch.export cannot trace the model: its control flow depends on the values of a tensor{where}; {REMEDY}."
        )
    hint = shape_hint(text, larger)
    if hint:
        return hint
    if "dynamic_shapes" in text:
        return f"dynamic_shapes does not fit the example inputs: {reason_of(error).partition(': ')[2] or kind}."
    return f"torch.export cannot trace the model, which runs by itself: {reason_of(error)}{_raised_at(error)}."


def _drafted(drafted: Callable[[], Any]) -> list[str]:
    """Every line at which torch's draft met a value that it does not know; of its graph nothing is used."""
    try:
        with quiet(output=True), torch.no_grad():
            return [_short(file, line) for file, line in data_dependent_lines(drafted())]
    except Exception:  # the draft is an aid: what it cannot do, the sentence does without
        return []


def _unknown_output(text: str) -> str:
    found = re.search(r"<class '([^']+)'>", text)
    name = found[1] if found else "value"
    return (
        f"The model returns a {name}, which is no tensor and no structure of tensors: switch that output off (with an "
        f"argument such as use_cache=False) or, if {name.rpartition('.')[2]} is a dataclass, tell torch by "
        "torch.export.register_dataclass what is in it."
    )


def _user_frame(text: str) -> str:
    found = innermost(text, own=True)
    return "" if found is None or found.is_torchs else _short(found.path, found.line)


def _raised_at(error: BaseException) -> str:
    """` (model.py:12: return self.net(x))`, of the innermost line that is neither torch's nor ours."""
    at: TracebackType | None = error.__traceback__
    found = None
    while at is not None:
        module = str(at.tb_frame.f_globals.get("__name__", ""))
        file = at.tb_frame.f_code.co_filename
        theirs = module.partition(".")[0] not in ("torch", "lrp_compiler", "contextlib", "functools")
        if theirs and not file.startswith("<"):
            found = (file, at.tb_lineno)
        at = at.tb_next
    return f" ({_short(*found)})" if found else ""


def _short(file: str, line: int) -> str:
    return f"{os.path.basename(file)}:{line}"
