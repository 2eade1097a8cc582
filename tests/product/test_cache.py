"""The compile cache: what comes out of it is what is compiled afresh, or it is compiled afresh."""

import functools
import json
import os
import subprocess
import sys
import textwrap
import threading
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.cache import entries, fingerprint
from lrp_compiler.errors import InputError, LrpWarning
from lrp_compiler.rules import RULES

STAGES_OF_A_FIND = ["cache"]


class Convolutional(nn.Module):
    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=eps), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(4, 5)
        self.scale = torch.rand(4)  # neither parameter nor buffer

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.features(x).mean((2, 3)) * self.scale + torch.tensor(0.5))
        return result


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4, bidirectional=True, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.lstm(x)[0][:, -1])
        return result


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.block = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.head(self.block(self.embedding(ids))[:, -1])
        return result


class Normed(nn.Module):
    """Weights that are calculated from weights."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
        self.deconvolution = nn.ConvTranspose1d(1, 2, 3, stride=2)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.deconvolution(self.map(x)[:, None])).flatten(1)
        return result


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], str]] = {
    "convolutional": (Convolutional, lambda: torch.randn(2, 3, 8, 8), "epsilon-plus"),
    "gamma": (Convolutional, lambda: torch.randn(2, 3, 8, 8), "epsilon-gamma-box"),
    "recurrent": (Recurrent, lambda: torch.randn(2, 3, 6), "epsilon"),
    "tied": (Tied, lambda: torch.randint(0, 11, (2, 5)), "attnlrp"),
    "normed": (Normed, lambda: torch.randn(3, 6), "epsilon"),
}


def made(name: str, seed: int) -> tuple[nn.Module, Tensor, Any]:
    """The model with weights of that seed, an input, and a composite."""
    model, example, composite = MODELS[name]
    torch.manual_seed(seed)
    module = model()
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    chosen: Any = composite
    if composite == "epsilon-gamma-box":
        chosen = lrp.composites.epsilon_gamma_box(low=-3.0, high=3.0)
    return module.eval(), example(), chosen


def compiled(folder: Path, *asked: Any, **options: Any) -> tuple[lrp.Explainer, list[str]]:
    stages: list[str] = []
    return lrp.compile(*asked, cache=folder, progress=stages.append, **options), stages


def assert_equal(got: lrp.Explainer, want: lrp.Explainer, *inputs: Tensor) -> None:
    """The same numbers bit for bit, the same words, the same graphs."""
    one, other = got(*inputs), want(*inputs)
    assert torch.equal(one.output, other.output)
    assert one.relevance.keys() == other.relevance.keys()
    assert all(torch.equal(one.relevance[name], other.relevance[name]) for name in one.relevance)
    assert got.metadata == want.metadata
    assert str(got.show()) == str(want.show())
    assert str(got.audit(*inputs)) == str(want.audit(*inputs))


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", MODELS)
def test_other_weights_get_what_they_get_when_compiled_afresh(name: str, tmp_path: Path) -> None:
    model, x, composite = made(name, seed=1)
    _, first = compiled(tmp_path, model, (x,), composite=composite)
    retrained, x, composite = made(name, seed=2)

    found, stages = compiled(tmp_path, retrained, (x,), composite=composite)

    assert len(first) > 2
    assert stages == STAGES_OF_A_FIND
    assert_equal(found, lrp.compile(retrained, (x,), composite=composite), x)


@pytest.mark.slow
def test_files_written_from_it_are_the_same(tmp_path: Path) -> None:
    model, x, composite = made("convolutional", seed=1)
    compiled(tmp_path / "cache", model, (x,), composite=composite)
    found, stages = compiled(tmp_path / "cache", model, (x,), composite=composite)
    found.to_onnx(tmp_path / "found.onnx")
    lrp.compile(model, (x,), composite=composite).to_onnx(tmp_path / "fresh.onnx")
    found.save(tmp_path / "found.lrp.pt2")

    assert stages == STAGES_OF_A_FIND
    assert (tmp_path / "found.onnx").read_bytes() == (tmp_path / "fresh.onnx").read_bytes()
    assert_equal(lrp.load(tmp_path / "found.lrp.pt2"), found, x)


class Flagged(nn.Module):
    """What decides over its graph lies in an attribute, a default, its code, and a name of its module."""

    def __init__(self, negative: bool = False) -> None:
        super().__init__()
        self.map = nn.Linear(4, 3)
        self.negative = negative

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.map(x)
        return -result if self.negative or SWITCH else result


SWITCH = False


@pytest.mark.slow
def test_what_decides_over_the_graph_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 4)
    compiled(tmp_path, Flagged().eval(), (x,))

    def stages(model: nn.Module, *inputs: Tensor, **options: Any) -> list[str]:
        return compiled(tmp_path, model.eval(), inputs or (x,), **options)[1]

    assert stages(Flagged()) == STAGES_OF_A_FIND
    assert stages(Flagged(negative=True)) != STAGES_OF_A_FIND
    assert stages(Flagged(), torch.randn(3, 4)) != STAGES_OF_A_FIND
    assert stages(Flagged().double(), x.double()) != STAGES_OF_A_FIND
    assert stages(Flagged(), composite="epsilon-plus") != STAGES_OF_A_FIND
    assert stages(Flagged(), target=1) != STAGES_OF_A_FIND
    assert stages(Flagged(), memory_budget=0.5) != STAGES_OF_A_FIND
    batch = torch.export.Dim("batch")
    assert stages(Flagged(), dynamic_shapes=({0: batch},)) != STAGES_OF_A_FIND
    assert stages(Flagged(), dynamic_shapes=({0: torch.export.Dim("batch")},)) == STAGES_OF_A_FIND
    monkeypatch.setattr(sys.modules[__name__], "SWITCH", True)
    assert stages(Flagged()) != STAGES_OF_A_FIND


def test_the_code_of_what_was_defined_by_hand_is_seen(tmp_path: Path) -> None:
    """Classes without a file, as in a notebook; closures and functions as options."""

    def model(body: str, factor: int = 2) -> nn.Module:
        names: dict[str, Any] = {"nn": nn, "torch": torch, "factor": factor, "__name__": "by_hand"}
        sys.modules["by_hand"] = types.ModuleType("by_hand")
        source = f"""
            def make(factor):
                class Model(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.map = nn.Linear(4, 3)
                    def forward(self, x):
                        return {body}
                return Model()
            """
        exec(textwrap.dedent(source), names)
        made: nn.Module = names["make"](factor)
        return made.eval()

    x = torch.randn(2, 4)

    def stages(module: nn.Module, **options: Any) -> list[str]:
        return compiled(tmp_path, module, (x,), **options)[1]

    try:
        stages(model("self.map(x) * factor"))
        assert stages(model("self.map(x) * factor")) == STAGES_OF_A_FIND
        assert stages(model("self.map(x) * factor", factor=3)) != STAGES_OF_A_FIND
        assert stages(model("self.map(x) + factor")) != STAGES_OF_A_FIND
        stages(model("self.map(x) * factor"), target=lambda y: y[:, 0])
        assert stages(model("self.map(x) * factor"), target=lambda y: y[:, 0]) == STAGES_OF_A_FIND
        assert stages(model("self.map(x) * factor"), target=lambda y: y[:, 1]) != STAGES_OF_A_FIND
    finally:
        del sys.modules["by_hand"]


def test_hooks_and_replaced_rules_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 4)
    model = Flagged().eval()
    compiled(tmp_path, model, (x,))
    hook = model.map.register_forward_hook(lambda module, given, result: 2 * result)
    assert compiled(tmp_path, model, (x,))[1] != STAGES_OF_A_FIND
    hook.remove()

    key = ("linear map", "epsilon")
    own = RULES[key]

    @functools.wraps(own)
    def rule(*given: Any, **options: Any) -> Any:
        return own(*given, **options)

    monkeypatch.setitem(RULES, key, rule)
    assert compiled(tmp_path, model, (x,))[1] != STAGES_OF_A_FIND


def test_another_release_compiles_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 4)
    compiled(tmp_path, Flagged().eval(), (x,))
    monkeypatch.setattr(fingerprint, "__version__", "9.9")

    assert compiled(tmp_path, Flagged().eval(), (x,))[1] != STAGES_OF_A_FIND


class Asking(nn.Module):
    """A quantised function whose scale is a buffer: the compiler asks whether it is one number everywhere."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.map = nn.Linear(4, 3)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(3, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_channel_affine(self.map(x), self.scale, self.zero, 1, -128, 127)


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("composite", ["epsilon", "attnlrp"])
def test_what_was_decided_by_the_values_of_weights_is_decided_anew(composite: str, tmp_path: Path) -> None:
    x = torch.randn(2, 4)
    torch.manual_seed(0)
    alike, other, unlike = (Asking(scale).eval() for scale in torch.tensor([[0.1] * 3, [0.2] * 3, [0.1, 0.2, 0.3]]))
    compiled(tmp_path, alike, (x,), composite=composite)

    for model in (other, unlike, alike):
        found, _ = compiled(tmp_path, model, (x,), composite=composite)
        assert_equal(found, lrp.compile(model, (x,), composite=composite), x)


def test_an_entry_that_returns_something_else_is_not_taken(tmp_path: Path) -> None:
    """Whatever the fingerprint overlooks: the graph is held against the model."""
    x = torch.randn(2, 4)
    hidden = {"sign": 1.0}

    class Hiding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) * json.loads(json.dumps(Hidden.held))["sign"]

    class Hidden:
        held = hidden

    model = Hiding().eval()
    compiled(tmp_path, model, (x,))
    hidden["sign"] = -1.0
    found, stages = compiled(tmp_path, model, (x,))

    assert stages != STAGES_OF_A_FIND
    assert torch.equal(found(x).output, -torch.relu(x))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied", "replaced"])
def test_a_damaged_entry_is_compiled_afresh_and_mended(harm: str, tmp_path: Path) -> None:
    x = torch.randn(2, 4)
    model = Flagged().eval()
    compiled(tmp_path, model, (x,))
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    at = len(content) // 2
    content[at] ^= 4
    harmed = {"cut": content[:at], "flipped": content, "emptied": b"", "replaced": b"PK\x03\x04 no archive at all"}
    file.write_bytes(bytes(harmed[harm]))

    _, stages = compiled(tmp_path, model, (x,))

    assert stages != STAGES_OF_A_FIND
    assert compiled(tmp_path, model, (x,))[1] == STAGES_OF_A_FIND


def test_what_has_no_description_is_compiled_and_a_warning_says_why(tmp_path: Path) -> None:
    model = Flagged().eval()
    model.lock = threading.Lock()  # type: ignore[assignment]
    x = torch.randn(2, 4)

    with pytest.warns(LrpWarning, match=r"The compile cache is not used: the model cannot be described \(.*lock"):
        explainer = lrp.compile(model, (x,), cache=tmp_path)

    assert torch.equal(explainer(x).output, model(x))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_takes_nothing_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.warns(LrpWarning, match="cannot be written to"):
        lrp.compile(Flagged().eval(), (torch.randn(2, 4),), cache=tmp_path)


def test_a_file_in_the_folders_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")

    with pytest.warns(LrpWarning, match="The compile cache is not used: .*cannot be written to"):
        lrp.compile(Flagged().eval(), (torch.randn(2, 4),), cache=tmp_path / "cache")


def test_its_folder_is_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(entries.FOLDER, str(tmp_path / "deep" / "own"))
    lrp.compile(Flagged().eval(), (torch.randn(2, 4),), cache=True)
    (file,) = (tmp_path / "deep" / "own").iterdir()
    assert file.name.endswith(".lrp.pt2")

    with pytest.raises(InputError, match="cache=3: give True, False, or the path of a folder"):
        lrp.compile(Flagged().eval(), (torch.randn(2, 4),), cache=3)  # type: ignore[arg-type]


def test_warnings_are_repeated(tmp_path: Path) -> None:
    class Probabilities(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(self.map(x), -1)

    for _ in range(2):
        with pytest.warns(LrpWarning, match="what is explained is the logit in front of it") as said:
            lrp.compile(Probabilities().eval(), (torch.randn(2, 4),), cache=tmp_path)
        assert said[0].filename == __file__


def test_programs_and_onnx_files_are_found_too(tmp_path: Path) -> None:
    x = torch.randn(2, 4)
    model = Flagged().eval()
    program = torch.export.export(model, (x,))
    torch.export.save(program, tmp_path / "model.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=False)

    for given in (program, tmp_path / "model.pt2", tmp_path / "model.onnx"):
        first, _ = compiled(tmp_path / "cache", given)
        found, stages = compiled(tmp_path / "cache", given)
        assert stages == STAGES_OF_A_FIND
        assert_equal(found, first, x)


@pytest.mark.heavy
def test_another_process_finds_it(tmp_path: Path) -> None:
    code = """
        import sys, torch
        import lrp_compiler as lrp
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU()).eval()
        stages = []
        lrp.compile(model, (torch.randn(2, 4),), cache=sys.argv[1], progress=stages.append)
        print(*stages)
        """
    environment = {**os.environ, "PYTHONHASHSEED": "random"}
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(tmp_path)]
    runs = [subprocess.run(command, capture_output=True, text=True, env=environment, check=True) for _ in range(2)]

    assert runs[0].stdout.split()[:2] == ["cache", "capture"]
    assert runs[1].stdout.split() == STAGES_OF_A_FIND
