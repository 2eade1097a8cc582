"""Antialiased resizing, and resizing of pixels in whole numbers, are torch's; relevance is that of a linear map."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.whole import holds, in_precision, runs_in_onnxruntime, survives_files
from torch import Tensor, nn
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.passes.decompose.table import DECOMPOSITIONS

pytestmark = pytest.mark.sampled(12)

aten = torch.ops.aten
IMAGE = torch.randn(2, 3, 20, 26, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PIXELS = torch.randint(0, 256, (2, 3, 20, 26), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SIZES = [(9, 13), (31, 40), (20, 7), (1, 26), (37, 5)]
OPS = {"bilinear": aten._upsample_bilinear2d_aa.default, "bicubic": aten._upsample_bicubic2d_aa.default}


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("mode", OPS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_antialiased_resizing_is_torchs(size: tuple[int, int], mode: str, corners: bool) -> None:
    wanted = functional.interpolate(IMAGE, size, mode=mode, align_corners=corners, antialias=True)

    torch.testing.assert_close(DECOMPOSITIONS[OPS[mode]](IMAGE, size, corners), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factor", [0.4, 0.77, 1.6])
def test_a_factor_says_how_wide_the_filter_is(factor: float) -> None:
    wanted = functional.interpolate(IMAGE, scale_factor=factor, mode="bicubic", antialias=True)

    made = DECOMPOSITIONS[OPS["bicubic"]](IMAGE, wanted.shape[-2:], False, factor, factor)

    torch.testing.assert_close(made, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("mode", OPS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_resized_in_the_whole_numbers_of_torch(size: tuple[int, int], mode: str, corners: bool) -> None:
    wanted = functional.interpolate(PIXELS, size, mode=mode, align_corners=corners, antialias=True)

    assert torch.equal(DECOMPOSITIONS[OPS[mode]](PIXELS, size, corners), wanted)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_so_are_those_without_antialiasing(size: tuple[int, int], corners: bool) -> None:
    wanted = functional.interpolate(PIXELS, size, mode="bilinear", align_corners=corners)

    assert torch.equal(DECOMPOSITIONS[aten.upsample_bilinear2d.vec](PIXELS, size, corners), wanted)


class Preprocessed(nn.Module):
    def __init__(self, prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.prepare, self.head = prepare, nn.Conv2d(3, 4, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=generator))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.prepare(x).to(self.head.weight.dtype)).mean((2, 3))


def small(x: Tensor) -> Tensor:
    return functional.interpolate(x, (9, 13), mode="bicubic", antialias=True)


def smaller(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)


@pytest.mark.slow
@pytest.mark.parametrize("prepare", [small, smaller])
def test_relevance_of_an_image_is_gradient_times_input(prepare: Callable, tmp_path: Path) -> None:
    model = in_precision(Preprocessed(prepare), torch.float64)
    sizes = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=8), 3: torch.export.Dim("width", min=8)},)
    other = torch.randn(3, 3, 18, 34, dtype=torch.float64)

    explainer = holds(model, (IMAGE,), (other,), dynamic_shapes=sizes)

    leaf = other.clone().requires_grad_()
    model(leaf)[:, 0].sum().backward()
    torch.testing.assert_close(explainer(other).relevance["x"], other * leaf.grad)
    survives_files(explainer, (other,), tmp_path)
    runs_in_onnxruntime(model, (IMAGE,), (other,), tmp_path, dynamic_shapes=sizes)


def test_it_is_one_map_to_the_rules_that_split_it_by_sign() -> None:
    """z⁺ of cubic weights, by hand: those of a Kronecker product, not of one dim after the other."""
    model = in_precision(Preprocessed(small), torch.float64)
    explainer = holds(model, (IMAGE,), composite=lrp.Composite("z", (lrp.Entry("interpolation", "z-plus"),)))
    basis = torch.eye(20 * 26, dtype=torch.float64).reshape(-1, 1, 20, 26)
    weight = small(basis).flatten(1).T  # [results, pixels]

    (R,) = explainer.observe("resize*")(IMAGE).relevance.keys() & {"resize"}
    R = explainer.observe("resize*")(IMAGE).relevance[R].flatten(2)
    x = IMAGE.flatten(2)
    plus = x.clamp(min=0) @ weight.clamp(min=0).T + x.clamp(max=0) @ weight.clamp(max=0).T
    q = R / (plus + 1e-6 * torch.where(plus < 0, -1.0, 1.0))
    wanted = x.clamp(min=0) * (q @ weight.clamp(min=0)) + x.clamp(max=0) * (q @ weight.clamp(max=0))
    torch.testing.assert_close(explainer(IMAGE).relevance["x"].flatten(2), wanted, rtol=1e-8, atol=1e-10)


RESIZED: dict[str, Callable[[Tensor], Tensor]] = {
    "cast, then resized": lambda x: small(x.to(torch.get_default_dtype()) / 256),
    "resized, then cast": lambda x: small(x) / 256,
    "without antialiasing": lambda x: functional.interpolate(x, (9, 13), mode="bilinear") / 256,
    "nearest": lambda x: functional.interpolate(x, (9, 13), mode="nearest") / 256,
    "nearest, larger": lambda x: functional.interpolate(x, scale_factor=1.5, mode="nearest") / 256,
    "cropped": lambda x: x[:, :, 2:9, 3:12] / 256,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESIZED)
def test_pixels_keep_their_relevance_resized_before_or_after_the_cast(name: str, tmp_path: Path) -> None:
    model = Preprocessed(RESIZED[name])

    explainer = lrp.compile(model, (PIXELS,), composite="attnlrp", target=0)

    assert torch.equal(explainer(PIXELS).output, model(PIXELS)) or torch.allclose(
        explainer(PIXELS).output, model(PIXELS), rtol=1e-6, atol=1e-6
    )
    books = explainer.audit(PIXELS)
    assert abs(books.error) <= 1e-9 * max(1.0, books.magnitude)
    assert max(abs(entry.error) for entry in books.entries) <= 1e-9 * max(1.0, books.magnitude)
    assert books.inputs["x"] != 0
    # What rounding to pixels and the biases take is little: the logit is of the pixels.
    logit = float(model(PIXELS)[:, 0].sum())
    assert abs(books.inputs["x"] + books.absorbed.get("bias", 0.0) - logit) <= 0.05 * abs(books.magnitude)
    survives_files(explainer, (PIXELS,), tmp_path)
    runs_in_onnxruntime(model, (PIXELS,), None, tmp_path)
