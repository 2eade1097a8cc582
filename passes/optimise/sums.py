"""Sums of several terms: a tree of additions that nobody else reads, as one list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import fx

from lrp_compiler.passes.graph import arguments, is_named

Joins = Callable[[fx.Node, fx.Node], bool]
"""(sum, the sum that reads it) → whether the terms of the first count as terms of the second."""


def is_sum(node: object) -> TypeGuard[fx.Node]:
    """Whether the node is an addition and nothing else."""
    return isinstance(node, fx.Node) and node.target is torch.ops.aten.add.Tensor and not node.kwargs


def continues(node: object, joins: Joins) -> bool:
    """Whether the sum is a term of another one, and of nothing else, and not a relevance that somebody may ask for."""
    if not is_sum(node) or len(node.users) != 1 or is_named(node):
        return False
    (user,) = node.users
    return is_sum(user) and joins(node, user)


def terms(root: fx.Node, joins: Joins) -> list[Any]:
    """The terms of a sum, those of the sums that continue in it among them, from left to right.

    The tree may be as deep as a scan is long, so it is not walked by recursion.
    """
    found: list[Any] = []
    waiting = list(reversed(arguments(root)))
    while waiting:
        term = waiting.pop()
        if continues(term, joins):
            waiting += reversed(arguments(term))
        else:
            found.append(term)
    return found
