"""γ's branch for negative outputs goes exactly where no relevance reaches it."""

import importlib

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler import Composite, Entry
from lrp_compiler.passes.graph.assignment import assignment
from lrp_compiler.rules import CONDUCT, ONLY_POSITIVE, RULES
from lrp_compiler.rules.elementwise import identity
from lrp_compiler.rules.registry import family_rule

analyses = importlib.import_module("lrp_compiler.passes.assign.analyse")


class Net(nn.Module):
    def __init__(self, activation: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.first, self.activation, self.after = nn.Conv2d(3, 4, 3), activation, after
        self.second = nn.Conv2d(4, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.after(self.activation(self.first(x)))).mean((2, 3))


GAMMA = Entry(("convolution", "linear"), "gamma", {"gamma": 0.5})
X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def build(activation: nn.Module, after: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return Net(activation, after).double().eval()


def reduced(explainer: lrp.Explainer) -> list[str]:
    """The paths of the maps whose γ rule has one branch."""
    nodes = [node for node in explainer.forward.graph.nodes if getattr(assignment(node), "rule", "") == "gamma"]
    return [
        list(node.meta["nn_module_stack"].values())[-1][0] for node in nodes if assignment(node).facts[ONLY_POSITIVE]
    ]


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("activation", "after", "entries", "expected"),
    [
        (nn.ReLU(), nn.Identity(), (GAMMA,), ["first"]),
        (nn.ReLU(), nn.MaxPool2d(2), (GAMMA,), ["first"]),
        (nn.ReLU6(), nn.AvgPool2d(2), (GAMMA,), ["first"]),
        (nn.GELU(), nn.Identity(), (GAMMA,), []),
        (nn.LeakyReLU(), nn.Identity(), (GAMMA,), []),
        (nn.ReLU(), nn.Identity(), (Entry("*", "flat", path="second"), GAMMA), []),
        (nn.ReLU(), nn.MaxPool2d(2), (Entry("*", "w-square", path="second"), GAMMA), []),
        (nn.ReLU(), nn.Identity(), (Entry("*", "z-box", {"low": -1, "high": 9}, path="second"), GAMMA), []),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_the_branch_goes_where_relevance_is_proportional_to_a_relu(
    activation: nn.Module,
    after: nn.Module,
    entries: tuple[Entry, ...],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, composite = build(activation, after), Composite("mine", entries)
    explainer = lrp.compile(model, (X,), composite=composite)

    assert reduced(explainer) == expected
    monkeypatch.setattr(analyses, "OF_RULES", ())
    full = lrp.compile(model, (X,), composite=composite)
    assert reduced(full) == []
    torch.testing.assert_close(explainer(X).relevance["x"], full(X).relevance["x"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("says", [True, False])
def test_a_users_rule_may_say_that_it_hands_on_what_arrives(says: bool) -> None:
    name = "handed on"
    family_rule("elementwise", name, hands_on=says)(identity)
    try:
        composite = Composite("mine", (GAMMA, Entry("activation", name)))
        explainer = lrp.compile(build(nn.ReLU(), nn.Identity()), (X,), composite=composite)
        assert reduced(explainer) == (["first"] if says else [])
    finally:
        del RULES["elementwise", name], CONDUCT["elementwise", name]


def test_a_seed_on_the_relu_itself_keeps_both_branches() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).double().eval()
    x = torch.randn(2, 4, dtype=torch.float64)
    explainer = lrp.compile(model, (x,), composite=Composite("mine", (GAMMA,)), seed="tensor")

    assert reduced(explainer) == []


class Quantised(nn.Module):
    """Steps of both signs, rounded, and cut at 0: what is cut off is not where the layer in front is ≤ 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.register_buffer("steps", torch.tensor([8.0, -8, 8, -8, 8]))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.clamp(torch.round(self.first(x) * self.steps), 0, 255))


def test_a_quantisation_that_a_clamp_ends_is_no_relu_of_what_it_quantises() -> None:
    torch.manual_seed(0)
    model, x = Quantised().double().eval(), torch.randn(6, 4, dtype=torch.float64)

    fast, plain = (
        lrp.compile(model, (x,), composite=Composite("mine", (GAMMA,)), target=0, optimise=optimise)(x).relevance["x"]
        for optimise in (True, False)
    )

    assert plain.abs().max() > 0
    torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)
