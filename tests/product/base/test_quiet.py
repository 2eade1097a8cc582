"""While one thread compiles, the others print, log and warn as ever; afterwards nothing of the process has changed."""

import contextlib
import gc
import io
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.base.quiet import LOGGERS, quiet


def state() -> dict[str, Any]:
    """What a compilation could leave changed: of streams, logging, warnings, the collector and torch."""
    loggers = [logging.getLogger(name) for name in ("", "torch", *LOGGERS)]
    return {
        "streams": (id(sys.stdout), id(sys.stderr)),
        "levels": [logger.level for logger in loggers],
        "handlers": [(id(handler), *map(id, handler.filters)) for logger in loggers for handler in logger.handlers],
        "last resort": list(logging.lastResort.filters if logging.lastResort else []),
        "warnings": (id(warnings.filters), list(warnings.filters), id(warnings.showwarning)),
        "collector": gc.get_threshold(),
        "registered": len(torch.utils._pytree.SUPPORTED_NODES),
        "torch": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
        "modules": nn.Module.__call__,
    }


class Talking(nn.Module):
    """Prints whenever it is traced."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.l = nn.Linear(4, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print("traced")
        return self.l(x).relu()


def at_once(jobs: list[Callable[[], None]]) -> None:
    errors: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def job(number: int, folder: Path) -> None:
    """Compile, save, export and load, and say so in between."""
    model, x = Talking(3 + number % 3).eval(), torch.randn(2, 4)
    print(f"start {number}.")
    explainer = lrp.compile(model, (x,))
    logging.getLogger("torch.export.of_the_users").error("record %d.", number)
    print(f"compiled {number}.")
    if number % 8 == 0:
        explainer.to_onnx(folder / f"{number}.lrp.onnx")
    if number % 4 == 0:
        explainer.save(folder / f"{number}.lrp.pt2")
        loaded = lrp.load(folder / f"{number}.lrp.pt2")
        assert torch.equal(loaded(x).relevance["x"], explainer(x).relevance["x"])
    print(f"written {number}.")


def compile_in_threads(count: int, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    printed, before = io.StringIO(), state()
    with contextlib.redirect_stdout(printed):
        at_once([lambda number=number: job(number, folder) for number in range(count)])
    assert state() == before
    text = printed.getvalue()
    for number in range(count):
        for said in (f"start {number}.", f"compiled {number}.", f"written {number}."):
            assert text.count(said) == 1, said
    assert "traced" not in text


@pytest.mark.slow
def test_threads_compile_and_print(tmp_path: Path) -> None:
    compile_in_threads(16, tmp_path)


@pytest.mark.heavy
def test_threads_compile_two_hundred_times(tmp_path: Path) -> None:
    for number in range(13):
        compile_in_threads(16, tmp_path / str(number))


def test_other_threads_are_heard(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    def noise(who: str) -> None:
        print(f"printed by {who}")
        print(f"error of {who}", file=sys.stderr)
        logging.getLogger("torch.onnx").error("record of %s", who)
        logging.getLogger("torch.onnx.inside").error("inner record of %s", who)
        warnings.warn_explicit(f"warning of {who}", UserWarning, "file.py", len(who), module="torch.nn")

    with quiet(output=True):
        noise("mine")
        at_once([lambda: noise("another")])
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("printed by another\n", "error of another\n")
    assert caplog.messages == ["record of another", "inner record of another"]
    assert [str(warning.message) for warning in recwarn] == ["warning of another"]


def test_what_is_silent_is_torchs_alone(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    with quiet():
        print("printed")
        logging.getLogger("mine").error("record")
        warnings.warn("heard", UserWarning, stacklevel=1)
    assert capsys.readouterr().out == "printed\n"
    assert caplog.messages == ["record"]
    assert [str(warning.message) for warning in recwarn] == ["heard"]


def test_it_ends_whatever_others_do_meanwhile() -> None:
    """Another thread's redirections and filters begin before the block ends, and end after it, and the other way."""
    before = state()
    inside, over = threading.Event(), threading.Event()

    def other() -> None:
        inside.wait()
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("error")
            over.wait()

    thread = threading.Thread(target=other)
    thread.start()
    with contextlib.suppress(ZeroDivisionError), quiet(output=True):
        inside.set()
        while sys.stderr.__class__ is not io.StringIO:
            pass
        raise ZeroDivisionError
    over.set()
    thread.join()
    with quiet(output=True):  # what the other one put back is taken away
        pass
    assert state() == before


def test_a_program_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with quiet(output=True):
        print("nowhere")
    assert sys.stdout is None


def test_thresholds_of_overlapping_blocks_come_back() -> None:
    from lrp_compiler.base.collection import rare_collection

    before = gc.get_threshold()
    first, second = rare_collection(), rare_collection()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert gc.get_threshold() == before


MEMORY = """
import gc, tracemalloc, torch
import lrp_compiler as lrp

def compile_some(count):
    for _ in range(count):
        lrp.compile(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval(), (torch.randn(2, 4),))
    gc.collect()

compile_some(5)
tracemalloc.start()
compile_some(5)
before, _ = tracemalloc.get_traced_memory()
compile_some(40)
after, _ = tracemalloc.get_traced_memory()
print((after - before) // 40)
"""


@pytest.mark.heavy
def test_fifty_compilations_leave_no_memory_behind() -> None:
    """In a process of its own, since pytest keeps what is logged. torch's own export of this model leaves 18 kB."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", MEMORY], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 15_000, f"{done.stdout} bytes a compilation"
