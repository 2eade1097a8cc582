"""The command line: the same engine as `lrp.compile` and the runtime, for shells and pipelines.

Results go to stdout, progress and errors to stderr. Exit code 0: done; 1: one sentence on stderr says what is wrong;
2: the command was called wrongly. `run` on an `.onnx` file needs no torch; every other command imports it when it runs.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrp_compiler.errors import InputError, LrpError
from lrp_compiler.files import atomic_path
from lrp_compiler.progress import stages


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit code, 0 or 1.

    Raises:
        SystemExit: with code 2, if the arguments are wrong; with code 0, after `--help`.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except (LrpError, OSError) as error:
        print(f"lrp-compiler: error: {_sentence(error)}", file=sys.stderr)
        return 1
    return 0


def compile_command(arguments: argparse.Namespace) -> None:
    """`compile`: a `.pt2` program in, its explainer out."""
    _must_exist(arguments.model)
    with stages("load torch") as progress, atomic_path(arguments.output) as temporary:
        import lrp_compiler as lrp

        explainer = lrp.compile(
            arguments.model,
            composite=arguments.composite,
            target=arguments.target,
            seed=arguments.seed,
            progress=progress,
        )
        if progress is not None:
            progress("write")
        if arguments.output.suffix == ".onnx":
            explainer.to_onnx(temporary, opset=arguments.opset)
        else:
            explainer.save(temporary)
    _report(arguments, {"path": str(arguments.output)}, f"wrote {arguments.output}")


def run_command(arguments: argparse.Namespace) -> None:
    """`run`: predict and explain, from arrays to one `.npz`."""
    args, kwargs = _load_inputs(arguments.input)
    for name in ("target", "seed"):
        value = getattr(arguments, name)
        if value is not None:
            kwargs[name] = value if isinstance(value, int) else _load_array(value)
    explain = _explain_in_torch if arguments.explainer.suffix == ".pt2" else _explain_in_onnxruntime
    with atomic_path(arguments.output) as temporary:
        arrays = explain(arguments, args, kwargs)
        # Through an open file, because savez appends .npz to a name that ends otherwise.
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
    result = {name: _described(name, array) for name, array in arrays.items()}
    lines = [
        f"{name}: {entry['dtype']}{entry['shape']}" + (f", sum {entry['sum']}" if "sum" in entry else "")
        for name, entry in result.items()
    ]
    _report(
        arguments, {"path": str(arguments.output), "arrays": result}, "\n".join([*lines, f"wrote {arguments.output}"])
    )


def coverage_command(arguments: argparse.Namespace) -> None:
    """`coverage`: which nodes of a model have a rule."""
    _must_exist(arguments.model)
    with stages("capture"):
        import lrp_compiler as lrp

        coverage = lrp.coverage(arguments.model)
    _report_table(arguments, coverage)


def audit_command(arguments: argparse.Namespace) -> None:
    """`audit`: where the relevance of one explanation goes, node by node."""
    _must_exist(arguments.explainer)
    args, kwargs = _load_inputs(arguments.input)
    if arguments.target is not None:
        kwargs["target"] = arguments.target if isinstance(arguments.target, int) else _load_array(arguments.target)
    with stages("audit"):
        import lrp_compiler as lrp

        audit = lrp.load(arguments.explainer).audit(*map(_tensor, args), **_tensors(kwargs))
    _report_table(arguments, audit)


def _explain_in_onnxruntime(
    arguments: argparse.Namespace, args: list[np.ndarray], kwargs: dict[str, Any]
) -> dict[str, np.ndarray]:
    from lrp_compiler.runtime import OnnxExplainer

    bar = arguments.batch_size is not None and sys.stderr.isatty()
    options = {"check_nan": arguments.check_nan, "batch_size": arguments.batch_size, "progress": bar}
    with OnnxExplainer(arguments.explainer) as explainer:
        explanation = explainer(*args, **kwargs, **options)
    return _named("output", explanation.output) | _named("relevance", explanation.relevance)


def _explain_in_torch(
    arguments: argparse.Namespace, args: list[np.ndarray], kwargs: dict[str, Any]
) -> dict[str, np.ndarray]:
    _must_exist(arguments.explainer)
    if arguments.batch_size is not None:
        raise InputError("--batch-size is for explainers in .onnx files")
    # Passed only if asked for, so that an explainer which always accepts NaN can be called.
    options = {"check_nan": True} if arguments.check_nan else {}
    with stages("explain"):
        import lrp_compiler as lrp

        explanation = lrp.load(arguments.explainer)(*map(_tensor, args), **_tensors(kwargs), **options)
    return _named("output", explanation.output) | _named("relevance", explanation.relevance)


def _named(prefix: str, value: Any) -> dict[str, np.ndarray]:
    """Flatten arrays and tensors in dicts and sequences to dotted names."""
    if isinstance(value, dict):
        return {name: array for key, part in value.items() for name, array in _named(f"{prefix}.{key}", part).items()}
    if isinstance(value, list | tuple):
        return _named(prefix, dict(enumerate(value)))
    return {prefix: value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()}


def _tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array)


def _tensors(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: _tensor(value) if isinstance(value, np.ndarray) else value for name, value in kwargs.items()}


def _load_inputs(entries: Sequence[str]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Arrays by position and by name, from `x.npy` and `name=x.npy`."""
    args: list[np.ndarray] = []
    kwargs: dict[str, Any] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not equals or Path(entry).exists():
            args.append(_load_array(entry))
        elif name in kwargs:
            raise InputError(f"input {name!r} is given twice")
        else:
            kwargs[name] = _load_array(path)
    return args, kwargs


def _load_array(path: str) -> np.ndarray:
    _must_exist(Path(path))
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is not a file that numpy.save wrote from numbers") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds several arrays; give each one as its own .npy file")
    return array


def _must_exist(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")


def _described(name: str, array: np.ndarray) -> dict[str, Any]:
    entry: dict[str, Any] = {"shape": list(array.shape), "dtype": array.dtype.name}
    if name.startswith("relevance."):
        total = float(array.sum(dtype=np.float64))
        # JSON has no NaN.
        entry["sum"] = total if math.isfinite(total) else None
    return entry


def _report(arguments: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    print(json.dumps(result, indent=2) if arguments.json else text)


def _report_table(arguments: argparse.Namespace, result: Any) -> None:
    if arguments.json:
        print(json.dumps(result.to_dict(), indent=2))
        return
    from rich.console import Console

    # A pipe has no width; 80 columns would cut the names of nodes.
    Console(width=None if sys.stdout.isatty() else 200).print(result.table())


def _sentence(error: Exception) -> str:
    # The operating system's own errors print as "[Errno 13] Permission denied: 'r.npz'".
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lrp-compiler",
        description="Compile a model into its explainer, and run it.",
        epilog="example:\n  lrp-compiler compile model.pt2 -o model.lrp.onnx --composite epsilon-plus\n"
        "  lrp-compiler run model.lrp.onnx --input x.npy -o relevance.npz",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = _add(
        commands,
        compile_command,
        "compile",
        "compile a .pt2 program into an explainer",
        "lrp-compiler compile model.pt2 -o model.lrp.onnx --composite epsilon-plus --target index",
    )
    command.add_argument("model", type=Path, metavar="MODEL.pt2", help="written by torch.export.save")
    command.add_argument("-o", "--output", type=_explainer_path, required=True, help="M.lrp.onnx or M.lrp.pt2")
    command.add_argument("--composite", default="epsilon-plus", help="which rules apply where (default: %(default)s)")
    command.add_argument(
        "--target",
        type=_target_mode,
        default="argmax",
        metavar="argmax|INT|index",
        help="class to explain; index: chosen at run time (default: %(default)s)",
    )
    command.add_argument(
        "--seed",
        choices=["value", "one", "tensor"],
        default="value",
        help="relevance put on it: its logit, 1, or a tensor given at run time (default: %(default)s)",
    )
    command.add_argument("--opset", type=int, default=20, help="of the ONNX file (default: %(default)s)")

    command = _add(
        commands,
        run_command,
        "run",
        "predict and explain",
        "lrp-compiler run model.lrp.onnx --input x.npy --target 3 -o relevance.npz\n"
        "  lrp-compiler run bert.lrp.onnx --input input_ids=ids.npy --input attention_mask=mask.npy -o relevance.npz",
    )
    _add_explainer_arguments(command, "M.lrp.onnx|M.lrp.pt2")
    command.add_argument("--seed", metavar="FILE.npy", help="[batch, classes], if compiled with --seed tensor")
    command.add_argument("--check-nan", action="store_true", help="refuse NaN in the inputs")
    command.add_argument("--batch-size", type=int, metavar="N", help="run at most N rows at a time (.onnx)")
    command.add_argument("-o", "--output", type=Path, required=True, help="npz with output and relevance.<input>")

    command = _add(
        commands,
        coverage_command,
        "coverage",
        "list which nodes of a model have a rule, without compiling it",
        "lrp-compiler coverage model.pt2 --json",
    )
    command.add_argument("model", type=Path, metavar="MODEL.pt2", help="written by torch.export.save")

    command = _add(
        commands,
        audit_command,
        "audit",
        "show node by node where relevance goes: in, out, absorbed, error",
        "lrp-compiler audit model.lrp.pt2 --input x.npy",
    )
    _add_explainer_arguments(command, "M.lrp.pt2")
    return parser


def _add(commands: Any, function: Any, name: str, purpose: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.set_defaults(command=function)
    return command


def _add_explainer_arguments(command: argparse.ArgumentParser, kinds: str) -> None:
    command.add_argument("explainer", type=Path, metavar=kinds, help="written by compile")
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


def _explainer_path(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".onnx", ".pt2"):
        raise argparse.ArgumentTypeError(f"{text} must end in .onnx or .pt2")
    return path


def _target_mode(text: str) -> str | int:
    if text in ("argmax", "index"):
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is neither argmax, nor index, nor a class number") from None


def _target(text: str) -> str | int:
    try:
        return int(text)
    except ValueError:
        return text
