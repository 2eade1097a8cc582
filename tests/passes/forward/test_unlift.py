"""A program's nodes in a plain graph that reads its own weights."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import FileCheck

import lrp_compiler as lrp
from lrp_compiler import runtime
from lrp_compiler.passes.decompose.table import decomposition_table
from lrp_compiler.passes.forward.unlift import unlift

X = torch.randn(2, 3)


def test_weights_are_read_from_the_graph_and_shared_with_the_model(graph_of: Callable) -> None:
    model = nn.Linear(3, 4)

    module = graph_of(model, X)

    FileCheck().check("def forward(self, input_1)").check("self.weight").check("aten.linear").run(module.code)
    assert module.weight.data_ptr() == model.weight.data_ptr()
    torch.testing.assert_close(module(X)[0], model(X))


def test_outputs_are_a_flat_tuple_and_plain_inputs_are_baked_in() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor, factor: float, other: None) -> dict[str, Tensor]:
            return {"a": x * factor, "b": x + 1}

    module = unlift(torch.export.export(Model().eval(), (X, 3.0, None)))

    assert len(module.graph.find_nodes(op="placeholder")) == 1
    first, second = module(X)
    assert torch.equal(first, X * 3)
    assert torch.equal(second, X + 1)


def test_unused_weights_are_left_out(graph_of: Callable) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.used

    assert [name for name, _ in graph_of(Model(), X).named_buffers()] == ["used"]


def test_what_is_written_to_buffers_and_inputs_is_used_and_forgotten(graph_of: Callable) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.mul_(0.9).add_(x.mean(0))
            x.mul_(2)
            return x * self.seen

    module = graph_of(Model(), X)
    kept = X.clone()

    for _ in range(2):
        torch.testing.assert_close(module(X)[0], 2 * X * (0.9 + X.mean(0)))
    assert torch.equal(X, kept)
    assert torch.equal(module.seen, torch.ones(3))


class Named(nn.Module):
    """Σ of its inputs, times everything that it holds."""

    def __init__(self, *held: str) -> None:
        super().__init__()
        for name in held:
            self.register_buffer(name, torch.rand(3) + 0.5)

    def product(self, *inputs: Tensor) -> Tensor:
        result = sum(inputs) + 0
        for held in self.buffers():
            result = result * held
        return result


class OfAnAttribute(Named):
    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)


class OfNodes(Named):
    def forward(self, mul: Tensor, b_mul: Tensor, add: Tensor, getitem: Tensor, linear: Tensor) -> Tensor:
        return self.product(mul, b_mul, add, getitem, linear)


class OfTheLanguage(Named):
    def forward(self, torch: Tensor, device: Tensor, inf: Tensor, self_1: Tensor, fx_pytree: Tensor) -> Tensor:
        return self.product(torch, device, inf, self_1, fx_pytree)


class OfTheCompiler(Named):
    def forward(self, one_hot: Tensor, lrp: Tensor, argmax: Tensor, constant: Tensor, kept: Tensor) -> Tensor:
        return self.product(one_hot, lrp, argmax, constant, kept)


NAMED = [
    (OfAnAttribute, ["x"]),
    (OfNodes, ["mul", "add"]),
    (OfTheLanguage, ["torch", "inf", "_tensor_constant0"]),
    (OfTheCompiler, ["argmax", "one_hot", "lrp"]),
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("kind", "held"), NAMED, ids=lambda item: getattr(item, "__name__", ""))
@pytest.mark.parametrize("budget", [0.0, 1.0])
def test_inputs_weights_and_nodes_may_bear_one_name(
    kind: type[Named], held: list[str], budget: float, tmp_path: Path
) -> None:
    model = kind(*held).eval()
    count = len(inspect.signature(model.forward).parameters)
    inputs = [torch.rand(2, 3, requires_grad=True) for _ in range(count)]
    explained = model(*inputs)[:, 1]
    gradients = torch.autograd.grad(explained.sum(), inputs)
    given = [tensor.detach() for tensor in inputs]
    explainer = lrp.compile(model, tuple(given), target=1, composite="epsilon", memory_budget=budget)
    explainer.save(tmp_path / "model.lrp.pt2")
    explainer.to_onnx(tmp_path / "model.lrp.onnx")
    first, second = explainer.split()
    results = first(*given)

    for said in (explainer(*given), lrp.load(tmp_path / "model.lrp.pt2")(*given)):
        torch.testing.assert_close(said.output[:, 1], explained.detach())
        for tensor, gradient, relevance in zip(given, gradients, said.relevance.values(), strict=True):
            torch.testing.assert_close(relevance, tensor * gradient)
    by_onnx = runtime.OnnxExplainer(tmp_path / "model.lrp.onnx")(*(tensor.numpy() for tensor in given))
    parts = second(*results[len(first.meta["outputs"]) :])
    for tensor, gradient, exported, part in zip(given, gradients, by_onnx.relevance.values(), parts, strict=True):
        torch.testing.assert_close(torch.from_numpy(exported), tensor * gradient)
        torch.testing.assert_close(part, tensor * gradient)


def test_checks_of_values_are_left_out() -> None:
    """Some decompositions look at an error flag, in an order that tokens keep; nothing comes of it."""

    class Inverse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.tensorinv(x, 2)

    program = torch.export.export(Inverse(), (torch.eye(6).reshape(2, 3, 6),)).run_decompositions(decomposition_table())
    assert program.graph.find_nodes(op="call_function", target=torch.ops.higher_order.with_effects)

    module = unlift(program)

    torch.testing.assert_close(module(torch.eye(6).reshape(2, 3, 6))[0], torch.eye(6).reshape(6, 2, 3))


def test_weights_without_values_stay_apart() -> None:
    """On device "meta" all lie at the same place."""
    with torch.device("meta"):
        model, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(2, 4)

    module = unlift(torch.export.export(model, (x,)))

    assert len(module.graph.find_nodes(op="get_attr")) == 4
