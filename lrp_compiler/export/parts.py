"""An explainer in two files, forward and relevance, that know each other by their content."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import fx

from lrp_compiler.artefact import Artefact, tensor_specs
from lrp_compiler.artefact.storage import read_program, write_program
from lrp_compiler.base.errors import FormatError
from lrp_compiler.base.files import atomic_pair
from lrp_compiler.base.metadata import PART_KEY
from lrp_compiler.base.names import distinct
from lrp_compiler.base.seal import Seal, check_pair, seal_pair
from lrp_compiler.formats import runtime_of
from lrp_compiler.passes.forward import unlift
from lrp_compiler.passes.graph import outputs
from lrp_compiler.passes.joint import lift

from .onnx import outdated, write_onnx

Path_ = str | os.PathLike[str]


def write_split(
    artefact: Artefact,
    first: fx.GraphModule,
    second: fx.GraphModule,
    forward: Path_,
    relevance: Path_,
    *,
    opset: int,
) -> None:
    """Write the two parts, both or none: see `Explainer.save_split`."""
    about = artefact.about
    extra = [spec.name for spec in about.seed_inputs]
    placeholders = artefact.forward.graph.find_nodes(op="placeholder")
    of_forward = {node.meta["seed"] for node in placeholders if "seed" in node.meta}
    public = [spec.name for spec in (*about.takes, *about.returns)]
    kept = distinct([f"kept.{name}" for name in first.meta["kept"]], public)
    taken = [spec.name for spec in about.inputs] + [name for name in extra if name in of_forward]
    results = [spec.name for spec in about.outputs] + kept
    entered = kept + [name for name in extra if name not in of_forward]
    given = [entry.tensor.name for entry in about.relevance]
    with atomic_pair(forward, relevance, (outdated(forward), outdated(relevance))) as (one, two):
        data = _write(first, taken, results, one, opset), _write(second, entered, given, two, opset, about.defaults)
        seal_pair(one, two, data)


def read_split(forward: Path_, relevance: Path_) -> tuple[fx.GraphModule, fx.GraphModule]:
    """See `lrp_compiler.load_split`."""
    check_pair(forward, relevance)
    first, second = _read(forward), _read(relevance)
    return first, second


def _write(
    module: fx.GraphModule,
    inputs: Sequence[str],
    results: Sequence[str],
    path: Path,
    opset: int,
    defaults: Mapping[str, float] = MappingProxyType({}),
) -> Seal:
    program = lift(module)
    if runtime_of(path) == "torch":
        write_program(program, path, {PART_KEY: json.dumps(module.meta)})
        return Seal()
    specs = tensor_specs(module.graph.find_nodes(op="placeholder"), inputs)
    given = tensor_specs(outputs(module), results, specs.symbols).tensors
    return write_onnx(program, specs.tensors, given, path, opset=opset, defaults=defaults)


def _read(path: Path_) -> fx.GraphModule:
    program, (text,) = read_program(path, [PART_KEY])
    module = unlift(program)
    try:
        names: dict[str, Any] = json.loads(text)
        module.meta |= {key: [str(name) for name in names[key]] for key in names}
    except (ValueError, TypeError) as error:
        raise FormatError(f"{os.fspath(path)!r} does not name what it returns: write both parts anew.") from error
    return module
