"""CP-LRP by another way: gradient × input of a forward in which attention, gates and normalisers are detached.

Source of the idea: Ali et al., "XAI for Transformers", ICML 2022, arXiv 2202.07304. Independent of the project's rules:
autograd does the walk, and the model's own code runs as it is.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def cp_lrp(model: nn.Module, input_ids: Tensor, target: Tensor, gated: bool) -> Tensor:
    """Relevance of the embeddings, summed over features, for each row's target logit (at the last position).

    `gated`: the model's activations are gates, which are held fixed; else they follow the identity rule.
    """
    embedding = model.get_input_embeddings()
    caught: list[Tensor] = []

    def catch(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        caught.append(output.detach().requires_grad_())
        return caught[0]

    handle = embedding.register_forward_hook(catch)
    try:
        with _Detached(gated):
            logits = model(input_ids=input_ids).logits
    finally:
        handle.remove()
    logits = logits if logits.dim() == 2 else logits[:, -1]
    (gradient,) = torch.autograd.grad(logits.gather(1, target.unsqueeze(1)).sum(), caught[0])
    return (gradient * caught[0]).sum(-1).detach()


class _Detached(TorchFunctionMode):
    def __init__(self, gated: bool) -> None:
        super().__init__()
        activation = _held if gated else _identity
        self.replaced: dict[Any, Callable[..., Tensor]] = {
            functional.softmax: _held(functional.softmax),
            torch.rsqrt: _held(torch.rsqrt),
            functional.layer_norm: _layer_norm,
            torch.tanh: _identity(torch.tanh),
            functional.silu: activation(functional.silu),
            functional.gelu: activation(functional.gelu),
        }

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.replaced.get(function, function)(*args, **(kwargs or {}))


def _held(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: function(*args, **kwargs).detach()


def _identity(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def with_constant_slope(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x * (function(x, *args, **kwargs) / x).detach()

    return with_constant_slope


def _layer_norm(x: Tensor, shape: Any, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    spread = (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt().detach()
    return (x - x.mean(-1, keepdim=True)) / spread * weight + bias
