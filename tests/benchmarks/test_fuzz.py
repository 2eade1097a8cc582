"""The generator of random modules, what it is held to, and the processes in which that happens."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lrp_compiler as lrp
from benchmarks.sound import contract
from benchmarks.sound.contract import Asked, Broken, NoCase, Refused, hold
from benchmarks.sound.modules import Case, Impossible, Step, draw, shrink, write
from benchmarks.sound.modules.writing import OPS
from benchmarks.sound.outcomes import counts, findings_table, outcome, sentence
from benchmarks.sound.workers import Row, append_row, at_most, read_rows, run
from lrp_compiler.base.errors import InputError, InternalError
from lrp_compiler.rules import Op, Relevance

X = {"x": "torch.randn((rows, 3, 4), dtype=torch.float32)"}


def model(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).eval()


def rows_of_four(rows: int) -> tuple[torch.Tensor, ...]:
    return (torch.randn(rows, 4),)


# Writing


@pytest.mark.parametrize("seed", range(8))
def test_a_seed_is_a_module_that_runs_and_runs_alone(seed: int) -> None:
    one, two = draw(seed), draw(seed)
    assert one.script() == two.script()
    module, make, _ = one.build()
    space: dict[str, Any] = {}
    exec(one.script().rpartition("explainer =")[0], space)

    inputs = contract.pytree.tree_map(torch.clone, make(2))
    state = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.no_grad():
        here = contract.pytree.tree_leaves(module(*contract.pytree.tree_map(torch.clone, inputs)))
        there = contract.pytree.tree_leaves(space["model"](*inputs))

    assert state.keys() == {name for name, _ in space["model"].named_buffers()}
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_the_plain_data_of_a_case_is_the_case() -> None:
    case = draw(3).case

    assert Case.from_dict(json.loads(json.dumps(case.to_dict()))) == case


@pytest.mark.slow
def test_many_seeds_take_every_op_of_the_grammar() -> None:
    taken = {step.op for seed in range(150) for step in draw(seed).case.steps}

    assert len(taken) > 0.8 * len(OPS)


def test_a_step_that_does_not_fit_is_impossible() -> None:
    with pytest.raises(Impossible):
        write(Case(0, X, (Step("resized", (0,)),), 1))


# Shrinking


def test_what_fails_is_shrunk_to_what_makes_it_fail() -> None:
    steps = (Step("linear", (0,), (3, 1)), Step("activation", (2,), (4,)), Step("shape", (3,)), Step("linear", (4,)))
    asked = {"composite": '"attnlrp"', "target": "1"}
    written = write(Case(0, {**X, "mask": "torch.rand(rows, 4) > 0.3"}, steps, 5, result="dict", also=2, asked=asked))

    small = shrink(written, lambda candidate: any(step.op == "activation" for step in candidate.case.steps))

    assert [step.op for step in small.case.steps] == ["activation"]
    assert small.case.asked == {"composite": '"epsilon"'}
    assert (small.case.result, list(small.case.inputs), small.case.steps[0].choices) == ("alone", ["x"], ())


# What is promised


@pytest.mark.slow
def test_a_model_that_keeps_every_promise() -> None:
    batch = torch.export.Dim("batch")
    asked = Asked(model(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), rows_of_four, {"dynamic_shapes": ({0: batch},)})

    assert hold(asked) == []
    assert 0 < asked.figures["float32"] < 1e-4


def test_relevance_that_goes_missing_is_a_wrong_number() -> None:
    def loses(op: Op, relevance: Relevance) -> Any:
        return lrp.total(0.5 * relevance.tensor)

    net = model(nn.Sequential(nn.ReLU(), nn.ReLU()), nn.Linear(4, 3))
    composite = lrp.Composite("loses", (lrp.Entry("*", loses, path="0"), *lrp.composites.epsilon().entries))

    with pytest.raises(Broken) as broken:
        hold(Asked(net, rows_of_four, {"composite": composite, "target": 0}, promises=("output", "books")))

    assert (broken.value.kind, broken.value.promise) == ("wrong number", "books")


def test_an_error_that_is_no_sentence_is_told_from_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused):
        hold(Asked(model(nn.Linear(4, 3)), rows_of_four, {"target": 7}))

    def fails(*args: Any, **kwargs: Any) -> None:
        raise KeyError("seed")

    monkeypatch.setattr(lrp, "compile", fails)
    with pytest.raises(Broken) as broken:
        hold(Asked(model(nn.Linear(4, 3)), rows_of_four))
    assert (broken.value.kind, broken.value.promise) == ("raw error", "compile")


def test_another_output_is_a_wrong_number(monkeypatch: pytest.MonkeyPatch) -> None:
    net, other = model(nn.Linear(4, 3)), model(nn.Linear(4, 3))
    compiled = lrp.compile
    monkeypatch.setattr(lrp, "compile", lambda model, *args, **kwargs: compiled(other, *args, **kwargs))

    with pytest.raises(Broken) as broken:
        hold(Asked(net, rows_of_four))
    assert (broken.value.kind, broken.value.promise) == ("wrong number", "output")


def test_a_model_that_does_not_run_is_no_case() -> None:
    with pytest.raises(NoCase):
        hold(Asked(model(nn.Linear(5, 3)), rows_of_four))


# Rows


def test_every_ending_is_a_row() -> None:
    def spins() -> list[Any]:
        while True:
            pass

    def raises(error: Exception) -> Callable[[], list[Any]]:
        def examine() -> list[Any]:
            raise error

        return examine

    rows = [
        outcome(lambda: [], 10),
        outcome(raises(Refused("compile", InputError("Target 7 is out of range."))), 10),
        outcome(raises(Broken("raw error", "onnx", "KeyError: 3", "KeyError in walk.py:visit")), 10),
        outcome(spins, 0.2),
    ]

    assert counts(rows) == {"passed": 1, "refused": 1, "raw error": 1, "hang": 1}
    assert "KeyError in walk.py:visit" in findings_table([{"key": str(i), **row} for i, row in enumerate(rows)], "seed")


def test_refusals_that_differ_in_names_and_numbers_are_one() -> None:
    texts = [
        "Target 7 is out of range: the model has 3 classes.",
        "Target 12 is out of range: the model has 4 classes.",
    ]

    assert len({sentence(text) for text in texts}) == 1


# Processes

WORKER = """
import os, sys
sys.path.insert(0, {root!r})
from benchmarks.sound.workers import serve

def job(key):
    if key == "dies":
        os.kill(os.getpid(), 11)
    while key == "spins":
        pass
    if key == "raises":
        raise ValueError(key)
    return {{"kind": "passed"}}

serve(sys.argv[1:], job, cpu=1)
"""


def test_whatever_becomes_of_one_job_the_others_are_done(tmp_path: Path) -> None:
    found: dict[str, Row] = {}
    code = WORKER.format(root=str(Path(contract.__file__).parents[2]))
    keys = ["a", "dies", "b", "spins", "raises", "c"]

    run(lambda keys: [sys.executable, "-c", code, *keys], keys, lambda row: found.update({row["key"]: row}), chunk=4)

    assert {key: row["kind"] for key, row in found.items()} == {
        **dict.fromkeys("abc", "passed"),
        **{"dies": "crash", "spins": "hang", "raises": "crash"},
    }


def test_a_line_that_was_cut_off_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_row(path, {"key": "1", "kind": "passed"})
    with path.open("a") as file:
        file.write('{"key": "2", "ki')

    assert list(read_rows(path)) == ["1"]


def test_the_time_of_a_job_is_its_own() -> None:
    with at_most(5):
        assert sum(range(1000)) == 499500
    assert os.getpid()


def test_a_defect_that_owns_up_to_being_one_is_a_raw_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        try:
            raise KeyError("other")
        except KeyError as error:
            raise InternalError("Cannot compile the model: KeyError; this is a defect of lrp_compiler.") from error

    monkeypatch.setattr(lrp, "compile", fails)
    with pytest.raises(Broken) as broken:
        hold(Asked(model(nn.Linear(4, 3)), rows_of_four))
    assert (broken.value.kind, broken.value.detail) == ("raw error", "KeyError: 'other'")
