"""What is explained of a file is what is explained of the module that it was made of."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from support.onnx_graphs import in_onnxruntime, node
from support.onnx_graphs import model as graph
from torch import Tensor, nn
from torch.export import Dim

import lrp_compiler as lrp
from lrp_compiler.cli import main

pytestmark = pytest.mark.sampled(4)

BATCH = Dim("batch")


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2))
        self.branch = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        return self.head((hidden + self.branch(hidden)).flatten(1))


class Block(nn.Module):
    """A pre-norm transformer block with open lengths, of operations that both exporters keep open."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.norm, self.last = nn.LayerNorm(8), nn.LayerNorm(8)
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.table(ids)
        x = self.norm(hidden)
        q, k, v = (one(x).unflatten(-1, (2, 4)).transpose(1, 2) for one in (self.query, self.key, self.value))
        weights = torch.softmax(q @ k.transpose(-1, -2) / 2, -1)
        hidden = hidden + self.out((weights @ v).transpose(1, 2).flatten(2))
        hidden = hidden + self.down(nn.functional.gelu(self.up(hidden)))
        return self.head(self.last(hidden).mean(1))


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True, bidirectional=True), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


MODELS = {
    "cnn": (Cnn, torch.zeros(2, 3, 8, 8), ("batch",), ("epsilon", "epsilon-plus")),
    "block": (Block, torch.zeros(2, 6, dtype=torch.int64), ("batch", "length"), ("attnlrp", "epsilon")),
    "lstm": (Lstm, torch.zeros(2, 3, 4), ("batch",), ("epsilon",)),
}


def exported(model: nn.Module, x: Tensor, names: tuple[str, ...], path: Path, *, dynamo: bool) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about its own exporters
        if dynamo:
            shapes = ({place: Dim(name) for place, name in enumerate(names)},)
            torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=shapes, input_names=["x"], verbose=False)
        else:
            axes = {"x": dict(enumerate(names))}
            options = {"input_names": ["x"], "opset_version": 14}  # norms and activations in primitives
            torch.onnx.export(model, (x,), path, dynamo=False, dynamic_axes=axes, **options)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "TorchScript"])
@pytest.mark.parametrize("name", ["cnn", "block", pytest.param("lstm", marks=pytest.mark.heavy)])
def test_a_file_is_explained_as_its_module(name: str, dynamo: bool, tmp_path: Path) -> None:
    """Both in float32: each may be as far from float64 as float32 is, three times over."""
    build, x, names, composites = MODELS[name]
    module = build().eval()
    path = exported(module, x, names, tmp_path / "m.onnx", dynamo=dynamo)
    other = torch.randint(0, 20, (3, 9)) if name == "block" else torch.randn(3, *x.shape[1:])
    shapes = ({place: Dim(one) for place, one in enumerate(names)},)

    for composite in composites:
        ours = lrp.compile(path, composite=composite)
        theirs = lrp.compile(module, (x,), composite=composite, dynamic_shapes=shapes)
        exact = lrp.compile(_double(module), (_as_double(x),), composite=composite, dynamic_shapes=shapes)

        true = next(iter(exact(_as_double(other)).relevance.values()))
        found, expected = (next(iter(one(other).relevance.values())).double() for one in (ours, theirs))
        slack = 3 * max(float((expected - true).abs().max()), 1e-6 * float(true.abs().max()))
        assert float((found - true).abs().max()) <= slack
        assert len(ours.module.graph.nodes) <= 1.2 * len(theirs.module.graph.nodes)


def _double(module: nn.Module) -> nn.Module:
    copy = type(module)()
    copy.load_state_dict(module.state_dict())
    return copy.double().eval()


def _as_double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def test_an_lstm_is_explained_as_its_module(tmp_path: Path) -> None:
    module, x = Lstm().eval(), torch.randn(2, 2, 4)
    path = exported(module, x, ("batch",), tmp_path / "m.onnx", dynamo=False)
    other = torch.randn(3, 2, 4)

    ours, theirs = (
        lrp.compile(path, composite="cp-lrp"),
        lrp.compile(module, (x,), composite="cp-lrp", dynamic_shapes=({0: BATCH},)),
    )

    torch.testing.assert_close(ours(other).relevance["x"], theirs(other).relevance["x"], rtol=1e-6, atol=1e-7)
    assert len(ours.module.graph.nodes) <= 1.1 * len(theirs.module.graph.nodes)  # no weight is put in order there


class Batches(CalibrationDataReader):
    def __init__(self) -> None:
        self.rest = iter(
            [{"x": np.random.default_rng(k).normal(size=(2, 3, 8, 8)).astype(np.float32)} for k in range(3)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.rest, None)


@pytest.mark.heavy
def test_a_quantised_file_is_explained_as_it_runs(tmp_path: Path) -> None:
    path = exported(Cnn().eval(), MODELS["cnn"][1], ("batch",), tmp_path / "m.onnx", dynamo=False)
    quantised = tmp_path / "q.onnx"
    quantize_static(path, quantised, Batches(), per_channel=True, weight_type=QuantType.QInt8)
    x = torch.randn(3, 3, 8, 8)

    explainer = lrp.compile(quantised, composite="epsilon")
    found, floats = explainer(x), lrp.compile(path, composite="epsilon")(x)

    torch.testing.assert_close(found.output, in_onnxruntime(onnx.load(quantised), {"x": x})[0], rtol=0, atol=1e-5)
    assert torch.cosine_similarity(found.relevance["x"].flatten(), floats.relevance["x"].flatten(), 0) > 0.9
    books = explainer.audit(x)
    assert abs(books.error) <= 1e-9 * books.magnitude
    assert any(one.dtype == torch.int8 and one.numel() > 100 for one in explainer.module.buffers())


@pytest.mark.slow
def test_the_command_line_takes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(exported(Cnn().eval(), MODELS["cnn"][1], ("batch",), tmp_path / "m.onnx", dynamo=False))
    out = str(tmp_path / "m.lrp.onnx")

    assert main(["compile", path, "-o", out, "--composite", "epsilon-plus"]) == 0
    assert main(["verify", out, "--against", path]) == 0
    assert main(["coverage", path]) == 0
    assert main(["plan", path]) == 0
    assert main(["inspect", path, "--only", "body"]) == 0
    assert "FAILED" not in capsys.readouterr().out


def test_relevance_passes_a_pool_between_quantise_and_dequantise() -> None:
    """A linear model's relevance is the logit, whatever the zero point: nothing is added on the way."""
    proto = graph(
        [
            node("QuantizeLinear", "x s z", "q"),
            node("MaxPool", "q", "m", kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", "m", "f"),
            node("DequantizeLinear", "f s z", "d"),
            node("MatMul", "d w"),
        ],
        {"x": ["batch", 1, 4, 4]},
        constants={"s": np.array(0.02, np.float32), "z": np.array(100, np.uint8), "w": np.ones((4, 3), np.float32)},
    )
    x = torch.rand(3, 1, 4, 4)

    found = lrp.compile(proto)(x)

    torch.testing.assert_close(found.output, in_onnxruntime(proto, {"x": x})[0])
    torch.testing.assert_close(found.relevance["x"].sum((1, 2, 3)), found.output[:, 0], rtol=5e-6, atol=1e-6)


def test_a_traced_group_norm_has_no_scale_of_ones(tmp_path: Path) -> None:
    module, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)).eval(), torch.zeros(2, 3, 6, 6)
    path = exported(module, x, ("batch",), tmp_path / "m.onnx", dynamo=False)

    program = torch.export.export(lrp.from_onnx(path), (x,))

    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert called.count(torch.ops.aten.mul.Tensor) == 1
    torch.testing.assert_close(program.module()(x + 1), module(x + 1), rtol=1e-5, atol=1e-6)
