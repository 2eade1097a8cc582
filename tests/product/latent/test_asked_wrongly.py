"""Masks and seeds that do not fit end in one sentence that says what is wrong; the command line takes both."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.branches import Branches, X
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.cli import main
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(4)

BATCH = {0: torch.export.Dim("batch")}


class Words(nn.Module):
    """Indices that are moved about before they are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.flip, self.table, self.out = Flip(), nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.table(self.flip(ids)).sum(1))


class Flip(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1)


def branches(**options: Any) -> lrp.Explainer:
    return lrp.compile(Branches().eval(), (X,), composite="attnlrp", dynamic_shapes=(BATCH,), **options)


@pytest.mark.sampled(16)
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"masks": "hiden"}, "masks='hiden' names no module and no node of this model; near it: hidden"),
        ({"seeds": "hiden"}, "seeds='hiden' names no module"),
        ({"masks": 3}, r"masks is a pattern or an lrp.Mask, or a list of them, not 3"),
        ({"seeds": [lrp.Mask("hidden")]}, "seeds is a pattern or an lrp.Put"),
        (
            {"masks": lrp.Mask("hidden", dims=2)},
            r"does not fit 'hidden' of shape .*: choose a dimension behind the batch",
        ),
        ({"masks": lrp.Mask("hidden", dims=0)}, "choose a dimension behind the batch"),
        ({"masks": ["hidden", lrp.Mask("hidden", "all")]}, "masks= names 'hidden' twice, in different ways"),
        ({"target": None}, "With target=None relevance starts at values of the network: name them by seeds="),
        ({"target": None, "seeds": "hidden", "seed": "one"}, "seed='one' says what is put on the target"),
        ({"observe": "hidden", "form": "g"}, "form is 'total', 'unit' or 'both', not 'g'"),
    ],
)
def test_what_cannot_be_compiled(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        branches(**options)


@pytest.mark.parametrize("options", [{"masks": "flip"}, {"seeds": "flip"}, {"observe": "flip", "form": "unit"}])
def test_whole_numbers_have_no_masks_seeds_and_coefficients(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="holds whole numbers"):
        lrp.compile(Words().eval(), (torch.tensor([[1, 2, 3]]),), composite="attnlrp", **options)


class Flattened(nn.Module):
    """A layer on the rows of a batch, beside one on all positions in one dim."""

    def __init__(self) -> None:
        super().__init__()
        self.beside, self.layer = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.beside(x.flatten(0, 1)).unflatten(0, (-1, 5)) + self.layer(x)).sum(1)


def test_what_goes_past_a_layer_has_its_rows() -> None:
    with pytest.raises(InputError, match="has other rows than this layer"):
        lrp.compile(Flattened().eval(), (torch.randn(3, 5, 4),), masks=lrp.Mask("beside", exclude_parallel=True))


def test_a_mask_is_told_how_it_is_asked_for() -> None:
    for wrong, sentence in (
        ({"dims": "rows"}, "dims=…. is 'channels', 'all' or the number of a dimension, not 'rows'"),
        ({"exclude_parallel": 1}, "True or False, not 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            lrp.Mask("hidden", **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'total' or 'unit', not 'both'"):
        lrp.Put("hidden", form="both")  # type: ignore[arg-type]


CALLS: list[tuple[dict[str, Any], str]] = [
    ({"masks": {"hiden": np.ones(3)}}, "takes masks for hidden: 'hiden' is none of them.*hidden"),
    ({"seeds": {"hidden": np.ones(3)}}, "takes seeds for second: 'hidden' is none of them"),
    ({"masks": [1.0, 1.0, 1.0]}, "masks is a dict from paths to tensors"),
    ({"masks": {"hidden": np.ones(4)}}, r"'mask.hidden' has shape \[4\], but \[batch, 3\] is wanted, here \[2, 3\]"),
    ({"masks": {"hidden": np.ones((5, 3))}}, r"has shape \[5, 3\], but \[batch, 3\] is wanted"),
    ({"masks": {"hidden": np.ones(3) * 1j}}, "has dtype complex128, but float32 is wanted"),
    ({"masks": {"hidden": "all"}}, "'mask.hidden'"),
    (
        {"masks": {"hidden": np.ones((4, 1, 3))}, "seeds": {"second": np.ones((3, 1, 2))}},
        "holds 3 conditions, but 'mask.hidden' holds 4: give as many of each",
    ),
    ({"masks": {"hidden": np.ones((0, 2, 3))}}, "No condition is given"),
]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    explainer = branches(masks="hidden", seeds="second")
    path = tmp_path_factory.mktemp("files") / "m.lrp.onnx"
    explainer.to_onnx(path)
    return [explainer, OnnxExplainer(path)]


@pytest.mark.sampled(16)
@pytest.mark.parametrize(("given", "sentence"), CALLS)
def test_a_call_that_does_not_fit(both: list[Any], given: dict[str, Any], sentence: str) -> None:
    for explainer, x in zip(both, (X, X.numpy()), strict=True):
        with pytest.raises(InputError, match=sentence):
            explainer(x, **given)


def test_an_explainer_without_masks_says_how_to_compile_one(tmp_path: Path) -> None:
    explainer = branches()
    with pytest.raises(InputError, match=r"masks= was given, but this explainer takes none: compile with masks=\['h"):
        explainer(X, masks={"hidden": torch.ones(3)})


def test_without_a_target_something_is_put_somewhere() -> None:
    explainer = branches(target=None, seeds=["second", "hidden"])
    with pytest.raises(
        InputError, match="Nothing is put anywhere: this explainer has no target, so give seeds= for second"
    ):
        explainer(X)


def test_a_model_that_has_an_input_of_that_name_keeps_it() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, masks: Tensor) -> Tensor:
            return self.layer(masks)

    x = torch.randn(2, 3)
    explainer = lrp.compile(Named().eval(), (x,), composite="attnlrp")

    torch.testing.assert_close(explainer(masks=x).relevance["masks"], explainer(x).relevance["masks"])
    with pytest.raises(InputError, match="has an input 'masks' itself, so a call could give it no masks: rename it"):
        lrp.compile(Named().eval(), (x,), composite="attnlrp", masks="layer")


@pytest.mark.slow
def test_the_command_line_takes_masks_and_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.export.save(torch.export.export(Branches().eval(), (X,), dynamic_shapes=(BATCH,)), tmp_path / "m.pt2")
    np.save(tmp_path / "x.npy", X.numpy())
    np.save(tmp_path / "mask.npy", np.float32([1, 0, 0]))
    np.save(tmp_path / "seed.npy", np.float32([0, 10]))
    asked = [
        "--masks",
        "hidden",
        "--seeds",
        "second",
        "--observe",
        "second",
        "--form",
        "both",
        "--composite",
        "attnlrp",
    ]
    given = ["--input", str(tmp_path / "x.npy"), "--masks", f"hidden={tmp_path}/mask.npy"]
    given += ["--seeds", f"second={tmp_path}/seed.npy"]

    for name in ("m.lrp.onnx", "m.lrp.pt2"):
        path = str(tmp_path / name)
        assert main(["compile", str(tmp_path / "m.pt2"), "-o", path, *asked, "--target", "none"]) == 0
        assert main(["run", path, *given, "-o", str(tmp_path / "r.npz")]) == 0
        found = np.load(tmp_path / "r.npz")
        np.testing.assert_allclose(found["relevance.x"], [[2.0, 4.0]] * 2, rtol=1e-6)  # 6 of 10 are hidden₀'s
        np.testing.assert_allclose(found["coefficient.second"], [[0.0, 2.0]] * 2, rtol=1e-5)
        capsys.readouterr()
        assert main(["verify", path, "--against", str(tmp_path / "m.pt2"), "--json"]) == 0
        checks = {check["name"]: check["passed"] for check in json.loads(capsys.readouterr().out)["checks"]}
        assert [checks[name] for name in ("parity", "conservation", "rows")] == [True] * 3
    assert main(["audit", str(tmp_path / "m.lrp.pt2"), *given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["absorbed"]["masked"] == pytest.approx(2 * 4.0)
    assert main(["run", str(tmp_path / "m.lrp.pt2"), "--input", "x.npy", "--masks", "hidden", "-o", "r.npz"]) != 0
