"""What is asked of the compiler, apart from the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from lrp_compiler.passes.forward import Dictionary
from lrp_compiler.passes.relevance import Mask, Put, Seed
from lrp_compiler.rules.composite import Composite

ObservedForm = Literal["total", "unit", "both"]


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
        form: of what `observe` returns: relevance in total form, the coefficient of its unit form, or both.
        aggregate: patterns of values over which relevance is summed into one map of the input.
        masks: values of the network whose relevance is masked at run time.
        seeds: values of the network that relevance is put on at run time.
        splice: path of a module → the dictionary that is spliced in behind the value that leaves it.
        memory_budget: share of the promised bytes that may be held; the rest is rebuilt.
        attention_block: how many queries of an attention are gone through at once; 0: all; None: by its size.
        optimise: whether to do the same with fewer operations.
    """

    composite: Composite
    seed: Seed
    output: int = 0
    function: Callable[[Any], Tensor] | None = None
    wrt: tuple[str, ...] | None = None
    fixed: tuple[str, ...] = ()
    observe: tuple[str, ...] = ()
    form: ObservedForm = "total"
    aggregate: tuple[str, ...] = ()
    masks: tuple[Mask, ...] = ()
    seeds: tuple[Put, ...] = ()
    splice: Mapping[str, Dictionary] = field(default_factory=dict)
    memory_budget: float = 1.0
    attention_block: int | None = None
    optimise: bool = True

    @property
    def named(self) -> tuple[str, ...]:
        """Names and patterns of all values of the network that something is asked of."""
        inner = (*(mask.path for mask in self.masks), *(seed.path for seed in self.seeds))
        return (*self.observe, *self.aggregate, *inner, *(self.wrt or ()), *self.splice)
