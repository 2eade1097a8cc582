"""Tables at any width: no number is cut, nothing is lost; in notebooks one copy each."""

import re

import pytest
import rich.console
import rich.jupyter
import torch
from rich.text import Text
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.base.tables import as_html, as_text, plain_table

NUMBERS = [f"{10**at / 7:.4g}" for at in range(-6, 6)]


def wide() -> object:
    table = plain_table(title="twelve numbers", caption="and that is all", title_justify="left")
    table.add_column("node")
    table.add_column("module")
    for at in range(12):
        table.add_column(f"cause {at}", justify="right")
    table.add_row("convolution_12", "features.block.3.convolution", *NUMBERS)
    table.add_section()
    table.add_row("all", "[/x] :smile:")
    return table


@pytest.mark.parametrize("width", [30, 80, 100, 300])
def test_no_number_is_cut(width: int) -> None:
    text = as_text(wide(), width)

    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    assert re.findall(r"\d\S*\d", " ".join(re.findall(r"│ +([-\d.e+]+) ", text)))
    cells = [cell.strip() for line in text.splitlines() for cell in line.split("│")]
    assert [cell for cell in cells if cell in NUMBERS] == NUMBERS
    assert (text.count("twelve numbers"), text.count("and that is all")) == (1, 1)
    blocks = text.count("┏")
    assert text.count("├") == blocks == (1 if width == 300 else blocks)
    assert sum(line.startswith(("┃ node", "┃ node ")) for line in text.splitlines()) == blocks


def test_a_title_is_as_wide_as_there_is_room() -> None:
    table = plain_table(title="a title of many more words than columns", title_justify="left")
    table.add_column("n")
    table.add_row("1")

    assert as_text(table, 60).splitlines()[0].rstrip() == "a title of many more words than columns"
    assert max(map(len, as_text(table, 20).splitlines())) <= 20
    assert "a title of many more words than columns" in as_html(table)


def test_texts_fold_to_no_less_than_a_word() -> None:
    narrow = as_text(wide(), 80)

    assert "convolution_" in narrow
    assert "[/x] :smile:" in narrow


def test_a_text_keeps_its_style_and_columns_come_with_rows() -> None:
    table = plain_table(show_header=False)
    table.add_row("name", Text("value", "red"))

    assert re.sub(r"\W", "", as_text(table)) == "namevalue"
    assert 'style="color: #800000' in as_html(table)


def test_what_shows_itself_shows_itself_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside Jupyter rich displays what is printed; only what is returned may be shown."""
    displayed: list[object] = []
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    monkeypatch.setattr(rich.jupyter, "display", lambda *given: displayed.append(given))
    net, x = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval(), torch.randn(2, 5)
    explainer = lrp.compile(net, (x,), composite="epsilon")
    books = explainer.audit(x)

    for shown in (
        explainer,
        explainer.plan,
        books,
        explainer.about and lrp.composites.epsilon(),
        lrp.coverage(net, (x,)),
    ):
        html = shown._repr_html_()
        assert html.count("<pre") == 1
        assert "monospace" in html
        assert "┃" in html or "│" in html
    for printed in (books, books.table(), lrp.composites.epsilon(), lrp.coverage(net, (x,)), explainer.plan):
        assert "━" in str(printed)
    assert repr(books).startswith("Audit(3 nodes; seed ")
    assert repr(books.by_module()).startswith("Audit(3 modules; seed ")
    assert set(books.table()._repr_mimebundle_()) == {"text/plain", "text/html"}
    assert displayed == []


def test_the_terminals_width_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")

    assert max(map(len, str(wide()).splitlines())) <= 60
