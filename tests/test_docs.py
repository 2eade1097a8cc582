"""The documentation says what is so: snippets run, commands parse, links lead somewhere, every public name is there."""

import contextlib
import importlib.util
import json
import os
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.snippets import PAGES, ROOT, blocks, commands, pages
from support.stand_ins import STAND_INS

import lrp_compiler as lrp
from lrp_compiler import errors, runtime
from lrp_compiler.cli import make_parser
from lrp_compiler.pictures.methods import Drawn

SLOW = {
    "README.md",
    "coming-from.md",
    "concepts/composites.md",
    "get-started.md",
    "how-to/answers.md",
    "how-to/hugging-face.md",
    "how-to/loops.md",
    "how-to/onnx-in.md",
    "how-to/other-results.md",
    "how-to/pictures.md",
}
"""Pages whose snippets take long; `make test-all` runs them."""
PROSE = ("", "text")
"""Languages of blocks that are nothing to run: what is printed, and drawings."""
WRITTEN = {page for page in pages() if any(block.language == "python" for block in blocks(page))}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where snippets may write."""
    with contextlib.chdir(tmp_path):
        yield tmp_path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.heavy] if page in SLOW else []) for page in sorted(WRITTEN)]
)
def test_the_snippets_of_a_page_run_one_behind_the_other(page: str, folder: Path) -> None:
    names = STAND_INS.get(page, dict)()
    names["__name__"] = "snippets"
    for block in blocks(page):
        if block.language != "python" or block.reason or not _installed(block.needs):
            continue
        # The line numbers of a failure are those of the page.
        code = compile("\n" * (block.line - 1) + block.code, str(pages()[page]), "exec")
        exec(code, names)


def test_the_request_on_a_line_fits_the_model_of_its_page(folder: Path) -> None:
    written = blocks("how-to/serving.md")
    exec(next(block.code for block in written if block.language == "python"), {"__name__": "snippets"})
    (line,) = (block.code for block in written if "/infer -d" in block.code)
    *_, address, _, body = shlex.split(line.replace("\\\n", ""))

    (served,) = folder.glob("*.lrp.onnx")
    with lrp.OnnxExplainer(served) as explainer:
        given = [(one, np.array(one["data"], np.float32)) for one in json.loads(body)["inputs"]]
        explanation = explainer(**{one["name"]: data.reshape(one["shape"]) for one, data in given})

    assert address == f"localhost:8000/v2/models/{served.name.removesuffix('.lrp.onnx')}/infer"
    assert explanation.relevance["x"].shape == (1, 3)


def _installed(package: str) -> bool:
    return not package or importlib.util.find_spec(package) is not None


@pytest.mark.parametrize("page", sorted(pages()))
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    for block in blocks(page):
        ours = block.language in ("python", "bash", *PROSE)
        assert ours or block.reason, f"{page}:{block.line}: a block of {block.language} without `<!-- not run: why -->`"


def test_few_snippets_are_not_run() -> None:
    """A reason is easily written; what cannot be run here is Node, C++, containers, and pretrained weights."""
    python = Counter(bool(block.reason) for page in pages() for block in blocks(page) if block.language == "python")

    assert python[True] <= 6
    assert python[False] >= 50


@pytest.mark.parametrize("page", sorted(pages()))
def test_commands_are_those_of_the_command_line(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page):
        for arguments in commands(block.code) if block.language == "bash" else ():
            try:
                make_parser().parse_args(arguments)
            except SystemExit:
                pytest.fail(f"{page}:{block.line}: lrp-compiler {' '.join(arguments)}: {capsys.readouterr().err}")


LINK = re.compile(r"\]\(([^()\s#]+)(?:#[^()\s]*)?\)")
READ = [
    *pages().values(),
    *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]
"""What may be read where the repository lies, site or no site."""


@pytest.mark.parametrize("path", READ, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere_in_the_repository(path: Path) -> None:
    links = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if ":" not in link]

    assert [link for link in links if not Path(os.path.normpath(path.parent / link)).exists()] == []


TITLE = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)
TO_PART = re.compile(r"\]\(([^()\s#]*)#([^()\s]+)\)")


def _anchors(path: Path) -> set[str]:
    """What links may name of a page: its titles, as code hosts and the site spell them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower() for title in TITLE.findall(text)]
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title)) for title in plain}


@pytest.mark.parametrize("path", READ, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_parts_of_pages_lead_to_titles(path: Path) -> None:
    links = [link for link in TO_PART.findall(path.read_text(encoding="utf-8")) if ":" not in link[0]]
    pointed = [(Path(os.path.normpath(path.parent / place)) if place else path, part) for place, part in links]

    assert [f"{at.name}#{part}" for at, part in pointed if at.suffix == ".md" and part not in _anchors(at)] == []


def test_pages_get_what_they_ask_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    tables = importlib.import_module("tables")
    asked = {
        name: path
        for path in pages().values()
        for name in re.findall(r"<!-- ([\w-]+): made by docs/tables\.py -->", path.read_text(encoding="utf-8"))
    }

    assert {name: path.stem for name, path in asked.items()} == {name: name for name in tables.MADE}
    assert "| `epsilon` |" in tables.rules()
    assert "| [`convolution`](#convolution) | linear map |" in tables.kinds()
    assert "## attnlrp-gamma" in tables.composites()
    assert "exit code 1" in tables.command_line()
    for name, path in asked.items():
        assert f"docs/tables.py {name}`" in path.read_text(encoding="utf-8").replace("\n", " ")


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")

    assert [page for page in pages() if page != "README.md" and f" {page}\n" not in navigation] == []


NOTEBOOKS = ROOT / "docs" / "notebooks"


@pytest.mark.parametrize("source", sorted(NOTEBOOKS.glob("*.py")), ids=lambda source: source.stem)
def test_notebooks_are_in_the_navigation_and_their_links_lead_somewhere(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if ":" not in link]

    assert f" notebooks/{source.stem}.md\n" in (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")
    assert links
    assert all((NOTEBOOKS / link).exists() for link in links)


def test_the_reference_has_every_public_name() -> None:
    told = "\n".join(path.read_text(encoding="utf-8") for path in (PAGES / "reference").glob("*.md"))
    public = {
        *(f"lrp_compiler.{name}" for name in {*lrp.__all__, *errors.__all__} - {"UnsupportedNode"}),
        *(f"lrp_compiler.runtime.{name}" for name in {*runtime.__all__} - {*lrp.__all__}),
    }

    assert [name for name in sorted(public) if not re.search(rf"(:::|##) {re.escape(name)}$", told, re.MULTILINE)] == []


def test_the_reference_has_what_docstrings_send_to() -> None:
    told = (PAGES / "reference" / "explanations.md").read_text(encoding="utf-8")
    methods = [value for value in vars(Drawn).values() if callable(value) and value.__doc__]
    sent = {name for method in methods for name in re.findall(r"`(lrp_compiler\.[\w.]+)`", method.__doc__)}

    assert len(sent) >= 6
    assert [name for name in sorted(sent) if not re.search(rf"^::: {re.escape(name)}$", told, re.MULTILINE)] == []


OF_THE_PROJECT = {"demo", "pictures", "faithfulness", "sound", "test", "dev"}
"""Extras that `make` installs for its own commands."""


def test_every_extra_for_users_is_told() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    told = re.findall(r"^\| `(\w+)` \|", (PAGES / "get-started.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert set(told) == set(extras) - OF_THE_PROJECT


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (r"<td><code>argmax\|index</code></td>", '<td class="whole"><code>argmax|index</code></td>'),
        (
            '<td style="text-align: right;">3e-08 / 1e-15</td>',
            '<td style="text-align: right;" class="whole">3e-08 / 1e-15</td>',
        ),
        ("<td>4.6e-04 [1.3e-03, 2.2e-03]</td>", '<td class="whole">4.6e-04 [1.3e-03, 2.2e-03]</td>'),
        ("<td>neither short enough nor long</td>", "<td>neither short enough nor long</td>"),
        (f"<td>{'a word ' * 9}</td>", f'<td class="long">{"a word " * 9}</td>'),
        (f"<td>{'test_' * 5}</td>", f'<td class="word">{"test_" * 5}</td>'),
    ],
)
def test_cells_of_tables_say_what_they_hold(cell: str, shown: str) -> None:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)

    assert hooks.on_page_content(cell, None, None, None) == shown


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180
