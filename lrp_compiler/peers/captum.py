"""The interface of captum's attributions: `captum.attr.LRP`, for any architecture and composite.

    import lrp_compiler as lrp

    attributions = lrp.captum.LRP(model).attribute(x, target=3)

Under "epsilon", the default, it is what captum's own LRP gives where that runs: on modules that it knows, each used
once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.run import to_numpy
from lrp_compiler.rules.composite import Composite

from .kept import Kept


class LRP:
    """Layer-wise relevance propagation under captum's interface.

    Args:
        model: an nn.Module in eval mode that returns `[batch, classes]`. It is compiled when `attribute` first meets
            inputs of a kind (seconds), and again when its weights have changed.
        composite: which rule where, as `lrp.compile` takes it; rules that captum finds at modules (`module.rule`) say
            nothing here.
    """

    def __init__(self, model: nn.Module, composite: str | Composite = "epsilon") -> None:
        self.model = model
        self._kept = Kept(composite)

    @boundary("attribute these inputs")
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: int | list[int] | Tensor | None = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Relevance of the inputs for a class.

        Args:
            inputs: a tensor with the batch in front, or a tuple of them.
            target: a class for all rows, or one for each: a list or a tensor `[batch]`. None: of a model with one.
            additional_forward_args: further arguments of the model, one or a tuple. They are held constant; what is no
                tensor is compiled in.
            return_convergence_delta: also return, for each row, what is explained minus Σ relevance: what biases, the
                stabiliser and the like absorbed, `[batch]`.

        Returns:
            Relevance, shaped like the inputs (of token ids, `[batch, sequence]`): a tensor, or a tuple if they are one.
            With `return_convergence_delta` a pair of that and the delta.

        Raises:
            InputError: inputs or target do not fit.
            LrpError: whatever else `lrp.compile` raises.
        """
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        more = additional_forward_args
        more = () if more is None else more if isinstance(more, tuple) else (more,)
        explanation = self._kept.explain(self.model, given, _classes(target), more)
        names = list(explanation.run.inputs)[: len(given)]
        without = [name for name in names if name not in explanation.relevance]
        if without:
            raise InputError(f"{', '.join(without)} takes no relevance: pass it in additional_forward_args.")
        relevance = tuple(explanation.relevance[name] for name in names)
        attributions = relevance if isinstance(inputs, tuple) else relevance[0]
        if not return_convergence_delta:
            return attributions
        cases = explanation.explained()
        explained = torch.tensor([case.logit for case in cases], dtype=torch.float64)
        shares = sum(torch.from_numpy(to_numpy(one)).double().flatten(1).sum(1) for one in relevance)
        return attributions, (explained - shares).to(relevance[0])


def _classes(target: Any) -> Any:
    if isinstance(target, tuple) or (isinstance(target, list) and any(isinstance(one, tuple) for one in target)):
        raise InputError(
            "A target of several numbers picks from an output with more dims than [batch, classes]: compile the "
            "model with an lrp.Target, which takes a position."
        )
    if isinstance(target, Tensor) and target.numel() == 1:
        return int(target)
    return torch.tensor(target) if isinstance(target, list) else target
