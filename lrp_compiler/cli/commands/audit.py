"""`audit`: where the relevance of one explanation goes, node by node."""

import argparse
from typing import Any

from lrp_compiler.base.progress import stages

from ..compiling import MODEL, add_composite, holds_explainer
from ..options import add_explainer_arguments
from ..paths import must_exist
from ..reporting import report_table

PURPOSE = "show node by node where relevance goes: in, out, absorbed, error"
EXAMPLE = (
    "lrp-compiler audit model.lrp.pt2 --input x.npy --sort error --limit 10\n"
    "  lrp-compiler audit model.lrp.pt2 --input x.npy --depth 2\n"
    "  lrp-compiler audit model.onnx --input x.npy --target 3 --composite epsilon-plus"
)


def add_options(command: argparse.ArgumentParser) -> None:
    """The explainer, its inputs, and how the books are shown."""
    add_explainer_arguments(command, "M.lrp.pt2|MODEL", f"written by compile; or {MODEL}, which is compiled first")
    add_composite(command)
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


def do(arguments: argparse.Namespace) -> None:
    """Keep the books of one explanation."""
    from ..arrays import load_array, load_inputs, load_latents, load_references, tensors_of

    must_exist(arguments.explainer)
    args, kwargs = load_inputs(arguments.input)
    fixed = isinstance(arguments.target, int | None)
    target: dict[str, Any] = {}
    if arguments.target is not None:
        target["target"] = arguments.target if fixed else load_array(arguments.target)
    kwargs |= load_latents(arguments) | load_references(arguments)
    with stages("audit"):
        import lrp_compiler as lrp
        from lrp_compiler.compiler import resolve_composite

        if holds_explainer(arguments.explainer):
            explainer = lrp.load(arguments.explainer, check=arguments.check)
            kwargs |= target
        else:
            # An input of the model's own may be called `target`.
            given = target.get("target", "argmax") if fixed else "index"
            kwargs |= {} if fixed else target
            composite = resolve_composite(arguments.composite, dict(arguments.option))
            explainer = lrp.compile(arguments.explainer, composite=composite, target=given)
        tensors, named = tensors_of(explainer, args, kwargs)
        audit = explainer.audit(*tensors, precision=arguments.precision, **named)
    books = (audit if arguments.depth is None else audit.by_module(arguments.depth)).sorted(arguments.sort)
    report_table(arguments, books, limit=arguments.limit, sort="order")
