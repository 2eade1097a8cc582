"""The networks of `blocks`, each computing the same by other operations, with the same parameters."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import GatedMLP, ResidualNet, TransformerBlock


class FunctionalResidualNet(ResidualNet):
    def branch(self, h: Tensor) -> Tensor:
        norm, outer = self.norm, self.outer
        h = functional.conv2d(h, self.inner.weight, None, padding="same")
        h = functional.batch_norm(h, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.1, norm.eps)
        return functional.conv2d(h.clamp(min=0), outer.weight, outer.bias, 1, 1, 1, outer.groups)


class FusedAttention(TransformerBlock):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v)


class ModuleAttention(TransformerBlock):
    """torch's own attention module, given the same weights."""

    def attention(self, x: Tensor) -> Tensor:
        layers = (self.query, self.key, self.value)
        weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
        attended, _ = functional.multi_head_attention_forward(
            *[x.transpose(0, 1)] * 3, 8, self.heads, weight, bias, None, None, False, 0.0,
            self.out.weight, self.out.bias, training=False, need_weights=False,
        )  # fmt: skip
        return attended.transpose(0, 1)


class WrittenOutBlock(TransformerBlock):
    """Layer norm and GELU in primitives, attention head by head."""

    def attention(self, x: Tensor) -> Tensor:
        heads = [[layer(x)[..., 4 * head : 4 * head + 4] for layer in (self.query, self.key, self.value)]
                 for head in range(self.heads)]  # fmt: skip
        return self.out(torch.cat([torch.softmax(q @ k.mT * 0.5, -1) @ v for q, k, v in heads], -1))

    def forward(self, x: Tensor) -> Tensor:
        def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
            centred = x - x.mean(-1, keepdim=True)
            return centred / (centred.pow(2).mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias

        x = x + self.attention(norm(self.first, x))
        h = self.up(norm(self.second, x))
        x = x + self.down(h * 0.5 * (1 + torch.erf(h / 2**0.5)))
        return self.classes(x.sum(1) / x.shape[1])


class WrittenOutMLP(GatedMLP):
    """RMS norm and SiLU in primitives, the weights multiplied by hand."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm.weight * (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6))
        gate = torch.addmm(self.gate.bias, h, self.gate.weight.T)
        gated = torch.sigmoid(gate) * gate * torch.mm(h, self.up.weight.T)
        return self.classes(x + (torch.matmul(gated, self.down.weight.T) + self.down.bias))
