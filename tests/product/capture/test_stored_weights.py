"""Weights that are tensors of a class of their own, as torchao's are, compile by what they are made of."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import lrp_compiler as lrp


class Stored(Tensor):
    """Whole numbers and a scale for each row, which calculate as floats."""

    whole: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, whole: Tensor, scale: Tensor) -> "Stored":
        return Tensor._make_wrapper_subclass(cls, whole.shape, dtype=torch.float32)

    def __init__(self, whole: Tensor, scale: Tensor) -> None:
        self.whole, self.scale = whole, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["whole", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *about: Any) -> "Stored":
        return Stored(inner["whole"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return Stored(args[0].whole, args[0].scale)
        if function is torch.ops.aten.view.default:
            raise NotImplementedError("no view of stored numbers")
        floats = tree_map_only(Stored, lambda one: one.whole.to(torch.float32) * one.scale, (args, kwargs or {}))
        return function(*floats[0], **floats[1])


def test_a_stored_weight_is_explained_and_stays_stored(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(6, 3, bias=False)
    whole = torch.randint(-127, 128, (3, 6), generator=generator).to(torch.int8)
    scale = torch.rand(3, 1, generator=generator) * 0.01
    layer.weight = nn.Parameter(Stored(whole, scale), requires_grad=False)
    x = torch.randn(4, 6, generator=generator)

    explainer = lrp.compile(layer.eval(), (x,), composite="attnlrp", target=1)

    weight = whole.float() * scale
    torch.testing.assert_close(explainer(x).output, x @ weight.T)
    torch.testing.assert_close(explainer(x).relevance["input"], x * weight[1])
    assert any(one.dtype == torch.int8 for one in explainer.module.buffers())
    explainer.save(tmp_path / "m.lrp.pt2")
    torch.testing.assert_close(lrp.load(tmp_path / "m.lrp.pt2")(x).relevance["input"], x * weight[1])
