"""A network with blocks, and its input."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Attention over positions and a residual: branches, a softmax, promises of every kind."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(features), nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(self.norm(x))
        return x + torch.softmax(y @ y.transpose(1, 2), -1) @ torch.relu(y)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(1))


X = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(3))
