"""`compile`: a `.pt2` program or an ONNX file in, its explainer out."""

import argparse
from pathlib import Path

from lrp_compiler.base.files import check_destination
from lrp_compiler.base.metadata import OPSETS, check_opset
from lrp_compiler.base.progress import stages
from lrp_compiler.formats import EXPLAINER, OUTPUTS, ending_of, writer_of

from .. import kinds
from ..compiling import MODEL, add_compile_options, compiled
from ..paths import must_exist
from ..reporting import report

PURPOSE = "compile a model into an explainer"
EXAMPLE = (
    "lrp-compiler compile model.pt2 -o model.lrp.onnx --composite epsilon-plus --target index\n"
    "  lrp-compiler compile model.onnx -o model.lrp.onnx\n"
    "  lrp-compiler compile model.pt2 -o model.lrp.onnx --composite epsilon-gamma-box --option low=-2.1 "
    "--option high=2.6"
)
OUTPUT = ", or ".join(
    f"M{EXPLAINER}{ending}" + (f" for {known.about}" if known.about else "") for ending, known in OUTPUTS.items()
)


def add_options(command: argparse.ArgumentParser) -> None:
    """The model, how it is compiled, and how the explainer is written."""
    command.add_argument("model", type=Path, metavar="MODEL", help=MODEL)
    command.add_argument("-o", "--output", type=kinds.explainer_path, required=True, help=OUTPUT)
    add_compile_options(command)
    command.add_argument(
        "--opset",
        type=int,
        default=20,
        metavar="N",
        help=f"of the ONNX file, {OPSETS[0]} to {OPSETS[-1]} (default: %(default)s)",
    )
    command.add_argument(
        "--dtype",
        choices=["model", "float16"],
        default="model",
        help="of the ONNX file's weights (default: %(default)s)",
    )
    command.add_argument(
        "--profile", choices=["fast", "small"], default="fast", help="small: less memory (default: %(default)s)"
    )


def do(arguments: argparse.Namespace) -> None:
    """Compile the model, and write its explainer."""
    must_exist(arguments.model)
    check_destination(arguments.output)
    check_opset(arguments.opset)
    with stages("load torch") as progress:
        explainer = compiled(arguments, progress)
        if progress is not None:
            progress("write")
        options = {name: getattr(arguments, name) for name in OUTPUTS[ending_of(arguments.output)].options}
        writer_of(arguments.output)(explainer.artefact, arguments.output, **options)
    result, about = {"path": str(arguments.output)}, explainer.about
    chosen = {"composite": about.name, "why": about.why} if about.why else {}
    said = f"composite {about.named_why}\n" if chosen else ""
    report(arguments, {**result, **chosen}, f"{said}wrote {arguments.output}")
