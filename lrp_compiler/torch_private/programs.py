"""Exported programs, their structures and modules."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any

import torch
from torch.utils import _pytree as pytree


class StandIn(dict[str, Any]):
    """Base of what stands for a class of inputs or outputs that nothing in this process has registered."""


_standing_in = RLock()


@contextmanager
def stand_ins(names: Iterable[str]) -> Iterator[None]:
    """Let torch read structures of classes that are not registered here, a library's own outputs for example.

    Registering is of the whole process: one at a time, and it ends with the block. Waits for a `torch.export.load` that
    leaves unknown classes alone.
    """
    with _standing_in, ExitStack() as stack:
        for name in sorted(set(names) - pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.keys()):
            made = type("StandIn", (StandIn,), {})
            pytree._private_register_pytree_node(
                made,
                lambda given: (list(given.values()), list(given)),
                lambda values, keys: dict(zip(keys, values, strict=True)),
                serialized_type_name=name,
                to_dumpable_context=json.dumps,
                from_dumpable_context=json.loads,
            )
            stack.callback(pytree.treespec_loads.cache_clear)  # it has learned what the name meant
            stack.callback(pytree._deregister_pytree_node, made)
        yield


def without_stand_ins(spec: Any) -> Any:
    """The structure with a dict for every class that was stood in for, a tuple where that keeps no names."""
    if spec is None or spec.is_leaf():
        return spec
    kind, context, children = spec.type, spec.context, [without_stand_ins(child) for child in spec.children()]
    if isinstance(kind, type) and issubclass(kind, StandIn):
        named = isinstance(context, list) and len(context) == len(children) and all(map(_is_text, context))
        kind, context = (dict, context) if named else (tuple, None)
    return pytree.TreeSpec(kind, context, children)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def changed(program: torch.export.ExportedProgram, **parts: Any) -> torch.export.ExportedProgram:
    """The program with other parts, of those that its constructor takes. Waits for a public way to change one.

    Args:
        program: stays as it is.
        parts: by the constructor's names; `None` for what it shall find out itself.
    """
    whole = {
        "root": program.graph_module,
        "graph": program.graph,
        "graph_signature": program.graph_signature,
        "state_dict": program.state_dict,
        "range_constraints": program.range_constraints,
        "module_call_graph": program.module_call_graph,
        "example_inputs": program.example_inputs,
        "constants": program.constants,
        "verifiers": program.verifiers,
    }
    return torch.export.ExportedProgram(**{**whole, **parts})


def hold_what_is_in(module: torch.nn.Module, other: torch.nn.Module) -> None:
    """Let a module hold the parameters, buffers and modules of another, under their names. Waits for a public way.

    What it holds later is its own. Names that `register_buffer` and its like refuse (`0`, with dots) are taken as well.
    """
    for tables in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        module.__dict__[tables] = copy.copy(getattr(other, tables))


def data_dependent_lines(draft: torch.export.ExportedProgram) -> list[tuple[str, int]]:
    """File and line of the user's code for every value that `torch.export.draft_export` did not know.

    Waits for a public report of drafts.
    """
    # torch's trace log knows every file by a number.
    from torch._logging.structured import INTERN_TABLE

    report: Any = getattr(draft, "_report", None)
    files = {number: name for name, number in INTERN_TABLE.items()}
    found = []
    for failure in report.failures if report else ():
        frames = [frame for frame in failure.data.get("user_stack", ()) if frame.get("name") != "_call_impl"]
        file = files.get(frames[-1]["filename"]) if frames else None
        if file is not None:
            found.append((str(file), int(frames[-1]["line"])))
    return found
