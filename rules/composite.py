"""Composites: which rule, with which options, applies at which operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One line of a composite: a kind of operation and the rule that it gets.

    Args:
        kind: the operator's kind: "convolution", "linear", "addition", "average", "softmax", ….
        rule: name of the rule, one of those that fit the kind's family.
        options: the rule's parameters.
    """

    kind: str
    rule: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Composite:
    """A named table of entries; the first one that matches an operation decides, else the operator's own rule.

    Args:
        name: how it is reported.
        entries: the table.
    """

    name: str
    entries: tuple[Entry, ...] = ()

    def entry(self, kind: str) -> Entry | None:
        """The entry for an operation of this kind, if there is one."""
        return next((entry for entry in self.entries if entry.kind == kind), None)

    def to_dict(self) -> dict[str, Any]:
        """The composite as plain data: what the artefact stores."""
        return {
            "name": self.name,
            "entries": [{"kind": e.kind, "rule": e.rule, "options": dict(e.options)} for e in self.entries],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Composite:
        """The inverse of `to_dict`."""
        return cls(data["name"], tuple(Entry(e["kind"], e["rule"], e["options"]) for e in data["entries"]))


LIMIT_FOR_SHIFTS = Entry("shift", "epsilon", {"epsilon": 0.0})
"""A constant added to an activation takes its share without a stabiliser: the constant may be a mask of −∞."""


def epsilon(epsilon: float = 1e-6) -> Composite:
    """ε rule on every linear map; batch norms that could not be folded pass; max pools: winner takes all."""
    return _zennit("epsilon", epsilon, convolution=("epsilon", {"epsilon": epsilon}))


def epsilon_plus(epsilon: float = 1e-6) -> Composite:
    """z⁺ on convolutions, ε on dense layers, residual additions and average pools (Montavon et al., 2019)."""
    return _zennit("epsilon-plus", epsilon, convolution=("z-plus", {"epsilon": epsilon}))


def attnlrp(epsilon: float = 0.0) -> Composite:
    """AttnLRP: ε rule on linear maps, by default in its limit ε → 0; uniform products, Taylor softmax, frozen norms.

    Source: Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers",
    arXiv 2402.05602.
    """
    kinds = ("convolution", "linear", "addition", "average", "sum", "normalization", "batch norm", "matmul")
    rules = {"matmul": "uniform"}
    entries = tuple(Entry(kind, rules.get(kind, "epsilon"), {"epsilon": epsilon}) for kind in kinds)
    return Composite("attnlrp", (*entries, LIMIT_FOR_SHIFTS))


def _zennit(name: str, epsilon: float, convolution: tuple[str, dict[str, Any]]) -> Composite:
    stabilised = {"epsilon": epsilon}
    return Composite(
        name,
        (
            Entry("convolution", *convolution),
            Entry("linear", "epsilon", stabilised),
            Entry("addition", "epsilon", stabilised),
            Entry("average", "epsilon", stabilised),
            Entry("sum", "epsilon", stabilised),
            Entry("batch norm", "pass"),
            # Zennit has no rule for normalisations of activations; the limit keeps them free of a division.
            Entry("normalization", "epsilon", {"epsilon": 0.0}),
            LIMIT_FOR_SHIFTS,
        ),
    )


COMPOSITES: dict[str, Callable[..., Composite]] = {
    "epsilon": epsilon,
    "epsilon-plus": epsilon_plus,
    "attnlrp": attnlrp,
}
"""By the name that `compile(composite=…)` takes."""
