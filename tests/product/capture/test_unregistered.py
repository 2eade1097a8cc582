"""A program whose outputs are of classes that only another library knows, read where that library is not."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.folders import TESTS
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import lrp_compiler as lrp
from lrp_compiler.check.verify import verify
from lrp_compiler.cli import main


class ModelOutput(dict):
    """As transformers makes them: a dict of a class of its own."""


@dataclasses.dataclass
class Points:
    here: Tensor
    there: Tensor


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> ModelOutput:
        z = self.l(x)
        return ModelOutput(logits=z, hidden=(Points(z * 2, x),))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Written where the classes are registered; they are not any more."""
    pytree.register_pytree_node(
        ModelOutput,
        lambda given: (list(given.values()), list(given)),
        lambda values, keys: ModelOutput(zip(keys, values, strict=True)),
        serialized_type_name="library.ModelOutput",
    )
    pytree.register_pytree_node(
        Points,
        lambda given: ([given.here, given.there], None),
        lambda values, context: Points(*values),
        serialized_type_name="library.Points",
    )
    program = torch.export.export(Net().eval(), (torch.randn(2, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "model.pt2")
    for kind in (ModelOutput, Points):
        pytree._deregister_pytree_node(kind)
    return tmp_path / "model.pt2"


def test_it_is_compiled_and_its_outputs_have_their_names(file: Path) -> None:
    explainer = lrp.compile(file)
    assert [spec.name for spec in explainer.about.outputs] == ["logits", "hidden.0.0", "hidden.0.1"]
    explanation = explainer(torch.randn(3, 4))
    assert explanation.output.keys() == {"logits", "hidden"}
    assert explanation.relevance["x"].shape == (3, 4)


def test_nothing_stays_registered(file: Path) -> None:
    before = dict(pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE)
    lrp.compile(file)
    assert before == pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE
    with pytest.raises(NotImplementedError, match="not registered"):
        pytree.treespec_loads(json.dumps([1, {"type": "library.Points", "context": "null", "children_spec": []}]))


@pytest.mark.slow
def test_the_command_line_reads_it_and_verifies_against_it(file: Path, tmp_path: Path) -> None:
    assert main(["compile", str(file), "-o", str(tmp_path / "m.lrp.onnx")]) == 0
    assert main(["verify", str(tmp_path / "m.lrp.onnx"), "--against", str(file)]) == 0


class Several(nn.Module):
    """Lists of values, sizes and outputs: what a file says otherwise than torch.export."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a, b = x.split(2, dim=1)
        return {"logits": self.l(torch.cat([b, a], 1)).reshape(x.shape[0], 3), "second": a}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_from_a_module_and_saved_afterwards_it_is_the_same_model(dynamic: bool, tmp_path: Path) -> None:
    model, x = Several().eval(), torch.randn(2, 4)
    sizes = ({0: torch.export.Dim("batch")},) if dynamic else None
    lrp.compile(model, (x,), dynamic_shapes=sizes).to_onnx(tmp_path / "m.lrp.onnx")
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=sizes), tmp_path / "model.pt2")

    found = {check.name: check.passed for check in verify(tmp_path / "m.lrp.onnx", tmp_path / "model.pt2").checks}
    assert found["source"] is True
    assert found["parity"] is True

    with torch.no_grad():
        model.l.bias += 1e-3
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=sizes), tmp_path / "model.pt2")
    assert verify(tmp_path / "m.lrp.onnx", tmp_path / "model.pt2").passed is False


BERT = """
import sys, torch, transformers
config = transformers.BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                 intermediate_size=16, max_position_embeddings=16, num_labels=3)
model = transformers.BertForSequenceClassification(config).eval()
ids = torch.randint(0, 30, (2, 5))
torch.export.save(torch.export.export(model, (), {"input_ids": ids}), sys.argv[1])
"""


@pytest.mark.heavy
def test_a_model_of_transformers_on_the_command_line(tmp_path: Path) -> None:
    """Exported in one process, compiled in another that has not imported transformers."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    subprocess.run([sys.executable, "-c", f"import support\n{BERT}", str(tmp_path / "m.pt2")], check=True, env=env)
    commands = [
        ["compile", str(tmp_path / "m.pt2"), "-o", str(tmp_path / "m.lrp.onnx"), "--composite", "attnlrp"],
        ["verify", str(tmp_path / "m.lrp.onnx"), "--against", str(tmp_path / "m.pt2")],
    ]
    for command in commands:
        done = subprocess.run([sys.executable, "-m", "lrp_compiler", *command], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
