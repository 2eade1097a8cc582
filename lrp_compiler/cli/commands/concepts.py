"""`concepts`: which channels of a layer made it say so, where, and what else makes them speak."""

import argparse
import itertools
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrp_compiler.base.counted import counted
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.files import atomic_path, check_destination
from lrp_compiler.base.progress import row_bar, stages

from .. import kinds
from ..options import add_check, add_explained_data, add_row_options
from ..paths import must_be_onnx
from ..reporting import report

SHOWN = 10
"""How many rows are printed."""
KEPT = 30.0
"""After so many seconds what was found is kept."""

PURPOSE = "say which channels of a layer made it say so, where, and what else makes them speak"
EXAMPLE = (
    "lrp-compiler concepts image.lrp.onnx photos/ --layer features.28 --target 7 -o channels.npz\n"
    "  lrp-compiler concepts image.lrp.onnx photos/ --layer features.28 --target 7 --references 8 -o references.npz\n"
    "  lrp-compiler concepts image.lrp.onnx cats/ --condition features.28=50,3 features.12=8 y=7 "
    "--condition features.28=9 y=7 -o conditions.npz --pictures heatmaps\n"
    "  lrp-compiler concepts image.lrp.onnx photo/ --graph features.12,features.28 --target 7 -o graph.json\n\n"
    "The explainer is compiled to return the layer's relevance (observe=) and, for conditions, to take its masks\n"
    "(masks=). Channels of one layer are an OR, layers an AND. Without --condition and --references each channel's\n"
    "share of Σ|relevance| is written, row by row. A graph needs --seed tensor, seeds= and masks= of its layers."
)


def add_options(command: argparse.ArgumentParser) -> None:
    """The explainer, the data, and what is asked of them."""
    add_explained_data(command)
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="what was found, as .npz; references as .parquet, too, if it ends so",
    )
    command.add_argument("--layer", metavar="PATH", help="whose channels (default: the only one that is returned)")
    command.add_argument("--dim", type=int, metavar="N", help="of the channels, counted with the batch")
    asked = command.add_mutually_exclusive_group()
    asked.add_argument(
        "--condition",
        dest="conditions",
        action="append",
        nargs="+",
        default=[],
        type=kinds.condition,
        metavar="PATH=N[,N]",
        help="relevance that passes these channels alone, and y=CLASS; once for each condition",
    )
    asked.add_argument(
        "--references", type=kinds.count, metavar="K", help="the K samples of the data that most use each channel"
    )
    asked.add_argument(
        "--graph",
        type=kinds.names,
        metavar="PATH[,PATH]",
        help="of the first row: relevance that units of these layers hand to one another, from the input to the "
        "output; into a .json file, which circuit viewers read, a page (.html) or a picture (.png, .svg, .pdf)",
    )
    command.add_argument(
        "--keep", type=kinds.count, default=8, metavar="N", help="units of a layer in a graph (default: %(default)s)"
    )
    command.add_argument(
        "--threshold",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of what reaches a layer, below which edges of a graph are dropped (default: %(default)s)",
    )
    command.add_argument(
        "--apart",
        choices=("channels", "tokens", "both"),
        default="channels",
        help="what is a unit of a layer in a graph (default: %(default)s)",
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on with the references in FILE.npz: of the same data, or of their begin",
    )
    command.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="of pictures: a heatmap for each row and condition, as PNG"
    )
    command.add_argument("--target", type=int, metavar="INT", help="class to explain, if compiled with --target index")
    command.add_argument(
        "--top", type=kinds.count, default=5, metavar="N", help="channels that are printed (default: %(default)s)"
    )
    add_row_options(command)
    add_check(command)


def do(arguments: argparse.Namespace) -> None:
    """Find what is asked for."""
    must_be_onnx(arguments.explainer, "concepts")
    check_destination(arguments.output)
    if arguments.resume and arguments.references is None:
        raise InputError("--resume goes on looking for references: give --references K, too.")
    if arguments.pictures is not None and not arguments.conditions:
        raise InputError("--pictures draws heatmaps under conditions: give --condition, too.")
    from lrp_compiler.data import Preparation
    from lrp_compiler.data.in_order import InOrder
    from lrp_compiler.runtime import OnnxExplainer

    names = ("mean", "std", "resize", "crop", "size", "tokenizer", "max_length")
    how = Preparation(dict(arguments.column), **{name: getattr(arguments, name) for name in names})
    options = {name: getattr(arguments, name) for name in ("id", "limit", "batch_size")}
    if arguments.graph is not None:
        options["limit"] = 1
    known = {"graph": _graph, "references": _references, "conditions": _conditional}
    ask = next((function for name, function in known.items() if getattr(arguments, name) not in (None, [])), _shares)
    with OnnxExplainer(arguments.explainer, check=arguments.check) as explainer, tempfile.TemporaryDirectory() as kept:
        ask(arguments, explainer, InOrder(explainer.about, arguments.data, how, Path(kept), **options))


def _shares(arguments: argparse.Namespace, explainer: Any, rows: Any) -> None:
    """Each channel's share, row by row."""
    import numpy as np

    from lrp_compiler import concepts

    path = _layer(arguments, explainer)
    found = [
        concepts.channels(explainer, batch, path, dim=arguments.dim, **_target(arguments)) for batch in _seen(rows)
    ]
    shares = np.concatenate(found, -2)
    _write(arguments.output, id=_ids(rows), layer=np.array(path), share=shares)
    first = shares if shares.ndim == 2 else shares[0]
    strongest = [
        [(int(channel), float(row[channel])) for channel in np.argsort(-row, kind="stable")[: arguments.top]]
        for row in first
    ]
    lines = [
        f"{name}: " + ", ".join(f"{channel} {share:.1%}" for channel, share in chosen)
        for name, chosen in list(zip(rows.ids, strongest, strict=True))[:SHOWN]
    ]
    lines += [f"… and {counted(len(rows.ids) - SHOWN, 'more row')}"] * (len(rows.ids) > SHOWN)
    result = {
        "path": str(arguments.output),
        "layer": path,
        "rows": [
            {"id": name, "channels": [{"channel": channel, "share": share} for channel, share in chosen]}
            for name, chosen in zip(rows.ids, strongest, strict=True)
        ],
    }
    report(arguments, result, "\n".join([*lines, f"wrote {arguments.output}"]))


def _references(arguments: argparse.Namespace, explainer: Any, rows: Any) -> None:
    """The samples that most use each channel."""
    import numpy as np

    from lrp_compiler import concepts

    path, last = _layer(arguments, explainer), time.monotonic()
    before = concepts.References.load(arguments.output) if arguments.resume else None

    def kept(found: Any) -> None:
        nonlocal last
        if time.monotonic() - last > KEPT:
            found.save(arguments.output)
            last = time.monotonic()

    options: dict[str, Any] = {"k": arguments.references, "dim": arguments.dim, "resume": before, "told": kept}
    found = concepts.references(explainer, _seen(rows), path, **options, **_target(arguments))
    ids = _ids(rows)
    names = np.where(found.samples < 0, "" if ids.dtype.kind == "U" else -1, ids[found.samples])
    found.save(arguments.output, names)
    strongest = np.argsort(-found.scores[:, 0], kind="stable")[: arguments.top]
    lines = [
        f"channel {channel}: {', '.join(map(str, names[channel][found.samples[channel] >= 0]))}"
        for channel in strongest
    ]
    result = {
        "path": str(arguments.output),
        "layer": path,
        "seen": found.seen,
        "channels": [
            {"channel": int(channel), "id": names[channel].tolist(), "score": found.scores[channel].tolist()}
            for channel in strongest
        ],
    }
    report(arguments, result, "\n".join([*lines, f"wrote {arguments.output}: {counted(found.seen, 'sample')} seen"]))


def _conditional(arguments: argparse.Namespace, explainer: Any, rows: Any) -> None:
    """Relevance under conditions, and heatmaps of it."""
    import numpy as np

    from lrp_compiler import concepts

    conditions = [dict(parts) for parts in arguments.conditions]
    if arguments.target is not None:
        conditions = [{"y": arguments.target, **one} for one in conditions]
    found: dict[str, list[Any]] = {spec.name: [] for spec in explainer.inputs}
    drawn = 0
    if arguments.pictures is not None:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    for batch in _seen(rows):
        explanation = concepts.conditional(explainer, batch, conditions)
        for name, parts in found.items():
            if name in explanation.relevance:
                parts.append(explanation.relevance[name])
        if arguments.pictures is not None:
            count = len(next(iter(batch.values())))
            first = len(rows.ids) - count
            for row, number in itertools.product(range(count), range(len(conditions))):
                name = _file_name(first + row, rows.ids[first + row], number)
                explanation.image(row=row, target=number).save(arguments.pictures / name)
            drawn += count * len(conditions)
    arrays = {f"relevance.{name}": _joined(parts) for name, parts in found.items() if parts}
    said = [" ".join(f"{path}={_numbers(chosen)}" for path, chosen in one.items()) for one in conditions]
    _write(arguments.output, id=_ids(rows), condition=np.array(said), **arrays)
    result = {
        "path": str(arguments.output),
        "conditions": said,
        "rows": len(rows.ids),
        "pictures": drawn,
    }
    lines = [f"{name}: {array.dtype}{list(array.shape)}" for name, array in arrays.items()]
    lines += [f"wrote {drawn} pictures into {arguments.pictures}"] * (arguments.pictures is not None)
    report(arguments, result, "\n".join([*lines, f"wrote {arguments.output}"]))


def _graph(arguments: argparse.Namespace, explainer: Any, rows: Any) -> None:
    """The attribution graph of the first row."""
    from lrp_compiler import concepts

    first = {name: array[:1] for name, array in next(iter(rows)).items()}
    kind = arguments.output.suffix.lower()
    with stages("put relevance on one node after another"):
        graph = concepts.graph(
            explainer,
            first,
            arguments.graph,
            target=arguments.target,
            apart=arguments.apart,
            keep=arguments.keep,
            threshold=arguments.threshold,
            tokens=rows.tokens(first),
        )
        if kind == ".json":
            graph.save(arguments.output, slug=arguments.output.stem)
        elif kind == ".html":
            graph.html(arguments.output)
        else:
            graph.picture().save(arguments.output)
    strongest = sorted(graph.edges, key=lambda edge: -abs(edge.relevance))[: arguments.top]
    lines = [f"{edge.target} → {edge.source}: {edge.relevance:.4g}" for edge in strongest]
    lines += [f"wrote {arguments.output}: {counted(len(graph.nodes), 'node')}, {counted(len(graph.edges), 'edge')}"]
    result = {
        "path": str(arguments.output),
        "nodes": len(graph.nodes),
        "edges": len(graph.edges),
        "strongest": [vars(edge) for edge in strongest],
    }
    report(arguments, result, "\n".join(lines))


def _seen(rows: Any) -> Iterator[Any]:
    """The batches, with a bar on a terminal."""
    with row_bar(rows.rows, sys.stderr.isatty()) as advance:
        for batch in rows:
            yield batch
            advance(len(next(iter(batch.values()))))


def _layer(arguments: argparse.Namespace, explainer: Any) -> str:
    own = {spec.name for spec in explainer.inputs}
    known = [entry.input for entry in explainer.about.relevance if entry.form in ("total", "unit")]
    inside = [name for name in dict.fromkeys(known) if name not in own]
    if arguments.layer is not None:
        return str(arguments.layer)
    if len(inside) != 1:
        raise InputError(
            f"The explainer returns the relevance of {', '.join(inside)}: choose by --layer."
            if inside
            else "The explainer returns the relevance of no layer: compile with observe=."
        )
    return str(inside[0])


def _target(arguments: argparse.Namespace) -> dict[str, Any]:
    return {} if arguments.target is None else {"target": arguments.target}


def _ids(rows: Any) -> Any:
    """What tells the rows apart, as texts or whole numbers."""
    import numpy as np

    return np.array(rows.ids)


def _joined(parts: list[Any]) -> Any:
    """Batches one behind the other, along the second dim; NaN behind what is shorter than others."""
    import numpy as np

    shape = np.max([part.shape[2:] for part in parts], 0)
    filled = []
    for part in parts:
        missing = [(0, int(most - size)) for most, size in zip(shape, part.shape[2:], strict=True)]
        filled.append(np.pad(part, [(0, 0), (0, 0), *missing], constant_values=np.nan))
    return np.concatenate(filled, 1)


def _write(output: Path, /, **arrays: Any) -> None:
    """As `.npz`, whole or not at all."""
    from ..arrays import save

    with atomic_path(output) as temporary:
        save(temporary, arrays)


def _file_name(row: int, name: Any, condition: int) -> str:
    """Of a heatmap: the row's number tells apart what its id does not."""
    known = re.sub(r"[^\w.-]+", "_", str(name))
    return f"{row}.{known}.{condition}.png"


def _numbers(chosen: int | list[int]) -> str:
    return ",".join(map(str, chosen if isinstance(chosen, list) else [chosen]))
