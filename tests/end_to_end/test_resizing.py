"""Maps that are resized, cut, padded and folded by sizes of the call: the same relevance in torch, in files, in ONNX.

A network of ReLUs without biases is homogeneous of degree one: its ε relevance is gradient × input, which autograd
computes without a rule of ours, up to the stabiliser.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(12)

OPEN = ({2: torch.export.Dim("height", min=12, max=40), 3: torch.export.Dim("width", min=12, max=40)},)

Resize = Callable[[Tensor, Tensor], Tensor]
"""A map and the image → another map."""


def resized(**options: object) -> Resize:
    return lambda h, x: F.interpolate(h, **options)  # type: ignore[arg-type]


OF_THE_CALL: dict[str, Resize] = {
    "cut on all sides": lambda h, x: F.pad(h, (-1, -1, -1, -1)),
    "cut and padded": lambda h, x: F.pad(h, (1, -1, -1, 1)),
    "as large as another": lambda h, x: h + F.interpolate(F.max_pool2d(h, 2), size=h.shape[-2:]),
    "as large, bilinear": lambda h, x: h + F.interpolate(F.max_pool2d(h, 2), size=h.shape[-2:], mode="bilinear"),
    "half the image": lambda h, x: F.interpolate(h, size=(x.shape[2] // 2, x.shape[3] // 2)),
    "folded": lambda h, x: F.fold(F.unfold(h, 3, stride=2, padding=1), x.shape[-2:], 3, stride=2, padding=1),
    "padded to a multiple": lambda h, x: F.pad(h, (0, (-x.shape[3]) % 8, 0, (-x.shape[2]) % 8)),
    "factors made sizes": resized(scale_factor=(0.5, 0.6), recompute_scale_factor=True),
    "pooled to one place": lambda h, x: h + F.adaptive_max_pool2d(h, 1),
    "pooled to uneven places": lambda h, x: F.adaptive_max_pool2d(h, (5, 7)),
    "averaged to uneven places": lambda h, x: F.adaptive_avg_pool2d(h, (5, 7)),
    # torch cannot prove what these ask of sizes, though it holds for all.
    "pooled beyond the border": lambda h, x: F.max_pool2d(h, 3, 2, ceil_mode=True),
    "averaged beyond the border": lambda h, x: F.avg_pool2d(h, 3, 2, ceil_mode=True),
    "pooled where windows may start behind the border": lambda h, x: F.max_pool2d(h, 2, 3, padding=1, ceil_mode=True),
    "averaged where windows may start there": lambda h, x: F.avg_pool2d(h, 2, 3, padding=1, ceil_mode=True),
    "the upper half": lambda h, x: h[:, :, : h.shape[2] // 2],
}
BY_FACTORS: dict[str, Resize] = {
    f"{mode} × {factor}": resized(scale_factor=factor, mode=mode)
    for mode in ("nearest", "nearest-exact")
    for factor in (0.6, 1.7, 2.0, 2.5)
}
TO_SIZES: dict[str, Resize] = {
    f"{mode} to {size}": resized(size=size, mode=mode)
    for mode in ("nearest", "nearest-exact")
    for size in ((5, 10), (6, 8), (24, 7))
}


class Net(nn.Module):
    def __init__(self, resize: Resize) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.second = nn.Conv2d(4, 4, 3, stride=2, bias=False)
        self.head, self.resize = nn.Linear(4, 3, bias=False), resize
        with torch.no_grad():  # values far above the stabiliser
            for parameter in self.parameters():
                parameter.mul_(30)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.relu(self.first(x))
        return self.head(torch.relu(self.second(self.resize(maps, x))).mean((2, 3)))


def check(resize: Resize, is_open: bool, folder: Path) -> None:
    model, x = Net(resize).eval(), torch.randn(2, 3, 12, 14, generator=torch.Generator().manual_seed(1))
    explainer = lrp.compile(model, (x,), composite="epsilon", target=0, dynamic_shapes=OPEN if is_open else None)
    explainer.save(folder / "m.lrp.pt2")
    explainer.to_onnx(folder / "m.lrp.onnx")
    fresh = torch.randn(2, 3, *((17, 13) if is_open else (12, 14)), generator=torch.Generator().manual_seed(2))
    leaf = fresh.clone().requires_grad_()
    output = model(leaf)
    (gradient,) = torch.autograd.grad(output[:, 0].sum(), leaf)
    want = gradient * fresh

    # Measured: 3e-6 of the largest.
    close = functools.partial(torch.testing.assert_close, rtol=2e-5, atol=2e-5 * float(want.abs().max()))
    by_onnx = OnnxExplainer(folder / "m.lrp.onnx")(fresh.numpy())
    close(torch.from_numpy(by_onnx.output), output.detach())
    close(torch.from_numpy(by_onnx.relevance["x"]), want)
    for found in (explainer(fresh), lrp.load(folder / "m.lrp.pt2")(fresh)):
        close(found.output, output.detach())
        close(found.relevance["x"], want)


@pytest.mark.slow
@pytest.mark.sampled(48)
@pytest.mark.parametrize("case", OF_THE_CALL)
def test_sizes_of_the_call(case: str, tmp_path: Path) -> None:
    check(OF_THE_CALL[case], True, tmp_path)


@pytest.mark.sampled(48)
@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("case", [*BY_FACTORS, *TO_SIZES])
def test_the_nearest_element_is_torchs(case: str, is_open: bool, tmp_path: Path) -> None:
    check((BY_FACTORS | TO_SIZES)[case], is_open, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "mode"), [(0.7, "bilinear"), (1.3, "bicubic")])
def test_there_are_as_many_elements_as_torch_makes(factor: float, mode: str, tmp_path: Path) -> None:
    """Of 90 by 0.7 torch makes 62, and a runtime 63, which works the product out in float32; by 1.3 117 and 116."""
    model = Net(resized(scale_factor=factor, mode=mode)).eval()
    dims = {dim: torch.export.Dim(f"size{dim}", min=12, max=100) for dim in (2, 3)}
    explainer = lrp.compile(model, (torch.randn(2, 3, 16, 24),), target=0, dynamic_shapes=(dims,))
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    x = torch.randn(2, 3, 90, 20)

    found, by_onnx = explainer(x), OnnxExplainer(tmp_path / "m.lrp.onnx")(x.numpy())

    torch.testing.assert_close(torch.from_numpy(by_onnx.output), model(x).detach(), rtol=1e-5, atol=1e-5)
    want = found.relevance["x"]
    # Measured: 3e-5 of the largest.
    torch.testing.assert_close(
        torch.from_numpy(by_onnx.relevance["x"]), want, rtol=1e-4, atol=1e-4 * float(want.abs().max())
    )
