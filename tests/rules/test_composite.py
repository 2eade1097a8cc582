"""Composites: which entry decides, what is refused, and what the artefact says of them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler import Composite, Entry
from lrp_compiler.base.errors import CompositeError
from lrp_compiler.passes.graph.assignment import assignment

pytestmark = pytest.mark.sampled(4)


def label(value: Any) -> str:
    """A test's name, without addresses."""
    return re.sub(r"<function (\S+) at 0x\w+>", r"\1", str(value))


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(6, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.dense(x).tanh())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 3)])
        self.head = Head()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for block in self.blocks:
            x = block(x).relu()
        return self.head(x.mean((2, 3)))


torch.manual_seed(0)
NET = Net().double().eval()
X = torch.randn(2, 3, 9, 9, dtype=torch.float64)
STEM, FIRST, SECOND, DENSE, OUT = "stem", "blocks.0", "blocks.1", "head.dense", "head.out"


def rules(*entries: Entry) -> dict[str, str]:
    """Module path → rule, of the layers with weights."""
    explainer = lrp.compile(NET, (X,), composite=Composite("mine", entries))
    found = {}
    for node in explainer.forward.graph.nodes:
        given = assignment(node)
        if given is not None and given.kind in ("convolution", "linear"):
            found[list(node.meta["nn_module_stack"].values())[-1][0]] = given.rule
    return found


def where(rule: str, *entries: Entry) -> list[str]:
    return [path for path, chosen in rules(*entries).items() if chosen == rule]


@pytest.mark.slow
@pytest.mark.sampled(16)
@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"kind": "convolution"}, [STEM, FIRST, SECOND]),
        ({"kind": ("convolution", "linear")}, [STEM, FIRST, SECOND, DENSE, OUT]),
        ({"kind": "convolution", "position": "first"}, [STEM]),
        ({"kind": ("convolution", "linear"), "position": "last"}, [OUT]),
        ({"kind": "*", "path": "blocks.*"}, [FIRST, SECOND]),
        ({"kind": "convolution", "path": "blocks"}, [FIRST, SECOND]),
        ({"kind": "linear", "path": "head"}, [DENSE, OUT]),
        ({"kind": "linear", "path": "**.out"}, [OUT]),
        ({"kind": "linear", "module": "Head"}, [DENSE, OUT]),
        ({"kind": "*", "module": "Conv2d", "position": "last"}, [SECOND]),
        ({"kind": "*", "when": lambda node: node.target == torch.ops.aten.linear.default}, [DENSE, OUT]),
    ],
    ids=label,
)
def test_an_entry_decides_where_all_its_conditions_hold(conditions: dict[str, Any], expected: list[str]) -> None:
    assert where("gamma", Entry(rule="gamma", **conditions)) == expected


def test_the_first_entry_that_matches_wins() -> None:
    chosen = rules(
        Entry("convolution", "flat", position="first"),
        Entry("*", "zero", path="blocks.1"),
        Entry("convolution", "z-plus"),
    )

    assert chosen == {STEM: "flat", FIRST: "z-plus", SECOND: "zero", DENSE: "epsilon", OUT: "epsilon"}


def test_a_pattern_does_not_match_the_beginning_of_a_name() -> None:
    with pytest.raises(CompositeError, match="nothing in this model matches"):
        rules(Entry("linear", "gamma", path="hea"))


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (Entry("softmax", "zero"), "kinds are"),
        (Entry("convolution", "z-plus", path="encoder.*"), "module paths are"),
        (Entry("convolution", "z-plus", module="Conv1d"), "Conv2d"),
        (Entry("*", lambda op, relevance: relevance, path="encoder"), "stem"),
    ],
    ids=label,
)
def test_an_entry_that_matches_nothing_is_refused_unless_it_is_optional(entry: Entry, word: str) -> None:
    with pytest.raises(CompositeError, match=word):
        rules(entry)

    rules(Entry(**{**entry.__dict__, "optional": True}))


def test_what_is_fixed_takes_nothing() -> None:
    class Gated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :2] * torch.sigmoid(x[:, 2:])

    x = torch.randn(2, 4, dtype=torch.float64)
    fixed = Composite("fixed", (Entry("activation", "fixed"),))

    relevance = lrp.compile(Gated().eval(), (x,), composite=fixed, target=0)(x).relevance["x"]

    expected = torch.zeros_like(x)
    expected[:, 0] = x[:, 0] * torch.sigmoid(x[:, 2])
    torch.testing.assert_close(relevance, expected)


def test_a_function_explains_a_whole_module() -> None:
    seen = []

    def by_size(op: lrp.Op, relevance: lrp.Relevance) -> lrp.Relevance:
        seen.append(op.active)
        x = op.tensor(op.active[0])
        return lrp.total(op.total(relevance).sum(-1, keepdim=True) * x / x.sum(-1, keepdim=True))

    composite = Composite("by size", (Entry("*", by_size, path="head"),))
    explainer = lrp.compile(NET, (X,), composite=composite, wrt=["x", "blocks.1"], target=2)

    explanation = explainer(X)

    assert set(seen) == {("0",)}
    total = explanation.relevance["blocks.1"].sum((1, 2, 3))
    # Stabilisers of the layers behind it take some: 2e-5 here.
    torch.testing.assert_close(total, explanation.output[:, 2], rtol=1e-4, atol=0)


def test_a_module_that_two_values_leave_cannot_be_explained_as_a_whole() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.tanh(), x.sigmoid()

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = Two()

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.two(x)
            return a + b

    composite = Composite("whole", (Entry("*", lambda op, relevance: relevance, path="two"),))
    with pytest.raises(CompositeError, match="two cannot be explained as a whole: 2 values"):
        lrp.compile(Outer().eval(), (torch.randn(2, 3),), composite=composite)


@pytest.mark.parametrize("name", lrp.composites.COMPOSITES)
def test_every_composite_prints_as_a_table_and_is_plain_data(name: str) -> None:
    options = {"low": [-2.1, -2.0, -1.8], "high": 2.6} if name == "epsilon-gamma-box" else {}
    composite = lrp.composites.COMPOSITES[name](**options)

    assert composite.name == name
    text = str(composite)
    for entry in composite.entries:
        assert str(entry.rule) in text
    assert json.loads(json.dumps(composite.to_dict()))["name"] == name


@pytest.mark.parametrize("name", lrp.composites.COMPOSITES)
def test_every_composite_comes_back_from_a_file_as_what_it_is(name: str) -> None:
    options = {"low": [-2.1, -2.0, -1.8], "high": 2.6} if name == "epsilon-gamma-box" else {}
    composite = lrp.composites.COMPOSITES[name](**options)

    assert read_back(composite) == composite


@pytest.mark.parametrize(
    "entry",
    [
        Entry("linear", "epsilon"),
        Entry(("linear",), "epsilon"),
        Entry(["linear", "convolution"], "epsilon"),  # type: ignore[arg-type]
        Entry("convolution", "z-box", {"low": np.array([-1.0, 0.5]), "high": (1, torch.tensor(2.0))}),
        Entry("linear", "epsilon", {"epsilon": np.float64(1e-3)}, path="", optional=True),
        Entry("*", "epsilon", path="a.*", module="Linear", position="last"),
    ],
    ids=str,
)
def test_an_entry_comes_back_from_a_file_as_what_it_is(entry: Entry) -> None:
    composite = Composite("mine", (entry,), seed="one")

    assert read_back(composite) == composite


def read_back(composite: Composite) -> Composite:
    return Composite.from_dict(json.loads(json.dumps(composite.to_dict())))


def test_one_kind_is_one_kind_however_it_is_given() -> None:
    assert Entry(("linear",), "epsilon") == Entry("linear", "epsilon")
    assert Entry(("linear", "convolution"), "epsilon").kind == ("linear", "convolution")


@pytest.mark.slow
def test_the_artefact_says_how_it_was_made(tmp_path: Path) -> None:
    composite = lrp.composites.epsilon_gamma_box(low=-1, high=[1, 2, 3])
    lrp.compile(NET, (X,), composite=composite).save(tmp_path / "m.lrp.pt2")

    stored = lrp.load(tmp_path / "m.lrp.pt2").metadata["composite"]

    box = stored["entries"][0]
    assert (stored["name"], box["rule"], box["position"]) == ("epsilon-gamma-box", "z-box", "first")
    assert box["options"] == {"low": -1.0, "high": [1.0, 2.0, 3.0], "epsilon": 1e-6}


@pytest.mark.slow
def test_the_box_must_fit_the_channels() -> None:
    with pytest.raises(CompositeError, match="3 channels"):
        lrp.compile(NET, (X,), composite=lrp.composites.epsilon_gamma_box(low=[-1, -1], high=[1, 1]))
    with pytest.raises(CompositeError, match="low < high"):
        lrp.compile(NET, (X,), composite=lrp.composites.epsilon_gamma_box(low=1, high=-1))


@pytest.mark.parametrize(("alpha", "beta"), [(3.0, 1.0), (0.5, -0.5), (1.0, 1.0), (2.0, 2.0)])
def test_the_alpha_beta_rule_keeps_the_sum_or_is_refused(alpha: float, beta: float) -> None:
    composite = Composite("mine", [Entry("linear", "alpha-beta", {"alpha": alpha, "beta": beta})])

    with pytest.raises(CompositeError, match=rf"alpha − beta = 1.*alpha={alpha}, beta={beta} \(linear in .*\)\.$"):
        lrp.compile(nn.Linear(4, 3).eval(), (torch.randn(2, 4),), composite=composite)
