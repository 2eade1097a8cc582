"""ARCHITECTURE.md prints graphs that the compiler really makes; a fault is laid to the pass that made it."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.folders import ROOT
from support.two_layers import Net
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

import lrp_compiler as lrp
from lrp_compiler.capture.capture import capture
from lrp_compiler.passes import Options, Watch, compile_graphs, forward_graph, pipeline
from lrp_compiler.passes.forward import Captured, Target
from lrp_compiler.passes.relevance import Seed
from lrp_compiler.passes.stages import StageError
from lrp_compiler.rules.composite import Composite

PAGE = ROOT / "ARCHITECTURE.md"
SECTION = re.compile(r"(<!-- dump: (\w+)(?:, from (\w+))? -->\n)(?:\n?```text\n(.*?)```\n)?", re.DOTALL)
"""A graph that the page prints: which, from which node on, and its text."""


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("graphs")
    shapes = {"x": {0: torch.export.Dim("batch")}}
    lrp.compile(Net().eval(), (torch.randn(2, 3),), composite="epsilon", dynamic_shapes=shapes, dump=folder)
    # A pass that runs twice is shown as it left the graph the last time; torch's name of the batch size is arbitrary.
    return {
        path.stem.split("_", 1)[1]: re.sub(r"\bs\d+\b", "batch", path.read_text(encoding="utf-8"))
        for path in sorted(folder.iterdir())
    }


def test_the_page_prints_the_graphs_of_its_example(graphs: dict[str, str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("UPDATE_ARCHITECTURE"):
        text = SECTION.sub(lambda found: f"{found[1]}```text\n{part(graphs[found[2]], found[3])}```\n", text)
        PAGE.write_text(text, encoding="utf-8")

    printed = {name: (node, block) for _, name, node, block in SECTION.findall(text)}

    assert set(printed) == {"unlift", "emit_relevance", "simplify"}
    for name, (node, block) in printed.items():
        assert block == part(graphs[name], node)


def part(graph: str, node: str | None) -> str:
    """The lines of a graph from that of a node on, or all."""
    return graph[graph.index(f"\n{node}: ") + 1 :] if node else graph


class NearlyNormalised(torch.nn.Module):
    """A loop whose step divides by the spread of five, of six numbers."""

    def forward(self, x: Tensor) -> Tensor:
        def step(state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            centred = x - x.mean(-1, keepdim=True)
            normalised = centred / (centred.pow(2).sum(-1, keepdim=True) / 5 + 1e-5).sqrt()
            state = state + normalised
            return state, normalised.clone()

        return scan(step, torch.zeros_like(x[:, 0]), x.transpose(0, 1))[0]


@pytest.mark.slow
def test_the_dump_says_what_was_let_be_in_a_loop_and_why(tmp_path: Path) -> None:
    shapes = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}}
    captured = capture(NearlyNormalised().eval(), (torch.randn(2, 5, 6),), dynamic_shapes=shapes)

    forward_graph(captured, Watch(tmp_path))

    (dump,) = tmp_path.glob("*_recognise_layer_norms.txt")
    left = [line for line in dump.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    (loop,) = (line for line in dump.read_text(encoding="utf-8").splitlines() if " = scan(" in line)
    name = loop.split(" = ")[0].split(":")[0]
    assert len(left) == 1
    assert left[0].startswith("# div")
    assert left[0].endswith(f" in {name} is left as it is: under its root is not the mean of its squares and a number")


LET_BE: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "a layer's result that is read twice": (
        "assign_rules",
        lambda x: (y := nn.functional.linear(x, torch.ones(3, 3))) * 2 + torch.relu(y),
        "linear is left as it is: it is read elsewhere, too",
    ),
    "a linear function": (
        "assign_rules",
        lambda x: (y := x.sin()) - y * 0.5,
        "all that lies between sin and it is linear",
    ),
    "a rounding": (
        "assign_rules",
        lambda x: torch.round(x.exp()).sum(1, keepdim=True) * x,
        "what is rounded is neither scaled, bounded nor shifted behind it",
    ),
    "a sum in which a value cancels": (
        "assign_rules",
        lambda x: (y := x.sin()) + (torch.ones(3) - y),
        "sin cancels, and nothing that stays was decided about it",
    ),
    "a stabiliser without a sign": (
        "merge_stabilisers",
        lambda x: nn.functional.linear(x, torch.ones(3, 3)),
        "what it stabilises takes no sign",
    ),
    "a piece that is alone": (
        "concatenate_pieces",
        lambda x: nn.functional.pad(x[:, :2].exp(), [0, 1]) + x,
        "it has one piece",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LET_BE)
def test_the_dump_says_what_was_let_be_and_why(name: str, tmp_path: Path) -> None:
    dumped, function, reason = LET_BE[name]

    class Function(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    lrp.compile(Function().eval(), (torch.randn(2, 3),), composite="epsilon", dump=tmp_path)

    (dump,) = tmp_path.glob(f"*_{dumped}.txt")
    assert reason in dump.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def captured() -> Captured:
    return capture(Net().eval(), (torch.randn(2, 3),))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "unlift",
        "simplify",
        "move_in_front",
        "splice_dictionaries",
        "select_explained",
        "assign_rules",
        "open_loops",
        "emit_relevance",
        "merge_stabilisers",
        "resolve_promises",
        "join",
        "without_unread",
        "lower_own_ops",
        "copy_repeated",
        "constants_first",
        "write_notes",
    ],
)
def test_a_fault_is_laid_to_the_pass_that_made_it(
    name: str, captured: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them forgets the shape of the last value of the graph that it leaves."""
    right = getattr(pipeline, name)

    def faulty(*args: Any, **options: Any) -> Any:
        made = right(*args, **options)
        graph = made[0] if isinstance(made, tuple) else made
        module = graph if isinstance(graph, torch.fx.GraphModule) else args[0]
        module.graph.output_node().prev.meta.pop("val")
        return made

    faulty.__name__ = name
    monkeypatch.setattr(pipeline, name, faulty)

    with pytest.raises(StageError, match=f"^{name} left "):
        compile_graphs(captured, Options(Composite("epsilon"), Seed(Target())), Watch())
