"""`verify` passes what is sound and says of everything else what is wrong with it."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.sealed import reseal_zip, save_sealed
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.base.metadata import JOINT_KEY
from lrp_compiler.check.verify import verify
from lrp_compiler.cli import main
from lrp_compiler.rules.composite import Composite, Entry
from lrp_compiler.rules.composites import COMPOSITES

pytestmark = pytest.mark.sampled(4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.classes = nn.Embedding(17, 8), nn.Linear(8, 6), nn.Linear(6, 5)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.classes(torch.relu(self.hidden(self.words(words)).mean(1)))
        return result


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.pt2` and its explainers `m.lrp.onnx` and `m.lrp.pt2`, their target given at run time."""
    folder = tmp_path_factory.mktemp("written")
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=9)}
    program = torch.export.export(Net().eval(), (torch.randint(0, 17, (2, 4)),), dynamic_shapes=(sizes,))
    torch.export.save(program, folder / "model.pt2")
    explainer = lrp.compile(folder / "model.pt2", composite="epsilon", target="index")
    explainer.to_onnx(folder / "m.lrp.onnx")
    explainer.save(folder / "m.lrp.pt2")
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """Copies of these files, for a test to change."""
    return shutil.copytree(written, tmp_path / "copies")


def answers(path: Path, against: Path | None = None, **options: Any) -> dict[str, bool | None]:
    return {check.name: check.passed for check in verify(path, against, **options).checks}


def edited(path: Path, edit: Any) -> Path:
    model = onnx.load(path)
    edit(model)
    return save_sealed(model, path)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["m.lrp.onnx", "m.lrp.pt2"])
def test_a_sound_file_passes_everything(file: str, folder: Path) -> None:
    found = answers(folder / file, folder / "model.pt2")
    assert all(found.values()), found
    assert {"runs", "repeats", "rows", "source", "conservation", "parity", "metadata"} <= set(found)


def test_without_the_model_it_says_what_it_could_not_ask(folder: Path) -> None:
    found = answers(folder / "m.lrp.onnx")
    assert [name for name, passed in found.items() if passed is None] == [
        "source",
        "conservation",
        "conditioning",
        "parity",
    ]
    assert verify(folder / "m.lrp.onnx").passed


class PerBatchScale(nn.Module):
    """As a dynamically quantised layer: the size of its steps is that of the largest value of the whole batch."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.classes = steps, nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().max() / self.steps if self.steps else 1e-3
        result: torch.Tensor = self.classes((x / scale).round() * scale)
        return result


@pytest.mark.parametrize(("steps", "warns"), [(4, True), (0, False)], ids=["of the batch", "fixed"])
def test_rows_that_the_model_itself_couples_are_told_and_no_failure(steps: int, warns: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = PerBatchScale(steps).eval(), torch.randn(3, 6)
    explainer = lrp.compile(model, (x,), composite="epsilon", dynamic_shapes=({0: torch.export.Dim("batch")},))
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    explainer.save(tmp_path / "m.lrp.pt2")
    differs = (model(x[:1]) - model(x)[:1]).abs().max() / model(x)[:1].abs().max()
    assert (differs > 1e-3) == warns

    for file in ("m.lrp.onnx", "m.lrp.pt2"):
        found = {check.name: check for check in verify(tmp_path / file, inputs={"x": x.numpy()}).checks}["rows"]
        assert (found.passed, found.warns) == (True, warns), found
        assert ("output of a row depends on the rows beside it" in found.found) == warns


def test_rows_that_relevance_alone_couples_fail(folder: Path) -> None:
    """An explainer whose prediction is right, and whose relevance of a row is divided by what the batch got."""

    def edit(model: onnx.ModelProto) -> None:
        (output,) = [value.name for value in model.graph.output if value.name.startswith("relevance.")]
        for node in model.graph.node:
            node.output[:] = ["own" if name == output else name for name in node.output]
            node.input[:] = ["own" if name == output else name for name in node.input]
        helper = onnx.helper
        model.graph.node.append(helper.make_node("ReduceMax", ["own"], ["most"], keepdims=0))
        model.graph.node.append(helper.make_node("Div", ["own", "most"], [output]))

    path = edited(folder / "m.lrp.onnx", edit)
    assert answers(path)["rows"] is False


def test_words_are_drawn_from_the_table_they_look_up(folder: Path) -> None:
    """Ids that the embedding does not have would fail in onnxruntime; ones alone would test little."""
    from lrp_compiler.check.onnx_graph import table_sizes
    from lrp_compiler.check.random_inputs import random_inputs
    from lrp_compiler.runtime import OnnxExplainer

    assert table_sizes(onnx.load(folder / "m.lrp.onnx")) == {"words": 17}
    with OnnxExplainer(folder / "m.lrp.onnx") as opened:
        drawn = random_inputs(opened.about, {"words": 17}, np.random.default_rng(0))
    assert drawn["words"].shape == (2, 4)
    assert len(np.unique(drawn["words"])) > 3


def test_another_model_is_noticed(folder: Path) -> None:
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=9)}
    torch.manual_seed(99)
    other = torch.export.export(Net().eval(), (torch.randint(0, 17, (2, 4)),), dynamic_shapes=(sizes,))
    torch.export.save(other, folder / "other.pt2")
    found = answers(folder / "m.lrp.onnx", folder / "other.pt2")
    assert found["source"] is False
    assert found["parity"] is None


def test_a_weight_that_was_changed_is_noticed(folder: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        weight = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [5, 6])
        values = onnx.numpy_helper.to_array(weight).copy()
        values += 0.5
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))

    found = answers(edited(folder / "m.lrp.onnx", edit), folder / "model.pt2")
    assert found["parity"] is False


def test_relevance_that_does_not_add_up_is_noticed(folder: Path) -> None:
    """The last operation's relevance doubled: what a broken rule would do."""

    def edit(model: onnx.ModelProto) -> None:
        last = next(node for node in model.graph.node if "relevance.words" in node.output)
        last.output[0] = "half"
        two = onnx.numpy_helper.from_array(np.array(2, np.float32), "two")
        model.graph.initializer.append(two)
        model.graph.node.append(onnx.helper.make_node("Mul", ["half", "two"], ["relevance.words"]))

    found = answers(edited(folder / "m.lrp.onnx", edit), folder / "model.pt2")
    assert (found["conservation"], found["parity"], found["provenance"]) == (False, False, False)


def test_a_foreign_operation_and_a_path_are_noticed(folder: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        entry = model.graph.node[0].metadata_props.add()
        entry.key, entry.value = "stack", 'File "/srv/models/net.py", line 3'

    found = {check.name: check for check in verify(edited(folder / "m.lrp.onnx", edit)).checks}
    assert found["contract"].passed is False
    assert "a path of the machine" in found["contract"].found


def test_values_that_are_not_finite_are_noticed(folder: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        bias = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [5])
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(5, np.nan, np.float32), bias.name))

    assert answers(edited(folder / "m.lrp.onnx", edit))["runs"] is False


def test_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder / "m.lrp.onnx"), "--against", str(folder / "model.pt2"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True

    edited(folder / "m.lrp.onnx", lambda model: model.graph.node[0].ClearField("metadata_props"))
    assert main(["verify", str(folder / "m.lrp.onnx")]) == 1
    captured = capsys.readouterr()
    assert "FAILED" in captured.out
    assert captured.err.strip().endswith("m.lrp.onnx is not sound: provenance failed.")


def test_given_inputs_are_taken_and_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(folder / "words.npy", np.zeros((3, 5), np.int64))
    np.save(folder / "target.npy", np.zeros(3, np.int64))
    given = ["--input", f"words={folder / 'words.npy'}", "--input", f"target={folder / 'target.npy'}"]
    assert main(["verify", str(folder / "m.lrp.onnx"), *given]) == 0
    assert "words[3, 5]" in capsys.readouterr().out
    np.save(folder / "words.npy", np.full((3, 5), 99))
    assert main(["verify", str(folder / "m.lrp.onnx"), *given]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_it_works_as_a_program(folder: Path) -> None:
    command = [sys.executable, "-m", "lrp_compiler", "verify", str(folder / "m.lrp.onnx")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "conservation" in done.stdout


@pytest.mark.parametrize("name", sorted(COMPOSITES))
def test_composites_come_back_from_plain_data(name: str) -> None:
    options = {"low": -1.0, "high": 1.0} if name == "epsilon-gamma-box" else {}
    composite = COMPOSITES[name](**options)
    plain = json.loads(json.dumps(composite.to_dict()))
    assert Composite.from_dict(plain) == composite


def test_a_composite_with_a_function_does_not() -> None:
    def evenly(op: Any, relevance: Any) -> Any:
        return relevance

    for entry in (Entry("*", evenly, path="a"), Entry("linear", "epsilon", when=lambda node: True)):
        with pytest.raises(LookupError, match="does not travel in files"):
            Composite.from_dict(Composite("mine", (entry,)).to_dict())


def test_what_a_function_of_the_users_keeps_from_being_asked_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def handed_on(op: Any, relevance: Any) -> Any:
        return lrp.total(op.total(relevance).sum(-1, keepdim=True).expand(op.shape("0")) / op.shape("0")[-1])

    mine = Composite("mine", (Entry("*", handed_on, path="hidden"), *COMPOSITES["epsilon"]().entries))
    lrp.compile(folder / "model.pt2", composite=mine).to_onnx(folder / "own.lrp.onnx")

    found = verify(folder / "own.lrp.onnx", folder / "model.pt2")

    assert found.passed
    assert found.not_asked == found.to_dict()["not_asked"] == ["conservation", "conditioning", "parity"]
    whys = {check.found for check in found.checks if check.passed is None}
    assert len(whys) == 1
    assert re.search("compiled anew.*'.*handed_on'.*does not travel in files", whys.pop())
    assert main(["verify", str(folder / "own.lrp.onnx"), "--against", str(folder / "model.pt2")]) == 0
    assert "not asked: conservation, conditioning, parity; the lines above say why" in capsys.readouterr().out


def test_what_runs_is_what_is_compared(written: Path, tmp_path: Path) -> None:
    """A `.pt2` holds its graph twice, as torch's program and as the nodes that run at once: these are run."""
    path = tmp_path / "m.lrp.pt2"
    assert verify(written / "m.lrp.pt2", against=written / "model.pt2").passed
    with zipfile.ZipFile(written / "m.lrp.pt2") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in members if name.endswith(JOINT_KEY))
    changed = members[name].replace(b"aten.relu.default", b"aten.neg.default")
    assert changed != members[name]
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**members, name: changed}.items():
            archive.writestr(member, content)

    found = verify(reseal_zip(path), against=written / "model.pt2")

    assert {check.name for check in found.checks if check.passed is False} >= {"parity"}
