"""Every file has a seal: whoever opens it knows whether a bit has changed, and which files belong together."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.artefacts import FORMATS, tiny, write_all
from support.hand_made import doubler

import lrp_compiler as lrp
from lrp_compiler.base.errors import FormatError, LrpError
from lrp_compiler.base.seal import Seal, check_pair, check_seal, read_seal, seal
from lrp_compiler.check.verify import verify
from lrp_compiler.cli import main
from lrp_compiler.runtime import OnnxExplainer, open_split


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    write_all(folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """Copies of these files, for a test to change."""
    return shutil.copytree(written, tmp_path / "copies")


def weights(folder: Path) -> Path:
    (found,) = folder.glob("small.lrp.onnx.*.data")
    return found


def flipped(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def damage(folder: Path, name: str, random: np.random.Generator) -> str:
    """Flip a bit anywhere in a file, or cut it off anywhere; says what was done."""
    path = weights(folder) if name == "data" else folder / name
    size = path.stat().st_size
    position = int(random.integers(size))
    if random.random() < 0.2:
        path.write_bytes(path.read_bytes()[:position])
        return f"{name} cut off at {position} of {size}"
    bit = int(random.integers(8))
    flipped(path, position, bit)
    return f"{name}: bit {bit} of byte {position} of {size}"


def noticed(folder: Path, name: str) -> bool:
    """Whether `verify` finds the file unsound, and says so in a sentence."""
    try:
        return not verify(folder / ("small.lrp.onnx" if name == "data" else name)).passed
    except LrpError as error:
        return "\n" not in str(error)


def goes_unnoticed(written: Path, folder: Path, name: str, count: int) -> list[str]:
    assert not noticed(folder, name)
    random, unnoticed = np.random.default_rng(7), []
    for _ in range(count):
        what = damage(folder, name, random)
        if not noticed(folder, name):
            unnoticed.append(what)
        path = weights(written) if name == "data" else written / name
        shutil.copyfile(path, folder / path.name)
    return unnoticed


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", [*FORMATS, "data"])
def test_damage_anywhere_is_noticed(name: str, written: Path, folder: Path) -> None:
    assert goes_unnoticed(written, folder, name, 25) == []


@pytest.mark.heavy
@pytest.mark.parametrize("name", [*FORMATS, "data"])
def test_damage_anywhere_is_noticed_two_thousand_times(name: str, written: Path, folder: Path) -> None:
    assert goes_unnoticed(written, folder, name, 2000) == []


@pytest.mark.parametrize("name", FORMATS)
def test_every_file_has_a_seal_that_holds(name: str, written: Path) -> None:
    assert check_seal(written / name, name) == read_seal(written / name) is not None
    assert check_seal((written / "m.lrp.onnx").read_bytes(), "the bytes") == Seal()


def test_a_whole_file_passes_and_says_what_lies_beside_it(written: Path) -> None:
    for name in ("m.lrp.pt2", "m.lrp.onnx", "small.lrp.onnx"):
        assert verify(written / name).passed
    (content, *_) = verify(written / "small.lrp.onnx").checks
    assert (content.name, content.passed) == ("content", True)
    assert weights(written).name in content.found


@pytest.mark.parametrize("position", [100, -100], ids=["in the body", "at the end"])
def test_what_is_damaged_is_not_opened_by_default(position: int, folder: Path) -> None:
    for name in ("m.lrp.pt2", "m.lrp.onnx"):
        size = (folder / name).stat().st_size
        flipped(folder / name, position % size)
    for opened in (lambda: lrp.load(folder / "m.lrp.pt2"), lambda: OnnxExplainer(folder / "m.lrp.onnx")):
        with pytest.raises(FormatError, match=r"is damaged|has no seal"):
            opened()


def test_weights_beside_a_file_belong_to_it(folder: Path) -> None:
    beside = weights(folder)
    flipped(beside, beside.stat().st_size // 2)
    with pytest.raises(FormatError, match=f"the content of '{beside.name}', beside it, is not what was written"):
        OnnxExplainer(folder / "small.lrp.onnx")
    beside.unlink()
    with pytest.raises(FormatError, match="which holds its weights, is not beside it"):
        OnnxExplainer(folder / "small.lrp.onnx")


def test_the_check_can_be_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One bit of one bias: the file opens, and calculates something else."""
    (bias,) = (tensor.numpy().tobytes() for tensor in tiny().module.state_dict().values() if tensor.shape == (3,))
    for name in ("m.lrp.pt2", "m.lrp.onnx"):
        content = (folder / name).read_bytes()
        assert content.count(bias) == 1
        flipped(folder / name, content.index(bias) + 3, 6)
    x = torch.randn(2, 4)
    for explain in (
        lrp.load(folder / "m.lrp.pt2", check=False),
        OnnxExplainer(folder / "m.lrp.onnx", check=False),
    ):
        given = x if isinstance(explain, lrp.Explainer) else x.numpy()
        assert not np.allclose(explain(given, target=np.array([0, 1])).output, tiny()(x, target=0).output)
    np.save(folder / "x.npy", x.numpy())
    run = ["run", str(folder / "m.lrp.onnx"), "--input", str(folder / "x.npy"), "--target", "1", "-o"]
    assert main([*run, str(folder / "r.npz")]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert main([*run, str(folder / "r.npz"), "--no-check"]) == 0


def test_a_damaged_explainer_is_no_model_to_compile(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flipped(folder / "m.lrp.pt2", 2000)
    for command in ("plan", "inspect"):
        assert main([command, str(folder / "m.lrp.pt2")]) == 1
        assert "is damaged" in capsys.readouterr().err


def test_a_file_without_a_seal_is_told_so(tmp_path: Path) -> None:
    content = doubler()
    cut = content[: content.rindex(b"r", 0, content.rindex(b"lrp_compiler.seal"))]
    with pytest.raises(FormatError, match=r"the given bytes has no seal, .*; write it anew, or open it as it is"):
        OnnxExplainer(cut)
    OnnxExplainer(cut, check=False)


def test_any_zip_and_any_length_can_be_sealed(tmp_path: Path) -> None:
    """The lengths in front of a text of 0 to 300 bytes, of one byte each or two."""
    for length in range(0, 300, 7):
        path = tmp_path / f"{length}.onnx"
        path.write_bytes(b"\x08\x0a")
        seal(path, Seal({"f" * length: "0" * 64}))
        assert read_seal(path) == Seal({"f" * length: "0" * 64})


@pytest.mark.sampled(4)
@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_the_parts_of_two_explainers_are_not_taken_for_one(ending: str, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny(1).save_split(other / f"forward.{ending}", other / f"relevance.{ending}")
    opened = open_split if ending == "onnx" else lrp.load_split
    pairs = itertools.product((folder, other), repeat=2)
    for first, second in pairs:
        files = first / f"forward.{ending}", second / f"relevance.{ending}"
        if first == second:
            opened(*files)
            continue
        with pytest.raises(FormatError, match="do not belong together") as raised:
            opened(*files)
        assert "\n" not in str(raised.value)
    with pytest.raises(FormatError, match="is not the forward part of a split explainer, but the relevance part"):
        check_pair(folder / f"relevance.{ending}", folder / f"forward.{ending}")
    one, another = folder / f"forward.{ending}", folder / f"relevance.{ending}"
    assert verify(another, other=one).passed
    stranger = verify(one, other=other / f"relevance.{ending}").checks[-1]
    assert (stranger.name, stranger.passed) == ("pair", False)
    with pytest.raises(FormatError, match="but a whole explainer"):
        check_pair(folder / "m.lrp.onnx", folder / f"relevance.{ending}")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        check_pair(folder / f"forward.{ending}", folder / "nothing")


def test_the_parts_calculate_what_the_explainer_does(folder: Path) -> None:
    x, target = torch.randn(3, 4), torch.tensor([0, 2, 1])
    whole = tiny()(x, target=target)
    forward, relevance = lrp.load_split(folder / "forward.pt2", folder / "relevance.pt2")
    output, *kept = forward(x)
    assert torch.equal(output, whole.output)
    assert torch.equal(relevance(*kept, target)[0], whole.relevance["input"])
    assert (forward.meta["outputs"], relevance.meta["relevance"]) == (["output"], ["input"])
    first, second = open_split(folder / "forward.onnx", folder / "relevance.onnx")
    names = [value.name for value in second.get_inputs() if value.name.startswith("kept.")]
    values = dict(zip(names, first.run(names, {"input": x.numpy()}), strict=True))
    (got,) = second.run(["relevance.input"], {**values, "target": target.numpy()})
    np.testing.assert_allclose(got, whole.relevance["input"].numpy(), rtol=1e-5, atol=1e-6)


def test_a_file_is_the_same_whatever_it_is_called(tmp_path: Path) -> None:
    for name in ("a.lrp.pt2", "b.lrp.pt2"):
        tiny().save(tmp_path / name)
    assert (tmp_path / "a.lrp.pt2").read_bytes() == (tmp_path / "b.lrp.pt2").read_bytes()
    assert torch.export.load(tmp_path / "a.lrp.pt2").graph is not None
