"""What other runtimes than onnxruntime make of a file: right, or refused by `verify`."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.blocks import build
from support.folders import ROOT
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError, LrpError
from lrp_compiler.check.runtimes import RUNTIMES, SCRIPT
from lrp_compiler.check.verify import verify
from lrp_compiler.cli import main
from lrp_compiler.export import onnx as export
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(12)

SIZE = 96
"""Square matrices larger than what the exporter folds into constants of their own."""


class Block(nn.Module):
    """A transformer block whose queries, keys, values and outputs are square, pooled."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(SIZE, 4, 2 * SIZE, activation="gelu", batch_first=True)
        self.block, self.head = layer, nn.Linear(SIZE, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x).mean(1))


class Tied(nn.Module):
    """One square matrix in two layers, and transposed in a third."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(self.one(x).relu()).relu() @ self.one.weight)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "rows": (lambda: nn.Sequential(nn.Linear(SIZE, SIZE), nn.ReLU(), nn.Linear(SIZE, SIZE)), (2, SIZE)),
    "tokens": (
        lambda: nn.Sequential(nn.Linear(SIZE, SIZE), nn.ReLU(), nn.Flatten(), nn.Linear(5 * SIZE, 3)),
        (2, 5, SIZE),
    ),
    "tied": (Tied, (2, SIZE)),
    "attention": (Block, (2, 5, SIZE)),
    "kernels of one pixel": (
        lambda: nn.Sequential(nn.Conv2d(SIZE, SIZE, 1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(SIZE, 3)),
        (2, SIZE, 4, 4),
    ),
}


def written(name: str, path: Path, composite: str = "attnlrp", **options: Any) -> Path:
    make, shape = NETWORKS[name]
    model = build(make).float().eval()
    batch = torch.export.Dim("batch")
    explainer = lrp.compile(model, (torch.randn(shape),), composite=composite, dynamic_shapes=({0: batch},))
    explainer.to_onnx(path, **options)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["fast", "small"])
@pytest.mark.parametrize("dtype", ["model", pytest.param("float16", marks=pytest.mark.heavy)])
@pytest.mark.parametrize(
    "composite", ["attnlrp", pytest.param("epsilon-plus", marks=pytest.mark.heavy), "attnlrp-gamma"]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_openvino_explains_what_onnxruntime_does(
    name: str, composite: str, dtype: str, profile: str, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    file = written(name, tmp_path / "m.lrp.onnx", composite, dtype=dtype, profile=profile)
    x = torch.randn(3, *NETWORKS[name][1][1:], generator=torch.Generator().manual_seed(2)).numpy()
    explain = OnnxExplainer(file)
    (relevance,) = explain(x).relevance.values()
    (spec,) = explain.inputs

    results = RUNTIMES["openvino"].opens(str(file), explain.about)({spec.name: x})

    np.testing.assert_allclose(
        results[f"relevance.{spec.name}"], relevance, rtol=0, atol=3e-5 * float(np.abs(relevance).max())
    )


def test_square_weights_are_in_the_file_once(tmp_path: Path) -> None:
    file = written("tokens", tmp_path / "m.lrp.onnx")

    assert os.path.getsize(file) < 1.05 * 4 * (SIZE * SIZE + 15 * SIZE) + 20_000


def test_a_runtime_that_is_wrong_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(export, "keep_orientations_apart", lambda model: None)
    file = written("rows", tmp_path / "m.lrp.onnx")

    found = {check.name: check for check in verify(file, runtime="openvino").checks}

    assert found["runtime"].passed is False
    assert found["runs"].passed
    assert "openvino" in found["runtime"].found


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_is_held_against_float64_where_the_model_is_there(runtime: str, tmp_path: Path) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    make, shape = NETWORKS["rows"]
    program = torch.export.export(build(make).float().eval(), (torch.randn(shape),))
    torch.export.save(program, tmp_path / "m.pt2")
    lrp.compile(program, composite="epsilon").to_onnx(tmp_path / "m.lrp.onnx")

    found = verify(tmp_path / "m.lrp.onnx", tmp_path / "m.pt2", runtime=runtime)

    assert found.passed
    assert "float64" in found.checks[-1].found


def test_onnxruntime_is_not_its_own_witness(tmp_path: Path) -> None:
    found = verify(written("rows", tmp_path / "m.lrp.onnx"), runtime="onnxruntime")

    assert found.checks[-1].name == "runtime"
    assert found.checks[-1].passed is None


@pytest.mark.heavy
def test_a_package_of_machine_code_is_held_against_float64(tmp_path: Path) -> None:
    lrp.compile(build(NETWORKS["rows"][0]).float().eval(), (torch.randn(2, SIZE),)).save(tmp_path / "m.lrp.pt2")

    found = verify(tmp_path / "m.lrp.pt2", runtime="aoti")

    assert found.passed
    assert "aoti" in found.checks[-1].found


def test_node_without_onnxruntime_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("node") is None:
        pytest.skip("there is no Node")
    file = written("rows", tmp_path / "m.lrp.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODE_PATH", raising=False)

    with pytest.raises(LrpError, match="npm install"):
        verify(file, runtime="node")


STAND_IN = """
exports.Tensor = class { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } };
const session = { inputNames: ["x"], outputNames: ["y"], run: async ({ x }) => ({ y: x }) };
exports.InferenceSession = { create: async () => session };
"""
"""In place of onnxruntime-node: hands its input back."""


@pytest.fixture
def beside_a_stand_in(tmp_path: Path) -> Path:
    if shutil.which("node") is None:
        pytest.skip("there is no Node")
    (tmp_path / "node_modules" / "onnxruntime-node").mkdir(parents=True)
    (tmp_path / "node_modules" / "onnxruntime-node" / "index.js").write_text(STAND_IN)
    return tmp_path


def test_the_script_for_node_makes_its_folder(beside_a_stand_in: Path) -> None:
    tmp_path = beside_a_stand_in
    x = np.arange(6, dtype=np.float32)
    x.tofile(tmp_path / "x.f32")
    inputs = [{"name": "x", "file": "x.f32", "dtype": "float32", "shape": [2, 3]}]
    asked = json.dumps({"path": "m.lrp.onnx", "folder": "new/out", "inputs": inputs})

    done = subprocess.run(["node", SCRIPT], input=asked, capture_output=True, text=True, check=True, cwd=tmp_path)

    (said,) = json.loads(done.stdout)
    assert (said["name"], said["dtype"], said["shape"]) == ("y", "float32", [2, 3])
    assert np.array_equal(np.fromfile(tmp_path / said["file"], np.float32), x)


X = {"name": "x", "file": "x.f32", "dtype": "float32", "shape": [2, 3]}
ASKED = {"path": "m.lrp.onnx", "folder": "out", "inputs": [X]}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (ASKED | {"inputs": [X | {"name": "z"}]}, "the file takes the inputs x; given were z"),
        (ASKED | {"inputs": []}, "the file takes the inputs x; given were none"),
        (ASKED | {"inputs": [X | {"shape": [2, 4]}]}, "x.f32 has 24 bytes; float32 of shape [2, 4] has 32"),
        (ASKED | {"inputs": [X | {"dtype": "float16"}]}, "the input x is of dtype float16; there are float32, "),
        (ASKED | {"inputs": [X | {"file": "away.f32"}]}, "ENOENT: no such file or directory, open 'away.f32'"),
        ({"path": "m.lrp.onnx"}, "stdin takes a JSON object"),
        ([], "stdin takes a JSON object"),
        ("{", "stdin is no JSON: "),
    ],
)
def test_the_script_for_node_refuses_in_one_sentence(beside_a_stand_in: Path, asked: Any, said: str) -> None:
    np.arange(6, dtype=np.float32).tofile(beside_a_stand_in / "x.f32")
    given = asked if isinstance(asked, str) else json.dumps(asked)

    done = subprocess.run(["node", SCRIPT], input=given, capture_output=True, text=True, cwd=beside_a_stand_in)

    assert done.returncode == 1
    assert done.stderr.startswith(f"explain.mjs: {said}")
    assert done.stderr.endswith(".\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.heavy
def test_node_gives_what_onnxruntime_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = ROOT / "build" / "deploy" / "node" / "node_modules"
    if shutil.which("node") is None or not modules.is_dir():
        pytest.skip("there is no onnxruntime-node: tests/product/export/test_deploy.py installs it")
    file = written("attention", tmp_path / "m.lrp.onnx")
    monkeypatch.setenv("NODE_PATH", str(modules))

    assert verify(file, runtime="node").passed


def test_a_runtime_nobody_knows_or_that_takes_other_files_is_refused(tmp_path: Path) -> None:
    file = written("rows", tmp_path / "m.lrp.onnx")

    with pytest.raises(InputError, match="openvino"):
        verify(file, runtime="tensorrt")
    with pytest.raises(InputError, match=r"\.pt2"):
        verify(file, runtime="aoti")


def test_the_command_line_knows_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["verify", "--help"])

    assert f"--runtime {{{','.join(RUNTIMES)}}}" in capsys.readouterr().out
