"""An explainer as an AOTInductor package: machine code that C++ runs without Python."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.artefact import Artefact
from lrp_compiler.base.errors import LrpError
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.metadata import METADATA_KEY
from lrp_compiler.base.quiet import quiet
from lrp_compiler.base.seal import seal
from lrp_compiler.formats import PT2
from lrp_compiler.passes.graph import arguments, call, scans
from lrp_compiler.passes.joint import lift
from lrp_compiler.torch_private import (
    compile_package,
    expression,
    fake_mode_of,
    hint,
    load_package,
    range_of,
    unguarded,
)

aten = torch.ops.aten

TRIALS = (0, 1, 3)
"""By how much the open sizes of each trial run exceed the example's."""
ROOM = 0.05
"""Share of Σ|value| by which a package may differ from the graph: machine code adds up in another order."""


def write_explainer(artefact: Artefact, path: str | os.PathLike[str]) -> None:
    """Compile an explainer into a package at `path`, whole or not at all: see `Explainer.to_aoti`.

    The package is run beside the graph first, at the example's sizes and, where sizes are open, at two others.

    Raises:
        LrpError: the path does not end in `.pt2`, there is no C++ compiler, AOTInductor fails, or what it makes
            calculates something else than the graph.
    """
    if not os.fspath(path).endswith(PT2):  # as torch's loaders ask for it: in small letters
        raise LrpError(f"An AOTInductor package must end in {PT2}, and {os.fspath(path)!r} does not.")
    missing = "An AOTInductor package needs a C++ compiler, and none was found: install g++, or name one in CXX."
    program = lift(with_read_cuts(artefact.module))
    with atomic_path(path) as temporary:
        try:
            with quiet(output=True):
                compile_package(program, str(temporary), {METADATA_KEY: artefact.about.to_json()})
        except FileNotFoundError as error:
            raise LrpError(missing) from error
        except Exception as error:
            loops = scans(artefact.module)
            remedy = "" if not loops else f"; it has loops ({loops[0].name}): fix their length by dynamic_shapes"
            raise LrpError(f"AOTInductor cannot compile this explainer: {_reason(error)}{remedy}.") from error
        _check(artefact, str(temporary))
        seal(temporary)


def with_read_cuts(module: fx.GraphModule) -> fx.GraphModule:
    """A copy in which what is cut to an open size is read element by element.

    Inductor decides with the example's sizes whether a cut does anything, and leaves it out at all others as well: the
    transpose of a strided convolution, which is cut to the size of the image, then keeps its border.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(module.graph, copies))
    for node in graph.find_nodes(op="call_function", target=aten.slice.Tensor):
        given: tuple[Any, ...] = (*arguments(node), *(None, 0, None, None, 1)[len(node.args) :])
        tensor, dim, start, end, step = given
        if not isinstance(end, fx.Node) and not isinstance(start, fx.Node):
            continue
        size = tensor.meta["val"].shape[dim]
        with graph.inserting_before(node), fake_mode_of(tensor.meta["val"]), unguarded(tensor):
            if end is None:
                end = size if isinstance(size, int) else call(graph, aten.sym_size.int, tensor, dim, like=node)
            device = tensor.meta["val"].device
            places = call(graph, aten.arange.start_step, start or 0, end, step, device=device, like=node)
            read = call(graph, aten.index_select.default, tensor, dim, places, like=node)
        node.replace_all_uses_with(read)
        graph.erase_node(node)
    return fx.GraphModule(module, graph)


def _check(artefact: Artefact, package: str) -> None:
    """Run the package beside the graph.

    Raises:
        LrpError: it calculates something else.
    """
    run = load_package(package)
    for inputs in _trials(artefact.module):
        with torch.no_grad(), quiet(output=True):
            try:
                expected = artefact.module(*(tensor.clone() for tensor in inputs))
            except Exception:  # a size that the model does not take
                continue
            found = run(*inputs)
        for spec, want, got in zip(artefact.about.returns, expected, found, strict=True):
            if not _alike(want, got):
                shapes = ", ".join(str(list(tensor.shape)) for tensor in inputs)
                raise LrpError(
                    f"AOTInductor made a package that gives another {spec.name!r} than the explainer for inputs of "
                    f"shape {shapes}, so none is written: fix the sizes (no dynamic_shapes), or write ONNX."
                )


def _trials(module: fx.GraphModule) -> Iterator[list[Tensor]]:
    """Inputs of several sizes: standard normal numbers; indices and flags are 1."""
    values = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    open_sizes = [size for value in values for size in value.shape if isinstance(size, torch.SymInt)]
    ranges = {symbol: known for size in open_sizes for symbol, known in range_of(size).items()}
    hints = {symbol: _hint_of(symbol, open_sizes) for symbol in ranges}
    random = torch.Generator().manual_seed(0)
    for more in TRIALS if ranges else TRIALS[:1]:
        sizes = {
            symbol: at + more + place * bool(more) if at + more + place <= known.upper else at
            for place, ((symbol, known), at) in enumerate(zip(ranges.items(), hints.values(), strict=True))
        }
        yield [_filled(value, [_size(size, sizes) for size in value.shape], random) for value in values]


def _hint_of(symbol: Any, sizes: Sequence[torch.SymInt]) -> int:
    """The example's value of a symbol; 2 where it stands in no size by itself."""
    return next((hint(size) for size in sizes if expression(size) == symbol), 2)


def _size(size: int | torch.SymInt, sizes: dict[Any, int]) -> int:
    return size if isinstance(size, int) else int(expression(size).subs(sizes))


def _filled(value: Tensor, shape: list[int], random: torch.Generator) -> Tensor:
    if value.is_floating_point() or value.is_complex():
        return torch.randn(shape, generator=random, dtype=torch.float64).to(value.dtype).to(value.device)
    return torch.ones(shape, dtype=value.dtype, device=value.device)


def _alike(want: Tensor, got: Tensor) -> bool:
    if want.shape != got.shape or not torch.equal(want.isfinite(), got.isfinite()):
        return False
    known = want.isfinite()
    a, b = want[known].double(), got[known].double()
    return bool((a - b).abs().sum() <= ROOM * a.abs().sum())


def _reason(error: Exception) -> str:
    """Its first line; of a C++ compiler, what it says instead of the command."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = [line for line in lines if "error:" in line]
    return f"{type(error).__name__}: {(found or lines or ['no message'])[0][:200]}".rstrip(".")
