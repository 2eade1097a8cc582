"""Recurrent layers, written out step by step: the signal takes all, the gates nothing.

The reference is a dense loop over torch's own weights in which every gate is detached and every activation is a
detached factor: relevance in the limit ε → 0 is then input × gradient.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.passes.decompose.table import DECOMPOSITIONS
from lrp_compiler.rules.composite import Composite, Entry
from lrp_compiler.rules.composites import attnlrp

pytestmark = pytest.mark.sampled(12)

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(3, 4, batch_first=True),
    "lstm, two layers both ways": lambda: nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True),
    "lstm, projected": lambda: nn.LSTM(3, 4, 2, proj_size=2, bidirectional=True, batch_first=True),
    "lstm, no bias": lambda: nn.LSTM(3, 4, bias=False, batch_first=True),
    "lstm, time first": lambda: nn.LSTM(3, 4),
    "gru": lambda: nn.GRU(3, 4, batch_first=True),
    "gru, two layers both ways": lambda: nn.GRU(3, 4, 2, bidirectional=True, batch_first=True),
    "gru, no bias": lambda: nn.GRU(3, 4, bias=False),
    "rnn": lambda: nn.RNN(3, 4, 2, bidirectional=True, batch_first=True),
    "rnn with relu": lambda: nn.RNN(3, 4, nonlinearity="relu", batch_first=True),
}


STEPS = 4


class Net(nn.Module):
    """A recurrent layer, its last step classified."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.layer = layer
        width = getattr(layer, "proj_size", 0) or layer.hidden_size
        self.head = nn.Linear(width * (2 if layer.bidirectional else 1), 5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.layer(x)
        return self.head(output[:, -1] if self.layer.batch_first else output[-1])


def net(name: str, dtype: torch.dtype = torch.float64) -> Net:
    return Net(LAYERS[name]()).to(dtype).eval()


def inputs(model: Net, batch: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, STEPS, 3) if model.layer.batch_first else (STEPS, batch, 3)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(model.head.weight.dtype)


@cache
def compiled(name: str, composite: str) -> lrp.Explainer:
    """Of class 2, in float64."""
    return lrp.compile(net(name), (inputs(net(name)),), composite=composite, target=2)


def frozen(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f(x) as x times a constant."""
    return x * (function(x) / x).detach()


def reference(model: Net, x: Tensor) -> Tensor:
    """Logits of the dense loop."""
    layer = model.layer
    steps = x.transpose(0, 1) if layer.batch_first else x
    for number in range(layer.num_layers):
        directions = []
        for suffix in ("", "_reverse") if layer.bidirectional else ("",):
            w_ih, w_hh, b_ih, b_hh, w_hr = (
                getattr(layer, f"{kind}_l{number}{suffix}", None)
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
            )
            h = torch.zeros(x.shape[0 if layer.batch_first else 1], w_hh.shape[1], dtype=x.dtype)
            c = torch.zeros(h.shape[0], layer.hidden_size, dtype=x.dtype)
            results = []
            for step in steps.flip(0) if suffix else steps:
                a = nn.functional.linear(step, w_ih, b_ih)
                b = nn.functional.linear(h, w_hh, b_hh)
                if isinstance(layer, nn.LSTM):
                    i, f, g, o = (a + b).chunk(4, -1)
                    c = f.sigmoid().detach() * c + i.sigmoid().detach() * frozen(torch.tanh, g)
                    h = o.sigmoid().detach() * frozen(torch.tanh, c)
                    h = h if w_hr is None else h @ w_hr.T
                elif isinstance(layer, nn.GRU):
                    (ar, az, an), (br, bz, bn) = a.chunk(3, -1), b.chunk(3, -1)
                    z = (az + bz).sigmoid().detach()
                    h = (1 - z) * frozen(torch.tanh, an + (ar + br).sigmoid().detach() * bn) + z * h
                else:
                    h = frozen(torch.relu if layer.nonlinearity == "relu" else torch.tanh, a + b)
                results.append(h)
            directions.append(torch.stack(results[::-1] if suffix else results))
        steps = torch.cat(directions, -1)
    return model.head(steps[-1])


@pytest.mark.parametrize("name", LAYERS)
def test_the_written_out_layer_computes_the_same(name: str) -> None:
    layer = net(name).layer
    x = inputs(net(name))
    batch = x.shape[0 if layer.batch_first else 1]
    directions = (2 if layer.bidirectional else 1) * layer.num_layers
    h = torch.randn(directions, batch, getattr(layer, "proj_size", 0) or 4, dtype=torch.float64)
    c = torch.randn(directions, batch, 4, dtype=torch.float64)
    state = (h, c) if isinstance(layer, nn.LSTM) else h
    kinds = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}
    target = getattr(torch.ops.aten, kinds[layer.mode]).input

    written_out = DECOMPOSITIONS[target](
        x,
        state,
        list(layer.parameters()),
        layer.bias,
        layer.num_layers,
        0.0,
        False,
        layer.bidirectional,
        layer.batch_first,
    )

    output, last = layer(x, state)
    for ours, theirs in zip(written_out, (output, *(last if isinstance(last, tuple) else (last,))), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_written_out_cell_computes_the_same(kind: str, bias: bool) -> None:
    cell = getattr(nn, f"{kind}Cell")(3, 4, bias=bias).double()
    target = {"LSTM": torch.ops.aten.lstm_cell, "GRU": torch.ops.aten.gru_cell, "RNN": torch.ops.aten.rnn_tanh_cell}
    x, h, c = torch.randn(2, 3).double(), torch.randn(2, 4).double(), torch.randn(2, 4).double()
    state: Any = (h, c) if kind == "LSTM" else h

    written_out = DECOMPOSITIONS[target[kind].default](x, state, *cell.parameters())

    torch.testing.assert_close(written_out, cell(x, state), rtol=1e-12, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_relevance_is_that_of_the_dense_loop(name: str) -> None:
    model = net(name)
    x = inputs(model)
    explainer = compiled(name, "attnlrp")

    leaf = x.clone().requires_grad_()
    logits = reference(model, leaf)
    torch.testing.assert_close(logits, model(x))
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), leaf)
    torch.testing.assert_close(explainer(x).relevance["x"], x * gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.sampled(48)
@pytest.mark.parametrize("composite", ["attnlrp", "epsilon-plus"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_books_balance(name: str, composite: str) -> None:
    audit = compiled(name, composite).audit(inputs(net(name)))

    assert audit.error == pytest.approx(0, abs=1e-9 * audit.magnitude)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["lstm, two layers both ways", "gru"])
def test_a_composite_may_let_the_gates_share(name: str) -> None:
    model = net(name)
    x = inputs(model)
    shared = Composite("shared", (Entry("recurrent gate", "uniform"), *attnlrp().entries))

    explainer = lrp.compile(model, (x,), composite=shared, target=2)

    audit = explainer.audit(x)
    assert audit.error == pytest.approx(0, abs=1e-12 * audit.magnitude)  # float64 leaves 2e-16
    signal = compiled(name, "attnlrp")(x).relevance["x"]
    assert not torch.allclose(explainer(x).relevance["x"], signal, rtol=1e-2)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["lstm, projected", "gru, two layers both ways", "rnn"])
def test_onnxruntime_computes_the_same_at_another_batch_size(name: str, tmp_path: Path) -> None:
    model = net(name, torch.float32)
    dims = ({0: torch.export.Dim("batch")},)
    explainer = lrp.compile(model, (inputs(model, 2),), composite="attnlrp", target=2, dynamic_shapes=dims)
    explainer.to_onnx(tmp_path / "m.onnx")
    x = inputs(model, 5, seed=9)

    (relevance,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(["relevance.x"], {"x": x.numpy()})

    expected = explainer(x).relevance["x"]
    # Two runtimes in float32; what falls together is summed in other orders: some ten roundings of 6e-8.
    difference = (torch.from_numpy(relevance) - expected).abs().max() / expected.abs().max()
    assert difference < 1e-6, difference


def test_a_loaded_explainer_keeps_its_books(tmp_path: Path) -> None:
    x = inputs(net("lstm"))
    explainer = compiled("lstm", "attnlrp")
    explainer.save(tmp_path / "m.lrp.pt2")

    loaded = lrp.load(tmp_path / "m.lrp.pt2")

    assert torch.equal(loaded(x).relevance["x"], explainer(x).relevance["x"])
    assert loaded.audit(x).absorbed == pytest.approx(explainer.audit(x).absorbed)


@pytest.mark.slow
def test_the_length_of_the_sequence_may_be_open() -> None:
    """By a loop; `end_to_end/test_loops.py` compares every kind."""
    model = net("lstm")
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("time")},)
    explainer = lrp.compile(model, (inputs(model),), composite="attnlrp", dynamic_shapes=shapes)

    longer = torch.cat([inputs(model)] * 2, 1)
    expected = lrp.compile(model, (longer,), composite="attnlrp")(longer)
    torch.testing.assert_close(explainer(longer).relevance, expected.relevance)
