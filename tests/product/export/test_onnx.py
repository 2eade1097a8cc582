"""The ONNX file computes what the explainer computes, on inputs and sizes that the compiler never saw.

The yardstick is float64. Two float32 programs may differ by much more than rounding, and rightly so: relevance is
discontinuous where rounding flips the winner of a max pool or the sign of a ReLU's input, and it is badly conditioned
where an ε rule divides by a small sum. So no fixed tolerance tells right from wrong. Instead every row's error against
float64 is measured for both runtimes, and the median over at least nine rows (single flips are outliers) of
onnxruntime's may be at most three times that of torch in float32.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.exported_net import export_net
from support.folders import ROOT, TESTS
from support.row_errors import logits_of, row_errors
from support.small import COMPOSITE, small
from support.zoo import SEVEN, Example
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import LrpError
from lrp_compiler.base.metadata import OPSETS
from lrp_compiler.check.verify import verify
from lrp_compiler.export import onnx as onnx_export
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(4)

Explain = Callable[..., lrp.Explainer]
IMAGES = ("vgg16", "resnet50", "efficientnet_lite0", "vit_b_16")

# Batches of 1 and 3, and for text two lengths that are not the example's: ten rows.
SIZES = [(1, 7), (3, 9), (3, 7), (3, 17)]


@pytest.fixture(scope="module")
def onnx_file(explain: Explain, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`onnx_file(name)`: the small architecture's explainer as a file, written once."""
    folder = tmp_path_factory.mktemp("onnx")

    def write(name: str) -> Path:
        path = folder / f"{name}.lrp.onnx"
        if not path.exists():
            explain(name, COMPOSITE[name]).to_onnx(path)
        return path

    return write


def compare(
    example: Example, single: lrp.Explainer, double: lrp.Explainer, path: Path
) -> dict[str, tuple[float, float]]:
    """Median row error of (onnxruntime, torch in float32) for logits and relevance."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    errors: dict[str, tuple[list, list]] = {"logits": ([], []), "relevance": ([], [])}
    for seed, (batch, length) in enumerate(SIZES, start=20):
        args, kwargs = example.fresh(batch=batch, length=length, seed=seed)
        target = torch.arange(batch) + 2
        exactly = [tensor.double() if tensor.is_floating_point() else tensor for tensor in args]
        exact = double(*exactly, target=target, **kwargs)
        ours = single(*args, target=target, **kwargs)
        (name,) = exact.relevance
        names = [spec.name for spec in single.inputs]
        feeds = dict(zip(names, [*args, *kwargs.values()], strict=True)) | {"target": target}
        logits_name = "logits" if "logits" in [value.name for value in session.get_outputs()] else "output"
        logits, relevance = session.run(
            [logits_name, f"relevance.{name}"], {key: value.numpy() for key, value in feeds.items()}
        )
        for kind, run, torch_run, reference in (
            ("logits", logits, logits_of(ours.output), logits_of(exact.output)),
            ("relevance", relevance, ours.relevance[name], exact.relevance[name]),
        ):
            assert run.shape == tuple(reference.shape)
            errors[kind][0].extend(row_errors(run, reference))
            errors[kind][1].extend(row_errors(torch_run.numpy(), reference))
    assert len(errors["relevance"][0]) >= 9
    return {kind: (float(np.median(ort)), float(np.median(own))) for kind, (ort, own) in errors.items()}


@pytest.mark.slow
@pytest.mark.sampled(16)
@pytest.mark.parametrize("name", SEVEN)
def test_onnxruntime_is_as_close_to_float64_as_torch(
    name: str, explain: Explain, onnx_file: Callable[[str], Path]
) -> None:
    composite = COMPOSITE[name]
    single, double = explain(name, composite), explain(name, composite, torch.float64)

    medians = compare(small(name), single, double, onnx_file(name))

    for kind, (onnxruntime_error, torch_error) in medians.items():
        assert onnxruntime_error <= 3 * torch_error, kind


@pytest.mark.heavy
@pytest.mark.parametrize("name", SEVEN)
def test_onnxruntime_is_as_close_to_float64_as_torch_at_full_depth(name: str, tmp_path: Path) -> None:
    example = SEVEN[name].build(width=8)
    explainers = []
    for dtype in (torch.float32, torch.float64):
        typed = SEVEN[name].build(width=8, dtype=dtype)
        explainers.append(
            lrp.compile(
                typed.model,
                typed.args,
                typed.kwargs,
                composite=COMPOSITE[name],
                target="index",
                dynamic_shapes=typed.dynamic_shapes,
            )
        )
    explainers[0].to_onnx(tmp_path / "m.lrp.onnx")

    medians = compare(example, *explainers, tmp_path / "m.lrp.onnx")

    for kind, (onnxruntime_error, torch_error) in medians.items():
        assert onnxruntime_error <= 3 * torch_error, kind


@pytest.mark.parametrize("name", SEVEN)
def test_the_file_is_plain_onnx(name: str, onnx_file: Callable[[str], Path]) -> None:
    path = onnx_file(name)

    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)

    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert {node.domain for node in nodes_of(model)} == {""}
    assert not model.functions


@pytest.mark.sampled(16)
@pytest.mark.parametrize("opset", OPSETS)
def test_a_file_has_the_opset_that_was_asked_for(opset: int, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)).eval()
    explainer = lrp.compile(model, (torch.rand(2, 2, 5, 5),), composite="epsilon-plus")
    explainer.to_onnx(tmp_path / "m.lrp.onnx", opset=opset)
    assert [entry.version for entry in onnx.load(tmp_path / "m.lrp.onnx").opset_import] == [opset]
    assert verify(tmp_path / "m.lrp.onnx").passed


@pytest.mark.sampled(16)
@pytest.mark.parametrize("opset", [17, 24, 99, 2**40, -1, True, 18.0, "18"])
def test_an_opset_that_would_become_another_is_refused(opset: Any, tmp_path: Path) -> None:
    explainer = lrp.compile(nn.Linear(4, 3).eval(), (torch.randn(2, 4),))
    with pytest.raises(LrpError, match=rf"Opset {opset} is not supported: choose 18 to 23\."):
        explainer.to_onnx(tmp_path / "m.lrp.onnx", opset=opset)
    assert not list(tmp_path.iterdir())


def nodes_of(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Every node, those of subgraphs included."""
    found, queue = [], [model.graph]
    while queue:
        for node in queue.pop().node:
            found.append(node)
            queue.extend(attribute.g for attribute in node.attribute if attribute.HasField("g"))
    return found


@pytest.mark.parametrize("name", SEVEN)
def test_inputs_outputs_and_dims_are_named(name: str, onnx_file: Callable[[str], Path]) -> None:
    graph = onnx.load(onnx_file(name)).graph

    dims = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }

    if name in IMAGES:
        size = 224 if name == "vgg16" else 64
        image = ["batch", 3, size, size]
        assert dims == {"x": image, "target": ["batch"], "output": ["batch", 10], "relevance.x": image}
        assert [value.name for value in graph.input] == ["x", "target"]
    else:
        tokens = ["batch", "sequence"]
        logits = ["batch", 10] if name == "bert" else [*tokens, 199]
        assert dims == {"input_ids": tokens, "target": ["batch"], "logits": logits, "relevance.input_ids": tokens}
        assert [value.name for value in graph.input] == ["input_ids", "target"]


@pytest.mark.parametrize("name", SEVEN)
def test_the_file_holds_no_source_text(name: str, onnx_file: Callable[[str], Path]) -> None:
    content = onnx_file(name).read_bytes()

    traces = [b"site-packages", b"def forward", b"stack_trace", b'File "', str(ROOT).encode(), b"/lib/python"]
    assert [trace for trace in traces if trace in content] == []


@pytest.mark.slow
def test_two_exports_in_one_process_are_byte_identical(tmp_path: Path) -> None:
    for stem in ("first", "second"):
        export_net(tmp_path / f"{stem}.onnx")

    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


@pytest.mark.heavy
def test_exports_are_byte_identical_across_hash_seeds(tmp_path: Path) -> None:
    script = "import sys; from support.exported_net import export_net; export_net(sys.argv[1])"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / f"{hash_seed}.onnx")],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{TESTS}{os.pathsep}{ROOT}"},
            stderr=subprocess.PIPE,
        )
        for hash_seed in ("1", "2")
    ]

    for process in processes:
        _, messages = process.communicate(timeout=120)
        assert process.returncode == 0, messages.decode()

    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


def test_what_the_quick_way_cannot_translate_torchs_own_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A strided convolution's transpose has no translation of its own: nothing decomposed, the first attempt fails."""
    monkeypatch.setattr(onnx_export, "decomposed", lambda program, table: program)
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Flatten()).eval(), torch.randn(2, 3, 7, 7)
    explainer = lrp.compile(net, (x,), target=1)

    explainer.to_onnx(tmp_path / "m.lrp.onnx")

    found = OnnxExplainer(tmp_path / "m.lrp.onnx")(x.numpy()).relevance["input"]
    torch.testing.assert_close(torch.from_numpy(found), explainer(x).relevance["input"], rtol=1e-5, atol=1e-6)
