"""An explainer's own file: a `.pt2` of torch.export that also holds the forward graph, its rules and the metadata."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import fx
from torch.export import ExportedProgram

from lrp_compiler.base.collection import rare_collection
from lrp_compiler.base.errors import FormatError
from lrp_compiler.base.files import atomic_path
from lrp_compiler.base.held import HeldFile
from lrp_compiler.base.metadata import FORWARD_KEY, JOINT_KEY, METADATA_KEY, Metadata
from lrp_compiler.base.metadata_reading import read_metadata
from lrp_compiler.base.quiet import quiet
from lrp_compiler.base.seal import check_seal, read_seal, seal, without_seal
from lrp_compiler.base.specs import TensorSpec
from lrp_compiler.base.validate import dtype_name
from lrp_compiler.capture import check_structure, load_exported, load_weights, refusing
from lrp_compiler.passes.forward import unlift
from lrp_compiler.passes.graph import Origin, origin, outputs, set_origin, write_notes
from lrp_compiler.passes.joint import forward_from_dict, forward_to_dict, joint_from_dict, joint_to_dict, lift
from lrp_compiler.passes.promises import Plan
from lrp_compiler.torch_private import known_size, sources_forgotten

from .artefact import Artefact, Graphs


def write_explainer(artefact: Artefact, path: str | os.PathLike[str]) -> None:
    """See `Explainer.save`."""
    _write(artefact.program, path, _texts(artefact))


def write_hollow(
    artefact: Artefact, path: str | os.PathLike[str], names: Sequence[str], extra: Mapping[str, str]
) -> None:
    """Write an explainer's file in which some weights are left out: it is none to be run before they are put back.

    Args:
        artefact: the explainer.
        path: where to.
        names: of the buffers that are left out; a single zero stands for each.
        extra: more texts for the file.
    """
    program = lift(artefact.module)
    for name in names:
        program.state_dict[name] = torch.zeros((), dtype=program.state_dict[name].dtype)
    _write(program, path, {**_texts(artefact), **extra})


def _texts(artefact: Artefact) -> dict[str, str]:
    """What is written beside the program."""
    known = {node.name: origin(node) for node in artefact.module.graph.nodes}
    origins = {name: asdict(found) for name, found in known.items() if found is not None}
    joint = joint_to_dict(artefact.module)
    stored = {**forward_to_dict(artefact.forward), "origins": origins}
    return {
        METADATA_KEY: json.dumps(artefact.about.to_dict()),
        FORWARD_KEY: json.dumps(stored),
        JOINT_KEY: json.dumps(joint),
    }


def _write(program: ExportedProgram, path: str | os.PathLike[str], extra: Mapping[str, str]) -> None:
    with atomic_path(path) as temporary:
        write_program(program, temporary, extra)
        seal(temporary)


def write_program(program: ExportedProgram, path: str | os.PathLike[str], extra: Mapping[str, str]) -> None:
    """`torch.export.save`, on a disk that may be full.

    Raises:
        OSError: the file cannot be written.
    """
    with open(path, "wb") as file:
        remembering = _Remembering(file)
        with quiet():
            torch.export.save(program, cast(IO[bytes], remembering), extra_files=dict(extra))
        if remembering.error is not None:
            raise remembering.error


class _Remembering(io.RawIOBase):
    """A file that keeps an error for later: torch's zip writer ends the process if writing raises one."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: BaseException | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except BaseException as error:
                self.error = error
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """torch goes back to the start when all is written."""
        return 0


def read_program(
    path: str | os.PathLike[str], extra: Sequence[str], opened: BinaryIO | None = None
) -> tuple[ExportedProgram, list[str]]:
    """The program in a file, open already perhaps, and the texts that it holds under these names: "" where it has none.

    Raises:
        FormatError: the file is none of torch.export's, is damaged, or could run code.
    """
    texts: dict[str, Any] = dict.fromkeys(extra, "")
    with _damaged(os.fspath(path)), quiet(output=True):
        program = load_exported(path, texts, opened)
    return program, [texts[name] for name in extra]


def is_explainer(path: str | os.PathLike[str]) -> bool:
    """Whether a file is, or was before it was damaged, an explainer's own: a sealed one, or one with our metadata."""
    if not os.path.isfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(f"/{METADATA_KEY}") for name in archive.namelist()) or read_seal(path) is not None
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return read_seal(path) is not None


def _check_fits(joint: fx.GraphModule, about: Metadata, name: str) -> None:
    """Refuse a file whose metadata lists other inputs or results than its graph has; raises `FormatError`."""
    taken = [node.meta.get("val") for node in joint.graph.find_nodes(op="placeholder")]
    given = [node.meta.get("val") for node in outputs(joint) if isinstance(node, fx.Node)]
    ranks = [value.dim() for value in given if isinstance(value, torch.Tensor)]
    fits = len(taken) == len(about.takes) and all(map(_is_like, taken, about.takes))
    if not fits or ranks != [len(spec.shape) for spec in about.returns]:
        raise FormatError(f"The graph of {name!r} does not take or give what its metadata lists.")


def _is_like(value: torch.Tensor, spec: TensorSpec) -> bool:
    """Whether an input of the graph is what a spec says of it; an open size goes by any name."""
    if value.dim() != len(spec.shape) or dtype_name(value) != spec.dtype:
        return False
    sizes = zip(map(known_size, value.shape), spec.shape, strict=True)
    return all(isinstance(wanted, str) if size is None else size == wanted for size, wanted in sizes)


def read_explainer(path: str | os.PathLike[str], *, check: bool = True) -> Artefact:
    """See `lrp_compiler.load`."""
    name = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {name!r}.")
    return _read(HeldFile(path, name), check)


def content_of(artefact: Artefact) -> bytes:
    """What `write_explainer` would write."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "explainer.lrp.pt2"
        write_explainer(artefact, place)
        return place.read_bytes()


def artefact_in(content: bytes) -> Artefact:
    """The inverse of `content_of`."""
    return _read(HeldFile(content, "the pickled explainer"), check=True)


def read_hollow(
    path: str | os.PathLike[str], text: str, filled: Callable[[str], Mapping[str, torch.Tensor]]
) -> Artefact:
    """Read what `write_hollow` wrote.

    Args:
        path: the file.
        text: name of one of the texts that were put into it.
        filled: that text → the weights that were left out, by name; all that it raises is raised here.

    Raises:
        FormatError: the file is none of ours, or is damaged.
        OSError: there is none.
    """
    held = HeldFile(path, os.fspath(path))
    check_seal(held.reader(), repr(held.name))
    with _damaged(held.name):
        _, (found,) = load_weights(held, [text])
    artefact = _read_quickly(held, filled(found))
    if artefact is None:
        raise FormatError(f"{held.name!r} is damaged.")
    return artefact


@rare_collection()
@sources_forgotten()
def _read(held: HeldFile, check: bool) -> Artefact:
    with ExitStack() as closing:
        closing.callback(held.close)
        sealed = check_seal(held.reader(), repr(held.name)) if check else None
        quick = None if check and sealed is None else _read_quickly(held)
        if quick is not None:
            closing.pop_all()  # what is read later is what was written then, whatever lies there by then
            return quick
        about, graphs = _read_all(held)
    if check and sealed is None:  # of a file of somebody else's, all the above said more
        raise without_seal(repr(held.name))
    return Artefact.of(*graphs, about)


def _read_quickly(held: HeldFile, put: Mapping[str, torch.Tensor] | None = None) -> Artefact | None:
    """What a file holds to be run; the rest is read when it is asked for. None: it is of an earlier release.

    Args:
        held: the file.
        put: weights that were left out of it.
    """
    with _damaged(held.name):
        weights, (about_text, joint_text) = load_weights(held, [METADATA_KEY, JOINT_KEY])
    if not joint_text:
        return None
    about = read_metadata(about_text or None, held.name)
    check_structure(about.output_structure)
    with _damaged(held.name, "The graph"), refusing(held.name):
        quick = joint_from_dict(json.loads(joint_text), {**weights, **(put or {})})
    held.remember()
    return Artefact(about, partial(_read_graphs, held, put), quick=quick, check=held.check_unchanged)


def _read_graphs(held: HeldFile, put: Mapping[str, torch.Tensor] | None) -> Graphs:
    return _read_all(held, put)[1]


@rare_collection()
@sources_forgotten()
def _read_all(held: HeldFile, put: Mapping[str, torch.Tensor] | None = None) -> tuple[Metadata, Graphs]:
    """The metadata in a file, and its joint and forward graph with all that is known of them."""
    name = held.name
    program, (about_text, forward_text) = read_program(name, [METADATA_KEY, FORWARD_KEY], held.reader())
    program.state_dict.update(put or {})
    about = read_metadata(about_text or None, name)
    check_structure(about.output_structure)
    if not forward_text:
        raise FormatError(f"{name!r} was written by an earlier release of lrp_compiler: compile the model again.")
    joint = unlift(program)
    # torch writes down every result of an op that has several, whether it is read or not.
    joint.graph.eliminate_dead_code()
    joint.recompile()
    _check_fits(joint, about, name)
    with _damaged(name, "The forward graph"):
        stored: dict[str, Any] = json.loads(forward_text)
        forward = forward_from_dict(stored, joint)
        for node in joint.graph.nodes:
            if node.name in stored["origins"]:
                found = stored["origins"][node.name]
                set_origin(node, Origin(**{**found, "of": tuple(found["of"])}))
        plan = Plan() if about.plan is None else Plan.from_dict(about.plan)
        write_notes(joint, {promise.value: promise.resolution for promise in plan})
    return about, (joint, forward)


@contextmanager
def _damaged(name: str, what: str = "") -> Iterator[None]:
    """What goes wrong while a file is read is a `FormatError` that says which part of it (`what`) is damaged."""
    try:
        yield
    except FormatError:
        raise
    except Exception as error:
        sentence = (
            f"{what} of {name!r} is damaged ({type(error).__name__}: {error})."
            if what
            else f"{name!r} is not a .pt2 file, or is damaged."
        )
        raise FormatError(sentence) from error
