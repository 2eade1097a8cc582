"""`triton`: an explainer in a model repository."""

import argparse
from pathlib import Path

from ..options import add_served_explainer
from ..paths import must_be_onnx
from ..reporting import report

PURPOSE = "put an explainer into a model repository for Triton"
EXAMPLE = (
    "lrp-compiler triton image.lrp.onnx -o repository\n"
    "  docker run --rm -p 8000:8000 -v ./repository:/models nvcr.io/nvidia/tritonserver:25.08-py3 \\\n"
    "      tritonserver --model-repository=/models"
)


def add_options(command: argparse.ArgumentParser) -> None:
    """The explainer, and where the repository is."""
    add_served_explainer(command)
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="of the repository")


def do(arguments: argparse.Namespace) -> None:
    """Put the explainer into the repository."""
    must_be_onnx(arguments.explainer, "Triton")
    from lrp_compiler.serving import triton_repository

    options = {"name": arguments.called, "rows": arguments.max_rows, "check": arguments.check}
    folder = triton_repository(arguments.explainer, arguments.output, **options)
    report(arguments, {"path": str(folder)}, f"wrote {folder}")
