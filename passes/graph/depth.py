"""Recursion as deep as a graph, which Python's stack is not: written as a generator, and run in a loop.

    def depth(node):                                      def depth(node):
        return 1 + depth(node.args[0])         →              return 1 + (yield depth(node.args[0]))

    depth(node)                                           in_a_loop(depth(node))

An error in any of the calls ends them all.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

T = TypeVar("T")
Steps = Generator["Steps[Any]", Any, T]
"""A function that yields the `Steps` of each call that it waits for, and is sent what that returns."""


def in_a_loop(steps: Steps[T]) -> T:
    """What the recursion returns, however deep it goes."""
    waiting: list[Steps[Any]] = [steps]
    answer: Any = None
    while waiting:
        try:
            called = waiting[-1].send(answer)
        except StopIteration as done:
            waiting.pop()
            answer = done.value
        else:
            waiting.append(called)
            answer = None
    result: T = answer
    return result
