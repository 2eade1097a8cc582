"""A recursion as deep as a graph: the loop returns what Python's own recursion returns, and goes deeper."""

import sys

import pytest

from lrp_compiler.passes.graph import Steps, in_a_loop


def partitions(number: int, largest: int) -> int:
    """In how many ways a number is a sum: two calls each, one of them in the middle."""
    if number == 0:
        return 1
    return 0 if number < 0 or not largest else partitions(number - largest, largest) + partitions(number, largest - 1)


def partitions_in_steps(number: int, largest: int) -> Steps[int]:
    if number == 0:
        return 1
    if number < 0 or not largest:
        return 0
    return (yield partitions_in_steps(number - largest, largest)) + (yield partitions_in_steps(number, largest - 1))


@pytest.mark.parametrize("number", [1, 5, 12])
def test_it_returns_what_the_recursion_returns(number: int) -> None:
    assert in_a_loop(partitions_in_steps(number, number)) == partitions(number, number)


def test_it_goes_deeper_than_the_stack() -> None:
    def depth(left: int) -> Steps[int]:
        return 1 + (yield depth(left - 1)) if left else 0

    deep = 20 * sys.getrecursionlimit()
    assert in_a_loop(depth(deep)) == deep


def test_an_error_ends_all_of_it() -> None:
    def fails(left: int) -> Steps[int]:
        if not left:
            raise KeyError("at the bottom")
        return (yield fails(left - 1))

    with pytest.raises(KeyError, match="at the bottom"):
        in_a_loop(fails(10))
