"""`auto`: which composite a structure is given, why, and that nothing is refused that another composite takes."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.blocks import GatedMLP, build
from support.degenerate import Convolutions, Functions, Masked
from support.zoo import SEVEN
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import CompositeError, LrpWarning
from lrp_compiler.check.verify import verify
from lrp_compiler.compiler import resolve_composite
from lrp_compiler.passes.assign.choose_composite import CHOICES, DEEP, Choice
from lrp_compiler.rules import OPERATORS, RULES
from lrp_compiler.rules.composite import ANY
from lrp_compiler.rules.composites import COMPOSITES, auto
from lrp_compiler.runtime import OnnxExplainer

IMAGE, TABLE, SEQUENCE = (2, 1, 8, 8), (2, 6), (2, 5, 8)


def convolutions(count: int) -> nn.Module:
    later = [layer for _ in range(count - 1) for layer in (nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))]
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *later, nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))


class Residual(nn.Module):
    """Two ways side by side: the longer one counts, 1 + 2 convolutions, not all four."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.short = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.classes = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = self.second(self.first(x).relu()) + self.short(x)
        return self.classes(x.relu().mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell, self.classes = cell(8, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.cell(x)[0][:, -1])


class Attention(nn.Module):
    """Patches of an image, one attention over them: a convolution in front does not make it a convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.classes = nn.Conv2d(1, 8, 2, stride=2), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.classes(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


class Scan(nn.Module):
    """A state that gates write and that is read by what was computed from the input: Mamba's."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.write, self.read = (nn.Linear(8, 4) for _ in range(3))
        self.classes = nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        step, write, read = nn.functional.softplus(self.step(x)), self.write(x), self.read(x)
        state = torch.zeros_like(step[:, 0])
        for at in range(x.shape[1]):
            state = torch.exp(-step[:, at]) * state + step[:, at] * write[:, at]
        return self.classes((state[:, None] @ read[:, -1, :, None])[:, 0])


class Neighbours(nn.Module):
    """Messages along edges are added up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.classes = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("edges", torch.tensor([[0, 1], [1, 0]]))

    def forward(self, x: Tensor) -> Tensor:
        message = self.first(x).relu()[self.edges[0]]
        return self.classes(x.index_add(0, self.edges[1], message))


def chosen(model: nn.Module, shape: tuple[int, ...], **options: Any) -> lrp.Composite:
    explainer = lrp.compile(model.eval(), (torch.randn(shape),), **options)
    return lrp.Composite.from_dict(explainer.about.composite)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


SCAN, SHORT = "attnlrp(gates='signal')", "attnlrp-gamma(0.1, 0.01)"
NEITHER = "it has neither attention nor convolutions"


@pytest.mark.parametrize(
    ("make", "shape", "name", "why"),
    [
        (mlp, TABLE, "epsilon", NEITHER),
        (partial(Recurrent, nn.LSTM), SEQUENCE, "epsilon", NEITHER),
        (partial(Recurrent, nn.GRU), SEQUENCE, "epsilon", NEITHER),
        (Neighbours, TABLE, "epsilon", NEITHER),
        (GatedMLP, TABLE, "epsilon", NEITHER),
        (Attention, IMAGE, "attnlrp", "it has attention"),
        (Scan, SEQUENCE, SCAN, "a state is read by what gates it, as in state-space models, and gates are held fixed"),
        (Residual, IMAGE, SHORT, "its longest row of convolutions is 3, which is short"),
        (partial(convolutions, DEEP - 1), IMAGE, SHORT, f"… is {DEEP - 1}, which is short"),
        (partial(convolutions, DEEP), IMAGE, "epsilon-plus", f"… is {DEEP}, which is long"),
    ],
)
def test_structure_chooses(make: Callable[[], nn.Module], shape: tuple[int, ...], name: str, why: str) -> None:
    composite = chosen(make(), shape)

    assert composite.name == name
    assert composite.why == "auto: " + why.replace("…", "its longest row of convolutions")


@pytest.mark.slow
def test_a_loop_counts_by_its_step() -> None:
    """A recurrent layer of open length is a loop; behind convolutions, and with what its step does."""
    length = {"x": {1: torch.export.Dim("length", min=2, max=64)}}
    recurrent = lrp.compile(Recurrent(nn.GRU).eval(), (torch.randn(SEQUENCE),), dynamic_shapes=length)

    assert recurrent.about.why == f"auto: {NEITHER}"


def test_only_what_relevance_passes_counts() -> None:
    """A row of shares at the end, of which the logit in front is explained, is no attention; nor is a second output."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.image = mlp(), convolutions(1)

        def forward(self, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
            return self.table(x), self.image(image).softmax(-1)

    given = torch.randn(TABLE), torch.randn(IMAGE)
    names = []
    for output in (0, 1):
        with pytest.warns(LrpWarning) if output else nullcontext():
            explainer = lrp.compile(Two().eval(), given, target=lrp.Target(output=output))
        names.append(explainer.about.name)

    assert names == ["epsilon", SHORT]


@pytest.mark.slow
@pytest.mark.sampled(2)
@pytest.mark.parametrize(("name", "composite"), [("vgg16", "epsilon-plus"), ("bert", "attnlrp")])
def test_published_architectures(name: str, composite: str) -> None:
    example = SEVEN[name].build(width=32)

    explainer = lrp.compile(example.model, example.args, example.kwargs)

    assert explainer.about.name == composite
    assert dict(explainer.about.composite) | {"why": ""} == getattr(
        lrp.composites, composite.replace("-", "_")
    )().to_dict() | {"why": ""}


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.composite.name)
def test_a_chosen_composite_fits_every_operator(choice: Choice) -> None:
    """Whatever an operation is, no entry of it gives a rule that does not fit, or a value that is held fixed."""
    composite = choice.composite
    for entry in composite.entries:
        assert entry.optional
        families = {each.family for known in OPERATORS.values() for each in known if each.kind in entry.kinds}
        assert ANY not in entry.kinds
        assert families
        assert all((family, entry.rule) in RULES for family in families)
    assert not composite.primitives
    assert not composite.differences
    assert composite.seed == auto().seed


@pytest.mark.slow
@pytest.mark.parametrize("make", [Convolutions, Masked, GatedMLP, Functions])
def test_nothing_is_refused_that_epsilon_takes(make: Callable[[], nn.Module]) -> None:
    shape = (1, 3, 8, 8) if make is Convolutions else (1, 5, 8) if make is Masked else (1, 6)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model = build(make).float()

    by_epsilon, by_choice = (lrp.compile(model, (x,), composite=name)(x) for name in ("epsilon", "auto"))

    torch.testing.assert_close(by_choice.output, by_epsilon.output)
    assert by_choice.relevance["x"].isfinite().all()


# ---- What is said ----


@pytest.mark.slow
def test_everything_says_what_was_chosen_and_why(tmp_path: Path) -> None:
    x, path = torch.randn(IMAGE), tmp_path / "m.lrp.pt2"
    explainer = lrp.compile(Attention().eval(), (x,))
    said = "attnlrp (auto: it has attention)"

    assert "composite 'attnlrp' (auto: it has attention), target 'argmax'" in repr(explainer)
    assert str(explainer.show()).startswith(f"composite {said}\n")
    assert str(explainer.show(op="softmax")).startswith(f"composite {said}\n")
    assert explainer.show().to_dict()["composite"] == said
    assert said in explainer._repr_html_()
    assert explainer.metadata["composite"]["why"] == "auto: it has attention"
    explainer.save(path)
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    for found in (lrp.load(path), OnnxExplainer(tmp_path / "m.lrp.onnx"), explainer.observe("attention")):
        assert found.about.named_why == said
    assert "composite" not in lrp.compile(mlp().eval(), (torch.randn(TABLE),), composite="epsilon").show().to_dict()


@pytest.mark.slow
def test_the_choice_of_a_file_is_compiled_anew(tmp_path: Path) -> None:
    model, x = Attention().eval(), torch.randn(IMAGE)
    program, path = tmp_path / "m.pt2", tmp_path / "m.lrp.onnx"
    torch.export.save(torch.export.export(model, (x,)), program)
    lrp.compile(program).to_onnx(path)

    report = verify(path, against=program)

    assert report.passed, str(report)
    (found,) = (check.found for check in report.checks if check.name == "metadata")
    assert "composite attnlrp (auto: it has attention)" in found


@pytest.mark.slow
def test_what_a_cache_gives_back_says_it_too(tmp_path: Path) -> None:
    x = torch.randn(TABLE)

    first, again = (lrp.compile(mlp().eval(), (x,), cache=tmp_path) for _ in range(2))

    assert first.about.composite == again.about.composite
    assert again.about.why == f"auto: {NEITHER}"


def test_options_belong_to_a_composite_of_a_name() -> None:
    with pytest.raises(CompositeError, match=r"The composite 'auto' has no options: name the composite"):
        resolve_composite("auto", {"gamma": 1.0})


def test_it_is_one_of_the_names() -> None:
    assert COMPOSITES["auto"] is auto
    with pytest.raises(CompositeError, match=r"Unknown composite 'autos' \(did you mean 'auto'\?\)"):
        lrp.compile(mlp().eval(), (torch.randn(TABLE),), composite="autos")
    assert "chosen from the model's structure" in str(auto())
