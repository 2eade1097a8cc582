"""Inputs on which formulas with a division or an infinity in them break, and networks that hold such formulas."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import Net, TransformerBlock

HUGE = 1e30


def inputs(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Degenerate tensors of one shape, float32."""
    normal = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    sign = torch.where(normal < 0, -1.0, 1.0)
    return {
        "zeros": torch.zeros(shape),
        "negative zeros": -torch.zeros(shape),
        "ones": torch.ones(shape),
        "a negative constant": torch.full(shape, -0.37),
        "denormal": sign * 1e-42,
        "tiny": normal * 1e-30,
        "small": normal * 1e-12,
        "ties": sign,
        "many zeros": normal.relu(),
        "large": normal * 1e4,
        "huge": sign * HUGE,
        "huge, one sign": torch.full(shape, HUGE),
        "one huge": torch.zeros(shape).index_fill(-1, torch.tensor([0]), HUGE),
    }


class Convolutions(nn.Module):
    """`[1, 3, 8, 8]` → `[1, 4]`: dense, strided and depthwise convolutions, batch norm, both poolings, ReLU6."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1, bias=bias),
            nn.BatchNorm2d(6, affine=bias),
            nn.ReLU6(),
            nn.Conv2d(6, 6, 3, stride=2, groups=6, bias=bias),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 4, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Masked(TransformerBlock):
    """One attention after the other, each with a mask of its own kind; the first has a row without any key."""

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = (self.split_heads(layer(x)) for layer in (self.query, self.key, self.value))
        length = x.shape[1]
        visible = torch.ones(length, length, dtype=torch.bool).tril()
        empty_row = visible & (torch.arange(length) != 2).unsqueeze(-1)
        infinite = torch.zeros(length, length).masked_fill(~visible, -torch.inf).to(x.dtype)
        v = functional.scaled_dot_product_attention(q, k, v, attn_mask=empty_row)
        v = functional.scaled_dot_product_attention(q, k, v, attn_mask=infinite)
        v = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        v = torch.softmax(q @ k.mT + infinite, -1) @ v
        v = torch.softmax((q @ k.mT).masked_fill(~visible, torch.finfo(x.dtype).min), -1) @ v
        return self.out(v.transpose(1, 2).flatten(2))


class Functions(Net):
    """`[1, 6]` → `[1, 4]`: elementwise functions, gates and normalisations side by side, each fed with the input."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Linear(6 * len(FUNCTIONS), 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(torch.cat([function(x) for function in FUNCTIONS], -1))


FUNCTIONS = (
    torch.tanh,
    functional.gelu,
    lambda x: functional.gelu(x, approximate="tanh"),
    functional.silu,
    lambda x: x * torch.sigmoid(1.702 * x),
    torch.sigmoid,
    functional.softplus,
    functional.elu,
    torch.erf,
    torch.abs,
    functional.hardswish,
    functional.mish,
    lambda x: torch.exp(x.clamp(-5, 5)),
    lambda x: torch.sqrt(x.abs() + 1),
    lambda x: x / (1 + x.abs()),
    lambda x: (1e-12 * x) * (1e-12 * x.flip(-1)),
    lambda x: functional.normalize(x, dim=-1),
    lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6),
    lambda x: functional.layer_norm(x, x.shape[-1:]),
    lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5),
    lambda x: torch.softmax(x, -1),
    lambda x: torch.maximum(x, -x),
    lambda x: x - x.amax(-1, keepdim=True),
    lambda x: x.sort(-1)[0],
)
