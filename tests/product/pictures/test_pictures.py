"""What was explained: the numbers behind the captions, the same from torch and from a file."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.explanations import LABELS, images, made
from support.hand_made import doubler
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.runtime import OnnxExplainer

"""Pictures of relevance: the numbers behind the colours, captions, tokens, and clear errors."""


def test_each_row_says_its_class_logit_and_relevance() -> None:
    relevance = images()
    first, second = made({"x": relevance}).explained(LABELS)
    assert (first.target, first.name, first.logit) == (1, "dog (class 1)", 5.0)
    assert (second.target, second.name, second.logit) == (0, "cat (class 0)", 7.0)
    assert first.relevance["x"] == pytest.approx(relevance[0].astype(float).sum())
    assert second.caption == f"logit 7, Σ relevance {relevance[1].astype(float).sum():.4g}"


@pytest.mark.parametrize(
    ("explains", "choices", "expected"),
    [
        ({"classes": 2}, {}, [(2, 2.0), (2, -3.0)]),
        ({"classes": {"pair": [1, 2]}}, {}, [((1, 2), 3.0), ((1, 2), 3.0)]),
        ({"classes": "index"}, {"target": np.array([0, 2])}, [(0, 1.0), (2, -3.0)]),
        ({"classes": [0, {"pair": [1, 0]}]}, {}, [(0, 1.0), ((1, 0), 4.0), (0, 7.0), ((1, 0), -7.0)]),
        ({"classes": "index"}, {"target": np.array([[0, 2], [1, 1]])}, [(0, 1.0), (1, 5.0), (2, -3.0), (1, 0.0)]),
    ],
)
def test_targets_of_every_kind_have_their_logits(explains: dict, choices: dict, expected: list) -> None:
    several = len(expected) == 4
    relevance = np.ones((2, 2, 5) if several else (2, 5))
    explanation = made({"x": relevance}, {"x": np.ones((2, 5))}, choices=choices, explains=explains, target="…")
    assert [(case.target, case.logit) for case in explanation.explained()] == expected
    assert [case.sum for case in explanation.explained()] == [5.0] * len(expected)


SEQUENCE = np.arange(24.0).reshape(2, 4, 3)


@pytest.mark.parametrize(
    ("position", "choices", "inputs", "logits"),
    [
        (None, {}, {}, SEQUENCE[:, -1]),
        ("last", {}, {}, SEQUENCE[:, -1]),
        (1, {}, {}, SEQUENCE[:, 1]),
        ({"slice": [1, 3, None]}, {}, {}, SEQUENCE[:, 1] + SEQUENCE[:, 2]),
        ("sum", {}, {}, SEQUENCE[:, 0] + SEQUENCE[:, 1] + SEQUENCE[:, 2] + SEQUENCE[:, 3]),
        ("index", {"position": np.array([0, 2])}, {}, np.stack([SEQUENCE[0, 0], SEQUENCE[1, 2]])),
        (
            "last-unpadded",
            {},
            {"attention_mask": np.array([[1, 1, 0, 0], [0, 1, 1, 1]])},
            np.stack([SEQUENCE[0, 1], SEQUENCE[1, 3]]),
        ),
    ],
)
def test_the_logits_are_those_of_the_explained_position(
    position: Any, choices: dict, inputs: dict, logits: np.ndarray
) -> None:
    explanation = made({}, inputs, SEQUENCE, choices, explains={"classes": "argmax", "position": position})
    np.testing.assert_array_equal(explanation.run.logits(), logits)


def test_the_classes_of_a_map_are_its_second_dim() -> None:
    z = np.arange(24.0).reshape(1, 2, 3, 4)
    explanation = made({}, {}, z, explains={"classes": 1, "position": [{"slice": [None, None, None]}, 2]})
    np.testing.assert_array_equal(explanation.run.logits(), z[:, :, :, 2].sum(2))


def test_a_function_or_a_seed_has_no_class_and_no_logit() -> None:
    (case, _) = made({"x": np.ones((2, 5))}, target="function").explained()
    assert (case.target, case.logit, case.name) == (None, None, "a function of the outputs")
    (case, _) = made({"x": np.ones((2, 5))}, seed="tensor").explained()
    assert (case.logit, case.caption) == (None, "Σ relevance 5")


def test_relevance_of_several_inputs_is_stated_apart_and_together() -> None:
    case = made({"a": np.ones((2, 3)), "b": np.full((2, 4), 0.5)}).explained()[0]
    assert case.caption == "logit 5, Σ relevance 5 = a 3 + b 2"


def test_missing_labels_are_said_to_be_missing() -> None:
    with pytest.raises(InputError, match="no name for class 1"):
        made({"x": images()}).explained(["cat"])


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.convolution(x).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """One run in torch and in onnxruntime, three targets a row."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    explainer = lrp.compile(
        Small().eval(), (x,), composite="epsilon-plus", target="index", dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    path = tmp_path_factory.mktemp("pictures") / "m.lrp.onnx"
    explainer.to_onnx(path)
    targets = torch.tensor([[0, 1], [2, 3], [4, 4]])
    return explainer(x, target=targets), OnnxExplainer(path)(x.numpy(), target=targets.numpy())


def test_torch_and_onnxruntime_say_the_same(both: tuple[Any, Any]) -> None:
    one, other = (explanation.explained() for explanation in both)
    assert [case.target for case in one] == [0, 2, 4, 1, 3, 4]
    output = both[0].output.double()
    assert [case.logit for case in one] == [float(output[case.row, case.target]) for case in one]
    for case, again in zip(one, other, strict=True):
        assert (case.row, case.number, case.target, case.name) == (again.row, again.number, again.target, again.name)
        assert case.logit == pytest.approx(again.logit, rel=1e-5)
        assert case.sum == pytest.approx(again.sum, rel=5e-6)
        assert case.sum == pytest.approx(float(both[0].relevance["x"][case.number, case.row].double().sum()))


def test_a_run_is_kept_by_reference(both: tuple[Any, Any]) -> None:
    x = np.ones((2, 3), np.float32)
    explainer = OnnxExplainer(doubler())
    explanation = explainer(x)
    assert explanation.run.inputs["x"] is x
    assert explanation.run.outputs["y"] is explanation.output
    assert explanation.run.about is explainer.about
    assert both[0].run.inputs["x"].shape == (2, 3, 8, 8)


@pytest.mark.slow
def test_pictures_need_no_torch(tmp_path: Path) -> None:
    (tmp_path / "m.lrp.onnx").write_bytes(doubler(["batch", 3, 4, 4], classes=None, target="function"))
    script = """if True:
        import sys
        sys.modules["torch"] = None
        import numpy as np
        from lrp_compiler.runtime import OnnxExplainer
        explanation = OnnxExplainer(sys.argv[1])(np.ones((2, 3, 4, 4), "f"))
        assert explanation.heatmap()._repr_png_().startswith(bytes([137, 80, 78, 71]))
        assert "image/png" in explanation._repr_html_()
    """
    command = [sys.executable, "-c", script, str(tmp_path / "m.lrp.onnx")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
