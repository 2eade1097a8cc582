"""A file is loaded to be run: what else it holds is read when it is asked for, from the same file."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from support.artefacts import tiny
from support.sealed import reseal_zip
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.artefact import storage
from lrp_compiler.base.errors import FormatError, InputError
from lrp_compiler.base.metadata import JOINT_KEY

TARGET = torch.tensor([0, 2, 1])


def saved(folder: Path, seed: int = 0) -> Path:
    path = folder / "m.lrp.pt2"
    tiny(seed).save(path)
    return path


def test_a_run_reads_no_more_than_what_runs(tmp_path: Path) -> None:
    explainer = lrp.load(saved(tmp_path))

    explainer(torch.randn(3, 4), target=TARGET)

    assert not explainer.artefact.is_read
    assert all("val" not in node.meta for node in explainer.artefact.running.graph.nodes)


def test_what_runs_first_is_what_runs_when_all_is_read(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    compiled, loaded = tiny(), lrp.load(saved(tmp_path))

    first = loaded(x, target=TARGET).relevance["input"]
    read = loaded.module(x, TARGET)[-1]

    assert torch.equal(first, compiled(x, target=TARGET).relevance["input"])
    assert torch.equal(first, read)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_weights_lie_in_the_file_and_torch_says_nothing(tmp_path: Path) -> None:
    path, always = saved(tmp_path), torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            explainer = lrp.load(path)
    finally:
        torch.set_warn_always(always)

    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    mapped = [range(*(int(end, 16) for end in line.split()[0].split("-"))) for line in lines]
    weights = dict(explainer.artefact.running.named_buffers())
    assert len(weights) >= 4
    assert all(any(weight.data_ptr() in part for part in mapped) for weight in weights.values())


def test_weights_are_in_memory_once(tmp_path: Path) -> None:
    explainer = lrp.load(saved(tmp_path))
    running = dict(explainer.artefact.running.named_buffers())

    for graph in (explainer.module, explainer.forward):
        assert {name: tensor.data_ptr() for name, tensor in graph.named_buffers()}.items() <= {
            name: tensor.data_ptr() for name, tensor in running.items()
        }.items()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("fate", ["replaced", "removed"])
def test_what_is_read_later_is_what_was_loaded(fate: str, tmp_path: Path) -> None:
    x, path = torch.randn(3, 4), saved(tmp_path)
    explainer = lrp.load(path)

    if fate == "removed":
        path.unlink()
    else:
        saved(tmp_path, seed=1)

    assert torch.equal(explainer.module(x, TARGET)[-1], tiny()(x, target=TARGET).relevance["input"])
    assert str(explainer.audit(x, target=TARGET)) == str(tiny().audit(x, target=TARGET))


def test_whoever_changes_a_weight_changes_no_file(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()

    for tensor in lrp.load(path).artefact.running.buffers():
        tensor.zero_()

    assert path.read_bytes() == before
    x = torch.randn(3, 4)
    assert torch.equal(lrp.load(path)(x, target=TARGET).relevance["input"], tiny()(x, target=TARGET).relevance["input"])


def test_a_file_without_the_part_that_runs_at_once_is_read_whole(tmp_path: Path) -> None:
    """As earlier releases wrote them."""
    path = saved(tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if not name.endswith(JOINT_KEY)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    x = torch.randn(3, 4)

    explainer = lrp.load(reseal_zip(path))

    assert torch.equal(explainer(x, target=TARGET).relevance["input"], tiny()(x, target=TARGET).relevance["input"])


def test_many_load_and_read_one_file_at_once(tmp_path: Path) -> None:
    x, path = torch.randn(3, 4), saved(tmp_path)
    expected = tiny()(x, target=TARGET).relevance["input"]

    def explain(_: int) -> torch.Tensor:
        explainer = lrp.load(path)
        assert len(list(explainer.show())) > 0
        return explainer(x, target=TARGET).relevance["input"]

    with ThreadPoolExecutor(4) as threads:
        assert all(torch.equal(found, expected) for found in threads.map(explain, range(8)))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system does not list what is open")
def test_an_explainer_that_is_gone_holds_no_file_open(tmp_path: Path) -> None:
    path = saved(tmp_path)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(5):
        lrp.load(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(FormatError):
        lrp.load(path)
    gc.collect()

    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_loaded_explainer_is_moved_without_being_read(tmp_path: Path) -> None:
    x, explainer = torch.randn(3, 4), lrp.load(saved(tmp_path))

    explainer.to("cpu")

    assert not explainer.artefact.is_read
    assert torch.equal(explainer(x, target=TARGET).relevance["input"], tiny()(x, target=TARGET).relevance["input"])
    assert len(list(explainer.show())) > 0


def test_tied_and_expanded_weights_come_back(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight
            self.register_buffer("row", torch.rand(4).expand(6, 4))
            self.register_buffer("turned", torch.rand(3, 4).t())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.two(torch.relu(self.one(x * self.row[:2])))) @ self.turned

    x = torch.randn(2, 4)
    explainer = lrp.compile(Tied().eval(), (x,))
    explainer.save(tmp_path / "m.lrp.pt2")

    assert torch.equal(lrp.load(tmp_path / "m.lrp.pt2")(x).relevance["x"], explainer(x).relevance["x"])


def explained(explainer: lrp.Explainer) -> torch.Tensor:
    return explainer(torch.arange(12.0).reshape(3, 4), target=TARGET).relevance["input"]


@pytest.mark.parametrize("asked", ["running", "graphs"])
def test_a_file_that_is_written_to_in_place_is_refused(asked: str, tmp_path: Path) -> None:
    """As `cp` does it: the weights that are mapped, and the text that is read later, are another explainer's then."""
    path = saved(tmp_path)
    explainer = lrp.load(path)
    (tmp_path / "other").mkdir()

    path.write_bytes(saved(tmp_path / "other", seed=1).read_bytes())

    with pytest.raises(FormatError, match=r"m\.lrp\.pt2' was written to after it was loaded: load it again"):
        explained(explainer) if asked == "running" else explainer.show()


def test_a_file_that_was_touched_is_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path)
    explainer = lrp.load(path)

    os.utime(path, (1, 1))

    assert torch.equal(explained(explainer), explained(tiny()))


def test_the_weights_that_run_are_of_the_file_that_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is replaced after it was checked, while it is loaded."""
    path, check = saved(tmp_path), storage.check_seal
    expected = explained(tiny())

    def replaced(source: Any, label: str) -> Any:
        found = check(source, label)
        saved(tmp_path, seed=1)
        return found

    monkeypatch.setattr(storage, "check_seal", replaced)

    assert torch.equal(explained(lrp.load(path)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("made", ["compiled", "loaded", "read"])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_and_pickles_explain_alike(how: Callable[[Any], Any], made: str, tmp_path: Path) -> None:
    explainer = tiny() if made == "compiled" else lrp.load(saved(tmp_path))
    if made == "read":
        explainer.show()

    other = how(explainer)

    assert torch.equal(explained(other), explained(tiny()))
    assert str(other.show()) == str(tiny().show())


def test_a_deep_copy_has_weights_of_its_own(tmp_path: Path) -> None:
    for explainer in (tiny(), lrp.load(saved(tmp_path))):
        other = copy.deepcopy(explainer)
        for tensor in other.artefact.running.buffers():
            tensor.zero_()

        assert not explained(other).any()
        assert torch.equal(explained(explainer), explained(tiny()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_processes_that_were_forked_read_the_file_each_for_itself(tmp_path: Path) -> None:
    explainer = lrp.load(saved(tmp_path))
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                explainer.show()
                os._exit(0)
            os._exit(1)
        children.append(child)

    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


def test_an_explainer_is_read_once_by_many_threads(tmp_path: Path) -> None:
    explainer = lrp.load(saved(tmp_path))

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: explainer.artefact.graphs, range(16)))

    assert len({id(graphs) for graphs in found}) == 1


def test_a_dtype_is_no_device() -> None:
    with pytest.raises(InputError, match=r"device is a device, such as 'cuda', not torch\.float64"):
        tiny().to(torch.float64)  # type: ignore[arg-type]
