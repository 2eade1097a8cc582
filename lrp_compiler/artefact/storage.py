"""An explainer's own file: a `.pt2` of torch.export that also holds the forward graph, its rules and the metadata."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

import torch

from lrp_compiler.base.errors import FormatError
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.metadata import FORWARD_KEY, METADATA_KEY, read_metadata
from lrp_compiler.base.quiet import quiet
from lrp_compiler.capture import check_structure, load_exported
from lrp_compiler.passes.forward import unlift
from lrp_compiler.passes.graph import Origin, origin, set_origin, write_notes
from lrp_compiler.passes.joint import forward_from_dict, forward_to_dict

from .artefact import Artefact


def write_explainer(artefact: Artefact, path: str | os.PathLike[str]) -> None:
    """See `Explainer.save`."""
    known = {node.name: origin(node) for node in artefact.module.graph.nodes}
    origins = {name: asdict(found) for name, found in known.items() if found is not None}
    stored = {**forward_to_dict(artefact.forward), "origins": origins}
    extra = {METADATA_KEY: json.dumps(artefact.about.to_dict()), FORWARD_KEY: json.dumps(stored)}
    with atomic_path(path) as temporary:
        torch.export.save(artefact.program, temporary, extra_files=extra)


def read_explainer(path: str | os.PathLike[str]) -> Artefact:
    """See `lrp_compiler.load`."""
    name = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {name!r}.")
    extra = {METADATA_KEY: "", FORWARD_KEY: ""}
    try:
        with quiet(output=True):
            program = load_exported(path, extra)
    except FormatError:
        raise
    except Exception as error:
        raise FormatError(f"{name!r} is not a .pt2 file, or is damaged.") from error
    about = read_metadata(extra[METADATA_KEY] or None, name)
    check_structure(about.output_structure)
    if not extra[FORWARD_KEY]:
        raise FormatError(f"{name!r} was written by an earlier release of lrp_compiler: compile the model again.")
    joint = unlift(program)
    # torch writes down every result of an op that has several, whether it is read or not.
    joint.graph.eliminate_dead_code()
    joint.recompile()
    try:
        stored: dict[str, Any] = json.loads(extra[FORWARD_KEY])
        forward = forward_from_dict(stored, joint)
        for node in joint.graph.nodes:
            if node.name in stored["origins"]:
                found = stored["origins"][node.name]
                set_origin(node, Origin(**{**found, "of": tuple(found["of"])}))
        artefact = Artefact(joint, forward, about)
        write_notes(joint, {promise.value: promise.resolution for promise in artefact.plan})
    except Exception as error:
        raise FormatError(f"The forward graph of {name!r} is damaged ({type(error).__name__}: {error}).") from error
    return artefact
