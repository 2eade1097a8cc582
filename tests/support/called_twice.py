"""A network of tokens whose block is called twice."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.dense = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.gelu(self.dense(self.norm(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.place = nn.Parameter(torch.randn(1, 1, 6))
        self.block = Block()
        self.out = nn.Linear(6, 4)

    def forward(self, ids: Tensor, scale: Tensor) -> Tensor:
        x = self.embed(ids) * scale + self.place
        return self.out(self.block(self.block(x)).mean(1))


torch.manual_seed(0)
NET = Net().double().eval()
ARGS = (torch.randint(11, (2, 5)), torch.rand(2, 5, 1, dtype=torch.float64))
