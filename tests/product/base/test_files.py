"""What is written is whole or not there: whoever is killed, whoever else writes, however full the disk is."""

import os
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from support.artefacts import tiny
from support.folders import ROOT, TESTS
from support.kills import each_kill, killed_before

import lrp_compiler as lrp
from lrp_compiler.base.files import atomic_folder, atomic_pair, atomic_path
from lrp_compiler.base.seal import check_seal
from lrp_compiler.runtime import OnnxExplainer, open_split


def write_pair(first: Path, second: Path, text: str) -> None:
    with atomic_pair(first, second) as (one, two):
        one.write_text(text)
        two.write_text(text)


def contents(*paths: Path) -> list[str | None]:
    return [path.read_text() if path.exists() else None for path in paths]


def test_a_file_is_old_or_new_after_any_kill(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_text("old")

    def job() -> None:
        with atomic_path(path, "m.onnx.*.data") as temporary:
            temporary.write_text("new")
            temporary.with_name("m.onnx.2.data").write_text("beside")

    def look() -> None:
        assert path.read_text() in ("old", "new")
        assert path.read_text() == "old" or (tmp_path / "m.onnx.2.data").read_text() == "beside"
        path.write_text("old")

    assert each_kill(job, look) > 4
    job()
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.2.data"], "what the killed left is cleared away"


@pytest.mark.sampled(4)
@pytest.mark.parametrize("existing", [True, False])
def test_a_pair_in_a_folder_of_its_own_is_old_or_new_after_any_kill(existing: bool, tmp_path: Path) -> None:
    files = tmp_path / "pair" / "f.onnx", tmp_path / "pair" / "r.onnx"
    old = ["old"] * 2 if existing else [None] * 2

    def again() -> None:
        shutil.rmtree(tmp_path / "pair", ignore_errors=True)
        if existing:
            write_pair(*files, "old")

    def look() -> None:
        assert contents(*files) in (old, ["new"] * 2)
        again()

    again()
    assert each_kill(lambda: write_pair(*files, "new"), look) > 4
    write_pair(*files, "new")
    assert os.listdir(tmp_path) == ["pair"]


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("places", [("f", "r"), ("one/f", "two/r")], ids=["beside others", "two folders"])
def test_a_pair_beside_other_files_is_never_one_of_old_and_new(places: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    files = tmp_path / places[0], tmp_path / places[1]
    for file in files:
        file.parent.mkdir(exist_ok=True)
    write_pair(*files, "old")

    def look() -> None:
        assert contents(*files) in (["old"] * 2, ["old", None], ["new", None], ["new"] * 2)
        assert (tmp_path / "other").read_text() == "mine"
        write_pair(*files, "old")

    assert each_kill(lambda: write_pair(*files, "new"), look) > 4


@pytest.mark.sampled(4)
@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_not_lost_in_any_kill(can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    if not can_exchange:
        monkeypatch.setattr("lrp_compiler.base.files._exchange", lambda one, other: False)

    def write(text: str) -> None:
        with atomic_folder(site) as made:
            (made / "index.html").write_text(text)
            (made / text).write_text(text)

    def look() -> None:
        if not can_exchange and not site.exists():  # the next writer finds it
            with suppress(ZeroDivisionError), atomic_folder(site):
                raise ZeroDivisionError
        text = (site / "index.html").read_text()
        assert sorted(os.listdir(site)) == ["index.html", text]
        write("old")

    write("old")
    assert each_kill(lambda: write("new"), look) > 4
    assert os.listdir(tmp_path) == ["site"]


def test_what_another_process_still_writes_is_left_alone(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "m.onnx") as slow:
        slow.write_text("slow")
        with atomic_path(tmp_path / "m.onnx") as quick:
            quick.write_text("quick")
        assert slow.exists()
    assert (tmp_path / "m.onnx").read_text() == "slow"


@pytest.mark.sampled(4)
@pytest.mark.parametrize("others", [False, True], ids=["own folder", "beside others"])
def test_two_writers_at_once_leave_one_whole_pair(others: bool, tmp_path: Path) -> None:
    files = tmp_path / "pair" / "f", tmp_path / "pair" / "r"
    files[0].parent.mkdir()
    if others:
        (tmp_path / "pair" / "other").write_text("mine")

    def write(text: str) -> None:
        for _ in range(40):
            write_pair(*files, text)

    threads = [threading.Thread(target=write, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = contents(*files)
    assert first == second is not None
    assert sorted(os.listdir(tmp_path / "pair")) == (["f", "other", "r"] if others else ["f", "r"])


def test_writers_of_one_file_do_not_clear_away_each_others_weights(tmp_path: Path) -> None:
    path = tmp_path / "m"

    def write(text: str) -> None:
        for _ in range(40):
            with atomic_path(path, "m.*.data") as temporary:
                temporary.write_text(f"m.{text}.data")
                temporary.with_name(f"m.{text}.data").write_text(text)

    threads = [threading.Thread(target=write, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(os.listdir(tmp_path)) == sorted(["m", path.read_text()])


def test_a_file_keeps_its_mode_and_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path, link = tmp_path / "real" / "m.lrp.onnx", tmp_path / "link.lrp.onnx"
    tiny().to_onnx(path, profile="small")
    path.chmod(0o640)
    link.symlink_to(Path("real") / "m.lrp.onnx")
    (before,) = path.parent.glob("*.data")

    tiny(1).to_onnx(link, profile="small")

    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert len(list(path.parent.glob("*.data"))) == 1
    assert not before.exists()
    assert sorted(os.listdir(tmp_path)) == ["link.lrp.onnx", "real"]
    with OnnxExplainer(link) as explainer:  # weights lie beside what the link leads to
        assert explainer.inputs[0].name == "input"


def test_a_pair_keeps_modes_and_follows_links(tmp_path: Path) -> None:
    folder = tmp_path / "pair"
    write_pair(folder / "f", folder / "r", "old")
    (folder / "f").chmod(0o600)
    folder.chmod(0o750)
    (tmp_path / "link").symlink_to("pair")

    write_pair(tmp_path / "link" / "f", tmp_path / "link" / "r", "new")

    assert (tmp_path / "link").is_symlink()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "f")] == [0o750, 0o600]
    assert contents(folder / "f", folder / "r") == ["new", "new"]


def test_the_folder_one_stands_in_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("old", "new"):
        write_pair(Path("f"), Path("r"), text)
    assert contents(Path("f"), Path("r")) == ["new", "new"]
    assert sorted(os.listdir()) == ["f", "r"]


def test_two_parts_need_two_names(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="give each its own"):
        write_pair(tmp_path / "f", tmp_path / "f", "new")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_pair(tmp_path / "no" / "folder" / "f", tmp_path / "no" / "folder" / "r", "new")


FULL = """
import resource, sys
from support.artefacts import tiny
explainer = tiny()
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
for path in sys.argv[1:]:
    try:
        explainer.to_onnx(path) if path.endswith("onnx") else explainer.save(path)
    except OSError as error:
        print(error)
print("alive")
"""


@pytest.mark.slow
def test_a_full_disk_is_an_error_that_one_survives(tmp_path: Path) -> None:
    """torch's zip writer would end the process; a limit on the size of files stands for the disk."""
    names = ["m.lrp.pt2", "m.lrp.onnx"]
    for name in names:
        (tmp_path / name).write_text("the old file")
    places = os.pathsep.join([str(TESTS), *sys.path])
    command = [sys.executable, "-c", FULL, *(str(tmp_path / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": places}, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    *errors, last = done.stdout.splitlines()
    assert last == "alive"
    for name, error in zip(names, errors, strict=True):
        assert name in error, "the error names the file"
        assert (tmp_path / name).read_text() == "the old file"
    assert sorted(os.listdir(tmp_path)) == sorted(names)


@pytest.mark.heavy
@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_a_hundred_kills_tear_no_split_explainer(ending: str, tmp_path: Path) -> None:
    """Whole explainers, each kill before another change of a file."""
    files = tmp_path / "pair" / f"forward.{ending}", tmp_path / "pair" / f"relevance.{ending}"
    tiny(0).save_split(*files)
    tiny(1)
    opened = open_split if ending == "onnx" else lrp.load_split
    for number in range(100):
        killed_before(1 + number // 2, lambda number=number: tiny((number + 1) % 2).save_split(*files))
        opened(*files)


@pytest.mark.heavy
@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_a_hundred_kills_leave_whole_explainers(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.lrp.{ending}"
    options = {"profile": "small"} if ending == "onnx" else {}
    for seed in (0, 1):
        (tiny(seed).to_onnx if ending == "onnx" else tiny(seed).save)(path, **options)
    for number in range(100):
        explainer = tiny((number + 1) % 2)
        write = explainer.to_onnx if ending == "onnx" else explainer.save
        killed_before(1 + number // 2, lambda write=write: write(path, **options))
        assert check_seal(path, path.name) is not None
