"""Names that a model gives to its parts, inputs and outputs, whatever they are: every file opens and runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.names import distinct
from lrp_compiler.check.verify import verify
from lrp_compiler.runtime import OnnxExplainer, open_split

pytestmark = pytest.mark.sampled(12)

ODD = [
    "conv(1)",
    "a[0]",
    "top@1",
    "it's",
    'say "x"',
    "new\nline",
    "tab\t",
    "naïve",
    "日本",
    "a b",
    "a,b",
    "x;y",
    "a\\b",
]
ODD += ["c\rd", "e\0f", "$x$", "[/x]", "{x}", "%s", "1", "class", "None", "output", "relu", "#", "a:b", "/etc"]


class OddlyHeld(nn.Module):
    """A layer of each name, and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.scales, self.head = nn.Module(), nn.Module(), nn.Linear(4, 3)
        for name in ODD:
            self.layers.add_module(name, nn.Linear(4, 4))
            self.scales.register_parameter(name, nn.Parameter(torch.rand(4) + 0.5))

    def forward(self, x: Tensor) -> Tensor:
        for layer, scale in zip(self.layers.children(), self.scales.parameters(), strict=True):
            x = torch.tanh(layer(x) * scale) + x
        return self.head(x)


class Returning(nn.Module):
    """What `pack` makes of an output and the input."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.l, self.pack = nn.Linear(4, 3), pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(self.l(x), x)


class Taking(nn.Module):
    """A dict of each name."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 3)

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        return self.l(torch.stack([given[name] for name in ODD]).sum(0).relu())


class TakingByName(nn.Module):
    """An argument of each name."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 3)

    def forward(self, **given: Tensor) -> Tensor:
        return self.l(torch.stack(list(given.values())).sum(0).relu())


class Output(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 3)

    def forward(self, output: Tensor) -> Tensor:
        return self.l(output)


def returning(pack: Callable[[Tensor, Tensor], Any]) -> Callable[[], tuple[nn.Module, tuple[Any, ...]]]:
    return lambda: (Returning(pack), (torch.randn(2, 4),))


CASES: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
    "modules and parameters": lambda: (OddlyHeld(), (torch.randn(2, 4),)),
    "keys of outputs": returning(
        lambda z, x: {"logits": z, **{name: z * number for number, name in enumerate(ODD, 2)}}
    ),
    "keys of inputs": lambda: (Taking(), ({name: torch.randn(2, 4) for name in ODD},)),
    "an input called output": lambda: (Output(), (torch.randn(2, 4),)),
    "an output called as an input": returning(lambda z, x: {"logits": z, "x": z * 2}),
    "an output called as a relevance": returning(lambda z, x: {"relevance.x": z * 2, "logits": z}),
    "an output without a name": returning(lambda z, x: {"": z * 2, "logits": z}),
    "outputs called alike": returning(lambda z, x: {"a.b": z, "a": {"b": z * 2}}),
    "outputs called as nodes": returning(lambda z, x: {"linear": z * 2, "mul": z, "logits": z * 3}),
    "an output called as a choice": returning(lambda z, x: {"target": z * 2, "seed": z, "logits": z * 3}),
    "the same tensor twice": returning(lambda z, x: (z, z)),
    "the input itself": returning(lambda z, x: (z, x, x)),
}


def test_arguments_of_any_name(tmp_path: Path) -> None:
    named = [name for name in (*ODD, "relevance.x") if name not in ("1", "class")]  # torch takes no such names
    model, given = TakingByName().eval(), {name: torch.randn(2, 4) for name in named}
    explainer = lrp.compile(model, kwargs=given, target=0)
    explainer.save(tmp_path / "m.lrp.pt2")
    explainer.to_onnx(tmp_path / "m.lrp.onnx")

    said, loaded = explainer(**given), lrp.load(tmp_path / "m.lrp.pt2")(**given)
    with OnnxExplainer(tmp_path / "m.lrp.onnx") as opened:
        there = opened(**{name: tensor.numpy() for name, tensor in given.items()})

    torch.testing.assert_close(said.output, model(**given))
    assert list(said.relevance) == named
    for name, relevance in said.relevance.items():
        assert relevance.any()
        torch.testing.assert_close(loaded.relevance[name], relevance)
        np.testing.assert_allclose(there.relevance[name], relevance.numpy(), rtol=2e-6, atol=1e-6)


class TakingDicts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 3)

    def forward(self, **given: dict[str, Tensor]) -> Tensor:
        return self.l(given["A b"]["X y"] + given["A b"]["Z"])


def test_dicts_under_names_that_are_none_in_python() -> None:
    given = {"A b": {"X y": torch.randn(2, 4), "Z": torch.randn(2, 4)}}

    said = lrp.compile(TakingDicts().eval(), kwargs=given, target=0)(**given)

    assert list(said.relevance) == ["A b.X y", "A b.Z"]
    assert all(relevance.any() for relevance in said.relevance.values())


def flat(value: Any) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(value)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_names_travel_in_every_file(name: str, tmp_path: Path) -> None:
    model, args = CASES[name]()
    model.eval()
    explainer = lrp.compile(model, args, target="index")
    target = torch.tensor([1, 2])
    whole, plain = explainer(*args, target=target), flat(model(*args))
    for mine, theirs in zip(flat(whole.output), plain, strict=True):
        torch.testing.assert_close(mine, theirs)

    explainer.save(tmp_path / "m.lrp.pt2")
    explainer.to_onnx(tmp_path / "m.lrp.onnx")

    loaded = lrp.load(tmp_path / "m.lrp.pt2")(*args, target=target)
    assert loaded.relevance.keys() == whole.relevance.keys()
    assert all(torch.equal(loaded.relevance[key], values) for key, values in whole.relevance.items())
    with OnnxExplainer(tmp_path / "m.lrp.onnx") as opened:
        there = opened(*(leaf.numpy() for leaf in flat(args)), target=target.numpy())
    outputs = list(there.output.values()) if isinstance(there.output, dict) else [there.output]
    for array, theirs in zip(outputs, plain, strict=True):
        np.testing.assert_allclose(array, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)
    for key, values in whole.relevance.items():
        np.testing.assert_allclose(there.relevance[key], values.numpy(), rtol=1e-5, atol=1e-6)
    for file in ("m.lrp.pt2", "m.lrp.onnx"):
        assert verify(tmp_path / file).passed, [check for check in verify(tmp_path / file).checks if not check.passed]
    explainer.save_split(tmp_path / "split" / "f.onnx", tmp_path / "split" / "r.onnx")
    _, second = open_split(tmp_path / "split" / "f.onnx", tmp_path / "split" / "r.onnx")
    names = [entry.tensor.name for entry in explainer.about.relevance]
    assert [value.name for value in second.get_outputs()] == names


def test_the_names_of_relevance_stay_and_outputs_give_way() -> None:
    explainer = lrp.compile(Returning(lambda z, x: {"relevance.x": z * 2, "x": z}).eval(), (torch.randn(2, 4),))
    about = explainer.about
    assert [spec.name for spec in about.inputs] == ["x"]
    assert [entry.tensor.name for entry in about.relevance] == ["relevance.x"]
    assert [spec.name for spec in about.outputs] == ["relevance.x_1", "x_1"]
    assert explainer.about.relevance[0].input == "x"


def test_names_are_distinct_and_can_be_written() -> None:
    assert distinct(["x", "x", "", "x_1", "", "y"], ["y"]) == ["x", "x_1", "unnamed", "x_1_1", "unnamed_1", "y_1"]
    (escaped,) = distinct(["a\ud800b"])
    assert escaped.encode("utf-8") == b"a\\ud800b"
