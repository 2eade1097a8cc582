"""Rules that are applied once for all operations that are alike make the graph that they make one by one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.zoo import SEVEN
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.passes.graph import graph_text
from lrp_compiler.passes.relevance import emit, remembered

COMPOSITES = ["epsilon", "epsilon-plus", "epsilon-alpha2-beta1-flat", "attnlrp", "attnlrp-gamma", "dynamic-lrp"]
Compile = Callable[[], lrp.Explainer]


def one_by_one(monkeypatch: pytest.MonkeyPatch, compile: Compile) -> lrp.Explainer:
    with monkeypatch.context() as patch:
        patch.setattr(emit, "Remembered", lambda value, twins: None)
        return compile()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is traced and what is copied, in order."""
    done: list[str] = []
    first, again = remembered.Remembered._first, remembered.Remembered._again
    monkeypatch.setattr(remembered.Remembered, "_first", lambda *args: (done.append("traced"), first(*args))[1])
    monkeypatch.setattr(remembered.Remembered, "_again", lambda *args: (done.append("copied"), again(*args))[1])
    return done


def same_graph(monkeypatch: pytest.MonkeyPatch, compile: Compile) -> None:
    plain, found = one_by_one(monkeypatch, compile), compile()
    assert read_by_place(found) == read_by_place(plain)
    assert without_numbers(graph_text(found.module)) == without_numbers(graph_text(plain.module))
    assert str(found.plan) == str(plain.plan)


def read_by_place(explainer: lrp.Explainer) -> list[list[int]]:
    """Of every node the places of those that it reads; of a size it is all one which tensor that is as long says so."""
    place = {node: number for number, node in enumerate(explainer.module.graph.nodes)}
    return [
        [place[read] for read in node.all_input_nodes if node.target != torch.ops.aten.sym_size.int] for node in place
    ]


def without_numbers(text: str) -> str:
    """Which number fx puts behind a node's name depends on what has been dropped before, and moves the comments."""
    return re.sub(r" +#", " #", re.sub(r"(?<=[a-z])_\d+\b", "", text))


@pytest.mark.heavy
@pytest.mark.sampled(200)
@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", SEVEN)
def test_the_graph_of_a_whole_network_is_the_same(name: str, composite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = SEVEN[name].build(width=16)

    same_graph(
        monkeypatch,
        lambda: lrp.compile(
            given.model, given.args, given.kwargs, composite=composite, dynamic_shapes=given.dynamic_shapes
        ),
    )


def attending() -> tuple[nn.Module, Tensor]:
    layers = (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(3))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(40, 3)), torch.randn(2, 5, 8)


def convolving() -> tuple[nn.Module, Tensor]:
    layers = (nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU()) for _ in range(3))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, 3)), torch.randn(2, 4, 6, 6)


@pytest.mark.slow
@pytest.mark.sampled(32)
@pytest.mark.parametrize(
    "options", [{"wrt": ["input", "1.weight"]}, {"observe": ["*"]}, {"optimise": False}, {"target": "index"}, {}]
)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("network", [attending, convolving])
def test_whatever_is_asked_for(
    network: Callable[[], tuple[nn.Module, Tensor]],
    half: bool,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, x = network()
    if "wrt" in options:  # one that is there
        weight = next(name for name, _ in model.named_parameters() if name.endswith("weight"))
        options = {"wrt": ["input", weight]}
    model, x = (model.half().eval(), x.half()) if half else (model.eval(), x)

    same_graph(monkeypatch, lambda: lrp.compile(model, (x,), **{"target": (0, 1), **options}))


class Scaled(nn.Module):
    """Two layers that a rule tells apart by a plain number alone, which compares as equal."""

    def __init__(self, one: float, two: float) -> None:
        super().__init__()
        self.numbers = one, two

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.numbers
        return torch.clamp(torch.clamp(x, one, 5.0) * 2.0, two, 5.0)


@pytest.mark.slow
def test_numbers_that_compare_as_equal_are_not_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    for numbers in ((0.0, -0.0), (1.0, 1), (True, 1)):
        same_graph(monkeypatch, lambda numbers=numbers: lrp.compile(Scaled(*numbers).eval(), (torch.randn(2, 3),)))


def test_layers_that_are_alike_are_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def deep(layers: int) -> nn.Module:
        return nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(layers))).eval()

    done = counted(monkeypatch)
    traced = []
    for layers in (4, 12):
        done.clear()
        lrp.compile(deep(layers), (torch.randn(2, 4),), composite="epsilon")
        traced.append(done.count("traced"))

    assert traced[0] == traced[1]
    assert done.count("copied") > 12


def test_operands_that_are_one_tensor_are_told_from_two(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.sigmoid(x)
            return y @ x.mT + x @ x.mT + (y @ y.mT)

    same_graph(
        monkeypatch, lambda: lrp.compile(Twice().eval(), (torch.randn(2, 3, 3),), target=lambda out: out[:, 0, 0])
    )


@torch.library.custom_op("lrp_remembered::same", mutates_args=())
def same(x: Tensor) -> Tensor:
    """An op that torch writes nowhere out."""
    return x.clone()


@same.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


ASKED: list[lrp.Op] = []


@lrp.rule(torch.ops.lrp_remembered.same.default)
def counting(op: lrp.Op, relevance: lrp.Relevance) -> lrp.Relevance:
    """A rule that says something else at every call."""
    ASKED.append(op)
    return relevance.map(lambda tensor: tensor * 10.0 ** len(ASKED))


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.lrp_remembered.same(x)


def test_the_rule_of_a_users_op_is_asked_at_every_operation() -> None:
    ASKED.clear()

    found = lrp.compile(nn.Sequential(Same(), Same(), Same()).eval(), (torch.ones(1, 2),), composite="epsilon")

    assert len(ASKED) == 3
    torch.testing.assert_close(found(torch.ones(1, 2)).relevance["input"], torch.tensor([[1e6, 0.0]]))


def test_a_users_function_is_asked_for_every_module() -> None:
    asked = []

    def whole(op: lrp.Op, relevance: lrp.Relevance) -> dict[str, lrp.Relevance]:
        asked.append(op)
        return {name: relevance.map(lambda tensor: tensor * 10.0 ** len(asked)) for name in op.active}

    mine = lrp.Composite("mine", (lrp.Entry("*", whole, path="0.*"), *lrp.composites.epsilon().entries))
    model = nn.Sequential(nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Tanh())).eval()

    found = lrp.compile(model, (torch.ones(1, 2),), composite=mine)

    assert len(asked) == 3
    torch.testing.assert_close(found(torch.ones(1, 2)).relevance["input"], torch.tensor([[1e6, 0.0]]))
