"""What a node of the joint graph says of itself: plain strings under fixed keys of `meta["custom"]["lrp"]`.

    forward     phase=forward name=relu module=features.1 rule=identity promise=kept
    relevance   phase=relevance explains=linear_1 module=classes rule=epsilon
                form=unit of=relu                            the node is the relevance of relu, in unit form
                promises="relu: kept, weight: constant"      what it reads of the forward graph, and how that is had

They are for people: the text form, the viewer and the ONNX file show them, and they survive `.pt2`. They are written
once, when the graph is final, and nothing is ever decided by them; passes read `origin.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from .origin import Origin, origin
from .tools import is_tensor

aten = torch.ops.aten

WAIT = "wait"
"""In place of a rule: what makes a value that something is rebuilt from wait until relevance has arrived."""
REBUILT = "rebuilt"
"""In place of a rule: a forward value that is calculated again."""
ELIDED = "elided"


def note_of(node: fx.Node) -> dict[str, str]:
    """What the node says of itself, a copy; empty where it says nothing."""
    return dict((node.meta.get("custom") or {}).get("lrp") or {})


def write_notes(joint: fx.GraphModule, resolutions: Mapping[str, str]) -> None:
    """Write down what every node is, how each promised value is had, and which of them every relevance node reads.

    Args:
        joint: the joint graph, final.
        resolutions: forward value → how its promise is resolved.
    """
    for node in joint.graph.nodes:
        known = origin(node)
        note = {} if known is None else _note(known, node, resolutions)
        others = {key: value for key, value in (node.meta.get("custom") or {}).items() if key != "lrp"}
        node.meta["custom"] = {**others, "lrp": note} if note else others


def _note(known: Origin, node: fx.Node, resolutions: Mapping[str, str]) -> dict[str, str]:
    if known.phase == "forward":
        note = {"phase": "forward", "name": known.value, "module": known.module}
        note |= {"rule": known.rule} if known.rule else {}
        return note | ({"promise": resolutions[known.value]} if known.value in resolutions else {})
    if not known.value:  # a size that several nodes read
        return {"phase": "relevance"}
    note = {"phase": "relevance", "explains": known.value, "module": known.module, "rule": known.rule}
    note |= {"form": known.form, "of": ", ".join(known.of)} if known.form else {}
    read = dict(filter(None, (_promise(source, resolutions) for source in node.all_input_nodes)))
    return note | ({"promises": ", ".join(f"{value}: {how}" for value, how in read.items())} if read else {})


def _promise(source: fx.Node, resolutions: Mapping[str, str]) -> tuple[str, str] | None:
    """The forward value that the node is, and how it is had; `None` for relevance."""
    known = origin(source)
    if known is None or not is_tensor(source):
        return None
    if known.rule == WAIT and known.phase == "relevance":  # the value itself, plus 0
        return _promise(source.args[0], resolutions) if source.target is aten.add.Tensor else None  # type: ignore[arg-type]
    if known.phase == "forward":
        # What nobody asked for is there all the same, if a value is rebuilt from it.
        planned = resolutions.get(known.value, ELIDED)
        return known.value, ("constant" if source.op == "get_attr" else "kept") if planned == ELIDED else planned
    return (known.value, REBUILT) if known.rule == REBUILT else None
