"""`lrp-compiler explain`, and what it says where something that it needs is not installed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.data_sets import errors, of_rows, rows, written
from support.served import WITHOUT

from lrp_compiler.cli import main


@pytest.fixture
def job(tmp_path: Path) -> list[str]:
    x = rows(20)
    x[5, 0, 0] = np.nan
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"key": f"k{n}", "x": x[n].tolist()}) for n in range(20)))
    explainer = of_rows(tmp_path / "m.lrp.onnx", target="index")
    data, output = tmp_path / "rows.jsonl", tmp_path / "out"
    options = ["--column", "input=x", "--id", "key", "--target", "1", "--where", "key != 'k0'", "--shard-rows", "8"]
    return ["explain", str(explainer), str(data), "-o", str(output), *options]


def test_the_command_explains_and_goes_on(job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*job, "--fail-fast"]) == 1
    assert "Row 5 cannot be explained: Input 'input' holds NaN." in capsys.readouterr().err

    assert main([*job, "--json"]) == 0

    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["explained"], said["bad"], said["shards"]) == (20, 18, 1, 3)
    assert written(tmp_path / "out")["id"].to_pylist() == [f"k{n}" for n in range(20) if n not in (0, 5)]
    assert set(written(tmp_path / "out")["target"].to_pylist()) == {1}
    assert errors(tmp_path / "out") == {5: "Input 'input' holds NaN."}
    assert main(job) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("explained 18 rows (all of them before), 3 files in ")
    assert second.startswith("1 row could not be explained: ")
    assert main([*job[:-4], "--limit", "3"]) == 1
    assert "was begun with another limit" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["m.lrp.pt2", "x.npy"], ["none.lrp.onnx", "x.npy"]])
def test_a_wrong_explainer_is_one_sentence(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.lrp.pt2").touch()

    assert main(["explain", *(str(tmp_path / name) for name in arguments), "-o", str(tmp_path / "out")]) == 1

    said = capsys.readouterr().err
    assert said.startswith("lrp-compiler: error: ")
    assert len(said.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("absent", "said"), [("pyarrow", "pyarrow"), ("torch", ""), ("onnx", "")], ids=["pyarrow", "torch", "onnx"]
)
def test_what_is_absent_is_said_with_the_command(absent: str, said: str, job: list[str]) -> None:
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=(absent,)), *job], capture_output=True, text=True, check=False
    )

    sentence = f"Cannot explain data sets without {said}: pip install 'lrp-compiler[data]'."
    assert found.stderr == (f"lrp-compiler: error: {sentence}\n" if said else "")
    assert found.returncode == bool(said)


def test_ray_that_is_absent_is_said_before_anything_is_written(job: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT.format(absent=("ray",)), *job, "--engine", "ray", "--workers", "1:2"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)

    sentence = "Cannot explain the data without ray: pip install 'lrp-compiler[ray]'."
    assert (found.returncode, found.stderr) == (1, f"lrp-compiler: error: {sentence}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "1:2"], 'workers from 1 to 2 needs engine="ray"'),
        (["--address", "auto"], 'The address auto is of a cluster, which needs engine="ray"'),
        (
            ["--workers", "2:1", "--engine", "ray"],
            "workers is a whole number from 1 up, or two: least and most, not (2, 1)",
        ),
    ],
)
def test_options_of_the_other_engine_are_refused(
    options: list[str], said: str, job: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*job, *options]) == 1
    assert said in capsys.readouterr().err
