"""Packages of AOTInductor are right at every size, or are not written."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.seal import check_seal, seal
from lrp_compiler.errors import LrpError
from lrp_compiler.export import aoti

OPEN = ({2: torch.export.Dim("height", min=32), 3: torch.export.Dim("width", min=32)},)
SIZES = [(32, 32), (33, 33), (64, 47), (45, 38), (97, 98)]


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.classes = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(torch.relu(self.conv(x)).mean((2, 3)))


class Stem(nn.Module):
    """What a residual network begins with: strides, a pool, a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.main = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, 1, 1))
        self.shortcut, self.classes = nn.Conv2d(4, 6, 1, 2), nn.Linear(6, 3)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.classes(
            nn.functional.adaptive_avg_pool2d(torch.relu(self.main(h) + self.shortcut(h)), 1).flatten(1)
        )


def compiled(kind: type[nn.Module], composite: str = "epsilon") -> lrp.Explainer:
    torch.manual_seed(0)
    return lrp.compile(kind().eval(), (torch.randn(2, 3, 64, 64),), target=0, composite=composite, dynamic_shapes=OPEN)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", [Strided, Stem])
def test_the_graph_that_is_handed_over_calculates_the_same(kind: type[nn.Module]) -> None:
    explainer = compiled(kind)
    copy = aoti.with_read_cuts(explainer.module)

    for size in SIZES:
        x = torch.randn(2, 3, *size)
        for want, got in zip(explainer.module(x), copy(x), strict=True):
            torch.testing.assert_close(got, want)
    cuts = copy.graph.find_nodes(op="call_function", target=torch.ops.aten.slice.Tensor)
    assert not [node for node in cuts if len(node.all_input_nodes) > 1]


@pytest.mark.heavy
@pytest.mark.parametrize(("kind", "composite"), [(Strided, "epsilon"), (Stem, "epsilon"), (Stem, "epsilon-plus")])
def test_a_package_is_right_at_sizes_that_no_stride_divides(
    kind: type[nn.Module], composite: str, tmp_path: Path
) -> None:
    explainer = compiled(kind, composite)
    explainer.to_aoti(tmp_path / "m.lrp.aoti.pt2")
    assert check_seal(tmp_path / "m.lrp.aoti.pt2", "the package") is not None
    run = torch._inductor.aoti_load_package(str(tmp_path / "m.lrp.aoti.pt2"))

    for size in SIZES:
        x = torch.randn(2, 3, *size)
        output, relevance = run(x)
        said = explainer(x)
        torch.testing.assert_close(output, said.output)
        # Machine code adds in another order, and relevance is divided by sums that may be small.
        torch.testing.assert_close(relevance, said.relevance["x"], rtol=1e-3, atol=1e-4)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("fault", ["shape", "nan", "half", None])
def test_a_package_that_is_wrong_at_another_size_is_not_written(
    fault: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer = compiled(Strided)

    def wrong(x: Tensor) -> Any:
        output, relevance = explainer.module(x)
        if x.shape[2] % 2 == 0 or fault is None:
            return output, relevance
        return output, {"shape": relevance[..., 1:], "nan": relevance / 0, "half": relevance / 2}[fault]

    monkeypatch.setattr(aoti, "compile_package", lambda program, path, notes: Path(path).write_bytes(b"package"))
    monkeypatch.setattr(aoti, "load_package", lambda path: wrong)

    if fault is None:
        explainer.to_aoti(tmp_path / "m.pt2")
        assert (tmp_path / "m.pt2").read_bytes().startswith(b"package")
        assert check_seal(tmp_path / "m.pt2", "the package") is not None
        return
    with pytest.raises(LrpError, match=r"another 'relevance.x'.*shape \[2, 3, 65, 66\].*none is written.*ONNX"):
        explainer.to_aoti(tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_a_package_is_verified_without_being_run(tmp_path: Path) -> None:
    path = tmp_path / "m.lrp.aoti.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data/aotinductor/model/wrapper.so", b"machine code" * 100)
    seal(path)

    content, code = lrp.verify(path).checks

    assert (content.name, content.passed) == ("content", True)
    assert (code.name, code.passed) == ("machine code", None)
    assert "--runtime aoti" in code.found
    damaged = bytearray(path.read_bytes())
    for place in range(0, len(damaged), 97):
        damaged[place] ^= 4
        path.write_bytes(damaged)
        assert not lrp.verify(path).passed
        damaged[place] ^= 4
