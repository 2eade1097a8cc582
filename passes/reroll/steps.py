"""Find steps that are written out: stretches of a graph that are the same again and again.

    select(x, 1, 0) → mul(·, h) → add(·, b) → select(x, 1, 1) → mul(·, add) → add(·, b) → …

Of a program captured at two lengths that follow one another, the longer one has one step more of every loop: where the
two part says how long a step is. From there the steps are followed back as far as each argument is, at every step, one
of a few things: the same, a value of the same step or of one before, a number that grows evenly, or a node of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from lrp_compiler.torch_private import pytree

FEWEST = 3
"""Steps, from which on it is known what is the same in all of them."""
WINDOW = 24
"""How many nodes behind a loop have to be the same in both programs."""


class NotRepeated(LookupError):
    """Steps that are no loop; the message says which node it is, and why."""


@dataclass(frozen=True)
class Same:
    """The same at every step: a value from outside, or a constant."""

    value: Any


@dataclass(frozen=True)
class Counter:
    """A number that grows by the same at every step."""

    first: int
    by: int


@dataclass(frozen=True)
class Local:
    """A value of the same step, by its place in it."""

    place: int


@dataclass(frozen=True)
class Carried:
    """A value of the step so many before, by its place; what stands for it at the first ones comes from outside."""

    place: int
    lag: int
    first: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Each:
    """A value from outside, another one at every step."""

    values: tuple[fx.Node, ...]


Column = Same | Counter | Local | Carried | Each
"""What one argument of a node is, over all steps."""


@dataclass(frozen=True)
class Steps:
    """A loop that is written out.

    Args:
        nodes: step → its nodes; of the last step what nobody reads may not be there.
        columns: place in a step → what the node's arguments are, flat.
    """

    nodes: tuple[tuple[fx.Node | None, ...], ...]
    columns: tuple[tuple[Column, ...], ...]

    @property
    def count(self) -> int:
        """Of the steps."""
        return len(self.nodes)

    @property
    def first(self) -> tuple[fx.Node, ...]:
        """The nodes of the first one, all of which are there."""
        return tuple(node for node in self.nodes[0] if node is not None)

    @property
    def last(self) -> fx.Node:
        """The last node of all."""
        return [node for node in self.nodes[-1] if node is not None][-1]

    def all(self) -> Iterator[tuple[fx.Node, int, int]]:
        """Node, number of its step, its place in that."""
        for at, step in enumerate(self.nodes):
            yield from ((node, at, place) for place, node in enumerate(step) if node is not None)


def written_out(shorter: Sequence[fx.Node], longer: Sequence[fx.Node]) -> list[tuple[Steps, Steps]]:
    """The loops of two captures of one program, the longer one of which takes one step more of each.

    Raises:
        NotRepeated: something else is different, too.
    """
    found, begun = [], (0, 0)
    tokens, others = [_token(node) for node in shorter], [_token(node) for node in longer]
    place, other = 0, 0
    while place < len(tokens) or other < len(others):
        if tokens[place : place + 1] == others[other : other + 1]:
            place, other = place + 1, other + 1
            continue
        period = _period(tokens, others, place, other)
        if period is None:
            node = longer[min(other, len(longer) - 1)]
            raise NotRepeated(f"{node.name} has no counterpart in the program of another length")
        pair = _steps(shorter, place, period, begun[0]), _steps(longer, other + period, period, begun[1])
        if pair[1].count != pair[0].count + 1:
            raise NotRepeated(
                f"the steps around {pair[0].last.name} are {pair[0].count} and {pair[1].count} at lengths that "
                "differ by one"
            )
        found.append(pair)
        begun = shorter.index(pair[0].last) + 1, longer.index(pair[1].last) + 1
        other += period
    return found


def _period(tokens: Sequence[object], others: Sequence[object], place: int, other: int) -> int | None:
    """How many nodes a step has that `others` has at `other`, and `tokens` does not have at `place`."""
    behind = tokens[place : place + WINDOW]
    for period in range(1, min(other, len(others) - other) + 1):
        again = others[other : other + period] == others[other - period : other]
        end = other + period
        if again and _agree(others[end : end + WINDOW], behind):
            return period
    return None


def _agree(some: Sequence[object], others: Sequence[object]) -> bool:
    """Whether the two begin alike; a further loop may begin, and end, within what is compared."""
    alike = next((at for at, (a, b) in enumerate(zip(some, others, strict=False)) if a != b), len(others))
    return alike == len(others) == len(some) or alike >= WINDOW // 4


def _steps(nodes: Sequence[fx.Node], end: int, period: int, first: int) -> Steps:
    """The longest loop of this period that ends at `end`, or, where what follows looks like a step, just before.

    Of the last step some nodes may not be there: what only a further one would have read.
    """
    tokens = [_token(node) for node in nodes]
    best: Steps | None = None
    why: NotRepeated | None = None
    for stop in range(end, max(end - period, first), -1):
        low = stop
        while low - 1 - period >= first and tokens[low - 1] == tokens[low - 1 - period]:
            low -= 1
        for count in range((stop - low) // period + 1, FEWEST - 1, -1):
            if best is not None and count + 1 <= best.count:
                break
            start = stop - count * period
            if start < first:
                continue
            steps = [tuple(nodes[start + step * period :][:period]) for step in range(count)]
            try:
                found = _checked(steps)
            except NotRepeated as error:
                why = why or error
                continue
            found = _with_part(steps, nodes[stop : stop + period]) or found
            best = found if best is None or found.count > best.count else best
            break
    if best is None:
        raise why or NotRepeated(f"fewer than {FEWEST} steps end at {nodes[end - 1].name}")
    return best


def _with_part(steps: Sequence[Sequence[fx.Node]], behind: Sequence[fx.Node]) -> Steps | None:
    """The loop with a last step of which only some nodes are there."""
    part: list[fx.Node | None] = []
    left = list(behind)
    for node in steps[-1]:
        there = bool(left) and _token(left[0]) == _token(node)
        part.append(left.pop(0) if there else None)
    while any(node is not None for node in part):
        try:
            return _checked([*steps, tuple(part)])
        except NotRepeated:
            # What follows may begin as a step does.
            part[max(place for place, node in enumerate(part) if node is not None)] = None
    return None


def _checked(steps: Sequence[Sequence[fx.Node | None]]) -> Steps:
    position = {node: (at, place) for at, step in enumerate(steps) for place, node in enumerate(step) if node}
    columns = []
    for place, last in enumerate(steps[-2]):
        assert last is not None
        there = [node for node in (step[place] for step in steps) if node is not None]
        flat = [pytree.tree_leaves((node.args, node.kwargs)) for node in there]
        if len({len(leaves) for leaves in flat}) > 1:
            raise NotRepeated(f"{there[-1].name} takes more operands than the step before")
        column = [_column(values, position) for values in zip(*flat, strict=True)]
        if None in column:
            values = [leaves[column.index(None)] for leaves in flat[-FEWEST:]]
            raise NotRepeated(
                f"an argument of {there[-1].name} does not go on as in the steps before: {', '.join(map(str, values))}"
            )
        if len(there) < len(steps) and any(isinstance(one, Counter | Each) for one in column):
            raise NotRepeated(f"the last step has no {last.name}")
        columns.append(tuple(one for one in column if one is not None))
    return Steps(tuple(tuple(step) for step in steps), tuple(columns))


def _column(values: Sequence[Any], position: Mapping[fx.Node, tuple[int, int]]) -> Column | None:
    """What an argument is over all steps, of which it has these values."""
    first, *_ = values
    places = [position.get(value) if isinstance(value, fx.Node) else None for value in values]
    if not isinstance(first, fx.Node):
        if any(isinstance(value, fx.Node) or type(value) is not type(first) for value in values):
            return None
        if all(value == first for value in values):
            return Same(first)
        by = values[1] - first if type(first) is int else 0
        even = by != 0 and all(value == first + by * step for step, value in enumerate(values))
        return Counter(first, by) if even else None
    if not all(isinstance(value, fx.Node) for value in values):
        return None
    if all(place is None for place in places):
        return (
            Same(first) if len(set(values)) == 1 else Each(tuple(values)) if len(set(values)) == len(values) else None
        )
    if places[-1] is None:
        return None
    step, place = places[-1]
    lag = len(values) - 1 - step
    if not 0 <= lag <= len(values) - 2:
        return None
    if lag and not isinstance(values[-1].meta.get("val"), Tensor):
        return None  # of several results each is handed on by itself
    if any(places[at] != (at - lag, place) for at in range(lag, len(values))) or any(places[:lag]):
        return None
    return Carried(place, lag, tuple(values[:lag])) if lag else Local(place)


def _token(node: fx.Node) -> tuple[object, ...]:
    """What a node is, apart from which values and numbers it takes."""
    return node.target, tuple(_shape(arg) for arg in node.args), tuple(node.kwargs)


def _shape(arg: object) -> object:
    if isinstance(arg, list | tuple):
        inner = tuple(_shape(item) for item in arg)
        return "nodes" if inner and set(inner) == {"node"} else inner
    if isinstance(arg, fx.Node):
        return "node"
    return "number" if type(arg) in (int, float) else str(arg)


def calls(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes that calculate something, in their order."""
    return (node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output"))
