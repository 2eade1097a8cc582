"""Files that onnxruntime has optimised are explained as the files that they were made of."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.onnx_graphs import in_onnxruntime
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.errors import CaptureError

SMALL = {"vocab_size": 50, "attn_implementation": "eager"}
IDS = torch.randint(1, 50, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, 6:] = 0


class Logits(nn.Module):
    """What transformers' classes return, without what is around it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, **sizes))


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 24, "bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL, **sizes, use_cache=False))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "bert": (bert, "argmax"),
    "gpt2": (gpt2, lrp.Target(3, position=1)),
}


def exported(name: str, folder: Path) -> Path:
    model = NETWORKS[name][0]()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    path = folder / "model.onnx"
    sizes = {0: "batch", 1: "length"}
    axes = {"input_ids": sizes, "attention_mask": sizes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about its own exporter
        torch.onnx.export(
            Logits(model).eval(), (IDS, MASK), path, dynamo=False, dynamic_axes=axes, input_names=list(axes)
        )
    return path


def by_session(path: Path, name: str, level: str = "EXTENDED") -> Path:
    """As a session writes it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(path.with_suffix(f".{level.lower()}.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Path(options.optimized_model_filepath)


def by_optimiser(path: Path, name: str) -> Path:
    """As the optimiser of transformers writes it."""
    optimiser = pytest.importorskip("onnxruntime.transformers.optimizer")
    written = path.with_suffix(".optimised.onnx")
    optimiser.optimize_model(str(path), model_type=name, num_heads=4, hidden_size=32).save_model_to_file(str(written))
    return written


CASES = [
    pytest.param("bert", by_optimiser),
    pytest.param("bert", by_session, marks=pytest.mark.heavy),
    pytest.param("gpt2", by_optimiser, marks=pytest.mark.heavy),
    pytest.param("gpt2", by_session, marks=pytest.mark.heavy),
]


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "optimise"), CASES)
def test_an_optimised_file_is_explained_as_it_was_before(
    name: str, optimise: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    path = exported(name, tmp_path)
    optimised = optimise(path, name)
    assert any(node.domain == "com.microsoft" for node in onnx.load(optimised).graph.node)

    found, wanted = (
        lrp.compile(one, (IDS, MASK), composite="attnlrp", target=NETWORKS[name][1])(IDS, MASK)
        for one in (optimised, path)
    )

    expected = in_onnxruntime(onnx.load(path), {"input_ids": IDS, "attention_mask": MASK})[0]
    # Fused layer norms and GELUs calculate in another order than what they stand for.
    torch.testing.assert_close(found.output, expected, rtol=1e-4, atol=1e-5)
    a, b = found.relevance["input_ids"], wanted.relevance["input_ids"]
    assert float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


def test_what_is_laid_out_for_one_processor_gets_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    network = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about its own exporter
        torch.onnx.export(network, (torch.zeros(1, 16, 8, 8),), path, dynamo=False)
    optimised = by_session(path, "", "ALL")
    if all(node.domain != "com.microsoft.nchwc" for node in onnx.load(optimised).graph.node):
        pytest.skip("onnxruntime lays nothing out for this processor")

    with pytest.raises(CaptureError, match="ORT_ENABLE_EXTENDED"):
        lrp.compile(optimised)


@pytest.mark.slow
def test_a_quantised_file_that_was_optimised_is_explained(tmp_path: Path) -> None:
    """What quantises and dequantises around layers becomes layers of whole numbers."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    random = np.random.default_rng(0)

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter([{"x": random.normal(size=(2, 3, 8, 8)).astype(np.float32)} for _ in range(3)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rest, None)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.stem(x))
            hidden = hidden + torch.sigmoid(self.branch(hidden))
            return self.head(nn.functional.avg_pool2d(hidden, 8).flatten(1))

    path, quantised = tmp_path / "model.onnx", tmp_path / "quantised.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about its own exporter
        axes = {"x": {0: "batch"}}
        torch.onnx.export(
            Residual().eval(), (torch.zeros(2, 3, 8, 8),), path, dynamo=False, dynamic_axes=axes, input_names=["x"]
        )
    quantize_static(path, quantised, Batches(), per_channel=True, weight_type=QuantType.QInt8)
    optimised = by_session(quantised, "")
    assert {"QGemm", "QLinearSigmoid"} <= {node.op_type for node in onnx.load(optimised).graph.node}
    x = torch.randn(3, 3, 8, 8)

    found, wanted = (lrp.compile(one, composite="epsilon-plus", target=1)(x) for one in (optimised, path))

    # Equal here; where a processor's kernels round a sum apart, a step of 8 bits more or less.
    torch.testing.assert_close(
        found.output,
        in_onnxruntime(onnx.load(optimised), {"x": x})[0],
        rtol=0,
        atol=0.02 * float(found.output.abs().max()),
    )
    cosine = torch.cosine_similarity(found.relevance["x"].flatten(1), wanted.relevance["x"].flatten(1), 1)
    assert float(cosine.min()) > 0.95
