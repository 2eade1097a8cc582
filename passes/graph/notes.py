"""What a node of the joint graph remembers: plain strings under fixed keys of `meta["custom"]["lrp"]`.

    forward     phase=forward name=relu module=features.1 rule=identity promise=kept
    relevance   phase=relevance explains=linear_1 module=classes rule=epsilon
                form=unit of=relu                            the node is the relevance of relu, in unit form
                promises="relu: kept, weight: constant"      what it reads of the forward graph, and how that is had

They survive `.pt2`; the text form, the viewer and the ONNX file show them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot

from .tools import call, is_tensor, note_of

aten = torch.ops.aten

WAIT = "wait"
"""In place of a rule: what makes a value that something is rebuilt from wait until relevance has arrived."""
ELIDED = "elided"
LOCAL = ("form", "of", "promises")
"""Keys that are about one node alone: whoever makes several nodes of it must not hand them on."""


def add_note(node: fx.Node, **note: str) -> None:
    """Add to what the node remembers; tracing shares these dicts between nodes, so that they are copied."""
    node.meta["custom"] = {**(node.meta.get("custom") or {}), "lrp": {**note_of(node), **note}}


def shared_note(node: fx.Node) -> dict[str, Any]:
    """What another node made for the same purpose may remember as well."""
    return {"lrp": {key: value for key, value in note_of(node).items() if key not in LOCAL}}


def noted_call(graph: fx.Graph, like: fx.Node, target: Any, *args: Any) -> fx.Node:
    """A call at the graph's insertion point that remembers what `like` does, but for what is about `like` alone."""
    node = call(graph, target, *args, like=like)
    node.meta["custom"] = shared_note(like)
    return node


def note_form(value: fx.Node, relevance: Tensor, form: str) -> None:
    """While relevance is traced: the node that makes `relevance` is the relevance of `value`, in this form."""
    mode = get_proxy_mode()
    while torch._C._functorch.is_batchedtensor(relevance):
        relevance = torch._C._functorch.get_unwrapped(relevance)
    slot: Any = None if mode is None else get_proxy_slot(relevance, mode.tracer, None)
    if slot is not None and "explains" in note_of(slot.proxy.node):
        _note_form(slot.proxy.node, value.name, form)


def keep_form(dropped: fx.Node, source: Any) -> None:
    """A node that changes nothing goes: what is left of it is now the relevance that it was."""
    note = note_of(dropped)
    if "form" in note and isinstance(source, fx.Node) and "explains" in note_of(source):
        for value in note["of"].split(", "):
            _note_form(source, value, note["form"])


def _note_form(node: fx.Node, value: str, form: str) -> None:
    known = note_of(node)
    # Relevance that passes untouched is the relevance of several values, in one form.
    values = known["of"].split(", ") if known.get("form") == form else []
    if value not in values:
        add_note(node, form=form, of=", ".join([*values, value]))


def note_promises(joint: fx.GraphModule, resolutions: Mapping[str, str]) -> None:
    """Write down how each promised value is had, and at every relevance node which of them it reads.

    Args:
        joint: the joint graph, final: a later pass would change who reads what.
        resolutions: forward value → how its promise is resolved.
    """
    for node in joint.graph.nodes:
        note = note_of(node)
        if note.get("phase") == "forward":
            if note["name"] in resolutions:
                add_note(node, promise=resolutions[note["name"]])
        elif "explains" in note:
            read = dict(filter(None, (_promise(source, resolutions) for source in node.all_input_nodes)))
            if read:
                add_note(node, promises=", ".join(f"{value}: {how}" for value, how in read.items()))


def _promise(source: fx.Node, resolutions: Mapping[str, str]) -> tuple[str, str] | None:
    """The forward value that the node is, and how it is had; `None` for relevance."""
    note = note_of(source)
    if not is_tensor(source):
        return None
    if note.get("rule") == WAIT:  # the value itself, plus 0
        return _promise(source.args[0], resolutions) if source.target is aten.add.Tensor else None  # type: ignore[arg-type]
    if note.get("phase") == "forward":
        # What nobody asked for is there all the same, if a value is rebuilt from it.
        planned = resolutions.get(note["name"], ELIDED)
        return note["name"], ("constant" if source.op == "get_attr" else "kept") if planned == ELIDED else planned
    return (note["explains"], "rebuilt") if note.get("rule") == "rebuilt" else None
