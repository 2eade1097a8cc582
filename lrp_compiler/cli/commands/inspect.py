"""`inspect`: the explainer's graph as text, or what another explainer of the model does differently."""

import argparse
from pathlib import Path
from typing import Any

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.files import check_destination
from lrp_compiler.base.progress import stages
from lrp_compiler.formats import EXPLAINER, ONNX, ends_in, runtime_of

from ..compiling import MODEL, add_compile_options, compiled, explainer_in, holds_explainer
from ..paths import must_exist
from ..reporting import report

PURPOSE = "show the relevance graph: which rule made which node, in which form, of which promises"
EXAMPLE = (
    'lrp-compiler inspect model.lrp.pt2 --only "layer4.*" --rule epsilon --op conv2d\n'
    "  lrp-compiler inspect model.pt2 --composite epsilon --diff epsilon-plus\n"
    "  lrp-compiler inspect model.lrp.pt2 --html graph.html --input x.npy"
)


def add_options(command: argparse.ArgumentParser) -> None:
    """An explainer, or a model and how it is compiled; what is shown of it, and as what."""
    command.add_argument("model", type=Path, metavar="MODEL|M.lrp.pt2", help=f"{MODEL}, or an explainer's")
    add_compile_options(command)
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


def do(arguments: argparse.Namespace) -> None:
    """Show the graph, or the difference of two."""
    must_exist(arguments.model)
    chosen = {"only": arguments.only, "rule": arguments.rule, "op": arguments.op}
    drawn = [path for path in (arguments.html, arguments.model_explorer) if path is not None]
    for path in drawn:
        check_destination(path)
    named = ends_in(arguments.model, EXPLAINER + ONNX)  # whatever is left in it
    if drawn and runtime_of(arguments.model) == "onnxruntime" and (named or holds_explainer(arguments.model)):
        raise InputError(
            "An .onnx file lacks the forward graph and the rules' formulas: inspect the explainer's .lrp.pt2 file, or "
            "open this one in Netron, where every node shows its notes."
        )
    if arguments.input and not drawn:
        raise InputError("Only --html and --model-explorer show a run: leave --input out, or add one of them.")
    with stages("load torch") as progress:
        loaded = explainer_in(arguments.model)
        explainer = loaded or compiled(arguments, progress)
        if drawn:
            files = _draw(arguments, explainer)
        elif arguments.diff is None:
            shown: Any = explainer.show(**chosen)
        else:
            shown = explainer.diff(_other(arguments, loaded is None, progress), **chosen)
    if drawn:
        result = [{"path": str(file), "bytes": file.stat().st_size} for file in files]
        report(arguments, {"files": result}, "\n".join(f"wrote {file}" for file in files))
    else:
        report(arguments, shown.to_dict(), str(shown))


def _draw(arguments: argparse.Namespace, explainer: Any) -> list[Path]:
    """Write what `--html` and `--model-explorer` ask for."""
    from ..arrays import load_inputs, tensors_of

    args, kwargs = tensors_of(explainer, *load_inputs(arguments.input))
    takes = {spec.name for spec in explainer.about.seed_inputs}
    if arguments.input and "target" in takes and isinstance(arguments.target, int):
        kwargs["target"] = arguments.target
    files: list[Path] = []
    if arguments.html is not None:
        title = arguments.model.name.split(".")[0]
        explainer.to_html(arguments.html, *args, title=title, dagre=arguments.dagre, **kwargs)
        files.append(arguments.html)
    if arguments.model_explorer is not None:
        files += explainer.to_model_explorer(arguments.model_explorer, *args, **kwargs)
    return files


def _other(arguments: argparse.Namespace, is_program: bool, progress: Any) -> Any:
    """The explainer that `--diff` names: a file, or the same program compiled with another composite."""
    import lrp_compiler as lrp

    if is_program and not Path(arguments.diff).exists():
        return compiled(argparse.Namespace(**{**vars(arguments), "composite": arguments.diff, "option": []}), progress)
    must_exist(Path(arguments.diff))
    return lrp.load(arguments.diff)
