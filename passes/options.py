"""What is asked of the compiler, apart from the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lrp_compiler.passes.relevance import Seed
from lrp_compiler.rules.composite import Composite


@dataclass(frozen=True)
class Options:
    """One frozen object for all passes.

    Args:
        composite: which rule where.
        seed: what is explained, and how much is put on it.
        output: position of the explained output among the flat outputs.
        function: explains what it makes of the model's outputs instead, `[batch]`.
        wrt: names of inputs, parameters and modules to explain; `None`: all inputs that carry relevance.
        fixed: names of inputs that are held constant.
        observe: patterns of modules or nodes whose values' relevance is returned as well.
        memory_budget: share of the promised bytes that may be held; the rest is rebuilt.
        optimise: whether to do the same with fewer operations.
    """

    composite: Composite
    seed: Seed
    output: int = 0
    function: Callable[[Any], Any] | None = None
    wrt: tuple[str, ...] | None = None
    fixed: tuple[str, ...] = ()
    observe: tuple[str, ...] = ()
    memory_budget: float = 1.0
    optimise: bool = True
