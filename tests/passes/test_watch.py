"""Who watches the passes: what is told, written down and checked."""

from pathlib import Path

import pytest
import torch
from torch import fx

from lrp_compiler.passes.stages import FORWARD, UNLIFTED, StageError
from lrp_compiler.passes.watch import CHECK, Watch


def graph(target: object = torch.ops.aten.relu.default) -> fx.GraphModule:
    """One op behind an input; `aten.view` is more than the stage "forward" allows."""
    made = fx.Graph()
    x = made.placeholder("x")
    args = (x, [2, 3]) if target is VIEW else (x,)
    node = made.create_node("call_function", target, args, name="view" if target is VIEW else "relu")
    made.output((node,))
    for each in (x, node):
        each.meta["val"] = torch.empty(2, 3)
    x.meta["input"] = "x"
    return fx.GraphModule(torch.nn.Module(), made)


VIEW = torch.ops.aten.view.default
TEXT = "x: f32[2, 3] = input\nrelu: f32[2, 3] = relu(x)\nreturn relu\n"


@pytest.fixture(autouse=True)
def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHECK, raising=False)


def test_graphs_are_written_in_the_order_of_the_passes(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "new" / "folder")

    for name in ("unlift", "simplify", "unlift"):
        watch.sees(name, graph(), FORWARD)

    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "new" / "folder").iterdir()}
    assert written == {"01_unlift.txt": TEXT, "02_simplify.txt": TEXT, "03_unlift.txt": TEXT}


def test_nothing_is_written_before_there_is_something_to_write(tmp_path: Path) -> None:
    Watch(tmp_path / "folder")

    assert not (tmp_path / "folder").exists()


def test_what_a_pass_let_be_stands_below_its_graph(tmp_path: Path) -> None:
    declined = [("add", "its pieces overlap"), ("conv2d", "it has a bias already")]

    Watch(tmp_path).sees("a_pass", graph(), FORWARD, declined)

    assert (tmp_path / "01_a_pass.txt").read_text(encoding="utf-8") == TEXT + (
        "# add is left as it is: its pieces overlap\n# conv2d is left as it is: it has a bias already\n"
    )


def test_graphs_that_are_written_are_checked_and_the_faulty_one_is_there_to_be_read(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    watch.sees("unlift", graph(VIEW), UNLIFTED)

    with pytest.raises(StageError, match=r"^simplify left view .* reshapes have one spelling\.$"):
        watch.sees("simplify", graph(VIEW), FORWARD)

    assert "view(x, [2, 3])" in (tmp_path / "02_simplify.txt").read_text(encoding="utf-8")


def test_without_a_folder_nothing_is_checked_unless_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    Watch().sees("simplify", graph(VIEW), FORWARD)

    monkeypatch.setenv(CHECK, "1")

    with pytest.raises(StageError, match="simplify left view"):
        Watch().sees("simplify", graph(VIEW), FORWARD)


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHECK, "")

    Watch().sees("simplify", graph(VIEW), FORWARD)


def test_progress_is_told_each_stage_when_it_starts() -> None:
    told: list[str] = []
    watch = Watch(progress=told.append)

    for stage in ("decompose", "canonicalise"):
        watch.starts(stage)

    assert told == ["decompose", "canonicalise"]
    Watch().starts("decompose")  # nobody is told
