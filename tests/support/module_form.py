"""timm's EfficientNets with every operation a module of its own: only modules get rules from Zennit."""

import copy

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from zennit.layer import Sum


class Residual(nn.Module):
    """A block and its shortcut, added by a module."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        block.has_skip = False
        self.block = block
        self.add = Sum()

    def forward(self, x: Tensor) -> Tensor:
        return self.add(torch.stack([x, self.block(x)], -1))


def module_form(model: nn.Module) -> nn.Module:
    """A copy that computes the same: shortcuts become sums, batch norms and their activations come apart."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BatchNormAct2d):
                setattr(parent, name, _apart(child))
            elif getattr(child, "has_skip", False):
                setattr(parent, name, Residual(child))
    return model.eval()


def _apart(fused: BatchNormAct2d) -> nn.Sequential:
    norm = nn.BatchNorm2d(fused.num_features, eps=fused.eps)
    norm.load_state_dict(fused.state_dict())
    activation = copy.deepcopy(fused.act)
    if hasattr(activation, "inplace"):
        activation.inplace = False
    return nn.Sequential(norm.to(fused.weight.dtype), activation)
