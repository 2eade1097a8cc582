"""Answers at the command line: compiled, run, verified, and refused with a sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.language_models import language_model

import lrp_compiler as lrp
from lrp_compiler.cli import main


@pytest.mark.heavy
def test_an_answer_is_compiled_run_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    lengths = {"input_ids": {1: torch.export.Dim("sequence", min=2, max=32)}}
    model = language_model("gpt2")
    model.config.use_cache = False
    torch.export.save(torch.export.export(model, (), {"input_ids": ids}, dynamic_shapes=lengths), "model.pt2")
    weights = np.zeros((2, 1, 4), np.float32)
    weights[:, 0, 2:] = np.eye(2)
    np.save("ids.npy", ids.numpy()[:, :4])
    np.save("weights.npy", weights)

    compiled = ["compile", "model.pt2", "--composite", "attnlrp", "--target", "answer", "--against", "3"]
    assert main([*compiled, "-o", "m.lrp.onnx"]) == 0
    assert main(["run", "m.lrp.onnx", "--input", "input_ids=ids.npy", "--weights", "weights.npy", "-o", "r.npz"]) == 0
    assert main(["verify", "m.lrp.onnx", "--against", "model.pt2"]) == 0

    explainer = lrp.compile(
        model, kwargs={"input_ids": ids}, composite="attnlrp", target=lrp.Answer(against=3), dynamic_shapes=lengths
    )
    expected = explainer(input_ids=ids[:, :4], weights=weights).relevance["input_ids"]
    found = np.load("r.npz")["relevance.input_ids"]
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--target", "answer", "--position", "last"], "--position does not go with --target answer"),
        (["--score", "centred"], "--score goes with --target answer alone"),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2).eval(), (torch.ones(2, 2),)), tmp_path / "m.pt2")

    assert main(["compile", str(tmp_path / "m.pt2"), "-o", str(tmp_path / "m.lrp.onnx"), *options]) == 1
    assert sentence in capsys.readouterr().err
