"""When an operator fits a call: which of its operands carry relevance, and what else must hold.

A condition is data, not a function, so that two of them can be compared: an op's operators must exclude one another,
which registration makes sure of. Then it does not matter in which order they were registered.

    only("input")                    exactly this operand carries relevance
    one_active & ~spans_zero         one operand does, and the predicate does not hold
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .op import Op

Question = Callable[[Op], bool]


@dataclass(frozen=True)
class Condition:
    """What must hold of a call.

    Args:
        active: names of exactly the operands that carry relevance, or how many do; `None`: any.
        yes: predicates that hold.
        no: predicates that do not.
    """

    active: frozenset[str] | int | None = None
    yes: frozenset[Question] = frozenset()
    no: frozenset[Question] = frozenset()

    def __call__(self, op: Op) -> bool:
        """Whether it holds."""
        if isinstance(self.active, int) and len(op.active) != self.active:
            return False
        if isinstance(self.active, frozenset) and set(op.active) != self.active:
            return False
        return all(question(op) for question in self.yes) and not any(question(op) for question in self.no)

    def __and__(self, other: Condition) -> Condition:
        """Both.

        Raises:
            ValueError: both say which operands carry relevance, and not the same.
        """
        known = [active for active in (self.active, other.active) if active is not None]
        if len(set(known)) > 1:
            raise ValueError(f"no call has {known[0]} and {known[1]} active")
        return Condition(known[0] if known else None, self.yes | other.yes, self.no | other.no)

    def __invert__(self) -> Condition:
        """The opposite of a single predicate.

        Raises:
            ValueError: it is more than that; the opposite of a conjunction is none.
        """
        if self.active is not None or len(self.yes | self.no) != 1:
            raise ValueError("only a single predicate has an opposite")
        return Condition(yes=self.no, no=self.yes)

    def excludes(self, other: Condition) -> bool:
        """Whether no call can meet both."""
        return bool(self.yes & other.no or self.no & other.yes) or _disjoint(self.active, other.active)


def _disjoint(a: frozenset[str] | int | None, b: frozenset[str] | int | None) -> bool:
    if a is None or b is None:
        return False
    if isinstance(a, frozenset) and isinstance(b, frozenset):
        return a != b
    count_a, count_b = (active if isinstance(active, int) else len(active) for active in (a, b))
    return count_a != count_b


def only(*names: str) -> Condition:
    """Exactly these operands carry relevance."""
    return Condition(frozenset(names))


def predicate(question: Question) -> Condition:
    """A yes-or-no question about the call, as a condition."""
    return Condition(yes=frozenset({question}))


always = Condition()
"""Every call."""
one_active = Condition(1)
"""One operand carries relevance, whichever it is."""
two_active = Condition(2)
"""Two operands do."""
