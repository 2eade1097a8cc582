"""Public names: each of its own, in every format that a file has. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable

NAMELESS = "unnamed"
"""What is called "", which in ONNX means that there is nothing."""


def distinct(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """The names in order; one that is taken, or came before, gets a number: `x`, `x_1`.

    An ONNX graph has one set of names for all that goes in and comes out. What a file cannot hold at all (half of a
    surrogate pair) is written as Python escapes it; every other letter stays.
    """
    known, result = set(taken), []
    for given in names:
        name = str(given).encode("utf-8", "backslashreplace").decode() or NAMELESS
        fresh, number = name, 0
        while fresh in known:
            number += 1
            fresh = f"{name}_{number}"
        known.add(fresh)
        result.append(fresh)
    return result
