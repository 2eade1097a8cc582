"""Which promised values are kept and which are rebuilt: a pure function of lists, apart from any graph.

The forward graph is a list of values in topological order. Relevance asks for some of them, and asks in reverse order:
what was computed last is needed first. A value is *kept* until then, or *rebuilt* from what is kept:

    kept:    x ──────────► block 3 ──────────► block 6                       (the ends of segments)
    rebuilt: x → 1 → 2 → 3     3 → 4 → 5 → 6                                 (when relevance comes back to the segment)

By default only what is free is rebuilt (views and casts). Under a budget so are elementwise values whose sources are
kept anyhow, and if that is not enough the graph is cut into segments: the values that cross a cut are kept, and each
segment is rebuilt once, when relevance reaches it. What is held at any time are the values at the cuts and one segment:
with n equal steps that is least, about 2√n, for √n segments (Chen et al., "Training deep nets with sublinear memory
cost", 2016, arXiv 1604.06174). A budget below that is not reachable; the plan says what was.

Everything is linear in values and edges, but for sorting.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

SEGMENTS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96)
"""How many segments are tried."""
ROUNDS = 2
"""How often the best of them is given the room that is left."""


@dataclass(frozen=True)
class Value:
    """One value of the forward graph.

    Args:
        nbytes: its size.
        cost: what computing it takes, in elementary operations.
        sources: indices of the values that it is computed from.
        given: at hand at no cost: an input, a weight, a constant.
        free: a view or a cast: rebuilding takes nothing worth counting.
        cheap: elementwise.
    """

    nbytes: int
    cost: float = 0.0
    sources: tuple[int, ...] = ()
    given: bool = False
    free: bool = False
    cheap: bool = False


@dataclass
class Decision:
    """What the planner says.

    Args:
        kept: indices of the values that the forward graph hands over.
        rebuilt: indices of all values that are computed again, asked for or on the way.
        held: bytes held at once, at most: kept ones that relevance has not passed, and rebuilt ones.
        promised: bytes that the default policy holds: what the budget is a share of.
        cost: what rebuilding takes.
        segment: by rebuilt index, the segment that it is rebuilt with; 0: free, wherever it is asked for.
    """

    kept: set[int] = field(default_factory=set)
    rebuilt: set[int] = field(default_factory=set)
    held: int = 0
    promised: int = 0
    cost: float = 0.0
    segment: dict[int, int] = field(default_factory=dict)


def plan(
    values: Sequence[Value], asked: Iterable[int], budget: float = 1.0, of: int | None = None, besides: int = 0
) -> Decision:
    """Decide for every value that is asked for.

    Args:
        values: the forward graph, in topological order.
        asked: indices of the values that relevance asks for.
        budget: share, 0 to 1, of the bytes that the default policy holds.
        of: these bytes, where they are those of another list of values.
        besides: bytes that are held whatever is decided.

    Returns:
        The decision of least cost within the budget, or, where there is none, the one that holds least.
    """
    wanted = {index for index in asked if not values[index].given}
    kept = _without_free(values, wanted)
    default = Decision(kept, promised=_bytes(values, kept) if of is None else of)
    consequences(values, wanted, default, [])
    limit = budget * default.promised - besides
    if default.held <= limit:
        default.held += besides
        return default
    crossing, last_use = _crossing(values), _last_uses(values)
    candidates: list[tuple[Decision, list[int]]] = [(default, []), (_without_cheap(values, wanted, kept), [])]
    for count in SEGMENTS:
        cuts = _cuts(values, kept, crossing, count)
        candidates.append((_segmented(values, wanted, kept, cuts, limit, last_use), cuts))
    within = [candidate for candidate in candidates if candidate[0].held <= limit]
    chosen, cuts = min(within or candidates, key=lambda c: (c[0].cost, c[0].held) if within else (c[0].held, c[0].cost))
    if cuts and within:
        for _ in range(ROUNDS):  # what is kept makes the segments smaller, which leaves room for more
            _fill(values, wanted, chosen, limit, last_use)
    if cuts:
        consequences(values, wanted, chosen, cuts)
    chosen.promised = default.promised
    chosen.held += besides
    return chosen


def _without_free(values: Sequence[Value], wanted: Collection[int]) -> set[int]:
    """What the default policy keeps: what is asked for, the bases of views in place of the views."""
    kept = set(wanted)
    pieces: dict[int, int] = {}
    for index in reversed(range(len(values))):
        value = values[index]
        # A base is kept in place of its views where they are as large together.
        if index not in kept and pieces.get(index, 0) >= value.nbytes > 0 and not value.given:
            kept.add(index)
        if index in kept and value.free and len(value.sources) >= 1:
            for source in value.sources:
                pieces[source] = pieces.get(source, 0) + value.nbytes
    at_hand = {index for index, value in enumerate(values) if value.given}
    result: set[int] = set()
    for index in sorted(kept):
        value = values[index]
        if not (value.free and value.sources and at_hand.issuperset(value.sources)):
            result.add(index)
        at_hand.add(index)
    return result


def _without_cheap(values: Sequence[Value], wanted: Collection[int], kept: Collection[int]) -> Decision:
    """As by default, but no elementwise value that is one step from what is kept: it is rebuilt where asked.

    One step, because of a longer chain everything would be there at once when its end is asked for, which comes first.
    """
    at_hand: set[int] = set()
    result: set[int] = set()
    for index, value in enumerate(values):
        near = bool(value.sources) and at_hand.issuperset(value.sources)
        if index in kept and not (value.cheap and near):
            result.add(index)
        if value.given or index in result or (value.free and near):
            at_hand.add(index)
    decision = Decision(result)
    consequences(values, wanted, decision, [])
    decision.segment = {index: index + 1 for index in decision.rebuilt}
    return decision


def _crossing(values: Sequence[Value]) -> list[int]:
    """By position p: bytes of the values up to p that values after p are computed from."""
    last_use = _last_uses(values)
    change = [0] * (len(values) + 1)
    for index, value in enumerate(values):
        if not value.given and last_use[index] > index:
            change[index] += value.nbytes
            change[last_use[index]] -= value.nbytes
    total, crossing = 0, []
    for position in range(len(values)):
        total += change[position]
        crossing.append(total)
    return crossing


def _segmented(
    values: Sequence[Value],
    wanted: Collection[int],
    kept: set[int],
    cuts: Sequence[int],
    limit: float,
    last_use: Sequence[int],
) -> Decision:
    """Segments that end at `cuts`; what the budget leaves goes to the values that are dearest to rebuild."""
    ends = set(_live_at(values, cuts))
    last = cuts[-1] if cuts else -1
    # Relevance comes back to the last segment at once: nothing is gained by rebuilding it.
    ends |= {index for index in kept if index > last}
    decision = Decision(kept=ends)
    _follow(values, wanted, decision, last_use)
    _fill(values, wanted, decision, limit, last_use)
    return decision


def _fill(
    values: Sequence[Value], wanted: Collection[int], decision: Decision, limit: float, last_use: Sequence[int]
) -> None:
    """Keep what saves most for its bytes, as long as the budget lasts."""
    spare = limit - decision.held
    if spare <= 0:
        return
    saved = _saved_by_keeping(values, wanted, decision.rebuilt)
    for index in sorted(saved, key=lambda i: (-saved[i] / max(values[i].nbytes, 1), i)):
        if values[index].nbytes <= spare:
            decision.kept.add(index)
            spare -= values[index].nbytes
    _follow(values, wanted, decision, last_use)


def _saved_by_keeping(values: Sequence[Value], wanted: Collection[int], rebuilt: Collection[int]) -> dict[int, float]:
    """By rebuilt index, what keeping it would save: its own cost, and that of what is rebuilt for it alone.

    linear → add, of which relevance asks for the sum: the sum is as large as the product, and saves both.
    """
    readers: dict[int, int] = dict.fromkeys(rebuilt, 0)
    for index in rebuilt:
        for source in set(values[index].sources):
            if source in readers:
                readers[source] += 1
    alone = {index for index, count in readers.items() if count == 1 and index not in wanted}
    saved: dict[int, float] = {}
    for index in sorted(rebuilt):
        value = values[index]
        saved[index] = (0.0 if value.free else value.cost) + sum(saved[s] for s in set(value.sources) if s in alone)
    return {index: cost for index, cost in saved.items() if index not in alone and not values[index].free}


def _cuts(values: Sequence[Value], kept: Collection[int], crossing: Sequence[int], count: int) -> list[int]:
    """Positions after which a segment ends: where little crosses, near equal shares of the kept bytes."""
    share = _bytes(values, kept) / count
    cuts: list[int] = []
    held, best = 0.0, -1
    for position, value in enumerate(values):
        held += value.nbytes if position in kept else 0
        if held >= share / 2 and (best < 0 or crossing[position] <= crossing[best]):
            best = position
        if held >= share * 1.25 and best >= 0:
            cuts.append(best)
            held = float(_bytes(values, (index for index in range(best + 1, position + 1) if index in kept)))
            best = -1
    return cuts


def _live_at(values: Sequence[Value], cuts: Sequence[int]) -> Iterable[int]:
    """The values that cross a cut: computed up to it, read after it."""
    segment = _segment_of(len(values), cuts)
    for index, value in enumerate(values):
        for source in value.sources:
            if not values[source].given and segment[source] < segment[index]:
                yield source


def _segment_of(count: int, cuts: Sequence[int]) -> list[int]:
    segments, number, ends = [], 0, set(cuts)
    for index in range(count):
        segments.append(number)
        number += index in ends
    return segments


def consequences(values: Sequence[Value], wanted: Collection[int], decision: Decision, cuts: Sequence[int]) -> None:
    """Follow from what is kept what is rebuilt, what that costs, and how much is held.

    Args:
        values: the forward graph.
        wanted: what relevance asks for.
        decision: `kept` is read, all but `promised` is written.
        cuts: positions after which a segment ends; none: what is rebuilt needs no holding back.
    """
    _follow(values, wanted, decision, _last_uses(values))
    segment = _segment_of(len(values), cuts)
    decision.segment = {index: segment[index] + 1 if cuts else 0 for index in sorted(decision.rebuilt)}


def _follow(values: Sequence[Value], wanted: Collection[int], decision: Decision, last_use: Sequence[int]) -> None:
    """What `consequences` does, but for the segments, which only the decision that is taken needs."""
    kept = decision.kept
    rebuilt: set[int] = set()
    stack = [index for index in wanted if index not in kept]
    while stack:
        index = stack.pop()
        if index in rebuilt or index in kept or values[index].given:
            continue
        rebuilt.add(index)
        stack.extend(values[index].sources)
    decision.rebuilt = rebuilt
    decision.cost = sum(values[index].cost for index in sorted(rebuilt) if not values[index].free)
    decision.held = _held(values, wanted, kept, rebuilt, last_use)


def _last_uses(values: Sequence[Value]) -> list[int]:
    """By index: the last value that is computed from it, or itself."""
    last_use = list(range(len(values)))
    for index, value in enumerate(values):
        for source in value.sources:
            last_use[source] = index
    return last_use


def _held(
    values: Sequence[Value],
    wanted: Collection[int],
    kept: Collection[int],
    rebuilt: Collection[int],
    last_use: Sequence[int],
) -> int:
    """Bytes held at once, at most, while relevance walks back from the last value to the first.

    A kept value goes when relevance has passed it. A rebuilt one comes, with all that leads to it, when relevance
    reaches what was computed from it last; it goes when relevance has passed it or, where nobody but others that are
    rebuilt asks for it, when the last of those has come.
    """
    if not rebuilt:
        return _bytes(values, kept)
    change = [0] * (len(values) + 1)  # at a position, and at all before it

    def hold(nbytes: int, first: int, last: int) -> None:
        change[first] += nbytes
        if last > 0:
            change[last - 1] -= nbytes

    born: dict[int, int] = {}
    for index in sorted((index for index in wanted if index in rebuilt), key=lambda i: (-last_use[i], i)):
        stack = [index]
        while stack:
            current = stack.pop()
            if current in rebuilt and current not in born:
                born[current] = last_use[index]
                stack.extend(values[current].sources)
    leaves: dict[int, int] = dict(born)
    for index, time in born.items():
        for source in values[index].sources:
            if source in leaves:
                leaves[source] = min(leaves[source], time)
    for index in kept:
        hold(values[index].nbytes, len(values), index)
    for index, time in born.items():
        if not values[index].free and (index in wanted or leaves[index] < time):
            hold(values[index].nbytes, time, index if index in wanted else leaves[index])
    held = most = change[len(values)]
    for position in reversed(range(len(values))):
        held += change[position]
        most = max(most, held)
    return most


def _bytes(values: Sequence[Value], indices: Iterable[int]) -> int:
    return sum(values[index].nbytes for index in indices)
