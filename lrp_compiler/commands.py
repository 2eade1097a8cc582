"""What each command of the command line does, once its arguments are parsed."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrp_compiler.base.errors import InputError, LrpError
from lrp_compiler.base.files import atomic_path, check_destination
from lrp_compiler.base.metadata import ABSORBED, AGGREGATE, SUM, check_opset
from lrp_compiler.base.progress import stages
from lrp_compiler.base.run import to_numpy
from lrp_compiler.formats import EXPLAINER, ONNX, OUTPUTS, ending_of, ends_in, runtime_of, writer_of


def compile_command(arguments: argparse.Namespace) -> None:
    """`compile`: a `.pt2` program or an ONNX file in, its explainer out."""
    _must_exist(arguments.model)
    check_destination(arguments.output)
    check_opset(arguments.opset)
    with stages("load torch") as progress:
        explainer = _compiled(arguments, progress)
        if progress is not None:
            progress("write")
        options = {name: getattr(arguments, name) for name in OUTPUTS[ending_of(arguments.output)].options}
        writer_of(arguments.output)(explainer.artefact, arguments.output, **options)
    result, about = {"path": str(arguments.output)}, explainer.about
    chosen = {"composite": about.name, "why": about.why} if about.why else {}
    said = f"composite {about.named_why}\n" if chosen else ""
    _report(arguments, {**result, **chosen}, f"{said}wrote {arguments.output}")


def run_command(arguments: argparse.Namespace) -> None:
    """`run`: predict and explain, from arrays to one `.npz`."""
    args, kwargs = _load_inputs(arguments.input)
    for name in ("target", "seed", "position", "weights", "against"):
        value = getattr(arguments, name)
        if value is not None:
            kwargs[name] = value if isinstance(value, int) else _load_array(value)
    kwargs |= _load_latents(arguments)
    explain = _explain_in_torch if runtime_of(arguments.explainer) == "torch" else _explain_in_onnxruntime
    with atomic_path(arguments.output) as temporary:
        arrays = explain(arguments, args, kwargs)
        # Through an open file, because savez appends .npz to a name that ends otherwise.
        with open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    result = {name: _described(name, array) for name, array in arrays.items()}
    lines = [
        f"{name}: {entry['dtype']}{entry['shape']}" + (f", sum {entry['sum']}" if "sum" in entry else "")
        for name, entry in result.items()
    ]
    _report(
        arguments, {"path": str(arguments.output), "arrays": result}, "\n".join([*lines, f"wrote {arguments.output}"])
    )


def explain_command(arguments: argparse.Namespace) -> None:
    """`explain`: a data set, row by row, into Parquet."""
    _must_be_onnx(arguments.explainer, "data sets")
    from .data import explain

    names = ["id", "target", "mean", "std", "resize", "crop", "size", "tokenizer", "max_length", "where", "limit"]
    names += ["bad", "batch_size", "workers", "engine", "address", "shard_rows", "check"]
    done = explain(
        arguments.explainer,
        arguments.data,
        arguments.output,
        columns=dict(arguments.column),
        progress=sys.stderr.isatty(),
        **{name: getattr(arguments, name) for name in names},
    )
    rate = (done.rows - done.resumed) / max(done.seconds, 1e-9)
    said = f"explained {done.explained} rows ({rate:,.0f} a second)"
    lines = [f"{said}, {done.shards} files in {done.folder}/relevance.parquet"]
    lines += [f"{done.bad} rows could not be explained: {done.folder}/errors.parquet"] * bool(done.bad)
    _report(arguments, {**vars(done), "folder": str(done.folder)}, "\n".join(lines))


def summarise_command(arguments: argparse.Namespace) -> None:
    """`summarise`: what the explanations of a data set have in common."""
    _must_exist(arguments.folder)
    from .data import summarise
    from .website.page_spec import read_labels

    summary = summarise(
        arguments.folder,
        arguments.output,
        labels=None if arguments.labels is None else read_labels(arguments.labels, None),
        progress=sys.stderr.isatty(),
        **{name: getattr(arguments, name) for name in ("input", "tokenizer", "clusters", "seed")},
    )
    lines = []
    for one in summary.classes:
        groups = f", {len(one.groups)} groups of alike maps ({one.apart:.2f} apart)" if len(one.groups) > 1 else ""
        words = [", ".join(token.token for token in side[:5]) for side in (one.tokens_for, one.tokens_against)]
        said = [f"; {side}: {tokens}" for side, tokens in zip(("for", "against"), words, strict=True) if tokens]
        lines.append(f"{one.name}: {one.rows:,} rows, relevance {one.relevance[0]:.4g}{groups}{''.join(said)}")
    _report(arguments, summary.to_dict(), "\n".join([*lines, f"wrote {summary.report}"]))


def serve_command(arguments: argparse.Namespace) -> None:
    """`serve`: an explainer behind an endpoint, until the process is told to stop."""
    _must_be_onnx(arguments.explainer, "serving")
    from .serving import Limits, serve

    def ready(url: str) -> None:
        _report(arguments, {"url": url}, f"serving {url}")
        sys.stdout.flush()

    given = {"body": arguments.max_body, "json": arguments.max_json}
    sizes = {name: int(size * 1e6) if math.isfinite(size) else size for name, size in given.items()}
    limits = Limits(
        arguments.max_rows, arguments.max_waiting, seconds=arguments.timeout, grace=arguments.grace, **sizes
    )
    options = {name: getattr(arguments, name) for name in ("host", "port", "threads", "check", "check_nan")}
    serve(arguments.explainer, name=arguments.called, limits=limits, ready=ready, **options)


def triton_command(arguments: argparse.Namespace) -> None:
    """`triton`: an explainer in a model repository."""
    _must_be_onnx(arguments.explainer, "Triton")
    from .serving import triton_repository

    options = {"name": arguments.called, "rows": arguments.max_rows, "check": arguments.check}
    folder = triton_repository(arguments.explainer, arguments.output, **options)
    _report(arguments, {"path": str(folder)}, f"wrote {folder}")


def plan_command(arguments: argparse.Namespace) -> None:
    """`plan`: the promises of an explainer, and how each is resolved."""
    _must_exist(arguments.model)
    with stages("load torch") as progress:
        explainer = _loaded(arguments.model) or _compiled(arguments, progress)
    _report_table(arguments, explainer.plan)


def inspect_command(arguments: argparse.Namespace) -> None:
    """`inspect`: the explainer's graph as text, or what another explainer of the model does differently."""
    _must_exist(arguments.model)
    chosen = {"only": arguments.only, "rule": arguments.rule, "op": arguments.op}
    drawn = [path for path in (arguments.html, arguments.model_explorer) if path is not None]
    for path in drawn:
        check_destination(path)
    named = ends_in(arguments.model, EXPLAINER + ONNX)  # whatever is left in it
    if drawn and runtime_of(arguments.model) == "onnxruntime" and (named or _is_explainer(arguments.model)):
        raise InputError(
            "An .onnx file lacks the forward graph and the rules' formulas: inspect the explainer's .lrp.pt2 file, or "
            "open this one in Netron, where every node shows its notes."
        )
    if arguments.input and not drawn:
        raise InputError("Only --html and --model-explorer show a run: leave --input out, or add one of them.")
    with stages("load torch") as progress:
        loaded = _loaded(arguments.model)
        explainer = loaded or _compiled(arguments, progress)
        if drawn:
            files = _draw(arguments, explainer)
        elif arguments.diff is None:
            shown: Any = explainer.show(**chosen)
        else:
            shown = explainer.diff(_other(arguments, loaded is None, progress), **chosen)
    if drawn:
        result = [{"path": str(file), "bytes": file.stat().st_size} for file in files]
        _report(arguments, {"files": result}, "\n".join(f"wrote {file}" for file in files))
    else:
        _report(arguments, shown.to_dict(), str(shown))


def _draw(arguments: argparse.Namespace, explainer: Any) -> list[Path]:
    """Write what `--html` and `--model-explorer` ask for."""
    args, kwargs = _tensors(explainer, *_load_inputs(arguments.input))
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
    kwargs |= _load_latents(arguments)
    with stages("audit"):
        import lrp_compiler as lrp

        explainer = lrp.load(arguments.explainer, check=arguments.check)
        tensors, named = _tensors(explainer, args, kwargs)
        audit = explainer.audit(*tensors, precision=arguments.precision, **named)
    books = (audit if arguments.depth is None else audit.by_module(arguments.depth)).sorted(arguments.sort)
    _report_table(arguments, books, limit=arguments.limit, sort="order")


def verify_command(arguments: argparse.Namespace) -> None:
    """`verify`: whether a file is sound, and explains the model that it was made of."""
    _must_exist(arguments.explainer)
    args, inputs = _load_inputs(arguments.input)
    with stages("verify"):
        from lrp_compiler.check.verify import verify

        if args:
            raise InputError("verify takes its inputs by name: --input NAME=FILE.npy.")
        found = verify(
            arguments.explainer, arguments.against, inputs, arguments.seed, arguments.pair, arguments.runtime
        )
    _report_table(arguments, found)
    failed = [check.name for check in found.checks if check.passed is False]
    if failed:
        raise LrpError(f"{arguments.explainer} is not sound: {', '.join(failed)} failed.")


def page_command(arguments: argparse.Namespace) -> None:
    """`page`: a website around an explainer."""
    _must_exist(arguments.explainer)
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
    _report(arguments, {"path": str(folder), "bytes": size}, f"wrote {folder} ({size / 1e6:.0f} MB)")
    if arguments.serve is not None:
        serve(folder, arguments.serve)


def _loaded(path: Path) -> Any:
    """The explainer in the file; `None`: it is a program that is still to be compiled."""
    import lrp_compiler as lrp

    return lrp.load(path) if _is_explainer(path) else None


def _is_explainer(path: Path) -> bool:
    from lrp_compiler.artefact.storage import is_explainer

    return is_explainer(path)


def _other(arguments: argparse.Namespace, is_program: bool, progress: Any) -> Any:
    """The explainer that `--diff` names: a file, or the same program compiled with another composite."""
    import lrp_compiler as lrp

    if is_program and not Path(arguments.diff).exists():
        return _compiled(argparse.Namespace(**{**vars(arguments), "composite": arguments.diff, "option": []}), progress)
    _must_exist(Path(arguments.diff))
    return lrp.load(arguments.diff)


def _compiled(arguments: argparse.Namespace, progress: Any) -> Any:
    import lrp_compiler as lrp

    from .compiler import resolve_composite

    return lrp.compile(
        arguments.model,
        composite=resolve_composite(arguments.composite, dict(arguments.option)),
        target=_explained(arguments),
        seed=arguments.seed,
        wrt=arguments.wrt,
        fixed=arguments.fixed,
        observe=arguments.observe,
        form=arguments.form,
        masks=arguments.masks,
        seeds=arguments.seeds,
        aggregate=arguments.aggregate,
        reduce=arguments.reduce,
        memory_budget=arguments.memory_budget,
        cache=arguments.cache,
        progress=progress,
    )


def _explained(arguments: argparse.Namespace) -> Any:
    """What is explained: a class, or the tokens of an answer."""
    import lrp_compiler as lrp

    given = {name: getattr(arguments, name) for name in ("score", "tokens", "against", "count")}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.target == "answer":
        if arguments.position is not None:
            raise InputError("--position does not go with --target answer: a run says by --weights which tokens count.")
        return lrp.Answer(output=arguments.explained_output, **given)
    if given:
        raise InputError(f"--{next(iter(given))} goes with --target answer alone.")
    return lrp.Target(arguments.target, arguments.explained_output, arguments.position)


def _explain_in_onnxruntime(
    arguments: argparse.Namespace, args: list[np.ndarray], kwargs: dict[str, Any]
) -> dict[str, np.ndarray]:
    from .runtime import OnnxExplainer

    bar = arguments.batch_size is not None and sys.stderr.isatty()
    options: dict[str, Any] = {"batch_size": arguments.batch_size, "progress": bar}
    with OnnxExplainer(arguments.explainer, check=arguments.check) as explainer:
        explanation = explainer(*args, **kwargs, check_nan=arguments.check_nan, **options)
    return _results(explanation)


def _explain_in_torch(
    arguments: argparse.Namespace, args: list[np.ndarray], kwargs: dict[str, Any]
) -> dict[str, np.ndarray]:
    _must_exist(arguments.explainer)
    if arguments.batch_size is not None:
        raise InputError("Only explainers in .onnx files take --batch-size.")
    with stages("explain"):
        import lrp_compiler as lrp

        explainer = lrp.load(arguments.explainer, check=arguments.check)
        tensors, named = _tensors(explainer, args, kwargs)
        explanation = explainer(*tensors, check_nan=arguments.check_nan, **named)
    return _results(explanation)


def _results(explanation: Any) -> dict[str, np.ndarray]:
    found = _named("output", explanation.output) | _named("relevance", explanation.relevance)
    found |= _named("coefficient", explanation.coefficients) | _named(AGGREGATE, explanation.aggregate)
    return found | {
        name if name == ABSORBED else f"{SUM}.{name}": to_numpy(value) for name, value in explanation.sums.items()
    }


def _named(prefix: str, value: Any) -> dict[str, np.ndarray]:
    """Flatten arrays and tensors in dicts and sequences to dotted names."""
    if isinstance(value, dict):
        return {name: array for key, part in value.items() for name, array in _named(f"{prefix}.{key}", part).items()}
    if isinstance(value, list | tuple):
        return _named(prefix, dict(enumerate(value)))
    return {prefix: to_numpy(value)}


def _tensors(explainer: Any, args: list[np.ndarray], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arrays as tensors, by position and by name."""
    from lrp_compiler.artefact import of_array

    takes = {spec.name: spec.dtype for spec in explainer.about.takes}
    own = [spec.dtype for spec in explainer.about.inputs]
    tensors = [of_array(array, dtype) for array, dtype in zip(args, own + [""] * len(args), strict=False)]
    return tensors, {
        name: of_array(value, takes.get(name, "")) if isinstance(value, np.ndarray) else value
        for name, value in kwargs.items()
    }


OPTIONS = ("check_nan", "batch_size", "progress", "precision", "title", "dagre", "path")
"""What explainers take by name besides their inputs."""


def _load_inputs(entries: Sequence[str]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Arrays by position and by name, from `x.npy` and `name=x.npy`."""
    args: list[np.ndarray] = []
    kwargs: dict[str, Any] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not equals or Path(entry).exists():
            args.append(_load_array(entry))
        elif name in OPTIONS:
            raise InputError(f"An input cannot be called {name!r} here: give it by position, --input FILE.npy.")
        elif name in kwargs:
            raise InputError(f"Input {name!r} is given twice.")
        else:
            kwargs[name] = _load_array(path)
    return args, kwargs


NUMBERS = "biufc"
"""Kinds of numpy's dtypes."""


def _load_latents(arguments: argparse.Namespace) -> dict[str, dict[str, np.ndarray]]:
    """Masks and seeds by path, from `path=x.npy`."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for option in ("masks", "seeds"):
        for entry in getattr(arguments, option):
            path, equals, file = entry.rpartition("=")
            if not equals:
                raise InputError(f"--{option} takes PATH=FILE.npy, and {entry} is not that.")
            found.setdefault(option, {})[path] = _load_array(file)
    return found


def _load_array(path: str) -> np.ndarray:
    _must_exist(Path(path))
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder.")
    wrong = InputError(f"{path} is not a file that numpy.save wrote from numbers.")
    try:
        # Mapped, so that a header cannot claim more than the file holds.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(array, np.ndarray) and array.dtype.kind in NUMBERS:
            return np.array(array, dtype=array.dtype.newbyteorder("="))
    except OSError:
        raise
    except Exception as error:
        raise wrong from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds several arrays; give each one as its own .npy file.")
    if array.dtype.kind == "V" and array.dtype.names is None:
        raise InputError(f"{path} holds a dtype that numpy does not know (bfloat16, say): save it as float32.")
    raise wrong


def _must_exist(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")


def _must_be_onnx(path: Path, purpose: str) -> None:
    _must_exist(path)
    if runtime_of(path) != "onnxruntime":
        raise InputError(f"{path} is no ONNX file: compile the explainer to M.lrp.onnx for {purpose}.")


def _described(name: str, array: np.ndarray) -> dict[str, Any]:
    entry: dict[str, Any] = {"shape": list(array.shape), "dtype": array.dtype.name}
    if name.startswith("relevance."):
        total = float(array.sum(dtype=np.float64))
        # JSON has no NaN.
        entry["sum"] = total if math.isfinite(total) else None
    return entry


def _report(arguments: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    print(json.dumps(result, indent=2) if arguments.json else text)


def _report_table(arguments: argparse.Namespace, result: Any, **options: Any) -> None:
    if arguments.json:
        print(json.dumps(result.to_dict(), indent=2))
        return
    from rich.console import Console

    # A pipe has no width; 80 columns would cut the names of nodes.
    Console(width=None if sys.stdout.isatty() else 200).print(result.table(**options))
