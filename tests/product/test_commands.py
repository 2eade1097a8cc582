"""The command line with the compiler: a `.pt2` program in, its explainer, its relevance, its coverage and audit out."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.cli import main


class Bessel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


def export(model: nn.Module, path: str) -> None:
    shapes = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(model.eval(), (torch.randn(2, 4),), dynamic_shapes=shapes), path)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def call(line: str) -> int:
    return main(line.split())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    export(Classifier(), "model.pt2")
    np.save("x.npy", np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))
    return tmp_path


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_compile_and_run_give_what_the_library_gives(
    kind: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    compiled = f"compile model.pt2 -o m.lrp.{kind} --composite epsilon-plus --target index"
    assert call(compiled) == 0
    assert call(f"run m.lrp.{kind} --input x.npy --target 2 --check-nan -o r.npz") == 0
    expected = lrp.compile("model.pt2", composite="epsilon-plus", target="index")(
        torch.from_numpy(np.load("x.npy")), target=torch.tensor([2, 2, 2])
    )
    with np.load("r.npz") as arrays:
        assert sorted(arrays) == ["output", "relevance.x"]
        np.testing.assert_allclose(arrays["output"], expected.output.numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(arrays["relevance.x"], expected.relevance["x"].numpy(), rtol=1e-5, atol=1e-6)
    captured = capfd.readouterr()
    assert captured.out.startswith(f"wrote m.lrp.{kind}\n")
    assert captured.err == ""


def test_compile_takes_a_class_and_a_seed(folder: Path) -> None:
    assert call("compile model.pt2 -o m.lrp.onnx --target 1 --seed one --opset 18 --json") == 0
    assert call("run m.lrp.onnx --input x.npy -o r.npz") == 0
    expected = lrp.compile("model.pt2", target=1, seed="one")(torch.from_numpy(np.load("x.npy")))
    with np.load("r.npz") as arrays:
        np.testing.assert_allclose(arrays["relevance.x"], expected.relevance["x"].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize(
    ("option", "reference"),
    [("", 0), ("--reference 0.5", 0.5), ("--reference x=there.npy", "there"), ("--reference there.npy", "there")],
)
def test_a_run_compares_with_a_reference(
    kind: str, option: str, reference: object, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand for the sum: what the logit is more than at the reference."""
    x = torch.from_numpy(np.load("x.npy"))
    np.save("there.npy", x.numpy()[::-1].copy())
    there = x.flip(0) if reference == "there" else torch.full_like(x, float(reference))
    torch.manual_seed(0)
    model = Classifier().eval()

    assert call(f"compile model.pt2 -o m.lrp.{kind} --composite reference --target 1") == 0
    assert call(f"run m.lrp.{kind} --input x.npy {option} -o r.npz") == 0

    with np.load("r.npz") as arrays, torch.no_grad():
        risen = (model(x) - model(there))[:, 1].numpy()
        np.testing.assert_allclose(arrays["relevance.x"].sum(1), risen, rtol=0, atol=1e-6)
    if kind == "pt2":
        capsys.readouterr()
        assert call(f"audit m.lrp.pt2 --input x.npy {option} --json") == 0
        np.testing.assert_allclose(json.loads(capsys.readouterr().out)["seed"], risen.sum(), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--reference 1 --reference 2", "--reference is given once"),
        ("--reference 1 --reference x=2", "--reference is given once"),
        ("--reference y=1", "reference names 'y'"),
        ("--reference x=absent.npy", "There is no file absent.npy."),
        ("--reference blur", "'blur' for pictures"),
    ],
)
def test_a_wrong_reference_is_a_sentence(
    option: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("compile model.pt2 -o m.lrp.onnx --composite reference --target 1") == 0
    assert call(f"run m.lrp.onnx --input x.npy {option} -o r.npz") == 1
    assert said in capsys.readouterr().err


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("compile absent.pt2 -o m.lrp.onnx", "There is no file absent.pt2."),
        ("compile text.pt2 -o m.lrp.onnx", "text.pt2"),
        ("compile model.pt2 -o m.lrp.onnx --composite magic", "magic"),
        ("compile model.pt2 -o m.lrp.onnx --target 7", "7"),
        ("compile model.pt2 -o m.lrp.onnx --opset 9", "Opset 9 is not supported: choose 18 to 23."),
        ("compile model.pt2 -o m.lrp.onnx --opset 99", "Opset 99 is not supported: choose 18 to 23."),
        ("compile model.pt2 -o absent/m.lrp.onnx", "there is no folder absent."),
        ("compile bessel.pt2 -o m.lrp.onnx", "aten.special_bessel_j0.default"),
        ("run text.pt2 --input x.npy -o r.npz", "text.pt2"),
        ("run model.pt2 --input x.npy -o r.npz", "model.pt2"),
        ("audit absent.lrp.pt2 --input x.npy", "There is no file absent.lrp.pt2."),
        ("coverage absent.pt2", "There is no file absent.pt2."),
        ("coverage text.pt2", "text.pt2"),
    ],
)
def test_a_failure_is_a_sentence_and_leaves_no_file(
    arguments: str, sentence: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("text.pt2").write_text("not a program")
    export(Bessel(), "bessel.pt2")
    capfd.readouterr()
    before = sorted(os.listdir())
    assert call(arguments) == 1
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lrp-compiler: error: ")
    assert sentence in captured.err
    assert "Traceback" not in captured.err
    assert sorted(os.listdir()) == before


def test_coverage_as_a_table_and_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("coverage model.pt2") == 0
    assert "aten.linear.default" in capsys.readouterr().out
    assert call("coverage model.pt2 --json") == 0
    assert "aten.linear.default" in json.dumps(json.loads(capsys.readouterr().out))


def test_coverage_names_nodes_without_a_rule_and_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Classifier()
    model.layers[1] = Bessel()
    export(model, "bessel.pt2")

    assert call("coverage bessel.pt2") == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].strip() == "2 of 3 nodes on the relevance path covered (3 in all)"
    assert "special_bessel_j0 in layers.1 " in printed.out
    assert printed.err == (
        "lrp-compiler: error: 1 node has no relevance rule (aten.special_bessel_j0.default): lrp-compiler compile says "
        "how to give one.\n"
    )
    assert call("coverage bessel.pt2 --json") == 1
    assert json.loads(capsys.readouterr().out)["covered"] == 2


def test_audit_as_a_table_and_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compile model.pt2 -o m.lrp.pt2 --target index") == 0
    capsys.readouterr()
    assert call("audit m.lrp.pt2 --input x.npy --target 1") == 0
    assert "linear" in capsys.readouterr().out
    assert call("audit m.lrp.pt2 --input x.npy --target 1 --json") == 0
    assert json.loads(capsys.readouterr().out)


class OfATarget(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, target: torch.Tensor) -> torch.Tensor:
        return self.layer(target)


@pytest.mark.parametrize("option", ["", "--target 2 "])
def test_audit_takes_a_model_whose_input_is_called_as_its_own_option(
    option: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = OfATarget().eval()
    torch.export.save(torch.export.export(model, (torch.from_numpy(np.load("x.npy")),)), "target.pt2")
    capsys.readouterr()

    assert call(f"audit target.pt2 --input target=x.npy {option}--json") == 0

    logits = model(torch.from_numpy(np.load("x.npy")))
    chosen = logits[:, 2] if option else logits.max(1).values
    assert json.loads(capsys.readouterr().out)["seed"] == pytest.approx(float(chosen.detach().sum()), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.pt2", "model.onnx"])
def test_audit_compiles_a_model_first(file: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under the rules that are asked for, for the class that is: relevance of all inputs as by hand."""
    x = torch.from_numpy(np.load("x.npy"))
    torch.manual_seed(0)
    model = Classifier()
    if file.endswith(".onnx"):
        torch.onnx.export(model, (x,), file, input_names=["x"], dynamo=False)
    np.save("target.npy", np.array([1, 1, 1]))
    y = x.clone().requires_grad_()
    model(y)[:, 1].sum().backward()
    wanted = float((y.grad * x).sum())

    for target in ("1", "target.npy"):
        assert call(f"audit {file} --input x.npy --target {target} --composite attnlrp --json") == 0
        assert json.loads(capsys.readouterr().out)["inputs"]["x"] == pytest.approx(wanted, rel=1e-5)
    assert call(f"audit {file} --input x.npy --composite nothing") == 1
    assert "nothing" in capsys.readouterr().err


@pytest.mark.slow
def test_classes_options_and_parameters_on_the_command_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = "compile model.pt2 -o m.lrp.onnx --target 2,0:1 --seed one --wrt x --wrt layers.0.weight "
    assert call(line + "--composite attnlrp-gamma --option linear=0.5 --memory-budget 0.5") == 0
    assert call("run m.lrp.onnx --input x.npy -o r.npz") == 0
    expected = lrp.compile(
        "model.pt2",
        composite=lrp.composites.attnlrp_gamma(linear=0.5),
        target=[2, (0, 1)],
        seed="one",
        wrt=["x", "layers.0.weight"],
    )(torch.from_numpy(np.load("x.npy")))

    with np.load("r.npz") as arrays:
        for name, value in expected.relevance.items():
            np.testing.assert_allclose(arrays[f"relevance.{name}"], value.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--composite epsilon-gamma-box", ["low", "high", "--option"]),
        ("--composite epsilon --option alpha=2", ["'alpha'", "epsilon=1e-06"]),
        ("--memory-budget 2", ["between 0 and 1", "2"]),
        ("--wrt layers.7", ["layers.7", "no module"]),
        ("--position sum", ["no position"]),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    arguments: str, words: list[str], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(f"compile model.pt2 -o m.lrp.onnx {arguments}") == 1
    message = capfd.readouterr().err.strip().splitlines()[-1]

    assert [word for word in words if word not in message] == []
    assert sorted(path.name for path in folder.iterdir()) == ["model.pt2", "x.npy"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("made", ["model.pt2", "m.lrp.pt2"])
def test_plan_of_a_program_and_of_an_explainer(made: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("compile model.pt2 -o m.lrp.pt2 --composite epsilon") == 0
    capfd.readouterr()
    assert call(f"plan {made} --composite epsilon --json") == 0
    plan = json.loads(capfd.readouterr().out)
    assert {row["resolution"] for row in plan["promises"]} == {"kept", "constant"}

    assert call(f"plan {made} --composite epsilon") == 0
    assert "linear_1" in capfd.readouterr().out
