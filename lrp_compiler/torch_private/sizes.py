"""Symbolic sizes and the values that have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental import _config as config
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols


def expression(size: torch.SymInt | torch.SymFloat | torch.SymBool) -> Any:
    """The sympy expression of a symbolic size, by which equal sizes are known. Waits for equality of SymInts."""
    return size.node.expr


def renamed(whole: Any, names: Mapping[Any, str]) -> Any:
    """The expression of a size, its symbols under these names."""
    return whole.xreplace({symbol: type(symbol)(name) for symbol, name in names.items()})


def hint(size: int | torch.SymInt, at: Mapping[Any, int] | None = None) -> int:
    """The example's size; 1 where it depends on values and is not known before the run.

    Args:
        size: a size.
        at: symbol → what to take in place of the example's.
    """
    if isinstance(size, int):
        return size
    if size.node.hint is None:
        return 1
    if not at or at.keys().isdisjoint(expression(size).free_symbols):
        return int(size.node.hint)
    known = size.node.shape_env
    examples = known.backed_var_to_val if hasattr(known, "backed_var_to_val") else known.var_to_val
    return int(expression(size).subs({**examples, **at}))


def known_size(size: int | torch.SymInt) -> int | None:
    """The size if it is known at compile time, else `None`."""
    if isinstance(size, int):
        return size
    known = size.node.maybe_as_int()
    return None if known is None else int(known)


def bound(size: int | torch.SymInt) -> int | None:
    """The most that a size may be, by what capture found; `None` where nothing bounds it."""
    if isinstance(size, int):
        return size
    upper = size.node.shape_env.bound_sympy(expression(size)).upper
    return int(upper) if upper.is_Integer and upper < UNBOUNDED else None


def largest(size: int | torch.SymInt) -> int:
    """The most that a size may be; the example's where nothing bounds it."""
    most = bound(size)
    return hint(size) if most is None else most


UNBOUNDED = 2**31
"""A bound on an open size that is none."""


def range_of(size: torch.SymInt) -> dict[Any, Any]:
    """Symbol → the range that capture found for it, of every symbol in the size."""
    ranges = size.node.shape_env.var_to_range
    return {symbol: ranges[symbol] for symbol in expression(size).free_symbols}


def counts_in(value: object) -> set[Any]:
    """The symbols of what is known at the run alone, a count of elements or a number read off a tensor, in a size."""
    return set(free_unbacked_symbols(value)) if isinstance(value, SYMBOLIC) else set()


SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def fake_mode_of(*values: Any) -> Any:
    """The mode that the symbolic tensors among the values belong to; `None`: there is none among them."""
    return next((value.fake_mode for value in values if hasattr(value, "fake_mode")), None)


def fake_tensor(tensor: Tensor, like: Any) -> Tensor:
    """A symbolic tensor of fixed shape, in the mode of `like`."""
    made: Tensor = fake_mode_of(like).from_tensor(tensor, static_shapes=True)
    return made


@contextmanager
def unguarded(*nodes: fx.Node) -> Iterator[None]:
    """Where symbolic values may be worked out without learning from them.

    torch's symbolic convolution asks for the batch size to guess a memory format: that must not bound the batch. And a
    size that is 1 in the example by chance (all but the last of two tokens) is not taken for one that is spread: what
    torch asks of sizes is answered from what is known of all of them. Waits for a public way to suppress guards.
    """
    mode = fake_mode_of(*(node.meta.get("val") for node in nodes))
    known = None if mode is None else mode.shape_env
    with config.patch(backed_size_oblivious=True), nullcontext() if known is None else known.suppress_guards():  # type: ignore[attr-defined]
        yield
