"""A linear map, factors and constants by channel in steps of their own: one layer, as if it had been written so."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto
from support.assigned import assigned, captured
from support.onnx_graphs import in_onnxruntime, model, node
from support.whole import holds, in_precision, runs_in_onnxruntime, survives_files
from torch import Tensor, fx, nn

import lrp_compiler as lrp
from lrp_compiler import Composite, Entry
from lrp_compiler.passes.graph.assignment import assignment
from lrp_compiler.rules import LAYERS

NAMES = {layer.name for layer in LAYERS.values()}
KINDS = ("convolution", "linear", "shift")
Behind = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of a map's result, a factor and a constant for each channel."""
RANDOM = torch.Generator().manual_seed(5)


def by_rule(rule: str) -> Composite:
    return Composite(rule, (Entry(("convolution", "linear"), rule),))


class Steps(nn.Module):
    """A layer, and what is done behind it; classes are means over what space there is."""

    def __init__(self, layer: nn.Module, behind: Behind, sizes: list[int]) -> None:
        super().__init__()
        self.layer, self.behind = layer, behind
        self.register_buffer("s", torch.randn(sizes, generator=RANDOM))
        self.register_buffer("b", torch.randn(sizes, generator=RANDOM))

    def forward(self, x: Tensor) -> Tensor:
        y = self.behind(self.layer(x), self.s, self.b)
        return y.flatten(2).mean(2) if y.dim() > 2 else y


class Product(nn.Module):
    """`x W`, W a matrix that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 6, generator=RANDOM))

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.tanh(self.weight)


LAYERS_OF: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 6, bias=False), (3, 5)),
    "product": (Product, (3, 5)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, bias=False), (3, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3), (3, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 6, 2, bias=False), (3, 2, 3, 3, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False), (3, 4, 4, 4)),
}
BEHIND: dict[str, Behind] = {
    "bias": lambda y, s, b: y + b,
    "bias in front": lambda y, s, b: b + y,
    "one number": lambda y, s, b: y + 0.7,
    "one element": lambda y, s, b: y - b.flatten()[:1],
    "scaled": lambda y, s, b: y * s + b,
    "taken from": lambda y, s, b: b - s * y,
    "batch norm": lambda y, s, b: (y - b) / (s.abs() + 1) * 3 + 1,
    "in a batch of one": lambda y, s, b: y * s[None] + b[None],
}


def built(layer: str, behind: Behind) -> tuple[Steps, Tensor]:
    """The steps in float64, and an input."""
    make, sizes = LAYERS_OF[layer]
    x = torch.randn(sizes, generator=RANDOM, dtype=torch.float64)
    return in_precision(Steps(make(), behind, [6, *[1] * (len(sizes) - 2)]), torch.float64), x


def joined(steps: Steps) -> Steps:
    """`scaled` behind `conv2d` as one convolution."""
    layer = copy.deepcopy(steps.layer)
    with torch.no_grad():
        layer.weight *= steps.s[..., None]
        layer.bias.copy_(layer.bias * steps.s.flatten() + steps.b.flatten())
    return Steps(layer, lambda y, s, b: y, [1]).double().eval()


def taken(forward: fx.GraphModule) -> int:
    """How many layers in steps there are."""
    return sum(getattr(assignment(node), "target", None) in NAMES for node in forward.graph.nodes)


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS_OF)
def test_constants_by_channel_behind_a_map_are_of_its_layer(layer: str) -> None:
    for behind in BEHIND.values():
        steps, x = built(layer, behind)

        done = assigned(captured(steps, x), by_rule("z-plus"))

        assert taken(done.forward) == 1
        reached = [assignment(node) for node in done.forward.graph.nodes if node in done.reached]
        assert [given.rule for given in reached if given is not None and given.kind in KINDS] == ["z-plus"]


OTHERS: dict[str, Behind] = {
    "a constant that differs over space": lambda y, s, b: y + torch.arange(3.0).to(y.dtype),
    "a factor of each sample": lambda y, s, b: y * torch.ones(y.shape[0], 1, 1, 1) + b,
    "what is read twice": lambda y, s, b: (y + b) * 2 + torch.relu(y),
    "what is read twice on the way": lambda y, s, b: (scaled := y * s) + b + torch.relu(scaled),
    "no constant": lambda y, s, b: y * s,
    "a share of the sum": lambda y, s, b: torch.add(y, b, alpha=0.5),
    "more than the map's result": lambda y, s, b: y[:1] + b.expand(6, 3, 3)[None],
}


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_no_layer(name: str) -> None:
    steps, x = built("conv2d", OTHERS[name])

    assert taken(assigned(captured(steps, x), by_rule("z-plus")).forward) == 0


@pytest.mark.slow
def test_steps_are_explained_as_the_layer_that_they_are(tmp_path: Path) -> None:
    """The books balance, files keep it, and the place of the layer in the model is its map's."""
    steps, x = built("conv2d", BEHIND["scaled"])
    composite = Composite("layer", (Entry("convolution", "gamma", path="layer"),))

    explainer = holds(steps, (x,), composite=composite)

    found = lrp.compile(steps, (x,), composite=composite, target=0, observe=["layer"])(x)
    want = lrp.compile(joined(steps), (x,), composite=composite, target=0, observe=["layer"])(x)
    for name in ("x", "layer"):
        torch.testing.assert_close(found.relevance[name], want.relevance[name])
    survives_files(explainer, (x,), tmp_path)
    runs_in_onnxruntime(steps, (x,), None, tmp_path, composite=composite)


def test_a_composite_that_takes_every_primitive_by_itself_knows_no_layers() -> None:
    steps, x = built("conv1d", BEHIND["scaled"])

    assert taken(assigned(captured(steps, x), Composite("primitives", primitives=True)).forward) == 0


@pytest.mark.parametrize("name", ["layer.weight", "b"])
def test_what_is_asked_for_stays_a_step(name: str) -> None:
    """The relevance of a weight is that of the map, of a constant that of the sum."""
    steps, x = built("conv1d", BEHIND["bias"])
    steps.b = nn.Parameter(steps._buffers.pop("b"))

    explainer = lrp.compile(steps, (x,), composite="epsilon", target=0, wrt=["x", name])

    assert taken(explainer.forward) == 0
    relevance = explainer(x).relevance
    share = (steps.b[0].expand(3, 1) if name == "b" else steps.layer(x)[:, 0].mean(1)).sum()
    assert float(relevance[name].sum()) == pytest.approx(float(share), abs=1e-5)


def test_a_map_in_front_is_told_that_a_layer_does_not_multiply_by_what_it_reads() -> None:
    """γ's branch for negative outputs is left out only where no relevance reaches it, and a flat layer sends it."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 4, 3), built("conv2d", BEHIND["scaled"])[0]

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))

    network = in_precision(Two(), torch.float64)
    x = torch.randn(3, 4, 7, 7, generator=RANDOM, dtype=torch.float64)
    composite = Composite("two", (Entry("*", "flat", path="second.layer"), Entry("convolution", "gamma")))

    fast, plain = (lrp.compile(network, (x,), composite=composite, target=0, optimise=one) for one in (True, False))

    torch.testing.assert_close(fast(x).relevance["x"], plain(x).relevance["x"])


def test_a_quantised_layer_gives_its_bias_a_share_by_its_own_rule(tmp_path: Path) -> None:
    """Scale and bias come behind the sum of whole numbers; z⁺ by hand, in what the numbers are worth."""
    random = np.random.default_rng(3)
    weight, zero = random.integers(0, 256, (3, 2, 2, 2)).astype(np.uint8), np.uint8(120)
    bias = random.normal(size=(1, 3, 1, 1)).astype(np.float32) * 0.3
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("ConvInteger", "q w z w_zero", "whole"),
        node("Cast", "whole", "float", to=TensorProto.FLOAT),
        node("Mul", "s w_scale", "scale"),
        node("Mul", "float scale", "scaled"),
        node("Add", "scaled bias", "map"),
        node("ReduceMean", "map axes", keepdims=0),
    ]
    axes = np.array([2, 3], np.int64)
    known = {"w": weight, "w_zero": np.array(zero), "w_scale": np.array(0.01, np.float32), "bias": bias, "axes": axes}
    graph = model(nodes, {"x": ["batch", 2, 4, 4]}, constants=known)
    x = random.normal(size=(2, 2, 4, 4)).astype(np.float32)

    explainer = lrp.compile(graph, composite=by_rule("z-plus"), target=1)
    found = explainer(torch.from_numpy(x))

    assert taken(explainer.forward) == 1
    # Means are summed in another order there.
    torch.testing.assert_close(found.output, in_onnxruntime(graph, {"x": torch.from_numpy(x)})[0], rtol=1e-6, atol=1e-6)
    step = (max(x.max(), 0) - min(x.min(), 0)) / np.float32(255)
    place = np.rint(-min(x.min(), 0) / step)
    worth = torch.from_numpy(np.clip(np.rint(x / step), -place, 255 - place) * step).double()
    filters = torch.from_numpy(weight.astype(np.float64) - zero)[1:2] * 0.01
    constant = float(bias[0, 1, 0, 0])
    maps = [(worth.clamp(min=0), filters.clamp(min=0)), (worth.clamp(max=0), filters.clamp(max=0))]
    positive = sum(nn.functional.conv2d(*one) for one in maps) + max(constant, 0)
    q = torch.from_numpy(found.output.numpy()).double()[:, 1].reshape(2, 1, 1, 1)
    each = nn.functional.conv2d(worth, filters) + constant
    torch.testing.assert_close(each.mean((2, 3))[:, 0], q.flatten(), rtol=1e-5, atol=1e-5)
    stabilised = q.abs() / (q.abs() + 1e-6)  # of the mean
    want = sum(a * nn.functional.conv_transpose2d(stabilised * each / 9 / positive, b) for a, b in maps)
    torch.testing.assert_close(found.relevance["x"].double(), want, rtol=1e-5, atol=1e-6)
