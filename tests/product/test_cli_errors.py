"""The command line: one sentence on stderr, no traceback without --debug, whatever the files hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.cli import main
from lrp_compiler.cli.commands import plan

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Named(nn.Module):
    """Modules whose names rich and matplotlib would read as markup."""

    NAMES = ("[x]", "[/x]", "a$b$^", "$_{$", ":smile:", "it's")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name in self.NAMES:
            self.add_module(name, nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        for module in self._modules.values():
            x = torch.relu(module(x))
        return x


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cli")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 48), nn.ReLU(), nn.Linear(48, 3)).eval()
    torch.export.save(torch.export.export(model, (X,)), made / "model.pt2")
    explainer = lrp.compile(model, (X,), target="index", dynamic_shapes=({0: torch.export.Dim("batch")},))
    explainer.save(made / "m.lrp.pt2")
    explainer.to_onnx(made / "m.lrp.onnx")
    lrp.compile(Named().eval(), (X,)).save(made / "n.lrp.pt2")
    explainer.to_onnx(made / "small.lrp.onnx", profile="small")
    np.save(made / "x.npy", X.numpy())
    np.save(made / "t.npy", np.array([0, 1]))
    (made / "t.relevance.json").write_text("{}")
    (made / "dagre").mkdir()
    (made / "dagre" / "dagre.js").write_text("")
    return made


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`call(*arguments)`: exit code, stdout, stderr; in the folder."""
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
FORGED = b"\x93NUMPY\x01\x00v\x00" + HEADER.ljust(117) + b"\n"
ARRAYS: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: np.save(path, np.array(["a"])),
    "structured": lambda path: np.save(path, np.zeros(3, [("a", "f4")])),
    "objects": lambda path: np.save(path, np.array([None]), allow_pickle=True),
    "dates": lambda path: np.save(path, np.zeros(3, "M8[s]")),
    "empty": lambda path: path.write_bytes(b""),
    "other": lambda path: path.write_bytes(b"hello"),
    "claims a terabyte": lambda path: path.write_bytes(FORGED),
    "cut": lambda path: path.write_bytes((path.parent / "x.npy").read_bytes()[:-5]),
    "several": lambda path: path.write_bytes(_archive()),
    "complex": lambda path: np.save(path, X.numpy().astype(np.complex64)),
}


def _archive() -> bytes:
    import io

    content = io.BytesIO()
    np.savez(content, a=X.numpy(), b=X.numpy())
    return content.getvalue()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_an_array_that_is_none_is_refused_in_a_sentence(kind: str, ending: str, call: Any, folder: Path) -> None:
    ARRAYS[kind](folder / "a.npy")
    code, out, err = call("run", f"m.lrp.{ending}", "--input", "a.npy", "--target", "0", "-o", "r.npz")
    assert (code, out) == (1, "")
    assert err.startswith("lrp-compiler: error: ")
    assert err.count("\n") == 1
    assert not (folder / "r.npz").exists()


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_an_array_of_the_other_byte_order_is_read(ending: str, call: Any, folder: Path) -> None:
    results = []
    for name, dtype in (("x", "<f4"), ("y", ">f4")):
        np.save(folder / f"{name}.npy", X.numpy().astype(dtype))
        assert call("run", f"m.lrp.{ending}", "--input", f"{name}.npy", "--target", "-1", "-o", f"{name}.npz")[0] == 0
        results.append(np.load(folder / f"{name}.npz")["relevance.input"])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "m.lrp.onnx", "--input", "check_nan=x.npy", "--target", "0", "-o", "r.npz"), "by position"),
        (("run", "m.lrp.pt2", "--input", "self=x.npy", "--target", "0", "-o", "r.npz"), "self"),
        (("audit", "m.lrp.pt2", "--input", "precision=x.npy", "--target", "0"), "by position"),
        (("run", "m.lrp.onnx", "--input", "x.npy", "--target", str(10**30), "-o", "r.npz"), "out of range"),
        (("run", "m.lrp.pt2", "--input", "x.npy", "--target", str(10**30), "-o", "r.npz"), "out of range"),
        (("compile", "model.pt2", "-o", "o.onnx", "--composite", "epsilon_plus"), "did you mean 'epsilon-plus'"),
        (
            ("compile", "model.pt2", "-o", "o.onnx", "--composite", "epsilon", "--option", "epsilon=abc"),
            "a number from 0 up",
        ),
        (("compile", "model.pt2", "-o", "o.onnx", "--option", "epsilon=1"), "'auto' has no options"),
        (("compile", "x.npy", "-o", "o.onnx"), "not a .pt2 file"),
        (("plan", "m.lrp.onnx"), "ONNX"),
        (("audit", "m.lrp.onnx", "--input", "x.npy"), "no forward graph"),
        (("verify", "model.pt2"), "not written by lrp_compiler"),
    ],
)
def test_other_mistakes_are_told_in_a_sentence(arguments: tuple[str, ...], words: str, call: Any) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_negative_seed_is_a_wrong_call(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["verify", str(folder / "m.lrp.onnx"), "--seed", "-1"])
    assert raised.value.code == 2
    assert "-1 is no whole number from 0 up" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("inspect", "n.lrp.pt2"), ("audit", "n.lrp.pt2", "--input", "x.npy")])
def test_names_are_texts_in_tables(arguments: tuple[str, ...], call: Any) -> None:
    code, out, _ = call(*arguments)
    assert code == 0
    assert [name for name in Named.NAMES if name not in out] == []


def test_names_are_texts_in_figures(tmp_path: Path) -> None:
    explainer = lrp.compile(Named().eval(), (X,)).observe("**")
    explainer(X).layers().save(tmp_path / "layers.png")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2)).eval()
    x = torch.randn(2, 3, 6, 6)
    picture = lrp.compile(model, (x,))(x).heatmap(labels=["$\\frac{$", "[/x] $_{$"], title="$x^$")
    picture.save(tmp_path / "heatmap.png")


def test_only_debug_prints_a_traceback(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Any) -> Any:
        raise KeyError("lost")

    monkeypatch.setattr(plan, "explainer_in", broken)
    code, out, err = call("plan", "m.lrp.pt2")
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    assert "KeyError: 'lost'" in err
    assert err.count("\n") == 1
    code, _, err = call("plan", "m.lrp.pt2", "--debug")
    assert code == 1
    assert err.startswith("Traceback")
    assert "KeyError: 'lost'" in err.splitlines()[-1]


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (MemoryError(), 1)])
def test_what_is_no_error_of_a_computation_prints_no_traceback(
    error: BaseException, code: int, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(path: Any) -> Any:
        raise error

    monkeypatch.setattr(plan, "explainer_in", ended)
    found, _, err = call("plan", "m.lrp.pt2")
    assert found == code
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("compile", "model.pt2", "-o", "model.pt2"),
        ("compile", "model.pt2", "-o", "../{folder}/model.pt2"),
        ("run", "m.lrp.onnx", "--input", "x.npy", "--target", "0", "-o", "x.npy"),
        ("run", "m.lrp.onnx", "--input", "input=x.npy", "--target", "0", "-o", "link.npy"),
        ("run", "m.lrp.pt2", "--input", "x.npy", "--target", "0", "-o", "m.lrp.pt2"),
        ("inspect", "m.lrp.pt2", "--html", "m.lrp.pt2"),
        ("run", "m.lrp.onnx", "--input", "x.npy", "--target", "t.npy", "-o", "t.npy"),
        ("run", "m.lrp.onnx", "--input", "x.npy", "--target", "0", "--seed", "t.npy", "-o", "t.npy"),
        ("run", "m.lrp.onnx", "--input", "x.npy", "--target", "0", "--position", "t.npy", "-o", "./t.npy"),
        ("run", "small.lrp.onnx", "--input", "x.npy", "--target", "0", "-o", "{weights}"),
        ("inspect", "m.lrp.pt2", "--html", "x.npy", "--input", "input=x.npy", "--target", "0"),
        ("inspect", "model.pt2", "--diff", "m.lrp.pt2", "--html", "m.lrp.pt2"),
        ("inspect", "m.lrp.pt2", "--model-explorer", "t.json", "--input", "t.relevance.json"),
        ("inspect", "m.lrp.pt2", "--html", "dagre/dagre.js", "--dagre", "dagre"),
    ],
)
def test_what_a_command_reads_is_not_written_over(arguments: tuple[str, ...], call: Any, folder: Path) -> None:
    link = folder / "link.npy"
    if not link.exists():
        link.symlink_to("x.npy")

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = content()
    weights = next(folder.glob("small.lrp.onnx.*.data")).name

    code, out, err = call(*(argument.format(folder=folder.name, weights=weights) for argument in arguments))

    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "is what the command reads" in err
    assert content() == before


def test_two_results_do_not_share_a_file(call: Any, folder: Path) -> None:
    code, _, err = call("inspect", "m.lrp.pt2", "--html", "two.html", "--model-explorer", "./two.html")

    assert code == 1
    assert "is to hold two results" in err
    assert not (folder / "two.html").exists()


class Probabilities(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, -1)


def test_a_warning_of_the_library_is_a_line_on_stderr(call: Any, folder: Path) -> None:
    torch.export.save(torch.export.export(Probabilities(), (X,)), folder / "p.pt2")

    code, out, err = call("compile", "p.pt2", "-o", "p.lrp.onnx")

    chosen = "composite epsilon (auto: it has neither attention nor convolutions)"
    assert (code, out) == (0, f"{chosen}\nwrote p.lrp.onnx\n")
    lines = [line for line in err.splitlines() if "warning" in line]
    assert len(lines) == 1
    assert lines[0].startswith("lrp-compiler: warning: The model returns the probability")
