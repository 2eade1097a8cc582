"""A network that is exported in processes of its own: this module imports nothing that takes long."""

import os

import torch
from torch import Tensor, nn

import lrp_compiler as lrp


class Net(nn.Module):
    """Small, but with an op of every family that a set or a dict might reorder."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.convolution(x).relu(), 2)
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        pattern = torch.softmax(self.query(tokens) @ self.key(tokens).transpose(1, 2), -1)
        return self.head((tokens + pattern @ nn.functional.gelu(tokens)).mean(1))


def export_net(path: str | os.PathLike[str]) -> None:
    x = torch.zeros(2, 3, 8, 8)
    lrp.compile(Net().eval(), (x,), composite="attnlrp", dynamic_shapes={"x": {0: torch.export.Dim("batch")}}).to_onnx(
        path
    )
