"""Relevance as Zennit 0.5.1 computes it, in float64: the oracle for every rule over linear maps and every composite."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from zennit import composites as zennit_composites
from zennit.canonizers import Canonizer
from zennit.composites import LayerMapComposite, layer_map_base
from zennit.core import Composite, Hook
from zennit.rules import Epsilon
from zennit.torchvision import ResNetCanonizer
from zennit.types import BatchNorm, Linear


def relevance(
    model: nn.Module,
    x: Tensor,
    target: int | Tensor,
    composite_name: str,
    epsilon: float = 1e-6,
    *,
    seed: Tensor | None = None,
    canonizers: list[Canonizer] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> Tensor:
    """Return the relevance of `x`, in float64 and shaped like `x`.

    `target` is a class, or an int64 tensor `[batch]` of them. The relevance put on the output is the target's logit
    and zero elsewhere, unless `seed`, shaped like the output, says otherwise. `composite_name` is a key of
    `COMPOSITES`; `epsilon` stabilises the ε rule, and `options` go to Zennit's composite: `stabilizer` (of all other
    rules), `gamma`, `low` and `high` (required by "epsilon-gamma-box"), `zero_params=["bias"]` (bias handling
    "ignore").

    The default canonizers fold a batch norm into the map registered right before it and turn the residual additions
    of torchvision's ResNets into modules. Zennit gives rules to modules only: operations written as functions get their
    gradient. The model is copied and stays as it was.

    `masks`, `[batch, channels]` by the path of a module, multiply the relevance that arrives at its output, as the
    conditions of Concept Relevance Propagation do: by hooks on the gradient that Zennit passes on there.
    """
    # Zennit swaps parameters while it works, and folding batch norm replaces them.
    model = _with_exact_batch_norms(copy.deepcopy(model).double().eval())
    x = x.detach().double().requires_grad_()
    # On a model without ResNet blocks this is Zennit's SequentialMergeBatchNorm and nothing else.
    canonizers = [ResNetCanonizer()] if canonizers is None else canonizers
    composite = COMPOSITES[composite_name](epsilon=epsilon, canonizers=canonizers, **options)
    with composite.context(model) as explained_model:
        for path, mask in (masks or {}).items():
            explained_model.get_submodule(path).register_forward_hook(partial(_mask_gradient, mask.double()))
        output = explained_model(x)
        seed = _logit_at(output.detach(), target) if seed is None else seed.double()
        (result,) = torch.autograd.grad(output, x, grad_outputs=seed)
    return result


def rule_relevance(module: nn.Module, x: Tensor, relevance_out: Tensor, rule: Hook) -> Tensor:
    """Return the relevance of the input of a single module, in float64, under a rule such as `zennit.rules.ZPlus()`."""
    module = copy.deepcopy(module).double().eval()
    x = x.detach().double().requires_grad_()
    handles = rule.copy().register(module)
    try:
        (result,) = torch.autograd.grad(module(x), x, grad_outputs=relevance_out.double())
    finally:
        handles.remove()
    return result


def epsilon_everywhere(
    epsilon: float = 1e-6,
    stabilizer: float = 1e-6,
    zero_params: list[str] | None = None,
    canonizers: list[Canonizer] | None = None,
) -> Composite:
    """Return the composite that Zennit does not name: ε for every linear map, the rest as in its other composites."""
    rule = Epsilon(epsilon=epsilon, zero_params=zero_params)
    return LayerMapComposite([*layer_map_base(stabilizer), (Linear, rule)], canonizers=canonizers)


COMPOSITES: dict[str, Callable[..., Composite]] = {
    "epsilon": epsilon_everywhere,
    "epsilon-plus": zennit_composites.EpsilonPlus,
    "epsilon-plus-flat": zennit_composites.EpsilonPlusFlat,
    "epsilon-alpha2-beta1": zennit_composites.EpsilonAlpha2Beta1,
    "epsilon-alpha2-beta1-flat": zennit_composites.EpsilonAlpha2Beta1Flat,
    "epsilon-gamma-box": zennit_composites.EpsilonGammaBox,
}


def _with_exact_batch_norms(model: nn.Module) -> nn.Module:
    """Move every batch norm's eps into its variance, in place, which changes no output.

    Zennit's folding resets mean, variance and affine to neutral but leaves eps, so that a folded norm still divides by
    √(1 + eps). Over the 53 norms of a ResNet-50 that would put the oracle 3e-4 off.
    """
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.running_var += module.eps
            module.eps = 0.0
    return model


def _mask_gradient(mask: Tensor, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """A forward hook: what the output's gradient is multiplied by."""
    output = output.clone()
    output.register_hook(lambda gradient: gradient * mask.reshape(*mask.shape, *[1] * (gradient.dim() - 2)))
    return output


def _logit_at(output: Tensor, target: int | Tensor) -> Tensor:
    """Return `output` with everything but the target's column set to zero."""
    index = torch.as_tensor(target).expand(output.shape[0]).unsqueeze(1)
    return torch.zeros_like(output).scatter(1, index, output.gather(1, index))
