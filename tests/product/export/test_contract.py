"""The contract of the ONNX file, as the documentation states it: an image model, an encoder, a decoder, both in one."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.contract import NETWORKS, build, explainer
from support.folders import ROOT

import lrp_compiler as lrp
from benchmarks.networks.architectures import ARCHITECTURES
from lrp_compiler.artefact.provenance import source_hash
from lrp_compiler.base.errors import FormatError, LrpError
from lrp_compiler.capture.capture import capture
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(12)

KEYS = {f"lrp.{key}" for key in ("phase", "rule", "forward", "module", "promise", "form", "of", "promises")}
ABOUT = (
    *("schema", "composite", "rules", "target", "seed", "source", "versions", "tolerance", "plan", "sizes", "classes"),
    *("inputs", "outputs", "relevance", "weights", "profile"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contract")


def written(name: str, folder: Path) -> Path:
    path = folder / f"{name}.lrp.onnx"
    if not path.exists():
        explainer(name).to_onnx(path)
    return path


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


each = pytest.mark.parametrize("name", NETWORKS)


@pytest.mark.slow
@each
def test_the_graph_is_of_the_default_domain(name: str, folder: Path) -> None:
    path = written(name, folder)
    model = onnx.load(path)
    onnx.checker.check_model(path, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert model.ir_version == 10
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    assert model.producer_name == "lrp_compiler"


@each
def test_inputs_and_outputs_are_named_and_so_are_their_sizes(name: str, folder: Path) -> None:
    graph = onnx.load(written(name, folder)).graph
    shapes, output = NETWORKS[name][2:]
    taken = {value.name: dims(value) for value in graph.input}
    given = {value.name: dims(value) for value in graph.output}
    assert taken == {**shapes, "target": ["batch"]}
    assert graph.input[-1].type.tensor_type.elem_type == onnx.TensorProto.INT64
    assert given[output][0] == "batch"
    relevance = {f"relevance.{key}": shape for key, shape in shapes.items()}
    assert {key: shape for key, shape in given.items() if key.startswith("relevance.")} == relevance


@pytest.mark.slow
@each
def test_the_metadata_says_what_the_file_is(name: str, folder: Path) -> None:
    with OnnxExplainer(written(name, folder)) as opened:
        about = opened.metadata
    assert not set(ABOUT) - set(about)
    assert about["composite"]["name"] == ARCHITECTURES[name].composite
    assert (about["target"], about["weights"], about["profile"]) == ("index", "model", "fast")
    assert about["sizes"]["batch"] == 2
    # The same weights captured again are the same model; one weight more or less is another.
    model = build(name)
    program = program_of(model, name)
    on_the_way = sum(entry["nodes"] for entry in about["rules"])
    assert on_the_way == lrp.coverage(program).on_path
    assert about["source"] == source_hash(program)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    assert about["source"] != source_hash(program_of(model, name))


def program_of(model: torch.nn.Module, name: str) -> Any:
    architecture = ARCHITECTURES[name]
    return capture(model, (), architecture.inputs(2), architecture.dynamic_shapes).program


@each
def test_every_node_says_what_it_is_for(name: str, folder: Path) -> None:
    graph = onnx.load(written(name, folder)).graph
    notes = [{entry.key: entry.value for entry in node.metadata_props} for node in graph.node]
    assert all(set(note) <= KEYS and note["lrp.phase"] in ("forward", "relevance") for note in notes)
    known = {node.name for node in explainer(name).forward.graph.nodes}
    assert {note["lrp.forward"] for note in notes if "lrp.forward" in note} <= known
    assert all("lrp.forward" in note and "lrp.rule" in note for note in notes if note["lrp.phase"] == "relevance")
    # The graph cannot be run backwards: no node that predicts reads one that explains.
    phase = {output: note["lrp.phase"] for node, note in zip(graph.node, notes, strict=True) for output in node.output}
    for node, note in zip(graph.node, notes, strict=True):
        if note["lrp.phase"] == "forward":
            assert all(phase.get(read, "forward") == "forward" for read in node.input), node.name
    rules = {entry["rule"] for entry in explainer(name).metadata["rules"]}
    assert {note["lrp.rule"] for note in notes if note["lrp.phase"] == "forward" and "lrp.rule" in note} <= rules
    kept = {promise.value for promise in explainer(name).plan.of("kept")}
    assert {note["lrp.forward"] for note in notes if note.get("lrp.promise") == "kept"} <= kept


@each
def test_nothing_of_the_machine_the_inputs_or_the_source_is_inside(name: str, folder: Path) -> None:
    path = written(name, folder)
    content = path.read_bytes()
    for trace in (str(ROOT), str(folder), str(Path.home()), os.path.dirname(torch.__file__), ".py", 'File "'):
        assert trace.encode() not in content, trace
    inputs = ARCHITECTURES[name].inputs(2)
    for tensor in inputs.values():
        assert tensor.numpy().tobytes() not in content


WRITE = """
from support.contract import explainer
explainer({name!r}).to_onnx({path!r})
"""


@each
@pytest.mark.heavy
def test_two_processes_write_the_same_bytes(name: str, tmp_path: Path) -> None:
    digests = set()
    for hash_seed in ("1", "2"):
        path = tmp_path / f"{hash_seed}.onnx"
        code = WRITE.format(name=name, path=str(path))
        settings = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **settings})
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


@each
def test_the_small_profile_says_the_same(name: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    explainer(name).to_onnx(path, profile="small")
    onnx.checker.check_model(path, full_check=True)
    inputs = {key: value.numpy() for key, value in ARCHITECTURES[name].inputs(3, seed=9).items()}
    target = np.array([1, 0, 1])
    with OnnxExplainer(written(name, folder)) as one, OnnxExplainer(path) as other:
        expected, found = (opened(**inputs, target=target).relevance for opened in (one, other))
    for key, relevance in expected.items():
        # The same products, perhaps added up in another order, as torch does: float32 leaves 2e-6 in dense maps.
        assert np.abs(found[key] - relevance).max() <= 1e-5 * np.abs(relevance).max()


@pytest.mark.parametrize("profile", ["fast", "small"])
def test_float16_files_explain_the_model_with_rounded_weights(profile: str, tmp_path: Path) -> None:
    """The reference is the model itself with its larger weights rounded, compiled as any other."""
    mlp = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 64)).eval()
    x, batch = torch.randn(3, 7, 256), torch.export.Dim("batch")
    explainer = lrp.compile(mlp, (x,), dynamic_shapes=({0: batch},))
    sizes = []
    for dtype in ("model", "float16"):
        explainer.to_onnx(tmp_path / f"{dtype}.onnx", dtype=dtype, profile=profile)  # type: ignore[arg-type]
        sizes.append(sum(file.stat().st_size for file in tmp_path.glob(f"{dtype}.onnx*")))
    assert sizes[1] < 0.55 * sizes[0]
    onnx.checker.check_model(tmp_path / "float16.onnx", full_check=True)
    with torch.no_grad():
        for layer in (mlp[0], mlp[2]):
            layer.weight.copy_(layer.weight.half())
    expected = lrp.compile(mlp, (x,), dynamic_shapes=({0: batch},))(x[:2])
    with OnnxExplainer(tmp_path / "float16.onnx") as opened:
        found = opened(x[:2].numpy())
    for one, other in ((found.output, expected.output), (found.relevance["input"], expected.relevance["input"])):
        assert np.abs(one - other.numpy()).max() <= 1e-5 * np.abs(one).max()


def test_weights_that_float16_cannot_hold_stay(tmp_path: Path) -> None:
    mlp = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.Linear(256, 256), torch.nn.Linear(256, 256)).eval()
    with torch.no_grad():
        mlp[0].weight.mul_(1e7)
        mlp[1].weight.mul_(1e-7)
    lrp.compile(mlp, (torch.randn(2, 256),)).to_onnx(tmp_path / "m.onnx", dtype="float16")
    stored = {tensor.data_type for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer if len(tensor.dims) == 2}
    assert stored == {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    assert sum(t.data_type == onnx.TensorProto.FLOAT16 for t in onnx.load(tmp_path / "m.onnx").graph.initializer) == 1


def test_weights_beside_the_file_are_named_after_their_content(tmp_path: Path) -> None:
    """A process that dies between the two renames leaves the old explainer with its own weights."""
    x = torch.randn(2, 64)
    path = tmp_path / "m.lrp.onnx"
    found = []
    mine = tmp_path / "m.lrp.onnx.mine.data"
    mine.write_bytes(b"named like it, and not its own")
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = torch.nn.Linear(64, 64).eval()
        lrp.compile(model, (x,)).to_onnx(path, profile="small")
        beside = sorted(set(tmp_path.glob("m.lrp.onnx.*")) - {mine})
        assert len(beside) == 1  # the one before is gone
        found.append(beside[0].name)
        with OnnxExplainer(path) as opened:
            assert np.allclose(opened(x.numpy()).output, model(x).detach(), atol=1e-5)
    assert found[0] != found[1]
    lrp.compile(model, (x,)).to_onnx(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.lrp.onnx", mine.name]


def test_weights_of_many_bytes_lie_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None has more than the limit, but for a tensor that has more by itself; a damaged or missing one is noticed."""
    x = torch.randn(2, 64)
    layers = [torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 128), torch.nn.Linear(128, 4)]
    model = torch.nn.Sequential(*layers).eval()
    path = tmp_path / "m.lrp.onnx"
    expected = lrp.compile(model, (x,))(x)
    for limit, files in ((1 << 20, 1), (20_000, 3), (64, 4)):
        monkeypatch.setattr("lrp_compiler.export.onnx.EXTERNAL_DATA_BYTES", limit)
        lrp.compile(model, (x,)).to_onnx(path, profile="small")
        beside = sorted(tmp_path.glob("m.lrp.onnx.*.data"))
        assert len(beside) == files  # those of the one before are gone
        assert limit < 20_000 or sum(file.stat().st_size > limit for file in beside) <= 1
        with OnnxExplainer(path) as opened:
            found = opened(x.numpy())
        assert np.allclose(found.relevance["input"], expected.relevance["input"], atol=1e-5)
    beside[-1].write_bytes(beside[-1].read_bytes()[:-1] + b"?")
    with pytest.raises(FormatError, match="is damaged"):
        OnnxExplainer(path)
    beside[-1].unlink()
    with pytest.raises(FormatError, match="is not complete"):
        OnnxExplainer(path)


@pytest.mark.parametrize("option", ["dtype", "profile"])
def test_unknown_options_are_refused(option: str, tmp_path: Path) -> None:
    model = lrp.compile(torch.nn.Linear(3, 2).eval(), (torch.randn(1, 3),))
    with pytest.raises(LrpError, match=f"Unknown {option} 'tiny': choose"):
        model.to_onnx(tmp_path / "m.onnx", **{option: "tiny"})
    assert not list(tmp_path.iterdir())


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "composite"), [("resnet50", "epsilon"), ("roberta_large", "attnlrp")])
def test_the_file_is_hardly_larger_than_the_model(name: str, composite: str, tmp_path: Path) -> None:
    """At published width: weights are stored once, and flipped or transposed ones stay operations on them."""
    architecture = ARCHITECTURES[name]
    model = architecture.build(width=1, depth=None if name == "resnet50" else 4)
    inputs = architecture.inputs(2)
    program = torch.export.export(model, (), inputs)
    torch.onnx.export(program, dynamo=True, opset_version=20, verbose=False).save(str(tmp_path / "plain.onnx"))
    lrp.compile(program, composite=composite).to_onnx(tmp_path / "explainer.onnx")
    plain, explaining = ((tmp_path / f"{file}.onnx").stat().st_size for file in ("plain", "explainer"))
    assert explaining <= 1.05 * plain


def test_plain_onnxruntime_is_enough(folder: Path) -> None:
    """What the documentation says to those who use no wrapper."""
    session = onnxruntime.InferenceSession(written("resnet50", folder))
    about = json.loads(session.get_modelmeta().custom_metadata_map["lrp_compiler"])
    x = np.random.default_rng(0).standard_normal((5, 3, 64, 64)).astype(np.float32)
    output, relevance = session.run(["output", "relevance.x"], {"x": x, "target": np.arange(5) % about["classes"]})
    assert output.shape == (5, about["classes"])
    assert relevance.shape == x.shape
