"""The fewest bytes from which values can be worked out, against trying every choice there is."""

from collections.abc import Collection, Mapping
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from lrp_compiler.passes.graph import least_cut

SCANNED: Mapping[str, Collection[str]] = {
    "decay": ["scaled"],
    "scaled": ["dt", "A"],
    "let in": ["dt B", "x"],
    "dt B": ["dt", "B"],
    "A": [],
}
SIZES = {"decay": 64, "scaled": 64, "let in": 64, "dt B": 64, "dt": 4, "x": 4, "B": 16, "A": 64}


def test_products_that_are_broadcast_are_made_of_less() -> None:
    assert least_cut(SCANNED, ["decay", "let in"], SIZES.__getitem__) == {"dt", "B", "x"}


def test_one_of_them_alone() -> None:
    assert least_cut(SCANNED, ["let in"], SIZES.__getitem__) == {"dt", "B", "x"}


def test_of_as_many_bytes_the_last() -> None:
    assert least_cut({"c": ["b"], "b": ["a"]}, ["c"], {"a": 3, "b": 3, "c": 3}.__getitem__) == {"c"}


def test_what_is_made_of_nothing_need_not_be_there() -> None:
    assert least_cut({"ones": []}, ["ones"], lambda value: 9) == set()


def test_nothing_is_asked_for() -> None:
    assert least_cut(SCANNED, [], SIZES.__getitem__) == set()


def suffices(chosen: Collection[int], reads: Mapping[int, Collection[int]], asked: Collection[int]) -> bool:
    waiting = [value for value in asked if value not in chosen]
    while waiting:
        value = waiting.pop()
        if value not in reads:
            return False
        waiting += [read for read in reads[value] if read not in chosen]
    return True


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[int, list[int]], list[int], list[int]]:
    """What each value reads (of those before it), what is asked for, sizes."""
    count = draw(st.integers(2, 7))
    reads = {value: draw(st.lists(st.integers(0, value - 1), unique=True)) for value in range(1, count)}
    given = draw(st.sets(st.integers(1, count - 1)))
    asked = draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True))
    sizes = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    return {value: of for value, of in reads.items() if value not in given}, asked, sizes


@settings(max_examples=200, deadline=None)
@given(graph=graphs())
def test_no_choice_takes_less(graph: tuple[dict[int, list[int]], list[int], list[int]]) -> None:
    reads, asked, sizes = graph

    cut = least_cut(reads, asked, sizes.__getitem__)

    assert suffices(cut, reads, asked)
    values = range(len(sizes))
    choices = (choice for count in range(len(sizes) + 1) for choice in combinations(values, count))
    least = min(sum(sizes[value] for value in choice) for choice in choices if suffices(choice, reads, asked))
    assert sum(sizes[value] for value in cut) == least
