"""`show` and `diff` go inside loops: a step is listed behind its loop, and its rules are compared like any other."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp


class Elman(nn.Module):
    """A recurrence with a product and a ReLU in its step, and a layer in front."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.rnn, self.after = nn.Linear(3, 4), nn.GRU(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.rnn(self.before(x))[0][:, -1])


SIZES = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=3, max=64)}}


def compiled(composite: str) -> lrp.Explainer:
    torch.manual_seed(0)
    return lrp.compile(Elman().eval(), (torch.randn(2, 6, 3),), composite=composite, target=0, dynamic_shapes=SIZES)


@pytest.fixture(scope="module")
def explainer() -> lrp.Explainer:
    return compiled("attnlrp")


@pytest.mark.slow
def test_a_step_is_listed_behind_its_loop(explainer: lrp.Explainer) -> None:
    rows = list(explainer.show())
    loops = [
        row.name
        for row in rows
        if row.op == "scan" and " = scan(" not in row.name and row.operation.startswith("scan(")
    ]
    assert len(loops) == 2  # there and back
    for loop in loops:
        at = next(at for at, row in enumerate(rows) if row.name == loop)
        inside = [row for row in rows if row.name.startswith(f"{loop}/")]
        assert rows[at + 1 : at + 1 + len(inside)] == inside
        assert {row.phase for row in inside} == {rows[at].phase}
        assert inside[0].operation.startswith("state, first ")
        assert inside[-1].operation.startswith("states ")
    assert len({row.name for row in rows}) == len(rows)


def test_a_step_has_the_rules_that_the_books_name(explainer: lrp.Explainer) -> None:
    """The books name the operations of a step `loop_node`."""
    listed = {row.name.replace("/", "_"): row.rule.partition("(")[0] for row in explainer.show() if "/" in row.name}
    entries = explainer.audit(torch.randn(2, 7, 3)).entries
    inside = [entry for entry in entries if entry.node.startswith("scan_")]
    assert len(inside) > 5
    assert {entry.node: entry.rule for entry in inside} == {entry.node: listed[entry.node] for entry in inside}


@pytest.mark.slow
def test_another_rule_inside_a_step_is_a_difference(explainer: lrp.Explainer) -> None:
    changes = {change.node: change for change in explainer.diff(compiled("epsilon"))}
    inside = {name: change for name, change in changes.items() if name.startswith("scan/")}
    assert inside
    assert {change.rule for change in inside.values()} == {("epsilon(epsilon=0.0)", "epsilon(epsilon=1e-06)")}
    assert not list(explainer.diff(explainer))


def test_a_file_lists_the_same(explainer: lrp.Explainer, tmp_path: Path) -> None:
    explainer.save(tmp_path / "elman.lrp.pt2")
    assert str(lrp.load(tmp_path / "elman.lrp.pt2").show()) == str(explainer.show())
