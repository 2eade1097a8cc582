"""What Zennit needs to see of a network: batch norms as plain ones behind their convolutions, additions as modules."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
from zennit.composites import LayerMapComposite, layer_map_base
from zennit.core import Composite
from zennit.layer import Sum
from zennit.rules import Epsilon
from zennit.types import BatchNorm, Linear


def merging() -> list[Canonizer]:
    """New ones for each composite: they remember what they changed."""
    return [SequentialMergeBatchNorm()]


def epsilon_everywhere(canonizers: list[Canonizer]) -> Composite:
    """The composite that Zennit does not name: ε for every linear map, the rest as in its other composites."""
    return LayerMapComposite([*layer_map_base(1e-6), (Linear, Epsilon(epsilon=1e-6))], canonizers=canonizers)


class Residual(nn.Module):
    """A block that adds its input to its output: `Sum`, for which Zennit has a rule, in place of `+`."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.sum = block, Sum()

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.sum(torch.stack([self.block(x), x], dim=-1))
        return added


def prepared(model: nn.Module) -> nn.Module:
    """The model, changed in place: it computes the same."""
    _replace(model)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
        if isinstance(module, BatchNorm):
            # Zennit's folding forgets eps: what it leaves behind still divides by √(1 + eps).
            module.running_var += module.eps
            module.eps = 0.0
    return model.requires_grad_(False)


def _replace(parent: Any) -> None:
    for name, child in parent.named_children():
        _replace(child)
        if isinstance(child, BatchNormAct2d):
            plain = nn.BatchNorm2d(child.num_features, child.eps).eval()
            plain.load_state_dict(child.state_dict())
            setattr(parent, name, nn.Sequential(plain, child.act))
        elif getattr(child, "has_skip", False):
            child.has_skip = False
            setattr(parent, name, Residual(child))
