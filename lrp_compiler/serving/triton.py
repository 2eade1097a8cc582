"""A model repository for NVIDIA's Triton, which KServe runs as well: the explainer's file and what Triton has to know.

    repository/NAME/config.pbtxt, repository/NAME/1/model.onnx (and the file of its weights, if it has one beside it)

Where the rows of every tensor come first, Triton batches: its `dims` leave the batch out then, and cannot be empty, so
that a tensor with nothing but rows (`target`, `sum.x`) is `[batch, 1]` to clients and is reshaped. Masks and seeds
are not listed: Triton's backend knows no inputs that may be left out, and their defaults hold.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.files import atomic_folder
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.seal import read_seal
from lrp_compiler.base.specs import TensorSpec
from lrp_compiler.base.validate import check_option, whole_number
from lrp_compiler.base.version import __version__
from lrp_compiler.runtime import OnnxExplainer

from .model import BATCH, VERSION, is_model_name, model_name
from .tensors import datatype

MARK = "# Made by lrp-compiler"
"""How the config of a folder begins that may be made anew."""


@boundary("make a model repository")
def triton_repository(
    explainer: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    name: str | None = None,
    rows: int = 32,
    check: bool = True,
) -> Path:
    """Put an explainer into a model repository, in one step; other models in it stay.

    Args:
        explainer: its ONNX file; one of the last years' Triton, with onnxruntime 1.19 or newer, runs it.
        output: the repository's folder, new or not.
        name: of the model; by default the file's, without endings.
        rows: that Triton runs at once, at most.
        check: whether the file is compared with the hash in its seal first.

    Returns:
        The model's folder, `output/name`.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is no explainer, or damaged.
        InputError: an option does not fit, or another model of this name is there.
        OSError: it cannot be written.
    """
    check_option("name", name, name is None or is_model_name(name), "letters, digits, '.', '_' and '-'")
    check_option("rows", rows, (whole_number(rows) or 0) > 0, "a whole number from 1 up")
    with OnnxExplainer(explainer, check=check) as opened:
        about, takes = opened.about, opened.takes
    called = name or model_name(explainer)
    folder = Path(output) / called
    if folder.exists() and not _is_own(folder):
        raise InputError(
            f"{folder} is there already, and is none that this command made: choose another name or folder."
        )
    Path(output).mkdir(parents=True, exist_ok=True)
    source = Path(os.path.realpath(explainer))
    known = read_seal(source)
    with atomic_folder(folder) as made:
        (made / VERSION).mkdir()
        shutil.copyfile(source, made / VERSION / "model.onnx")
        for beside in known.data if known is not None else ():
            shutil.copyfile(source.with_name(beside), made / VERSION / beside)
        (made / "config.pbtxt").write_text(config(about, takes, called, rows), encoding="utf-8")
    return folder


def config(about: Metadata, takes: Sequence[TensorSpec], name: str, rows: int) -> str:
    """The text of `config.pbtxt`."""
    inputs, outputs = [spec for spec in takes if spec.name not in about.defaults], about.returns
    batched = all(spec.shape[:1] == (BATCH,) and BATCH not in spec.shape[1:] for spec in (*inputs, *outputs))
    lines = [
        f"{MARK} {__version__}; composite {about.name}, target {about.target}",
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {rows if batched else 0}",
        *_tensors("input", inputs, batched),
        *_tensors("output", outputs, batched),
        *["dynamic_batching { }"] * batched,
    ]
    return "\n".join(lines) + "\n"


def _tensors(field: str, specs: Sequence[TensorSpec], batched: bool) -> Iterator[str]:
    yield f"{field} ["
    for number, spec in enumerate(specs):
        dims = [dim if isinstance(dim, int) else -1 for dim in spec.shape[batched:]]
        yield "  {"
        yield f"    name: {json.dumps(spec.name, ensure_ascii=False)}"
        yield f"    data_type: TYPE_{datatype(spec.dtype)}"
        yield f"    dims: {dims or [1]}"
        if not dims:
            yield "    reshape: { shape: [ ] }"
        yield "  }" + "," * (number + 1 < len(specs))
    yield "]"


def _is_own(folder: Path) -> bool:
    written = folder / "config.pbtxt"
    return written.is_file() and written.read_text(encoding="utf-8", errors="replace").startswith(MARK)
