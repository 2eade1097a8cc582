"""The fewest bytes from which values can be worked out: a least cut through what they are made of.

    dt ─┬─ exp(A dt) ─┐                  the bytes of dt, B and x are fewer than those of the two products,
    B ──┴─ B dt ─ B dt x ─ what is asked for         which are broadcast: dt, B and x are the cut
    x ────────────┘

By Ford and Fulkerson's theorem a least cut is found by sending through the graph as much as goes: every value takes as
much as it has bytes. Source: Edmonds and Karp, 1972, doi:10.1145/321694.321699 (the shortest ways first).
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import TypeVar

T = TypeVar("T", bound=Hashable)
END = "end"
START = "start"


def least_cut(reads: Mapping[T, Collection[T]], asked: Collection[T], size: Callable[[T], int]) -> set[T]:
    """The values of fewest bytes that all that is asked for can be worked out from; of several such, the last.

    Args:
        reads: value → what it is worked out from; those that are none of its keys are given.
        asked: what is asked for.
        size: bytes of a value.
    """
    room: defaultdict[Hashable, dict[Hashable, float]] = defaultdict(dict)

    def way(source: Hashable, target: Hashable, width: float) -> None:
        room[source][target] = width
        room[target].setdefault(source, 0)

    waiting, seen = list(asked), set(asked)
    while waiting:
        value = waiting.pop()
        way((value, "in"), (value, "out"), size(value))
        if value not in reads:
            way(START, (value, "in"), math.inf)
        for read in reads.get(value, ()):
            way((read, "out"), (value, "in"), math.inf)
            if read not in seen:
                seen.add(read)
                waiting.append(read)
    for value in asked:
        way((value, "out"), END, math.inf)
    while path := _shortest(room):
        width = min(room[source][target] for source, target in path)
        for source, target in path:
            room[source][target] -= width
            room[target][source] += width
    behind = _leading_to_end(room)
    return {value for value in seen if (value, "out") in behind and (value, "in") not in behind}


def _shortest(room: Mapping[Hashable, Mapping[Hashable, float]]) -> list[tuple[Hashable, Hashable]]:
    """The ways of a shortest path on which there is room; none: there is no path."""
    before: dict[Hashable, Hashable] = {START: START}
    waiting = deque[Hashable]([START])
    while waiting:
        place = waiting.popleft()
        for target, width in room.get(place, {}).items():
            if width > 0 and target not in before:
                before[target] = place
                waiting.append(target)
    path: list[tuple[Hashable, Hashable]] = []
    place = END if END in before else START
    while place != START:
        path.append((before[place], place))
        place = before[place]
    return path


def _leading_to_end(room: Mapping[Hashable, Mapping[Hashable, float]]) -> set[Hashable]:
    """The places from which there still is room to the end."""
    found: set[Hashable] = {END}
    waiting = deque[Hashable]([END])
    while waiting:
        place = waiting.popleft()
        for source in room.get(place, {}):  # ways go both ways, one of them perhaps of no width
            if source not in found and room[source][place] > 0:
                found.add(source)
                waiting.append(source)
    return found
