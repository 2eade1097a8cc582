"""Three small networks, one of each kind that rules differ on, for tests that compare a network with its own variants.

Each calls `self.between` on its activations at every place where an operation could be inserted; it does nothing until
a test sets it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Between = Callable[[Tensor], Tensor]


def unchanged(x: Tensor) -> Tensor:
    return x


class Net(nn.Module):
    """A network whose every activation passes `between`."""

    between: Between = staticmethod(unchanged)


class ResidualNet(Net):
    """Convolutions, batch norm, a residual addition, both kinds of pooling: `[batch, 3, 8, 8]` → `[batch, 5]`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.outer = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.down = nn.Conv2d(6, 8, 3, stride=2)
        self.classes = nn.Linear(8, 5)

    def branch(self, h: Tensor) -> Tensor:
        return self.between(self.outer(torch.relu(self.between(self.norm(self.inner(h))))))

    def forward(self, x: Tensor) -> Tensor:
        h = self.between(torch.relu(self.stem(self.between(x))))
        h = self.between(torch.relu(h + self.branch(h)))
        h = self.between(functional.max_pool2d(h, 2, stride=1))
        h = torch.relu(self.between(self.down(h)))
        return self.between(self.classes(functional.adaptive_avg_pool2d(h, 1).flatten(1)))


class TransformerBlock(Net):
    """Attention and a GELU MLP, layer norm before each: `[batch, 5, 8]` → `[batch, 4]`."""

    heads = 2

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.classes = nn.Linear(8, 4)

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = self.between(q @ k.transpose(-2, -1)) / q.shape[-1] ** 0.5
        return self.between(torch.softmax(scores, -1)) @ v

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = (self.between(self.split_heads(layer(x))) for layer in (self.query, self.key, self.value))
        return self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(x)
        x = self.between(x + self.attention(self.between(self.first(x))))
        x = x + self.down(self.between(functional.gelu(self.up(self.second(x)))))
        return self.between(self.classes(self.between(x.mean(1))))


class GatedMLP(Net):
    """Two gated layers with RMS norm and a residual addition: `[batch, 6]` → `[batch, 4]`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(6, eps=1e-6)
        self.gate, self.up, self.down = nn.Linear(6, 10), nn.Linear(6, 10, bias=False), nn.Linear(10, 6)
        self.classes = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.between(self.norm(self.between(x)))
        gated = self.between(functional.silu(self.gate(h))) * self.between(self.up(h))
        return self.between(self.classes(self.between(x + self.down(self.between(gated)))))


INPUTS = {ResidualNet: (3, 3, 8, 8), TransformerBlock: (3, 5, 8), GatedMLP: (3, 6)}
"""Shape of a batch of three rows."""


def build(network: type[nn.Module], seed: int = 0) -> nn.Module:
    """The network in float64 and eval mode, normalisations away from neutral."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network().double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm, nn.RMSNorm)):
                for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                    if tensor.is_floating_point():
                        low = 0.5 if name in ("weight", "running_var") else -0.5
                        tensor.copy_(low + torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype))
    return model


def draw(shape: tuple[int, ...], seed: int = 1) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
