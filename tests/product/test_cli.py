"""The command line without the compiler: arguments, `run` on ONNX files, errors, files that appear whole or not."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.hand_made import chooser, doubler, lookup, seeded, x_of

from lrp_compiler.base.files import atomic_path
from lrp_compiler.cli import main

COMMANDS = ("compile", "run", "coverage", "audit")


def call(line: str) -> int:
    return main(line.split())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("double.lrp.onnx").write_bytes(doubler())
    Path("choose.lrp.onnx").write_bytes(chooser())
    np.save("x.npy", x_of(2))
    return tmp_path


def refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a command that fails and leaves no file."""
    before = sorted(os.listdir())
    assert call(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lrp-compiler: error: ")
    assert captured.err.count("\n") == 1
    assert sorted(os.listdir()) == before
    return captured.err.removeprefix("lrp-compiler: error: ").strip()


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert f"example:\n  lrp-compiler {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "explain",
        "compile m.pt2",
        "compile m.pt2 -o m.txt",
        "compile m.pt2 -o m.onnx --target cat",
        "compile m.pt2 -o m.onnx --seed two",
        "run m.lrp.onnx -o r.npz",
        "audit m.lrp.pt2",
    ],
)
def test_a_wrong_call_exits_with_2(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call(arguments)
    assert stop.value.code == 2
    assert "usage: lrp-compiler" in capsys.readouterr().err


def test_run_writes_output_and_relevance(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run double.lrp.onnx --input x.npy -o r.npz") == 0
    with np.load("r.npz") as arrays:
        assert sorted(arrays) == ["output", "relevance.x"]
        np.testing.assert_array_equal(arrays["output"], 2 * x_of(2))
        np.testing.assert_array_equal(arrays["relevance.x"], 2 * x_of(2) ** 2)
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["output: float32[2, 3]", "relevance.x: float32[2, 3], sum 62.0", "wrote r.npz"]
    assert captured.err == ""


def test_run_prints_json_for_machines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run double.lrp.onnx --input x.npy -o r.npz --json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {
        "path": "r.npz",
        "arrays": {
            "output": {"shape": [2, 3], "dtype": "float32"},
            "relevance.x": {"shape": [2, 3], "dtype": "float32", "sum": 62.0},
        },
    }


def test_run_takes_a_target_as_number_or_file(folder: Path) -> None:
    np.save("t.npy", np.array([1, 1]))
    for target in ("1", "t.npy"):
        assert call(f"run choose.lrp.onnx --input x=x.npy --target {target} --batch-size 1 -o r.npz") == 0
        with np.load("r.npz") as arrays:
            np.testing.assert_array_equal(arrays["relevance.x"], 2 * x_of(2) * [0, 1, 0])


def test_run_takes_a_seed(folder: Path) -> None:
    Path("seed.lrp.onnx").write_bytes(seeded())
    assert call("run seed.lrp.onnx --input x.npy --seed x.npy -o r.npz") == 0
    with np.load("r.npz") as arrays:
        np.testing.assert_array_equal(arrays["relevance.x"], x_of(2) ** 2)


def test_run_takes_several_inputs_and_names_several_outputs(folder: Path) -> None:
    Path("lookup.lrp.onnx").write_bytes(lookup())
    np.save("ids.npy", np.array([[0, 1]]))
    np.save("m=1.npy", np.ones((1, 2), np.float32))
    assert call("run lookup.lrp.onnx --input ids=ids.npy --input mask=m=1.npy -o r") == 0
    with np.load("r") as arrays:
        assert sorted(arrays) == ["output.score", "output.total", "relevance.ids"]
    # A file whose own name has an equals sign is that file.
    assert call("run lookup.lrp.onnx --input ids.npy --input m=1.npy -o r.npz") == 0


def test_run_refuses_what_does_not_fit_in_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("wide.npy", np.zeros((2, 4), np.float32))
    np.save("nan.npy", np.full((2, 3), np.nan, np.float32))
    np.save("objects.npy", np.array([{}]), allow_pickle=True)
    np.savez("several.npz", x=x_of(2))
    Path("text.npy").write_text("not an array")
    Path("empty.npy").touch()
    Path("text.onnx").write_text("not an explainer")
    Path("cut.onnx").write_bytes(doubler()[:-9])
    double, choose = "run double.lrp.onnx -o r.npz --input", "run choose.lrp.onnx -o r.npz --input"
    for arguments, sentence in {
        f"{double} wide.npy": "dimension 1 must be 3, not 4.",
        f"{double} nan.npy --check-nan": "Input 'x' holds NaN.",
        f"{double} z=x.npy": "'z' is none of them.",
        f"{double} x=x.npy --input x=x.npy": "Input 'x' is given twice.",
        f"{double} absent.npy": "There is no file absent.npy.",
        f"{double} text.npy": "text.npy is not a file that numpy.save wrote from numbers.",
        f"{double} empty.npy": "empty.npy is not a file that numpy.save wrote from numbers.",
        f"{double} objects.npy": "objects.npy is not a file that numpy.save wrote from numbers.",
        f"{double} several.npz": "several.npz holds several arrays",
        f"{double} x.npy --target 1": "A target was given",
        f"{choose} x.npy": "The target is missing",
        f"{choose} x.npy --target 3": "Target 3 is out of range: the model has 3 classes, 0 to 2.",
        "run absent.onnx --input x.npy -o r.npz": "There is no file absent.onnx.",
        "run text.onnx --input x.npy -o r.npz": "text.onnx is not a sound ONNX file",
        "run cut.onnx --input x.npy -o r.npz": "cut.onnx is not a sound ONNX file",
        "run double.lrp.onnx --input x.npy -o absent/r.npz": "there is no folder absent.",
        "run double.lrp.onnx --input x.npy -o .": "Cannot write .: it is a folder.",
    }.items():
        assert sentence in refused(arguments, capsys), arguments


def test_a_failed_run_keeps_the_file_that_was_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.npz").write_bytes(b"earlier")
    refused("run double.lrp.onnx --input z=x.npy -o r.npz", capsys)
    assert Path("r.npz").read_bytes() == b"earlier"


def test_run_works_without_torch(folder: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from lrp_compiler.cli import main\n"
        "raise SystemExit(main('run double.lrp.onnx --input x.npy -o r.npz'.split()))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert Path("r.npz").exists()


def test_the_module_runs_as_a_program(folder: Path) -> None:
    command = [sys.executable, "-m", "lrp_compiler", "run", "double.lrp.onnx", "--input", "absent.npy", "-o", "r.npz"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert finished.stderr == "lrp-compiler: error: There is no file absent.npy.\n"


def test_errors_of_the_operating_system_lose_their_number(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(arguments: argparse.Namespace) -> None:
        raise OSError(28, "No space left on device", "r.npz")

    monkeypatch.setattr("lrp_compiler.cli.commands.run.do", full)
    sentence = refused("run double.lrp.onnx --input x.npy -o r.npz", capsys)
    assert sentence == "r.npz: No space left on device"


def test_a_file_appears_with_its_companions_or_not_at_all(tmp_path: Path) -> None:
    def write(folder: Path, text: str) -> None:
        (folder / "m.onnx.data").write_text(text)
        (folder / "m.onnx").write_text(text)

    with atomic_path(tmp_path / "m.onnx") as temporary:
        write(temporary.parent, "first")
        assert os.listdir(tmp_path) == [temporary.parent.name]
    with contextlib.suppress(ZeroDivisionError), atomic_path(tmp_path / "m.onnx") as temporary:
        write(temporary.parent, "second")
        raise ZeroDivisionError
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
    assert {file.read_text() for file in tmp_path.iterdir()} == {"first"}
    # As open() would have made it, not private as a temporary file is.
    (tmp_path / "plain").touch()
    assert (tmp_path / "m.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode
