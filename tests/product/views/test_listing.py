"""`show`, `diff` and `lrp-compiler inspect`: which nodes are listed, and what two explainers do differently."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.cli import main
from lrp_compiler.passes.graph.notes import note_of


class Block(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, 4, 3, padding=1)
        self.squash = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.squash(self.conv(x).relu()).relu()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = Block(3)
        self.layer2 = nn.Sequential(Block(4), Block(4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer2(self.layer1(x)).mean((2, 3)))


X = torch.randn(2, 3, 6, 6)
BATCH = ({0: torch.export.Dim("batch")},)


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def explainer(net: Net) -> lrp.Explainer:
    return lrp.compile(net, (X,), composite="epsilon", dynamic_shapes=BATCH)


def test_everything_is_listed_in_the_order_of_the_graph(explainer: lrp.Explainer) -> None:
    listing = explainer.show()

    assert [row.name for row in listing] == [node.name for node in explainer.module.graph.nodes if node.op != "output"]
    assert len(str(listing).splitlines()) == len(listing) + 2  # a header, and what is returned
    assert listing.to_dict()["nodes"][0]["name"] == listing.rows[0].name


def test_a_path_names_the_module_and_everything_in_it(explainer: lrp.Explainer) -> None:
    whole = {row.module for row in explainer.show(only="layer2.1")}
    inner = {row.module for row in explainer.show(only="layer2.*.conv")}
    both = {row.module for row in explainer.show(only=["layer1", "head"])}

    assert whole == {"layer2.1", "layer2.1.conv", "layer2.1.squash"}
    assert inner == {"layer2.0.conv", "layer2.1.conv"}
    assert both == {"layer1", "layer1.conv", "layer1.squash", "head"}


def test_filters_are_taken_together(explainer: lrp.Explainer) -> None:
    listing = explainer.show(only="layer2.*", rule="epsilon", op="conv2d")
    forward = [row for row in listing if row.phase == "forward"]

    assert [row.op for row in forward] == ["aten.conv2d.default"] * 4
    assert {row.explains for row in listing if row.phase == "relevance"} == {row.name for row in forward}
    assert not listing.returns
    assert {row.rule for row in explainer.show(rule="identity")} == {"identity"}


@pytest.mark.parametrize(
    ("filters", "sentence"),
    [
        ({"only": "layer9"}, "near it: .*layer1"),
        ({"rule": "epsilom"}, "there are average|there are .*epsilon"),
        ({"op": "conv3d"}, "near it: .*conv2d"),
    ],
)
def test_a_filter_that_matches_nothing_is_refused(
    explainer: lrp.Explainer, filters: dict[str, str], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        explainer.show(**filters)  # type: ignore[arg-type]


def test_every_operation_that_relevance_passes_has_a_node_that_is_its_relevance(explainer: lrp.Explainer) -> None:
    held = {value for row in explainer.show() if row.form for value in row.of.split(", ")}

    assert {entry.node for entry in explainer.audit(X).entries} <= held


def test_what_is_shown_survives_the_file(explainer: lrp.Explainer, tmp_path: Path) -> None:
    explainer.save(tmp_path / "m.lrp.pt2")

    loaded = lrp.load(tmp_path / "m.lrp.pt2")

    assert str(loaded.show()) == str(explainer.show())


def test_notes_are_plain_strings_under_fixed_keys(explainer: lrp.Explainer) -> None:
    keys = {"phase", "name", "module", "rule", "promise", "explains", "form", "of", "promises"}
    for node in explainer.module.graph.nodes:
        note = {key: value for key, value in note_of(node).items() if key not in ("assignment", "explained")}
        assert set(note) <= keys
        assert all(isinstance(value, str) for value in note.values())


@pytest.mark.slow
def test_several_targets_keep_their_forms(net: Net) -> None:
    rows = lrp.compile(net, (X,), composite="epsilon", target=[0, 1], dynamic_shapes=BATCH).show()

    held = {row.of: row for row in rows if row.form == "unit"}
    assert held["mean"].type.startswith("f32[2, batch")


def test_an_explainer_does_not_differ_from_itself(explainer: lrp.Explainer) -> None:
    assert not list(explainer.diff(explainer))


@pytest.mark.slow
def test_a_diff_says_which_rules_changed_where(net: Net, explainer: lrp.Explainer) -> None:
    entries = (lrp.Entry("convolution", "gamma", {"gamma": 0.5}, path="layer2.1"),)
    rules = lrp.Composite("mine", (*entries, *lrp.composites.epsilon().entries))
    other = lrp.compile(net, (X,), composite=rules, dynamic_shapes=BATCH)

    difference = explainer.diff(other)

    changed = {change.module: change for change in difference if change.rule[0] != change.rule[1]}
    assert set(changed) == {"layer2.1.conv", "layer2.1.squash"}
    # Behind the ReLU only positive outputs have relevance: γ is applied without its other branch.
    assert changed["layer2.1.conv"].rule == ("epsilon(epsilon=1e-06)", "gamma(gamma=0.5)")
    assert "epsilon → mine: another rule at 2 of" in str(difference)
    for change in difference:
        for op, count in change.relevance.items():
            assert count == counted(other, change.node, op) - counted(explainer, change.node, op)
    assert {change.module for change in explainer.diff(other, only="layer2.1.conv")} == {"layer2.1.conv"}


def counted(explainer: lrp.Explainer, forward: str, op: str) -> int:
    return sum(row.explains == forward and row.op.split(".")[-2:-1] == [op] for row in explainer.show())


@pytest.mark.slow
def test_operations_of_one_side_only_are_added_or_removed(net: Net, explainer: lrp.Explainer) -> None:
    primitive = lrp.compile(net, (X,), composite="dynamic-lrp", dynamic_shapes=BATCH)

    changes = list(explainer.diff(primitive))

    assert any(change.rule[0] is None and change.op == "aten.add.Tensor" for change in changes)
    assert " added" in explainer.diff(primitive).title


@pytest.mark.slow
def test_promises_that_are_rebuilt_are_a_difference(net: Net, explainer: lrp.Explainer) -> None:
    lean = lrp.compile(net, (X,), composite="epsilon", dynamic_shapes=BATCH, memory_budget=0.3)

    rebuilt = {promise.value for promise in lean.plan.of("rebuilt")}
    assert rebuilt
    assert {change.node for change in explainer.diff(lean) if change.promise == ("kept", "rebuilt")} <= rebuilt
    assert any(row.rule == "rebuilt" for row in lean.show())
    assert any("rebuilt" in row.promises for row in lean.show() if row.phase == "relevance")


def test_explainers_of_different_models_are_not_compared(explainer: lrp.Explainer) -> None:
    other = lrp.compile(nn.Linear(3, 2).eval(), (torch.randn(2, 3),))
    with pytest.raises(InputError, match="different models"):
        explainer.diff(other)


@pytest.fixture(scope="module")
def folder(net: Net, explainer: lrp.Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect")
    explainer.save(path / "m.lrp.pt2")
    torch.export.save(torch.export.export(net, (X,), dynamic_shapes=BATCH), path / "m.pt2")
    np.save(path / "x.npy", X.numpy())
    return path


@pytest.mark.slow
def test_the_command_line_shows_diffs_and_prints_json(
    folder: Path, explainer: lrp.Explainer, capsys: pytest.CaptureFixture[str]
) -> None:
    filters = ["--only", "layer2.*", "--rule", "epsilon", "--op", "conv2d"]
    assert main(["inspect", str(folder / "m.lrp.pt2"), *filters]) == 0
    assert capsys.readouterr().out.strip() == str(explainer.show("layer2.*", "epsilon", "conv2d"))

    assert main(["inspect", str(folder / "m.pt2"), "--composite", "epsilon", "--diff", "epsilon-plus"]) == 0
    assert "epsilon → epsilon-plus: another rule at 6 of" in capsys.readouterr().out

    assert main(["inspect", str(folder / "m.lrp.pt2"), "--json", "--diff", str(folder / "m.lrp.pt2")]) == 0
    assert json.loads(capsys.readouterr().out)["changes"] == []

    assert main(["inspect", str(folder / "m.lrp.pt2"), "--diff", "epsilon-plus"]) == 1
    assert "There is no file epsilon-plus" in capsys.readouterr().err

    assert main(["inspect", str(folder / "m.lrp.pt2"), "--only", "layr1"]) == 1
    assert "near it: layer1" in capsys.readouterr().err


def test_the_command_line_folds_sorts_and_limits_the_books(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["audit", str(folder / "m.lrp.pt2"), "--input", str(folder / "x.npy")]
    assert main([*call, "--depth", "1", "--json"]) == 0
    books = json.loads(capsys.readouterr().out)
    assert [entry["node"] for entry in books["nodes"]].count("layer2") == 1

    assert main([*call, "--sort", "error", "--limit", "2"]) == 0
    assert "more" in capsys.readouterr().out

    assert main([*call, "--depth", "-1"]) == 1
    assert "from 0" in capsys.readouterr().err


def test_notebooks_show_explainers_plans_books_and_listings_without_script(explainer: lrp.Explainer) -> None:
    shown = {
        "composite": explainer,
        "layer2.1.conv": explainer.audit(X),
        "asked by": explainer.plan,
        "aten": explainer.show(),
        "another rule at": explainer.diff(explainer),
    }
    for word, item in shown.items():
        html = item._repr_html_()
        assert word in html or word == "aten"
        assert html.lstrip().startswith("<pre")
        assert "<script" not in html
