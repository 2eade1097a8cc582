"""`run`: predict and explain, from arrays to one `.npz`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.progress import stages
from lrp_compiler.formats import runtime_of

from .. import kinds
from ..options import add_explainer_arguments
from ..paths import must_exist
from ..reporting import report

PURPOSE = "predict and explain"
EXAMPLE = (
    "lrp-compiler run model.lrp.onnx --input x.npy --target 3 -o relevance.npz\n"
    "  lrp-compiler run text.lrp.onnx --input input_ids=ids.npy --input attention_mask=mask.npy -o relevance.npz\n"
    "  lrp-compiler run differences.lrp.onnx --input x.npy --reference blur -o relevance.npz"
)


def add_options(command: argparse.ArgumentParser) -> None:
    """The explainer, its inputs, and what else a run takes."""
    add_explainer_arguments(command, "M.lrp.onnx|M.lrp.pt2")
    command.add_argument("--seed", metavar="FILE.npy", help="[batch, classes], if compiled with --seed tensor")
    command.add_argument(
        "--position", type=kinds.target, metavar="INT|FILE.npy", help="where, if compiled with --position index"
    )
    command.add_argument(
        "--weights", metavar="FILE.npy", help="how much each token of a text counts, if compiled with --target answer"
    )
    command.add_argument(
        "--against", type=kinds.target, metavar="INT|FILE.npy", help="the other token, if compiled with --against index"
    )
    command.add_argument("--check-nan", action="store_true", help="refuse NaN in the inputs")
    command.add_argument("--batch-size", type=int, metavar="N", help="run at most N rows at a time (.onnx)")
    command.add_argument("-o", "--output", type=Path, required=True, help="npz with output and relevance.<input>")


def do(arguments: argparse.Namespace) -> None:
    """Run the explainer, and keep what it returns."""
    from ..arrays import described, load_array, load_inputs, load_latents, load_references, save

    args, kwargs = load_inputs(arguments.input)
    for name in ("target", "seed", "position", "weights", "against"):
        value = getattr(arguments, name)
        if value is not None:
            kwargs[name] = value if isinstance(value, int) else load_array(value)
    kwargs |= load_latents(arguments) | load_references(arguments)
    explain = _explain_in_torch if runtime_of(arguments.explainer) == "torch" else _explain_in_onnxruntime
    with atomic_path(arguments.output) as temporary:
        arrays = explain(arguments, args, kwargs)
        save(temporary, arrays)
    result = {name: described(name, array) for name, array in arrays.items()}
    lines = [
        f"{name}: {entry['dtype']}{entry['shape']}" + (f", sum {entry['sum']}" if "sum" in entry else "")
        for name, entry in result.items()
    ]
    report(
        arguments, {"path": str(arguments.output), "arrays": result}, "\n".join([*lines, f"wrote {arguments.output}"])
    )


def _explain_in_onnxruntime(arguments: argparse.Namespace, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    from lrp_compiler.runtime import OnnxExplainer

    from ..arrays import arrays_of

    bar = arguments.batch_size is not None and sys.stderr.isatty()
    options: dict[str, Any] = {"batch_size": arguments.batch_size, "progress": bar}
    with OnnxExplainer(arguments.explainer, check=arguments.check) as explainer:
        explanation = explainer(*args, **kwargs, check_nan=arguments.check_nan, **options)
    return arrays_of(explanation)


def _explain_in_torch(arguments: argparse.Namespace, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    must_exist(arguments.explainer)
    if arguments.batch_size is not None:
        raise InputError("Only explainers in .onnx files take --batch-size.")
    with stages("explain"):
        import lrp_compiler as lrp

        from ..arrays import arrays_of, tensors_of

        explainer = lrp.load(arguments.explainer, check=arguments.check)
        tensors, named = tensors_of(explainer, args, kwargs)
        explanation = explainer(*tensors, check_nan=arguments.check_nan, **named)
    return arrays_of(explanation)
