"""Explainers of a module that is called with whatever comes: compiled when a kind of inputs is first met."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.validate import check_option
from lrp_compiler.compiler import compile
from lrp_compiler.explainer import Explainer
from lrp_compiler.explanation import Explanation
from lrp_compiler.rules.composite import Composite


class Kept:
    """The explainers of one module under one composite, of the class that a call names.

    A kind of inputs is their number, dtypes and sizes; of several rows any number is the same kind. Weights are
    compared with a copy at every call, since these libraries change them in place; an explainer of other weights is
    forgotten.

    Args:
        composite: as `lrp.compile` takes it.

    Raises:
        CompositeError: there is no such composite.
    """

    def __init__(self, composite: str | Composite) -> None:
        self.composite = composite
        self._explainers: dict[Hashable, Explainer] = {}
        self._weights: list[Tensor] = []

    def explain(
        self, model: nn.Module, args: Sequence[Any], target: Any, constant: Sequence[Any] = ()
    ) -> Explanation[Tensor]:
        """Explain a class of every row.

        Args:
            model: an nn.Module in eval mode that returns `[batch, classes]`, the same one at every call.
            args: its arguments by position, tensors with the batch in front; what is no tensor is compiled in.
            target: a class for all rows, or one for each: integers `[batch]`. None: the only one there is.
            constant: further arguments, which take no relevance.

        Raises:
            InputError: inputs or target do not fit; None where there are several classes.
            LrpError: whatever else `lrp.compile` raises.
        """
        check_option("model", model, isinstance(model, nn.Module), "an nn.Module")
        weights = [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
        if not _same(weights, self._weights) or any(module.training for module in model.modules()):
            self._explainers.clear()
            self._weights = [tensor.clone() for tensor in weights]
        kind = (len(args), *map(_kind, (*args, *constant)))
        explainer = self._explainers.get(kind)
        if explainer is None:
            explainer = self._compiled(model, args, constant)
            self._explainers[kind] = explainer
        if target is None:
            if explainer.about.classes != 1:
                raise InputError(f"The model tells {explainer.about.classes} classes apart: say which by target=.")
            target = 0
        return explainer(*args, *constant, target=target)

    def _compiled(self, model: nn.Module, args: Sequence[Any], constant: Sequence[Any]) -> Explainer:
        every = (*args, *constant)
        names = list(signature(model.forward).parameters)[len(args) :]
        fixed = [name for name, arg in zip(names, constant, strict=False) if isinstance(arg, Tensor)]
        shapes = tuple({0: torch.export.Dim.AUTO} if _many(arg) else None for arg in every)
        return compile(model, every, composite=self.composite, target="index", fixed=fixed, dynamic_shapes=shapes)


def _same(weights: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    return len(weights) == len(before) and all(map(_equal, weights, before))


def _equal(one: Tensor, other: Tensor) -> bool:
    alike = (one.dtype, one.device, one.shape) == (other.dtype, other.device, other.shape)
    return alike and torch.equal(one, other)


def _many(arg: Any) -> bool:
    """Whether it has several rows; torch.export cannot leave open how many one is."""
    return isinstance(arg, Tensor) and arg.dim() > 0 and len(arg) > 1


def _kind(arg: Any) -> Hashable:
    if not isinstance(arg, Tensor):
        return repr(arg)
    return arg.dtype, arg.device, _many(arg), tuple(arg.shape[1:] if _many(arg) else arg.shape)
