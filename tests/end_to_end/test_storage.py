"""A file gives back what was saved: relevance, books, plan and every line of the graph, whatever was compiled."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from support.blocks import INPUTS, GatedMLP, ResidualNet, TransformerBlock, build, draw
from support.called_twice import ARGS, NET
from support.promise_graphs import GRAPHS
from support.promise_graphs import build as build_promises
from support.small import small
from support.variants import ModuleAttention, WrittenOutBlock, WrittenOutMLP
from support.zoo import SEVEN
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.capture.safe_load import load_exported
from lrp_compiler.errors import LrpError
from lrp_compiler.rules.composites import COMPOSITES

pytestmark = pytest.mark.sampled(12)


class BiasAddedByHand(nn.Module):
    """Optimised, the addition becomes the map's bias: the forward graph still has both."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(5))
        self.o = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.relu(functional.linear(x, self.w) + self.b))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(3, 4, batch_first=True, bidirectional=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class OpenLoop(nn.Module):
    """A recurrent layer of any length, which becomes a loop whose body is a graph, and a scan in it with a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.mix, self.head = (
            nn.GRU(3, 4, batch_first=True),
            nn.Parameter(torch.randn(4, 4)),
            nn.Linear(4, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        every, _ = self.cell(x)
        last, _ = scan(self.step, torch.ones_like(every[:, 0]), every.transpose(0, 1))
        return self.head(last)

    def step(self, state: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.tanh(now + state @ self.mix)
        return state, state.clone()


class Quantised(nn.Module):
    """Activations rounded between fixed ends, and by the range of each row; weights kept as whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.hidden = nn.Linear(4, 5), nn.Linear(5, 5)
        self.register_buffer("weight", torch.randint(-20, 20, (3, 5), dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(torch.fake_quantize_per_tensor_affine(self.stem(x), 0.125, 3, -20, 20))
        x = self.hidden(x)
        step = x.abs().amax(-1, keepdim=True) / 127
        x = torch.clamp(torch.round(x / step), -127, 127).to(torch.int8).to(x.dtype) * step
        return functional.linear(x, self.weight.to(x.dtype) * 0.05)


class Fourier(nn.Module):
    """Complex numbers become pairs of real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.fft.irfft(torch.fft.rfft(x) * 2, n=12))


class Normed(nn.Module):
    """Batch norms before and behind a convolution, a pool of disjoint windows, a deconvolution, an expanded mask."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.first, self.after = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.up, self.head = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1), nn.Linear(4, 3)
        self.register_buffer("mask", torch.tensor([True, False, True, True]))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.after(self.first(self.before(x))).relu(), 2)
        x = self.up(x).masked_fill(~self.mask[:, None, None].expand(4, 1, 1), 0.5)
        return self.head(x.mean((2, 3)))


class Network(NamedTuple):
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: Any


def plain(model: nn.Module, *args: Tensor) -> Network:
    torch.manual_seed(0)
    return Network(model.double().eval(), tuple(x.double() if x.is_floating_point() else x for x in args), {}, None)


def block(kind: type[nn.Module]) -> Network:
    base = next(base for base in kind.__mro__ if base in INPUTS)
    batch = torch.export.Dim("batch")
    return Network(build(kind), (draw(INPUTS[base]),), {}, {"x": {0: batch}})


def of_zoo(name: str) -> Network:
    example = small(name, torch.float64)
    return Network(example.model, example.args, example.kwargs, example.dynamic_shapes)


NETWORKS: dict[str, Callable[[], Network]] = {
    "bias by hand": lambda: plain(BiasAddedByHand(), torch.randn(3, 4)),
    "lstm": lambda: plain(Recurrent(), torch.randn(2, 3, 3)),
    "loop of open length": lambda: plain(OpenLoop(), torch.randn(2, 5, 3))._replace(
        dynamic_shapes={"x": {1: torch.export.Dim("steps")}}
    ),
    "quantised": lambda: plain(Quantised(), torch.randn(3, 4)),
    "fourier": lambda: plain(Fourier(), torch.randn(2, 12)),
    "normed": lambda: plain(Normed(), torch.randn(2, 3, 8, 8)),
    "module twice": lambda: Network(NET, ARGS, {}, None),
    **{
        kind.__name__: lambda kind=kind: block(kind)
        for kind in (ResidualNet, TransformerBlock, GatedMLP, ModuleAttention, WrittenOutBlock, WrittenOutMLP)
    },
    **{
        function.__name__: lambda function=function, layers=layers: plain(*build_promises(function, layers))
        for function, layers in GRAPHS
    },
}
REFUSED = {("loop of open length", "reference"): "A loop .* has no rule for differences yet"}
"""(network, composite) → what is said of what cannot be."""
BOX = {"epsilon-gamma-box": {"low": -9.0, "high": 9.0}}
network = cache(lambda name: NETWORKS[name]())


def composite(name: str) -> lrp.Composite:
    return COMPOSITES[name](**BOX.get(name, {}))


def comes_back(given: Network, folder: Path, **options: Any) -> None:
    explainer = lrp.compile(given.model, given.args, given.kwargs, dynamic_shapes=given.dynamic_shapes, **options)
    explainer.save(folder / "m.lrp.pt2")

    loaded = lrp.load(folder / "m.lrp.pt2")

    choice: dict[str, Any] = {"target": 1} if options.get("target") == "index" else {}
    if explainer.about.differences:
        own = [spec for spec in explainer.about.inputs if not spec.name.startswith("reference.")]
        choice["reference"] = {spec.name: 0 for spec in own if not spec.dtype.startswith("float")}
    first, second = (each(*given.args, **given.kwargs, **choice) for each in (explainer, loaded))
    for name, relevance in first.relevance.items():
        assert torch.equal(relevance, second.relevance[name]), name
    assert loaded.metadata == explainer.metadata
    assert str(loaded.show()) == str(explainer.show())
    assert str(loaded.plan) == str(explainer.plan)
    books = [each.audit(*given.args, **given.kwargs, **choice).to_dict() for each in (explainer, loaded)]
    assert books[0] == books[1]
    parts = [each.split() for each in (explainer, loaded)]
    assert [part.meta for part in parts[0]] == [part.meta for part in parts[1]]


@pytest.mark.slow
@pytest.mark.sampled(48)
@pytest.mark.parametrize("rules", ["epsilon", "epsilon-gamma-box", "attnlrp", "dynamic-lrp"])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_saved_comes_back(name: str, rules: str, tmp_path: Path) -> None:
    comes_back(network(name), tmp_path, composite=composite(rules), target="index", memory_budget=0.5)


@pytest.mark.heavy
@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize("rules", COMPOSITES)
@pytest.mark.parametrize("name", [*NETWORKS, *SEVEN])
def test_every_network_comes_back_under_every_composite(name: str, rules: str, optimise: bool, tmp_path: Path) -> None:
    given = of_zoo(name) if name in SEVEN else network(name)
    refused = REFUSED.get((name, rules))

    with pytest.raises(LrpError, match=refused) if refused else nullcontext():
        comes_back(given, tmp_path, composite=composite(rules), target="index", optimise=optimise)


@pytest.mark.parametrize(
    "options",
    [
        {"target": [0, 2]},
        {"target": (0, 1), "seed": "one"},
        {"target": lambda out: out[:, 0] * 2 - out[:, 1]},
        {"wrt": ["x", "first.weight", "head.bias"]},
        {"observe": ["first", "max_pool2d*"]},
        {"optimise": False},
    ],
    ids=["several targets", "pair", "function", "wrt", "observe", "not optimised"],
)
def test_whatever_was_asked_for_comes_back(options: dict[str, Any], tmp_path: Path) -> None:
    comes_back(network("normed"), tmp_path, composite="epsilon-plus", **options)


@pytest.mark.slow
def test_a_loaded_explainer_observes_as_the_compiled_one_does(tmp_path: Path) -> None:
    given = network("normed")
    for optimise in (True, False):
        explainer = lrp.compile(given.model, given.args, composite="epsilon-plus", optimise=optimise, memory_budget=0.5)
        explainer.save(tmp_path / "m.lrp.pt2")

        shown = [str(each.observe("first").show()) for each in (explainer, lrp.load(tmp_path / "m.lrp.pt2"))]

        assert shown[0] == shown[1]
        assert ("conv_transpose" in str(explainer.show())) or optimise


@pytest.mark.slow
def test_reading_leaves_torch_as_it_was(tmp_path: Path) -> None:
    from torch._export.serde import serialize

    before = serialize.typing, serialize.GraphModuleDeserializer._parse_sym_expr
    given = network("normed")
    lrp.compile(given.model, given.args, dynamic_shapes=given.dynamic_shapes).save(tmp_path / "m.lrp.pt2")
    (tmp_path / "no.pt2").write_bytes((tmp_path / "m.lrp.pt2").read_bytes()[:5000])

    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(lrp.load, [tmp_path / "m.lrp.pt2"] * 8))
    with pytest.raises(LrpError):
        lrp.load(tmp_path / "no.pt2")

    assert len({str(each.show()) for each in loaded}) == 1
    assert (serialize.typing, serialize.GraphModuleDeserializer._parse_sym_expr) == before


@pytest.mark.slow
def test_a_program_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    given = of_zoo("bert")
    program = torch.export.export(given.model, given.args, given.kwargs, dynamic_shapes=given.dynamic_shapes)
    torch.export.save(program, tmp_path / "m.pt2")

    ours, theirs = load_exported(tmp_path / "m.pt2"), torch.export.load(tmp_path / "m.pt2")

    assert str(ours.graph) == str(theirs.graph)
    assert [str(node.meta.get("val")) for node in ours.graph.nodes] == [
        str(node.meta.get("val")) for node in theirs.graph.nodes
    ]
    assert ours.range_constraints == theirs.range_constraints
    assert ours.graph_signature == theirs.graph_signature
