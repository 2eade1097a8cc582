"""Execute notebooks, and make pages of the site of them: `make notebooks`.

    python docs/execute.py docs/notebooks/photo_to_concept.py

A source in percent format becomes, in build/notebooks, an executed notebook (`.ipynb`), a page (`.md`) and the page's
pictures. A cell that fails stops it all with that cell's traceback, and so does what a cell writes to stderr: warnings
are no part of a tutorial.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "build" / "notebooks"
LONGEST = 600
"""Seconds for one cell, on a machine that has much else to do."""
QUIET = "ignore:IProgress not found"
"""Of tqdm, where there is no browser to show bars in."""
PAGE = """
{%- extends 'markdown/index.md.j2' -%}
{%- block data_html scoped %}
<div class="display">{{ output.data['text/html'] }}</div>
{% endblock data_html -%}
{%- block data_png scoped %}
![What the cell above draws]({{ output.metadata.filenames['image/png'] | path2url }})
{% endblock data_png -%}
"""
"""What shows itself as HTML is one element of the page, apart from its text."""


def executed(source: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of all its cells, run at the repository's root.

    Raises:
        CellExecutionError: a cell failed.
        ValueError: a cell wrote to stderr.
    """
    notebook = jupytext.read(source)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    resources = {"metadata": {"path": str(ROOT)}}
    with tempfile.TemporaryDirectory() as folder:
        # Sockets in a folder, and no ports: of those a kernel warns that others may listen.
        local = Config(AsyncKernelManager={"transport": "ipc", "ip": f"{folder}/kernel"})
        client = NotebookClient(notebook, timeout=LONGEST, resources=resources, config=local)
        client.execute(env={**os.environ, "PYTHONWARNINGS": QUIET})
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                raise ValueError(f"{source.name}: a cell wrote to stderr: {output.text}\nThe cell:\n{cell.source}")
    return notebook


def write(notebook: nbformat.NotebookNode, name: str) -> None:
    """Lay notebook, page and pictures down."""
    NOTEBOOKS.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, NOTEBOOKS / f"{name}.ipynb")
    exporter = MarkdownExporter(raw_template=PAGE)
    page, resources = exporter.from_notebook_node(
        notebook, {"unique_key": name, "output_files_dir": f"{name}_files", "metadata": {"name": name}}
    )
    for place, content in resources["outputs"].items():
        path = NOTEBOOKS / place
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    title, text = page.lstrip().split("\n", 1)
    link = f"[The notebook]({name}.ipynb), as it ran when this site was made."
    # Last: make takes a page that is there for one that is whole.
    (NOTEBOOKS / f"{name}.md").write_text(f"{title}\n\n{link}\n{text}", encoding="utf-8")


def main() -> int:
    """Execute all that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="+", help="notebooks in percent format")
    for source in parser.parse_args().source:
        start = time.perf_counter()
        write(executed(source), source.stem)
        print(f"{source.stem}: {time.perf_counter() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
