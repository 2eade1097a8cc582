"""`page`: a website around an explainer."""

import argparse
from pathlib import Path

from lrp_compiler.base.progress import stages

from ..options import add_picture_options
from ..paths import must_exist
from ..reporting import report

PURPOSE = "make a website that predicts and explains in the visitor's browser"
EXAMPLE = (
    "lrp-compiler page image.lrp.onnx --labels labels.txt --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 "
    "--crop 0.875 --example cat.jpg -o site\n"
    "  lrp-compiler page text.lrp.onnx --tokenizer tokenizer.json --example 'A fine film.' -o site --serve"
)


def add_options(command: argparse.ArgumentParser) -> None:
    """The explainer, what the site shows, and where it is made."""
    command.add_argument(
        "explainer",
        type=Path,
        metavar="M.lrp.onnx",
        help="of pictures or of text; not one that takes more at run time than these and --target index: none of "
        "--composite reference, --masks, --seeds, --target answer or --reduce",
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="for any web server")
    command.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes: one a line, or a JSON list")
    command.add_argument("--title", help="of the page (default: the name of the file)")
    command.add_argument(
        "--example",
        action="append",
        default=[],
        metavar="PICTURE|TEXT",
        help="for visitors to try, once for each; the first is shown at once",
    )
    add_picture_options(command)
    command.add_argument("--tokenizer", type=Path, metavar="tokenizer.json", help="the model's, if it reads text")
    command.add_argument(
        "--scores",
        choices=("softmax", "sigmoid", "none"),
        default="softmax",
        help="how outputs become probabilities (default: %(default)s)",
    )
    command.add_argument(
        "--onnxruntime-web", type=Path, metavar="DIR", help="the unpacked npm package (default: npm fetches it once)"
    )
    command.add_argument(
        "--tokenizers-js", type=Path, metavar="DIR", help="likewise @huggingface/tokenizers, if the model reads text"
    )
    command.add_argument("--force", action="store_true", help="replace FOLDER even if it is no such site")
    command.add_argument(
        "--serve",
        type=int,
        nargs="?",
        const=8000,
        metavar="PORT",
        help="then hand the site out to this machine (default port: %(const)s)",
    )


def do(arguments: argparse.Namespace) -> None:
    """Make the site, and hand it out if that is asked for."""
    must_exist(arguments.explainer)
    from lrp_compiler.website.page import page, serve

    with stages("make the site"):
        folder = page(
            arguments.explainer,
            arguments.output,
            labels=arguments.labels,
            examples=arguments.example,
            title=arguments.title,
            mean=arguments.mean,
            std=arguments.std,
            resize=arguments.resize,
            crop=arguments.crop,
            size=arguments.size,
            tokenizer=arguments.tokenizer,
            scores=arguments.scores,
            onnxruntime_web=arguments.onnxruntime_web,
            tokenizers_js=arguments.tokenizers_js,
            force=arguments.force,
        )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    report(arguments, {"path": str(folder), "bytes": size}, f"wrote {folder} ({size / 1e6:.0f} MB)")
    if arguments.serve is not None:
        serve(folder, arguments.serve)
