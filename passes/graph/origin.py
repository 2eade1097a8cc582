"""What a node of the relevance graph or of the joint graph stands for: facts that later passes decide by.

    forward     the node `relu` of the forward graph
    relevance   made by the rule `epsilon` of `linear_1`; it is the relevance of `relu`, in unit form

Passes hand these on while they rewrite. When the joint graph is final `notes.py` writes them down as text for people,
which nothing reads to decide anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from torch import fx

Phase = Literal["forward", "relevance"]
KEY = "lrp_origin"
"""Where it lives in `node.meta`."""
SEEDED = "lrp_seeded"
"""`node.meta` flag: relevance starts here."""


@dataclass(frozen=True)
class Origin:
    """Where a node comes from.

    Args:
        phase: which half of the explainer it belongs to.
        value: the node of the forward graph that it is, or that it explains.
        module: path of the module that this one was traced in.
        rule: what made it, or (forward) the rule that explains it; "" if there is none.
        form: "unit" or "total" where it *is* the relevance of a forward value, else "".
        of: the forward values whose relevance it is.
    """

    phase: Phase
    value: str
    module: str = ""
    rule: str = ""
    form: str = ""
    of: tuple[str, ...] = ()

    @property
    def shared(self) -> Origin:
        """What another node made for the same purpose has in common with it."""
        return replace(self, form="", of=())

    def named(self, form: str, values: Iterable[str]) -> Origin:
        """It is also the relevance of these values. Relevance that passes untouched is that of several, in one form."""
        known = self.of if self.form == form else ()
        return replace(self, form=form, of=tuple(dict.fromkeys((*known, *values))))


def origin(node: object) -> Origin | None:
    """What is known of the node; `None` for what is no node or comes from nowhere."""
    return node.meta.get(KEY) if isinstance(node, fx.Node) else None


def set_origin(node: fx.Node, known: Origin | None) -> None:
    """Write it down."""
    if known is None:
        node.meta.pop(KEY, None)
    else:
        node.meta[KEY] = known


def is_named(node: object) -> bool:
    """Whether the node is the relevance of a forward value: then it stays, for whoever looks or asks for it."""
    known = origin(node)
    return known is not None and bool(known.form)


def share_origin(node: fx.Node, like: fx.Node) -> None:
    """The node is made for the same purpose as `like`."""
    known = origin(like)
    set_origin(node, None if known is None else known.shared)


def keep_name(dropped: fx.Node, source: fx.Node) -> None:
    """A node that changes nothing goes: what is left of it is now the relevance that it was."""
    if isinstance(source, fx.Node) and SEEDED in dropped.meta:
        source.meta[SEEDED] = True
    known, left = origin(dropped), origin(source)
    if known is not None and known.form and left is not None and left.phase == "relevance":
        set_origin(source, left.named(known.form, known.of))
