"""Small networks of our own, for what no published one has alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.networks.architectures.sizes import CLASSES


class Output(nn.Module):
    """One output of a model: a key of what it returns."""

    def __init__(self, model: nn.Module, key: str) -> None:
        super().__init__()
        self.model, self.key = model, key

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.model(x)[self.key]
        return result


class UNet(nn.Module):
    """Ronneberger et al. 2015: four levels, skips are concatenated, transposed convolutions on the way up."""

    def __init__(self, base: int) -> None:
        super().__init__()
        sizes = [base * 2**level for level in range(5)]
        self.down = nn.ModuleList(self.block(a, b) for a, b in zip([3, *sizes], sizes, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * size, size, 2, 2) for size in sizes[:-1])
        self.merge = nn.ModuleList(self.block(2 * size, size) for size in sizes[:-1])
        self.head = nn.Conv2d(base, CLASSES, 1)

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Module:
        layers = ((nn.Conv2d(i, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()) for i in (inputs, outputs))
        return nn.Sequential(*(layer for group in layers for layer in group))

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else functional.max_pool2d(x, 2))
            skips.append(x)
        for level in reversed(range(4)):
            x = self.merge[level](torch.cat([skips[level], self.up[level](x)], 1))
        return self.head(x)


class M5(nn.Module):
    """Dai et al. 2016: raw audio through 1-D convolutions, global average pooling."""

    def __init__(self, base: int) -> None:
        super().__init__()
        plan = [(1, base, 80, 4), (base, base, 3, 1), (base, 2 * base, 3, 1), (2 * base, 4 * base, 3, 1)]
        self.features = nn.Sequential(
            *(
                layer
                for inputs, outputs, kernel, stride in plan
                for layer in (
                    nn.Conv1d(inputs, outputs, kernel, stride),
                    nn.BatchNorm1d(outputs),
                    nn.ReLU(),
                    nn.MaxPool1d(4),
                )
            )
        )
        self.head = nn.Linear(4 * base, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean(-1))


class Recurrent(nn.Module):
    """Two bidirectional recurrent layers and a head on the last step."""

    def __init__(self, kind: str, size: int) -> None:
        super().__init__()
        self.recurrent = getattr(nn, kind)(8, size, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


class Attention(nn.Module):
    """`nn.MultiheadAttention` with a residual, and a head on the mean."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, 4, batch_first=True)
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x + self.attention(x, x, x)[0]).mean(1))


class Encoder(nn.Module):
    """`nn.TransformerEncoder` and a head on the mean."""

    def __init__(self, size: int, layers: int, norm_first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(size, 4, 4 * size, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


class MessagePassing(nn.Module):
    """Two graph layers: messages along edges are added up with `index_add`, one graph a row."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.messages = nn.ModuleList(nn.Linear(size, size) for _ in range(2))
        self.own = nn.ModuleList(nn.Linear(size, size) for _ in range(2))
        self.head = nn.Linear(size, CLASSES)

    def forward(self, x: Tensor, source: Tensor, destination: Tensor) -> Tensor:
        for message, own in zip(self.messages, self.own, strict=True):
            sent = message(x).index_select(1, source)
            x = torch.relu(own(x) + torch.zeros_like(x).index_add(1, destination, sent))
        return self.head(x.sum(1))
