"""A saved explainer is the explainer; a file that is none is refused; a save that fails leaves nothing behind."""

import errno
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from support.small import small
from torch import Tensor, nn
from torch.export import Dim

import lrp_compiler as lrp
from lrp_compiler.base.errors import FormatError
from lrp_compiler.export import onnx

pytestmark = pytest.mark.sampled(3)

Explain = Callable[..., lrp.Explainer]


class Net(nn.Module):
    """A convolution with batch norm, written-out attention and a function region: what has to survive a file."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.convolution, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.layer_norm, self.head = nn.LayerNorm(4), nn.Linear(4, 5)
        with torch.no_grad():
            for tensor in (*self.parameters(), self.norm.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.convolution(x)).relu()
        tokens = self.layer_norm(x.flatten(2).transpose(1, 2))
        tokens = tokens + torch.softmax(tokens @ tokens.transpose(1, 2), -1) @ (tokens * torch.sigmoid(tokens))
        return {"features": tokens, "logits": self.head(tokens.mean(1))}


def images(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


@cache
def compiled(composite: str = "attnlrp") -> lrp.Explainer:
    batch = torch.export.Dim("batch")
    return lrp.compile(
        Net().eval(), (images(2),), composite=composite, target="index", dynamic_shapes={"x": {0: batch}}
    )


@pytest.mark.parametrize("composite", ["epsilon", "epsilon-plus", "attnlrp"])
def test_a_loaded_explainer_gives_the_same_bits(composite: str, tmp_path: Path) -> None:
    explainer = compiled(composite)
    explainer.save(tmp_path / "m.lrp.pt2")
    x, target = images(5, seed=7), torch.tensor([0, 1, 2, 3, 4])

    before = explainer(x, target=target)
    after = lrp.load(tmp_path / "m.lrp.pt2")(x, target=target)

    assert torch.equal(after.relevance["x"], before.relevance["x"])
    assert after.output.keys() == before.output.keys()
    assert all(torch.equal(after.output[name], before.output[name]) for name in before.output)


@pytest.mark.parametrize("composite", ["epsilon", "epsilon-plus", "attnlrp"])
def test_the_audit_works_after_loading(composite: str, tmp_path: Path) -> None:
    explainer = compiled(composite)
    explainer.save(tmp_path / "m.lrp.pt2")
    x, target = images(3, seed=7), torch.tensor([0, 1, 2])

    before = explainer.audit(x, target=target)
    after = lrp.load(tmp_path / "m.lrp.pt2").audit(x, target=target)

    assert after.inputs == pytest.approx(before.inputs)
    assert after.absorbed == pytest.approx(before.absorbed, abs=1e-6)
    assert [(entry.node, entry.rule) for entry in after.entries] == [
        (entry.node, entry.rule) for entry in before.entries
    ]


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["resnet50", "llama"])
def test_real_architectures_survive_a_file(name: str, explain: Explain, tmp_path: Path) -> None:
    explainer = explain(name, "epsilon-plus" if name == "resnet50" else "attnlrp")
    explainer.save(tmp_path / "m.lrp.pt2")
    args, kwargs = small(name).fresh(batch=4, length=9, seed=31)
    target = torch.tensor([3, 1, 4, 1])

    loaded = lrp.load(tmp_path / "m.lrp.pt2")
    before, after = explainer(*args, target=target, **kwargs), loaded(*args, target=target, **kwargs)

    (key,) = before.relevance
    assert torch.equal(after.relevance[key], before.relevance[key])
    # The books are in float64, the graph in float32: what cancels in Σ R is off by its rounding, a share of Σ|R|.
    assert loaded.audit(*args, target=target, **kwargs).inputs[key] == pytest.approx(
        float(after.relevance[key].double().sum()), abs=1e-4 * float(after.relevance[key].abs().sum())
    )


def test_a_loaded_explainer_can_be_saved_and_exported_again(tmp_path: Path) -> None:
    explainer = compiled()
    explainer.save(tmp_path / "first.lrp.pt2")
    explainer.to_onnx(tmp_path / "first.onnx")

    loaded = lrp.load(tmp_path / "first.lrp.pt2")
    loaded.save(tmp_path / "second.lrp.pt2")
    loaded.to_onnx(tmp_path / "second.onnx")

    x, target = images(3, seed=7), torch.tensor([0, 1, 2])
    again = lrp.load(tmp_path / "second.lrp.pt2")
    assert torch.equal(again(x, target=target).relevance["x"], explainer(x, target=target).relevance["x"])
    assert (tmp_path / "second.onnx").exists()


def test_the_file_holds_zeros_for_sample_inputs(tmp_path: Path) -> None:
    compiled().save(tmp_path / "m.lrp.pt2")

    args, kwargs = torch.export.load(tmp_path / "m.lrp.pt2").example_inputs

    assert len(args) == 2
    assert not kwargs
    assert all(not tensor.any() for tensor in args)


@pytest.mark.slow
def test_torch_runs_the_file_in_the_ranges_of_the_capture(tmp_path: Path) -> None:
    """Of images, too: torch.export would find such sizes on its own, and lose their bounds."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    shape = {0: Dim("batch", min=1, max=32), 2: Dim("height", min=8, max=64), 3: Dim("width", min=8, max=64)}
    explainer = lrp.compile(net.eval(), (torch.randn(2, 3, 16, 16),), target=1, dynamic_shapes=(shape,))
    explainer.save(tmp_path / "m.lrp.pt2")

    program = torch.export.load(tmp_path / "m.lrp.pt2")

    assert sorted((int(known.lower), int(known.upper)) for known in program.range_constraints.values()) == [
        (1, 32),
        (8, 64),
        (8, 64),
    ]
    for size in ((1, 3, 16, 16), (5, 3, 21, 33), (32, 3, 64, 8)):
        x = torch.randn(size)
        assert torch.equal(program.module()(x)[1], explainer(x).relevance["input"])
    with pytest.raises(AssertionError, match="<= 32"):
        program.module()(torch.randn(40, 3, 16, 16))


def test_the_metadata_survives_a_file(tmp_path: Path) -> None:
    explainer = compiled()
    explainer.save(tmp_path / "m.lrp.pt2")

    assert lrp.load(tmp_path / "m.lrp.pt2").metadata == explainer.metadata


# ---- Files that are no explainer ----


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no explainer" * 50)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    compiled().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def another_program(path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(3, 2).eval(), (torch.randn(2, 3),)), path)


def state_dict(path: Path) -> None:
    torch.save({"weight": torch.randn(3)}, path)


@pytest.mark.parametrize("write", [garbage, empty, truncated, another_program, state_dict])
def test_a_file_that_is_no_explainer_is_refused(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "m.lrp.pt2"
    write(path)

    with pytest.raises(FormatError) as raised:
        lrp.load(path)

    message = str(raised.value)
    assert "m.lrp.pt2" in message
    assert "\n" not in message
    assert message.endswith(".")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.lrp.pt2"
    compiled().save(path)
    content = bytearray(path.read_bytes())
    # The directory at the end of the archive stays whole: what is inside no longer fits its checksums.
    for position in range(len(content) // 4, len(content) // 2):
        content[position] ^= 0xFF
    path.write_bytes(content)

    with pytest.raises(FormatError):
        lrp.load(path)


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.lrp\.pt2"):
        lrp.load(tmp_path / "nothing.lrp.pt2")


# ---- Saves that fail ----


@pytest.mark.parametrize("existing", [None, b"the old file"])
def test_a_save_that_fails_changes_nothing(
    existing: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.lrp.pt2"
    if existing is not None:
        path.write_bytes(existing)
    explainer = compiled()

    def fail_half_way(program: object, file: BinaryIO, **options: object) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(torch.export, "save", fail_half_way)
    with pytest.raises(OSError, match="no space left"):
        explainer.save(path)

    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if existing is None else [existing])


@pytest.mark.parametrize("existing", [None, b"the old file"])
def test_an_onnx_export_that_fails_changes_nothing(
    existing: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.lrp.onnx"
    if existing is not None:
        path.write_bytes(existing)
    explainer = compiled()

    def fail_half_way(model: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(onnx, "write_model", fail_half_way)
    with pytest.raises(OSError, match="no space left"):
        explainer.to_onnx(path)

    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if existing is None else [existing])


def test_saving_replaces_an_older_file(tmp_path: Path) -> None:
    path = tmp_path / "m.lrp.pt2"
    path.write_bytes(b"the old file")

    compiled().save(path)

    assert lrp.load(path).metadata["target"] == "index"
    assert [file.name for file in tmp_path.iterdir()] == ["m.lrp.pt2"]


def test_saving_into_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        compiled().save(tmp_path / "none" / "m.lrp.pt2")


def test_modules_may_have_names_that_are_no_identifiers(tmp_path: Path) -> None:
    net = nn.Sequential()
    net.add_module("block-1", nn.Linear(3, 4))
    net.add_module("block_1", nn.Linear(4, 2))
    explainer = lrp.compile(net.eval(), (torch.randn(2, 3),), target=1)

    explainer.save(tmp_path / "m.lrp.pt2")
    explainer.to_onnx(tmp_path / "m.lrp.onnx")

    x = torch.randn(2, 3)
    assert torch.equal(lrp.load(tmp_path / "m.lrp.pt2")(x).relevance["input"], explainer(x).relevance["input"])


OWN_OP = """
import sys, torch, lrp_compiler as lrp
from lrp_compiler.base.errors import LrpError

def define():
    torch.library.define("travels::swish", "(Tensor x) -> Tensor")
    torch.library.impl("travels::swish", "CompositeExplicitAutograd", lambda x: x * torch.sigmoid(x))
    torch.library.register_fake("travels::swish", lambda x: torch.empty_like(x))

def register():
    @lrp.rule(torch.ops.travels.swish.default)
    def swish(op, relevance):
        return lrp.total(op.total(relevance))

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
    def forward(self, x):
        return torch.ops.travels.swish(self.first(x))

def write():
    lrp.compile(Net().eval(), (x,)).save(path)

def load():
    try:
        loaded = lrp.load(path)
        loaded(x)
        print("audited", abs(loaded.audit(x).error) < 1e-9)
    except LrpError as error:
        print(error)

path, *steps = sys.argv[1:]
x = torch.ones(2, 4)
for step in steps: globals()[step]()
"""


@pytest.mark.slow
def test_a_rule_of_ones_own_is_registered_again_where_the_file_is_loaded(tmp_path: Path) -> None:
    def run(*steps: str) -> list[str]:
        command = [sys.executable, "-W", "ignore", "-c", OWN_OP, str(tmp_path / "own.lrp.pt2"), *steps]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    here = run("define", "register", "write", "load")
    unknown, without_rule, elsewhere = run("load", "define", "load", "register", "load")

    assert here == ["audited True"]
    assert "needs the operator travels.swish.default, which is not known here: import what defines it" in unknown
    assert "There is no rule for travels.swish.default; @rule registers one" in without_rule
    assert elsewhere == "audited True"
