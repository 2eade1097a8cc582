"""What onnxruntime makes of a file on this machine, kept and opened from then on."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.base import optimised
from lrp_compiler.errors import FormatError, InputError, LrpWarning
from lrp_compiler.runtime import OnnxExplainer


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()
    path = tmp_path_factory.mktemp("optimised") / "m.lrp.onnx"
    lrp.compile(model, (torch.randn(2, 3, 12, 12),), composite="epsilon-plus").to_onnx(path)
    return path


@pytest.fixture
def path(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(written, tmp_path / "m.lrp.onnx"))


X = np.random.default_rng(0).normal(size=(2, 3, 12, 12)).astype(np.float32)


def entries(path: Path) -> list[Path]:
    return sorted(path.with_name(f"{path.name}.optimised").iterdir())


def assert_explains(explainer: OnnxExplainer, path: Path) -> None:
    """As the file does by itself, but for the order in which a kernel of another layout adds."""
    with OnnxExplainer(path) as plain:
        want = plain(X)
    got = explainer(X)
    np.testing.assert_allclose(got.output, want.output, rtol=1e-5, atol=1e-6)
    for name, relevance in want.relevance.items():
        np.testing.assert_allclose(got.relevance[name], relevance, rtol=1e-4, atol=1e-5 * np.abs(relevance).max())
    assert explainer.metadata == plain.metadata


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files on which sessions are made."""
    seen: list[str] = []
    own = optimised.open_session

    def noting(source: Path, *rest: object) -> onnxruntime.InferenceSession:
        seen.append(Path(source).name)
        return own(source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(optimised, "open_session", noting)
    return seen


def test_the_second_opening_takes_what_the_first_kept(path: Path, opened: list[str]) -> None:
    for _ in range(3):
        with OnnxExplainer(path, optimised=True) as explainer:
            assert_explains(explainer, path)
        with OnnxExplainer(path, optimised=True, check=False) as explainer:
            assert_explains(explainer, path)

    assert opened == ["m.lrp.onnx"] + 5 * ["model.onnx"]
    assert len(entries(path)) == 1


def test_another_file_version_or_processor_is_another_entry(
    path: Path, written: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    OnnxExplainer(path, optimised=True).close()
    monkeypatch.setattr(onnxruntime, "__version__", "9.9")
    OnnxExplainer(path, optimised=True).close()
    monkeypatch.undo()
    monkeypatch.setattr(optimised, "_processor", lambda: "another")
    OnnxExplainer(path, optimised=True).close()
    monkeypatch.undo()
    assert len(entries(path)) == 3

    torch.manual_seed(1)
    lrp.compile(nn.Sequential(nn.Flatten(), nn.Linear(432, 5)).eval(), (torch.randn(2, 3, 12, 12),)).to_onnx(path)
    with OnnxExplainer(path, optimised=True) as explainer:
        assert_explains(explainer, path)
    assert len(entries(path)) == 4


HARMS: dict[str, Callable[[Path], object]] = {
    "a bit": lambda entry: flip(entry / "weights.data"),
    "a bit of the graph": lambda entry: flip(entry / "model.onnx"),
    "cut": lambda entry: (entry / "weights.data").write_bytes((entry / "weights.data").read_bytes()[:100]),
    "no weights": lambda entry: (entry / "weights.data").unlink(),
    "no seal": lambda entry: (entry / "seal.json").unlink(),
    "an empty seal": lambda entry: (entry / "seal.json").write_text("{}"),
    "a seal that leads elsewhere": lambda entry: (entry / "seal.json").write_text(json.dumps({"../../m": 0})),
    "no graph": lambda entry: (entry / "model.onnx").unlink(),
}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 8
    file.write_bytes(content)


@pytest.mark.parametrize("harm", HARMS)
def test_what_was_damaged_is_made_anew(harm: str, path: Path, opened: list[str]) -> None:
    OnnxExplainer(path, optimised=True).close()
    HARMS[harm](entries(path)[0])

    with OnnxExplainer(path, optimised=True) as explainer:
        assert_explains(explainer, path)
    OnnxExplainer(path, optimised=True).close()

    assert opened == ["m.lrp.onnx", "m.lrp.onnx", "model.onnx"]


def test_a_damaged_file_is_refused_before_anything_is_kept(path: Path) -> None:
    flip(path)

    with pytest.raises(FormatError, match="is damaged"):
        OnnxExplainer(path, optimised=True)
    assert not path.with_name(f"{path.name}.optimised").exists()


def test_a_folder_of_ones_own_and_pickles(path: Path, tmp_path: Path, opened: list[str]) -> None:
    with OnnxExplainer(path, optimised=tmp_path / "deep" / "own") as explainer:
        again = pickle.loads(pickle.dumps(explainer))
    assert_explains(again, path)
    assert len(list((tmp_path / "deep" / "own").iterdir())) == 1
    assert opened == ["m.lrp.onnx", "model.onnx"]


def test_where_nothing_can_be_written_a_warning_says_so(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    with pytest.warns(LrpWarning, match="Nothing is kept of .*m.lrp.onnx") as said:
        explainer = OnnxExplainer(path, optimised=tmp_path / "file")

    assert said[0].filename == __file__
    assert_explains(explainer, path)


def test_it_goes_with_a_file_and_the_default_options(path: Path) -> None:
    for given in ({"providers": ["CPUExecutionProvider"]}, {"session_options": onnxruntime.SessionOptions()}):
        with pytest.raises(InputError, match="optimised=… goes with a file on the CPU"):
            OnnxExplainer(path, optimised=True, **given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="optimised=… goes with a file"):
        OnnxExplainer(path.read_bytes(), optimised=True)
    with pytest.raises(InputError, match="optimised"):
        OnnxExplainer(path, optimised=3)  # type: ignore[arg-type]


def test_nothing_is_kept_of_a_damaged_file_that_is_opened_unchecked(path: Path) -> None:
    """It would be found by the hash in the seal, which is the sound file's, and vouched for."""
    sound = path.read_bytes()
    at = sound.index(b"epsilon")
    path.write_bytes(sound[:at] + b"epsilom" + sound[at + 7 :])

    OnnxExplainer(path, optimised=True, check=False)

    assert not path.with_name(f"{path.name}.optimised").exists()
