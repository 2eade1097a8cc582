"""`lrp-compiler concepts`: what it writes is what is so by hand, without torch; a wrong question is one sentence."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.branches import BY_HAND, PAST, Branches, X, through
from support.served import WITHOUT
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler import concepts
from lrp_compiler.cli import main

BATCH = {0: torch.export.Dim("batch")}


@pytest.fixture(scope="module")
def explainers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explainers")
    paths = ["hidden", "second"]
    options: dict[str, Any] = {"composite": "attnlrp", "dynamic_shapes": (BATCH,), "target": "index"}
    lrp.compile(Branches().eval(), (X,), masks=paths, observe=paths, **options).to_onnx(folder / "branches.lrp.onnx")
    circuit = lrp.compile(
        Branches().eval(), (X,), masks=paths, seeds=paths, observe=paths, **{**options, "target": 0, "seed": "tensor"}
    )
    circuit.to_onnx(folder / "circuit.lrp.onnx")
    lrp.compile(Branches().eval(), (X,), composite="attnlrp", target=0, observe=paths[:1]).to_onnx(
        folder / "two.lrp.onnx"
    )
    colours = lrp.compile(Colours().eval(), (torch.rand(2, 3, 8, 8),), masks="conv", observe="conv", **options)
    colours.to_onnx(folder / "colours.lrp.onnx")
    words = torch.tensor([[1, 2, 3], [3, 2, 1]])
    shapes = ({0: BATCH[0], 1: torch.export.Dim("sequence")},)
    lrp.compile(
        Words().eval(), (words,), masks="table", observe="table", **{**options, "dynamic_shapes": shapes}
    ).to_onnx(folder / "words.lrp.onnx")
    return folder


class Colours(nn.Module):
    """Each channel is a colour, added up over the picture; the class is the colour."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.conv.weight.data = torch.eye(3).reshape(3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu().sum((2, 3))


class Words(nn.Module):
    """Word n has feature 0 of size n, and feature 1 of size 1; they are added up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 2)
        self.table.weight.data = torch.stack([torch.arange(5.0), torch.ones(5)], 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).sum(-1).sum(1, keepdim=True)


@pytest.fixture
def folder(explainers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for path in explainers.iterdir():
        Path(path.name).symlink_to(path)
    np.save("x.npy", np.concatenate([X.numpy(), 2 * X.numpy()[:1]]))
    return tmp_path


def call(line: str) -> int:
    return main(["concepts", *line.split()])


def refused(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    before = sorted(Path().iterdir())
    assert call(line) == 1
    said = capsys.readouterr()
    assert sorted(Path().iterdir()) == before
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    return said.err.removeprefix("lrp-compiler: error: ").strip()


@pytest.mark.slow
def test_shares_of_channels_row_by_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("branches.lrp.onnx x.npy --layer hidden --target 0 --batch-size 2 -o c.npz") == 0

    with np.load("c.npz") as found:
        np.testing.assert_allclose(found["share"], [[9 / 11, 2 / 11, 0]] * 3, rtol=1e-6)
        assert (found["id"].tolist(), str(found["layer"])) == ([0, 1, 2], "hidden")
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"{row}: 0 81.8%, 1 18.2%, 2 0.0%" for row in range(3)] + ["wrote c.npz"]
    assert said.err == ""

    assert call("branches.lrp.onnx x.npy --layer hidden --target 0 --top 1 -o c.npz --json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[2] == {"id": 2, "channels": [{"channel": 0, "share": pytest.approx(9 / 11)}]}


def test_relevance_under_conditions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "branches.lrp.onnx x.npy --condition hidden=0 second=1 y=0 --condition hidden=0,1 --target 0 -o c.npz"
    assert call(line) == 0

    units = [([1, 0, 0], [0, 1]), ([1, 1, 0], [1, 1])]
    expected = np.array([[a + b for a, b in zip(through(*one), PAST, strict=True)] for one in units])
    with np.load("c.npz") as found:
        np.testing.assert_allclose(found["relevance.x"], expected[:, None] * [[[1], [1], [2]]], rtol=1e-6)
        assert found["condition"].tolist() == ["y=0 hidden=0 second=1", "y=0 hidden=0,1"]
    assert "relevance.x: float32[2, 3, 2]" in capsys.readouterr().out


def test_heatmaps_of_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos/deep").mkdir(parents=True)
    for name, colour in (("red.png", (255, 0, 0)), ("deep/blue.png", (0, 0, 255))):
        Image.new("RGB", (8, 8), colour).save(f"photos/{name}")

    line = "colours.lrp.onnx photos --condition conv=0 y=0 --condition conv=2 y=0 -o c.npz --pictures out/maps --json"
    Path("out").mkdir()
    assert call(line) == 0

    drawn = ["0.red.png.0.png", "0.red.png.1.png", "1.deep_blue.png.0.png", "1.deep_blue.png.1.png"]
    assert sorted(path.name for path in Path("out/maps").iterdir()) == drawn
    assert Image.open("out/maps/0.red.png.0.png").size == (8, 8)
    assert json.loads(capsys.readouterr().out)["pictures"] == 4
    with np.load("c.npz") as found:  # red is red's relevance, and nothing passes blue's channel to the class red
        totals = found["relevance.x"].sum((2, 3, 4))
        np.testing.assert_allclose(totals, [[64, 0], [0, 0]], atol=1e-5)
        assert found["id"].tolist() == ["red.png", "deep/blue.png"]


def test_references_by_the_names_of_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos").mkdir()
    for number, colour in enumerate([(200, 50, 0), (250, 0, 0), (20, 230, 0)]):
        Image.new("RGB", (8, 8), colour).save(f"photos/{number}.png")

    assert call("colours.lrp.onnx photos --references 2 --target 0 --batch-size 1 --limit 2 -o r.npz") == 0
    assert call("colours.lrp.onnx photos --references 2 --target 0 --batch-size 1 --resume -o r.npz") == 0

    assert call("colours.lrp.onnx photos --references 2 --target 0 --limit 2 -o r.parquet") == 0
    assert concepts.References.load("r.parquet").samples[0].tolist() == [0, 1]
    capsys.readouterr()

    found = concepts.References.load("r.npz")
    assert (found.seen, found.path) == (3, "conv")
    assert found.samples[0].tolist() == [0, 1]  # to the class red all relevance is red's: the first ones stay
    with np.load("r.npz") as arrays:
        assert arrays["id"][0].tolist() == ["0.png", "1.png"]
    assert call("colours.lrp.onnx photos --references 2 --target 0 -o again.npz") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "channel 0: 0.png, 1.png"
    assert said[-1] == "wrote again.npz: 3 samples seen"


def test_texts_of_several_lengths(folder: Path) -> None:
    Path("t.jsonl").write_text('{"ids": [1, 2]}\n{"ids": [3, 4]}\n{"ids": [4, 4, 1]}\n')

    assert call("words.lrp.onnx t.jsonl --condition table=0 y=0 -o c.npz") == 0
    assert call("words.lrp.onnx t.jsonl --target 0 -o s.npz") == 0

    with np.load("c.npz") as found:
        np.testing.assert_allclose(found["relevance.ids"], [[[1, 2, np.nan], [3, 4, np.nan], [4, 4, 1]]], rtol=1e-6)
    with np.load("s.npz") as found:
        np.testing.assert_allclose(found["share"], [[3 / 5, 2 / 5], [7 / 9, 2 / 9], [9 / 12, 3 / 12]], rtol=1e-6)


def test_the_graph_of_the_first_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "circuit.lrp.onnx x.npy --graph hidden,second --threshold 0.2"
    assert call(f"{line} -o g.json") == 0
    assert call(f"{line} -o g.png --top 0") == 0

    held = json.loads(Path("g.json").read_text())
    paths = {node["node_id"]: node["path"] for node in held["nodes"]}
    found = {(paths[link["source"]], paths[link["target"]]): link["weight"] for link in held["links"]}
    kept = {ends: weight for ends, weight in BY_HAND.items() if abs(weight) > (3.4 if ends[0][0] == "x" else 2.2)}
    assert found == {ends: pytest.approx(weight, abs=2e-5) for ends, weight in kept.items()}
    assert Image.open("g.png").size[0] == 640
    said = capsys.readouterr().out.splitlines()
    assert sorted(said[:3]) == ["hidden:0 → x:1: 6", "logit → second:0: 6", "second:0 → hidden:0: 6"]
    assert said[-1] == "wrote g.png: 6 nodes, 6 edges"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("branches.lrp.onnx x.npy --graph hidden -o g.json", "compile with seed='tensor'"),
        ("circuit.lrp.onnx x.npy --graph hiden -o g.json", "takes none for 'hiden'"),
        ("circuit.lrp.onnx x.npy --graph hidden --keep 0 -o g.json", "keep is how many units"),
        ("circuit.lrp.onnx x.npy --graph hidden --apart both -o g.json", "no dim besides its channels"),
        ("circuit.lrp.onnx x.npy --graph hidden -o g.txt", "Pictures are not written as 'txt'"),
        ("absent.lrp.onnx x.npy -o c.npz", "There is no file absent.lrp.onnx."),
        ("branches.lrp.onnx absent.npy -o c.npz", "There is no file or folder absent.npy."),
        ("branches.lrp.onnx x.npy -o absent/c.npz", "there is no folder absent."),
        ("branches.lrp.onnx x.npy --target 0 -o c.npz", "relevance of hidden, second: choose by --layer."),
        ("branches.lrp.onnx x.npy --layer hiden --target 0 -o c.npz", "'hidden'"),
        ("branches.lrp.onnx x.npy --layer hidden -o c.npz", "target"),
        ("branches.lrp.onnx x.npy --layer hidden --dim 3 --target 0 -o c.npz", "its channels are in one behind"),
        ("branches.lrp.onnx x.npy --condition hidden=7 y=0 -o c.npz", "Channel 7 is out of range: 'hidden' has 3"),
        ("branches.lrp.onnx x.npy --condition first=0 y=0 -o c.npz", "names 'first', of which this explainer takes no"),
        ("branches.lrp.onnx x.npy --condition hidden=0 -o c.npz", "names no class"),
        ("branches.lrp.onnx x.npy --layer hidden --target 0 --references 0 -o c.npz", "k is how many samples"),
        ("branches.lrp.onnx x.npy --layer hidden --target 0 --resume -o c.npz", "give --references K, too."),
        ("branches.lrp.onnx x.npy --layer hidden --target 0 --pictures p -o c.npz", "give --condition, too."),
        ("branches.lrp.onnx n.npy --layer hidden --target 0 -o c.npz", "Input 'x' holds NaN, in row 0"),
        ("two.lrp.onnx x.npy -o c.npz", "takes 2 rows at a time, and 3 rows are no multiple"),
        ("two.lrp.onnx x.npy --target 0 -o c.npz --limit 2", "compile with target='index'"),
        ("words.lrp.onnx u.jsonl --target 0 -o c.npz", "Row 1: Input 'ids'"),
    ],
)
def test_what_is_asked_wrongly_is_one_sentence(
    line: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("n.npy", np.full((2, 2), np.nan, np.float32))
    Path("u.jsonl").write_text('{"ids": [1, 2]}\n{"ids": "one"}\n')

    assert said in refused(line, capsys)


@pytest.mark.parametrize("option", ["--condition hidden", "--condition =3", "--condition hidden=a", "--references -1"])
def test_a_wrong_call_exits_with_2(option: str, folder: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        call(f"branches.lrp.onnx x.npy -o c.npz {option}")
    assert stop.value.code == 2


def test_it_runs_where_torch_is_absent(folder: Path) -> None:
    line = "concepts branches.lrp.onnx x.npy --condition hidden=0 y=0 -o c.npz"
    code = WITHOUT.format(absent=("torch", "onnx", "matplotlib"))

    found = subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True, text=True, check=False)

    assert (found.returncode, found.stderr) == (0, "")
    assert Path("c.npz").exists()
