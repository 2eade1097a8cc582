"""What `verify` runs a file and another runtime on: what a call takes, of every dtype; and what it compares."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.check import runtimes
from lrp_compiler.check.verify import Check, verify
from lrp_compiler.cli import main
from lrp_compiler.errors import InputError

TAKES = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's `model.pt2`, `m.lrp.onnx` and `m.lrp.pt2`, their target given at run time; the same in bfloat16."""
    made = tmp_path_factory.mktemp("runtimes")
    for start, dtype in (("", torch.float32), ("b", torch.bfloat16)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype).eval()
        program = torch.export.export(model, (TAKES.to(dtype),))
        torch.export.save(program, made / f"{start}model.pt2")
        explainer = lrp.compile(program, target="index")
        explainer.save(made / f"{start}m.lrp.pt2")
        if dtype is torch.float32:
            explainer.to_onnx(made / "m.lrp.onnx")
    np.save(made / "x.npy", TAKES.bfloat16().float().numpy())
    return made


def asked(path: Path, **options: Any) -> Check:
    return next(check for check in verify(path, **options).checks if check.name == "runtime")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("wrong", ["input", "relevance.input"])
@pytest.mark.parametrize("against", [None, "model.pt2"])
def test_a_runtime_that_gives_something_else_is_refused(
    wrong: str, against: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = runtimes.RUNTIMES["onnxruntime"]

    def opens(path: str, about: Any) -> Any:
        run = own.opens(path, about)
        name = wrong if wrong.startswith("relevance") else about.outputs[0].name

        def changed(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            results = run(feeds)
            return {**results, name: results[name][:, ::-1]}

        return changed

    monkeypatch.setitem(runtimes.RUNTIMES, "openvino", replace(own, opens=opens))
    given = None if against is None else folder / against

    assert asked(folder / "m.lrp.onnx", against=given, runtime="openvino").passed is False


@pytest.mark.sampled(4)
@pytest.mark.parametrize("file", ["m.lrp.onnx", "m.lrp.pt2"])
def test_given_inputs_are_what_a_call_makes_of_them(file: str, folder: Path) -> None:
    """A class that is counted from the end is the same class to all that are asked."""
    found = verify(folder / file, folder / "model.pt2", {"target": np.array([-1, 0])})

    assert found.passed, found


@pytest.mark.parametrize("file", ["m.lrp.onnx", "m.lrp.pt2"])
@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("input", np.zeros((2, 5), np.float32), "has shape"),
        ("input", np.zeros((2, 4), np.int64), "has dtype int64"),
        ("y", np.zeros((2, 4), np.float32), "'y' is none of them"),
        ("target", np.array([3, 0]), "Target 3 is out of range"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    file: str, name: str, array: np.ndarray, message: str, folder: Path
) -> None:
    with pytest.raises(InputError, match=message):
        verify(folder / file, inputs={name: array})


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "command",
    [
        ("verify", "bm.lrp.pt2", "--against", "bmodel.pt2"),
        ("verify", "bm.lrp.pt2", "--against", "bmodel.pt2", "--input", "input=x.npy"),
        ("run", "bm.lrp.pt2", "--input", "x.npy", "--target", "1", "-o", "r.npz"),
        ("audit", "bm.lrp.pt2", "--input", "input=x.npy", "--target", "1"),
    ],
)
def test_the_command_line_takes_float32_for_bfloat16(
    command: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)

    assert main(command) == 0

    if command[0] == "run":
        model: Any = torch.export.load(folder / "bmodel.pt2").module()
        expected: Tensor = model(TAKES.bfloat16())
        np.testing.assert_array_equal(np.load("r.npz")["output"], expected.detach().float().numpy())


@pytest.mark.heavy
@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_a_package_of_bfloat16(folder: Path) -> None:
    assert asked(folder / "bm.lrp.pt2", against=folder / "bmodel.pt2", runtime="aoti").passed is True
