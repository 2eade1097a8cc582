"""ARCHITECTURE.md prints graphs that the compiler really makes."""

import os
import re

import pytest
import torch
from support.folders import ROOT
from support.two_layers import Net

import lrp_compiler as lrp

PAGE = ROOT / "ARCHITECTURE.md"
SECTION = re.compile(r"<!-- dump: (\w+) -->\n(?:\n?```text\n(.*?)```\n)?", re.DOTALL)


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
        text = SECTION.sub(lambda found: f"<!-- dump: {found[1]} -->\n```text\n{graphs[found[1]]}```\n", text)
        PAGE.write_text(text, encoding="utf-8")

    printed = dict(SECTION.findall(text))

    assert set(printed) == {"unlift", "emit_relevance", "simplify"}
    assert printed == {name: graphs[name] for name in printed}
