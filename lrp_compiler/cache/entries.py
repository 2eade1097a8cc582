"""The cache's folder: one file an entry, an explainer's own without the weights, and with the recipe for them."""

from __future__ import annotations

import base64
import json
import os
import warnings
import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from lrp_compiler.artefact import Artefact
from lrp_compiler.artefact.calling import own_tensors
from lrp_compiler.artefact.provenance import hash_of, operations_of, weights_of
from lrp_compiler.artefact.storage import read_hollow, write_hollow
from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.errors import InputError, LrpError, LrpWarning
from lrp_compiler.capture import run_model, same
from lrp_compiler.capture.caches import without_cache
from lrp_compiler.capture.kinds import inputs_of
from lrp_compiler.capture.onnx_files import example_of
from lrp_compiler.formats import EXPLAINER, PT2
from lrp_compiler.onnx_in import OnnxModule
from lrp_compiler.passes.graph import outputs

from .fingerprint import Indescribable, fingerprint
from .recipe import Other, Recorder, Unwritten, constant, follow

FOLDER = "LRP_COMPILER_CACHE"
"""The environment variable that names the folder."""
ENDING = EXPLAINER + PT2
_RECIPE = "lrp_compiler_recipe.json"
_SOURCE = "source "
"""In front of the names of the model's own weights, of which its hash is made, among the constants of a recipe."""


@dataclass(frozen=True)
class Cache:
    """A folder of compiled graphs.

    Args:
        folder: made when something is first put there.
    """

    folder: Path

    def entry(
        self, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, shapes: Any, asked: Any
    ) -> Entry | None:
        """The place of what is compiled of this model with these options; `None`, and a warning, where it has none.

        Args:
            model: a module, an exported program or an ONNX model.
            args: example inputs.
            kwargs: example inputs by name.
            shapes: the dynamic shapes.
            asked: all else that decides over the graphs.
        """
        given, named = inputs_of(args, kwargs)
        if isinstance(model, OnnxModule):
            given, named = example_of(model, given, named), {}
        if isinstance(model, ExportedProgram) and not (given or named):
            given, named = model.example_inputs or ((), {})
        try:
            found = fingerprint(model, (given, named), (shapes, asked))
        except Indescribable as reason:
            _not_used(f"the model cannot be described ({reason})")
            return None
        return Entry(self.folder / f"{found.digest}{ENDING}", model, given, named, found.tensors)


def cache_of(asked: Any) -> Cache | None:
    """The cache that `compile(cache=…)` asks for.

    Raises:
        InputError: neither True, nor False, nor a path.
    """
    if asked is False or asked is None:
        return None
    if isinstance(asked, str | os.PathLike):
        return Cache(Path(asked))
    if asked is not True:
        raise InputError(f"cache={asked!r}: give True, False, or the path of a folder.")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Cache(Path(os.environ.get(FOLDER) or Path(home) / "lrp_compiler"))


@dataclass
class Entry:
    """One model, structure and options, in the cache.

    Args:
        path: of its file.
        model: whose weights are bound.
        args: example inputs.
        kwargs: example inputs by name.
        weights: the model's tensors, in the fingerprint's order.
    """

    path: Path
    model: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    weights: list[Tensor]
    recorder: Recorder = field(init=False)

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.weights)

    def find(self) -> tuple[Artefact, list[str]] | None:
        """What was put there, with the model's weights in it, and what is to be said of it.

        None where there is nothing, where it is damaged or of other versions, where it was decided by the values of
        other weights, and where it does not return what the model returns on the example inputs.
        """
        weights: dict[str, Tensor] = {}
        stored: dict[str, Any] = {}

        def filled(text: str) -> dict[str, Tensor]:
            stored.update(json.loads(zlib.decompress(base64.b64decode(text))))
            bound = follow(stored["recipe"], self.weights)
            weights.update(
                {name.removeprefix(_SOURCE): bound.pop(name) for name in [*bound] if name.startswith(_SOURCE)}
            )
            return bound

        try:
            artefact = read_hollow(self.path, _RECIPE, filled)
            about = replace(artefact.about, source=hash_of(stored["operations"], weights))
            artefact = replace(artefact, about=about)
            return (artefact, stored["said"]) if self._agrees(artefact) else None
        except (LrpError, Other, OSError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
            return None

    def _agrees(self, artefact: Artefact) -> bool:
        """Whether the graph returns on the example inputs what the model does."""
        others = {other["at"] for other in artefact.about.others}
        program = isinstance(self.model, ExportedProgram)
        with (
            nullcontext((self.kwargs, None)) if program else without_cache(self.model, self.kwargs, None) as (named, _)
        ):
            flat = run_model(self.model, self.args, named)
        if flat is None:  # the example has no values
            return True
        expected = [value for at, value in enumerate(flat) if at not in others]
        graph = _first_outputs(artefact.running, len(artefact.about.outputs))
        tensors = own_tensors(artefact.about, self.args, named)
        spare = [None] * (len(graph.graph.find_nodes(op="placeholder")) - len(tensors))
        with torch.no_grad():
            found = graph(*tensors, *spare)
        return len(found) == len(expected) and all(map(same, found, expected))

    def put(self, artefact: Artefact, program: ExportedProgram, said: Sequence[str]) -> None:
        """Keep what was compiled; where that cannot be, a warning says why.

        Args:
            artefact: what was compiled.
            program: what it was compiled from.
            said: warnings to be repeated whenever it is found.
        """
        constants = dict(artefact.module.named_buffers())
        own = {f"{_SOURCE}{name}": tensor for name, tensor in weights_of(program).items()}
        try:
            recipe = self.recorder.recipe({**constants, **own})
            for name in own.keys() - recipe["constants"].keys():
                recipe["constants"][name] = self._made_by_code(name.removeprefix(_SOURCE), own[name])
        except Unwritten as reason:
            _not_used(f"it is not known how the graph's constants follow from the weights: {reason}")
            return
        hollow = [name for name in recipe["constants"] if name in constants]
        stored = {"recipe": recipe, "operations": operations_of(program), "said": list(said)}
        text = base64.b64encode(zlib.compress(json.dumps(stored).encode())).decode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_hollow(artefact, self.path, hollow, {_RECIPE: text})
        except OSError as error:
            _not_used(f"{self.path.parent} cannot be written to ({reason_of(error)})")

    def _made_by_code(self, name: str, tensor: Tensor) -> dict[str, Any]:
        """A constant that forward makes itself, `torch.tensor(0.5)`: the same for all weights.

        Raises:
            Unwritten: it may be a copy of a tensor that the model holds.
        """
        alike = (one for one in self.weights if one.shape == tensor.shape and one.dtype == tensor.dtype)
        if tensor.numel() and any(torch.equal(one, tensor) for one in alike):
            raise Unwritten(f"{name!r} is as large as a tensor that the model holds, and has its values")
        return constant(tensor)


def _first_outputs(module: fx.GraphModule, count: int) -> fx.GraphModule:
    """The module that returns these alone, and calculates no more than they need."""
    results = outputs(module)[:count]
    needed, stack = set(), [result for result in results if isinstance(result, fx.Node)]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack += node.all_input_nodes
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node in needed or node.op == "placeholder":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[result] if isinstance(result, fx.Node) else result for result in results))
    return fx.GraphModule(module, graph)


def _not_used(reason: str) -> None:
    """Warn, as if the line that calls `compile` did."""
    warnings.warn(f"The compile cache is not used: {reason}.", LrpWarning, stacklevel=6)
