"""The command line: the same engine as `lrp.compile` and the runtime, for shells and pipelines.

Results go to stdout, progress and errors to stderr. Exit code 0: done; 1: one sentence on stderr says what is wrong;
2: the command was called wrongly; 130: interrupted. `--debug` prints an error's traceback as well. `run` and `verify`
on an `.onnx` file, `explain`, `summarise`, `serve`, `triton` and `page` need no torch; every other command imports it
when it runs. `--help` imports little.
"""

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError, LrpError, LrpWarning
from lrp_compiler.base.metadata import OPSETS
from lrp_compiler.base.sources import keep_sources
from lrp_compiler.formats import EXPLAINER, MODELS, OUTPUTS, PT2, ending_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit code, 0 or 1.

    Raises:
        SystemExit: with code 2, if the arguments are wrong; with code 0, after `--help`.
    """
    arguments = make_parser().parse_args(argv)
    try:
        # torch warns its developers; -W and PYTHONWARNINGS still show it.
        with warnings.catch_warnings(), _any_text(sys.stdout), boundary(f"do {arguments.name}"):
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", LrpWarning)
            warnings.showwarning = partial(_show_warning, warnings.showwarning)
            keep_sources(vars(arguments))
            from lrp_compiler import commands  # and numpy

            getattr(commands, arguments.command)(arguments)
            sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has seen enough, as in `… | head`; what is left in the buffer must not fail when Python ends.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 1
    except KeyboardInterrupt:
        print("lrp-compiler: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (LrpError, OSError, MemoryError, Warning) as error:
        if arguments.debug:
            traceback.print_exception(error)
        print(f"lrp-compiler: error: {_sentence(error)}", file=sys.stderr)
        return 1
    return 0


def _show_warning(others: Callable[..., None], message: Warning | str, category: type[Warning], *place: Any) -> None:
    if issubclass(category, LrpWarning):
        print(f"lrp-compiler: warning: {message}", file=sys.stderr)
    else:
        others(message, category, *place)


INTERRUPTED = 130
"""What shells call a command that Ctrl+C ended."""


def _sentence(error: Exception) -> str:
    # The operating system's own errors print as "[Errno 13] Permission denied: 'r.npz'".
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or ("There is not enough memory." if isinstance(error, MemoryError) else type(error).__name__)


@contextmanager
def _any_text(stream: Any) -> Iterator[None]:
    """What the terminal's encoding lacks is written as an escape, instead of failing."""
    if not hasattr(stream, "reconfigure"):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors=before)


MODEL = f"the model's file: {' or '.join(MODELS)} (a {PT2} is what torch.export.save wrote)"
OUTPUT = ", or ".join(
    f"M{EXPLAINER}{ending}" + (f" for {known.about}" if known.about else "") for ending, known in OUTPUTS.items()
)


def make_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(
        prog="lrp-compiler",
        description="Compile a model into its explainer, and run it.",
        epilog="example:\n  lrp-compiler compile model.pt2 -o model.lrp.onnx --composite epsilon-plus\n"
        "  lrp-compiler run model.lrp.onnx --input x.npy -o relevance.npz",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = _add(
        subparsers,
        "compile_command",
        "compile",
        "compile a model into an explainer",
        "lrp-compiler compile model.pt2 -o model.lrp.onnx --composite epsilon-plus --target index\n"
        "  lrp-compiler compile model.onnx -o model.lrp.onnx\n"
        "  lrp-compiler compile model.pt2 -o model.lrp.onnx --composite epsilon-gamma-box --option low=-2.1 "
        "--option high=2.6",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help=MODEL)
    command.add_argument("-o", "--output", type=_explainer_path, required=True, help=OUTPUT)
    _add_compile_options(command)
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

    command = _add(
        subparsers,
        "run_command",
        "run",
        "predict and explain",
        "lrp-compiler run model.lrp.onnx --input x.npy --target 3 -o relevance.npz\n"
        "  lrp-compiler run text.lrp.onnx --input input_ids=ids.npy --input attention_mask=mask.npy -o relevance.npz",
    )
    _add_explainer_arguments(command, "M.lrp.onnx|M.lrp.pt2")
    command.add_argument("--seed", metavar="FILE.npy", help="[batch, classes], if compiled with --seed tensor")
    command.add_argument(
        "--position", type=_target, metavar="INT|FILE.npy", help="where, if compiled with --position index"
    )
    command.add_argument(
        "--weights", metavar="FILE.npy", help="how much each token of a text counts, if compiled with --target answer"
    )
    command.add_argument(
        "--against", type=_target, metavar="INT|FILE.npy", help="the other token, if compiled with --against index"
    )
    command.add_argument("--check-nan", action="store_true", help="refuse NaN in the inputs")
    command.add_argument("--batch-size", type=int, metavar="N", help="run at most N rows at a time (.onnx)")
    command.add_argument("-o", "--output", type=Path, required=True, help="npz with output and relevance.<input>")

    command = _add(
        subparsers,
        "explain_command",
        "explain",
        "explain a data set, however large, into Parquet; goes on where it was stopped",
        "lrp-compiler explain image.lrp.onnx photos/ -o out --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 "
        "--crop 0.875\n"
        "  lrp-compiler explain text.lrp.onnx reviews.jsonl -o out --tokenizer tokenizer.json --column text=review "
        "--workers 4\n"
        "  lrp-compiler explain image.lrp.onnx /shared/photos -o /shared/out --engine ray --workers 4:64\n"
        '  lrp-compiler explain m.lrp.onnx rows.parquet -o out --column x=pixels --id key --where "label == 3"\n\n'
        "out/relevance.parquet and, of rows that cannot be explained, out/errors.parquet are folders of files, which\n"
        "readers of Parquet take as one. The same command goes on where it was stopped, by whatever.",
    )
    _add_explain_options(command)

    command = _add(
        subparsers,
        "summarise_command",
        "summarise",
        "say what a data set's explanations have in common, class by class, and write a page of it",
        "lrp-compiler summarise out --labels labels.txt\n"
        "  lrp-compiler summarise out --tokenizer tokenizer.json -o reviews.html",
    )
    _add_summarise_options(command)

    command = _add(
        subparsers,
        "serve_command",
        "serve",
        "answer requests over HTTP: Open Inference Protocol v2, as Triton's and KServe's clients speak it",
        "lrp-compiler serve image.lrp.onnx --port 8000\n"
        "  lrp-compiler serve text.lrp.onnx --name reviews --host 0.0.0.0 --max-rows 64 --timeout 10 --grace 5\n"
        "  curl localhost:8000/v2/models/image    # its tensors; POST to …/image/infer, numbers for Prometheus at "
        "/metrics\n\n"
        "Requests that wait run together if their shapes are equal. On SIGTERM and Ctrl+C those that have come\n"
        "are answered first. There is no password and no TLS: put a proxy in front where others can reach it.",
    )
    _add_serve_options(command)

    command = _add(
        subparsers,
        "triton_command",
        "triton",
        "put an explainer into a model repository for Triton",
        "lrp-compiler triton image.lrp.onnx -o repository\n"
        "  docker run --rm -p 8000:8000 -v ./repository:/models nvcr.io/nvidia/tritonserver:25.08-py3 \\\n"
        "      tritonserver --model-repository=/models",
    )
    _add_served_explainer(command)
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="of the repository")

    command = _add(
        subparsers,
        "plan_command",
        "plan",
        "show which forward values an explainer keeps, and which it rebuilds",
        "lrp-compiler plan model.pt2 --composite attnlrp --memory-budget 0.5\n  lrp-compiler plan model.lrp.pt2 --json",
    )
    command.add_argument("model", type=Path, metavar="MODEL|M.lrp.pt2", help=f"{MODEL}, or an explainer's")
    _add_compile_options(command)

    command = _add(
        subparsers,
        "inspect_command",
        "inspect",
        "show the relevance graph: which rule made which node, in which form, of which promises",
        'lrp-compiler inspect model.lrp.pt2 --only "layer4.*" --rule epsilon --op conv2d\n'
        "  lrp-compiler inspect model.pt2 --composite epsilon --diff epsilon-plus\n"
        "  lrp-compiler inspect model.lrp.pt2 --html graph.html --input x.npy",
    )
    command.add_argument("model", type=Path, metavar="MODEL|M.lrp.pt2", help=f"{MODEL}, or an explainer's")
    _add_compile_options(command)
    _add_inspect_options(command)

    command = _add(
        subparsers,
        "coverage_command",
        "coverage",
        "list which nodes of a model have a rule, without compiling it",
        "lrp-compiler coverage model.pt2 --json",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help=MODEL)

    command = _add(
        subparsers,
        "audit_command",
        "audit",
        "show node by node where relevance goes: in, out, absorbed, error",
        "lrp-compiler audit model.lrp.pt2 --input x.npy --sort error --limit 10\n"
        "  lrp-compiler audit model.lrp.pt2 --input x.npy --depth 2",
    )
    _add_explainer_arguments(command, "M.lrp.pt2")
    command.add_argument(
        "--precision",
        choices=("float64", "model"),
        default="float64",
        help="float64: what the rules do (default); model: and what the model's own dtype makes of it",
    )
    command.add_argument(
        "--depth", type=int, metavar="N", help="fold by the first N parts of the module path (0: the whole model)"
    )
    command.add_argument(
        "--sort",
        choices=("absorbed", "error", "relevance", "order"),
        default="absorbed",
        help="the largest first; order: as relevance passes (default: %(default)s)",
    )
    command.add_argument("--limit", type=int, metavar="N", help="rows of the table; the others are summed up in one")

    command = _add(
        subparsers,
        "verify_command",
        "verify",
        "check that a file is sound and explains the model it was made of; exit code 1 if not",
        "lrp-compiler verify M.lrp.onnx --against MODEL.pt2\n"
        "  lrp-compiler verify text.lrp.onnx --input input_ids=ids.npy --json\n"
        "  lrp-compiler verify M.lrp.onnx --against MODEL.pt2 --runtime openvino",
    )
    command.add_argument("explainer", type=Path, metavar="M.lrp.onnx|M.lrp.pt2", help="the file")
    command.add_argument(
        "--runtime",
        choices=("onnxruntime", "openvino", "node", "aoti"),
        help="run it there as well, and compare its relevance with float64 (without --against, with onnxruntime)",
    )
    command.add_argument("--against", type=Path, metavar="MODEL", help="the model: for the books and for float64")
    command.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=FILE.npy",
        help="run on this (default: random values in the example's sizes); once for each",
    )
    command.add_argument("--seed", type=_count, default=0, metavar="N", help="of the random values (default: 0)")
    command.add_argument(
        "--pair", type=Path, metavar="FILE", help="the other part, if the file is one of a split explainer's two"
    )

    command = _add(
        subparsers,
        "page_command",
        "page",
        "make a website that predicts and explains in the visitor's browser",
        "lrp-compiler page image.lrp.onnx --labels labels.txt --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 "
        "--crop 0.875 --example cat.jpg -o site\n"
        "  lrp-compiler page text.lrp.onnx --tokenizer tokenizer.json --example 'A fine film.' -o site --serve",
    )
    _add_page_options(command)
    return parser


def _add(subparsers: Any, function: str, name: str, purpose: str, example: str) -> argparse.ArgumentParser:
    """A command: what `lrp_compiler.commands` calls the function that does it."""
    command: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.add_argument("--debug", action="store_true", help="print the traceback of an error, too")
    command.set_defaults(command=function, name=name)
    return command


def _add_compile_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--composite",
        default="auto",
        help="which rules apply where; auto: chosen from the model's structure (default: %(default)s)",
    )
    command.add_argument(
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        help="parameter of the composite, a number or one for each channel: low=-2.1,-2.0,-1.8; once for each",
    )
    command.add_argument(
        "--target",
        type=_target_mode,
        default="argmax",
        metavar="argmax|index|none|answer|INT[:INT],…",
        help="class to explain; A:B is A minus B, a comma makes several; index: chosen at run time; none: what --seeds "
        "says; answer: the tokens of a text that a language model wrote, prompt and answer in one: a run says by "
        "--weights FILE.npy, [batch, sequence] or [spans, batch, sequence], how much the token at each place counts "
        "(1 at the answer's tokens explains the answer; the first token has no score) (default: %(default)s)",
    )
    command.add_argument(
        "--score",
        choices=["logit", "centred", "log-probability"],
        help="of --target answer: what a token scores; centred: its logit minus the mean logit (default: logit)",
    )
    command.add_argument(
        "--tokens",
        choices=["own", "index"],
        help="of --target answer: which token is scored at each place; own: the one that stands there (default); "
        "index: the one that a run gives by --target FILE.npy",
    )
    command.add_argument(
        "--against",
        type=_against,
        metavar="INT|index",
        help="of --target answer: a token whose logit is subtracted; index: given by a run, --against FILE.npy",
    )
    command.add_argument(
        "--count", type=_count, metavar="N", help="of --target answer: how many spans a run explains at once"
    )
    command.add_argument(
        "--position",
        type=_position,
        metavar="last|last-unpadded|index|sum|INT,…",
        help="where in an output with more dims than batch and classes (default: the last of a sequence)",
    )
    command.add_argument("--explained-output", metavar="NAME", help="which output is explained (default: logits)")
    command.add_argument(
        "--seed",
        choices=["value", "one", "tensor"],
        help="relevance put on it: its logit, 1, or a tensor given at run time (default: the composite's)",
    )
    command.add_argument(
        "--wrt",
        action="append",
        metavar="NAME",
        help="input, parameter or module whose relevance is wanted; once for each (default: all inputs)",
    )
    command.add_argument(
        "--fixed",
        action="append",
        default=[],
        metavar="NAME",
        help="input that is held constant (a mask) and leaves all relevance to the others; once for each",
    )
    command.add_argument(
        "--observe",
        action="append",
        default=[],
        metavar="PATTERN",
        help="modules (encoder.layer.*) or nodes (softmax*) whose values' relevance is returned as well; once for each",
    )
    command.add_argument(
        "--form",
        choices=["total", "unit", "both"],
        default="total",
        help="of what is observed: relevance, its coefficient (relevance = value times coefficient), or both",
    )
    command.add_argument(
        "--masks",
        action="append",
        default=[],
        metavar="PATTERN",
        help="modules or nodes whose relevance a run may mask, channel by channel; once for each",
    )
    command.add_argument(
        "--seeds",
        action="append",
        default=[],
        metavar="PATTERN",
        help="modules or nodes that a run may put relevance on; once for each (alone: --target none)",
    )
    command.add_argument(
        "--aggregate",
        action="append",
        default=[],
        metavar="PATTERN",
        help="modules or nodes over which relevance is summed into one map of the input, aggregate.<input>: a score "
        "that adds up to nothing; once for each",
    )
    command.add_argument(
        "--reduce",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAME,…",
        help="make relevance smaller before it is returned: channels, features or heads (sums), patch:N (sums of N by "
        "N), signs (positive and negative apart), top:K (the largest), float16; sums: as it is, with its sums",
    )
    command.add_argument(
        "--memory-budget",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of the promised bytes that may be held; the rest is rebuilt (default: %(default)s)",
    )
    command.add_argument(
        "--cache",
        action="store_true",
        help="take graphs again that were compiled before of the same model, whatever its weights; they lie in the "
        "folder LRP_COMPILER_CACHE, or in ~/.cache/lrp_compiler",
    )


def _add_inspect_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="modules, as composites name them (layer4.*, with everything inside); once for each",
    )
    command.add_argument("--rule", metavar="NAME", help="nodes that this rule made")
    command.add_argument("--op", metavar="NAME", help="nodes of this op, and those that explain one (conv2d)")
    command.add_argument(
        "--diff",
        metavar="M.lrp.pt2|COMPOSITE",
        help="what changes from this explainer to another of the same model: its file, or the composite that makes it",
    )
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page that shows both graphs instead")
    command.add_argument(
        "--model-explorer", type=Path, metavar="FILE", help="likewise JSON for Google's Model Explorer"
    )
    command.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]FILE.npy",
        help="with either: an input of a run whose relevance it shows (class: --target); once for each",
    )
    command.add_argument(
        "--dagre",
        type=Path,
        metavar="DIR",
        help="the unpacked npm package @dagrejs/dagre (default: npm fetches it once)",
    )


def _add_explainer_arguments(command: argparse.ArgumentParser, kinds: str) -> None:
    command.add_argument("explainer", type=Path, metavar=kinds, help="written by compile")
    command.add_argument(
        "--no-check", dest="check", action="store_false", help="do not compare the file with the hash in its seal first"
    )
    command.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="[NAME=]FILE.npy",
        help="an input of the model, by position or by name; once for each",
    )
    command.add_argument(
        "--target", type=_target, metavar="INT|FILE.npy", help="class to explain, if compiled with --target index"
    )
    command.add_argument(
        "--masks",
        action="append",
        default=[],
        metavar="PATH=FILE.npy",
        help="what the relevance of this value is multiplied by, [batch, channels]; once for each",
    )
    command.add_argument(
        "--seeds",
        action="append",
        default=[],
        metavar="PATH=FILE.npy",
        help="relevance that is put on this value, in its shape; once for each",
    )


def _add_explain_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("explainer", type=Path, metavar="M.lrp.onnx", help="written by compile")
    command.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="a .npy, .parquet or .jsonl file, or a folder of .parquet, of .npy (one for each input) or of pictures",
    )
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="a folder, new or to go on with"
    )
    command.add_argument(
        "--column",
        action="append",
        default=[],
        type=_column,
        metavar="INPUT=COLUMN",
        help="the column of an input (or of target, position, …), if it has another name; text=COLUMN: of the texts; "
        "once for each",
    )
    command.add_argument(
        "--id", metavar="COLUMN", help="what tells rows apart (default: id, of pictures their path, else the number)"
    )
    command.add_argument("--target", type=int, metavar="INT", help="class to explain, if compiled with --target index")
    _add_picture_options(command)
    command.set_defaults(mean=None, std=None)  # numbers are taken for colours only where they are given
    command.add_argument("--tokenizer", type=Path, metavar="tokenizer.json", help="the model's, if it reads text")
    command.add_argument("--max-length", type=int, metavar="N", help="at how many tokens a text is cut")
    command.add_argument(
        "--where", metavar="CONDITION", help='which rows: columns, comparisons, in, and, or, not: "label in (3, 5)"'
    )
    command.add_argument("--limit", type=int, metavar="N", help="only the first N rows of the data")
    bad = command.add_mutually_exclusive_group()
    bad.add_argument(
        "--skip-bad",
        dest="bad",
        action="store_const",
        const="skip",
        default="skip",
        help="write rows that cannot be explained down in errors.parquet (default)",
    )
    bad.add_argument(
        "--fail-fast", dest="bad", action="store_const", const="raise", help="end at the first row that cannot be"
    )
    command.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="rows at a time (default: %(default)s)"
    )
    command.add_argument(
        "--workers",
        type=_workers,
        default=1,
        metavar="N",
        help="processes, which share the cores; with ray, actors, and LEAST:MOST of them (default: %(default)s)",
    )
    command.add_argument(
        "--engine",
        choices=("embedded", "ray"),
        default="embedded",
        help="who explains: processes of this machine, or a Ray cluster, whose nodes all see M.lrp.onnx, DATA and OUT "
        "under the same path (default: %(default)s)",
    )
    command.add_argument(
        "--address",
        metavar="A",
        help="of the Ray cluster; auto: the one that runs here (default: RAY_ADDRESS, else one is started for the job)",
    )
    command.add_argument(
        "--shard-rows", type=int, metavar="N", help="rows of the data in a file (default: about 64 MB of relevance)"
    )
    command.add_argument(
        "--no-check", dest="check", action="store_false", help="do not compare the file with the hash in its seal first"
    )


def _add_summarise_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="OUT", help="written by explain")
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="the page (default: OUT/summary.html)")
    command.add_argument("--input", metavar="NAME", help="whose relevance, if there are several")
    command.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes: one a line, or a JSON list")
    command.add_argument("--tokenizer", type=Path, metavar="tokenizer.json", help="of texts, for their tokens' names")
    command.add_argument(
        "--no-clusters",
        dest="clusters",
        action="store_false",
        help="do not group heatmaps, and do without scikit-learn",
    )
    command.add_argument("--seed", type=_count, default=0, metavar="N", help="of what is drawn (default: 0)")


def _add_served_explainer(command: argparse.ArgumentParser) -> None:
    command.add_argument("explainer", type=Path, metavar="M.lrp.onnx", help="written by compile")
    command.add_argument("--name", dest="called", metavar="NAME", help="of the model (default: the name of the file)")
    command.add_argument(
        "--max-rows", type=int, default=32, metavar="N", help="that run at once, at most (default: %(default)s)"
    )
    command.add_argument(
        "--no-check", dest="check", action="store_false", help="do not compare the file with the hash in its seal first"
    )


def _add_serve_options(command: argparse.ArgumentParser) -> None:
    _add_served_explainer(command)
    command.add_argument(
        "--host", default="127.0.0.1", help="to listen at; 0.0.0.0: for other machines (default: %(default)s)"
    )
    command.add_argument("--port", type=int, default=8000, help="0: any that is free (default: %(default)s)")
    command.add_argument(
        "--max-waiting",
        type=int,
        default=256,
        metavar="N",
        help="requests in the queue, at most (default: %(default)s)",
    )
    command.add_argument(
        "--max-body", type=float, default=64, metavar="MB", help="of a request, at most (default: %(default)s)"
    )
    command.add_argument(
        "--max-json",
        type=float,
        default=8,
        metavar="MB",
        help="of a request's JSON, without binary data: others wait while it is read (default: %(default)s)",
    )
    command.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds that a request may take to arrive, and then to be answered (default: %(default)s)",
    )
    command.add_argument(
        "--grace",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds after SIGTERM in which new connections are still taken, while probes hear that the server is not "
        "ready (default: 0)",
    )
    command.add_argument("--threads", type=int, metavar="N", help="of onnxruntime (default: one for each core)")
    command.add_argument("--check-nan", action="store_true", help="refuse NaN in the inputs")


def _add_picture_options(command: argparse.ArgumentParser) -> None:
    """How a picture becomes the network's input."""
    command.add_argument(
        "--mean", type=_numbers, default=[0.0], metavar="X[,X,X]", help="of colours from 0 to 1 (default: 0)"
    )
    command.add_argument(
        "--std", type=_numbers, default=[1.0], metavar="X[,X,X]", help="what they are divided by (default: 1)"
    )
    command.add_argument(
        "--resize",
        choices=("crop", "stretch"),
        default="crop",
        help="crop: the middle of the picture (default); stretch: all of it, at the cost of its proportions",
    )
    command.add_argument(
        "--crop",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="of the shorter side, such as 0.875 (default: %(default)s)",
    )
    command.add_argument("--size", type=int, metavar="N", help="height and width, if the explainer leaves them open")


def _add_page_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("explainer", type=Path, metavar="M.lrp.onnx", help="of pictures or of text")
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
    _add_picture_options(command)
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


def _explainer_path(text: str) -> Path:
    try:
        ending_of(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None
    return Path(text)


def _against(text: str) -> Any:
    return "index" if text == "index" else _count(text)


def _target_mode(text: str) -> Any:
    if text in ("argmax", "index", "answer"):
        return text
    if text == "none":
        return None
    try:
        picks = [tuple(map(int, pick.split(":"))) for pick in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} is neither argmax, nor index, nor answer, nor class numbers such as 3, 3:5 or 1,2,3"
        ) from None
    plain = [pick[0] if len(pick) == 1 else pick for pick in picks]
    return plain[0] if len(plain) == 1 else plain


def _position(text: str) -> Any:
    if text in ("last", "last-unpadded", "index", "sum"):
        return text
    try:
        steps = tuple(map(int, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is neither last, last-unpadded, index, sum, nor numbers") from None
    return steps[0] if len(steps) == 1 else steps


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is neither a number nor numbers such as 0.485,0.456,0.406") from None


def _column(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not (name and equals and column):
        raise argparse.ArgumentTypeError(f"{text} is not INPUT=COLUMN")
    return name, column


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE")
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        return name, value
    return name, numbers[0] if len(numbers) == 1 else numbers


def _workers(text: str) -> int | tuple[int, ...]:
    try:
        least, *most = map(int, text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is neither a number nor LEAST:MOST") from None
    return (least, *most) if most else least


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 0 up")
    return int(text)


def _target(text: str) -> str | int:
    try:
        return int(text)
    except ValueError:
        return text
