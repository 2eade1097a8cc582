"""What onnxruntime makes of a file on this machine, kept beside it and opened from then on. Torch-free.

    m.lrp.onnx
    m.lrp.onnx.optimised/3f2a…/model.onnx, weights.data, seal.json

onnxruntime folds constants, fuses and lays out weights anew whenever a file is opened: most of the time that opening
takes. Its result depends on the file, on its own version and on the processor; the folder's name is a hash of these.
"""

import hashlib
import json
import os
import platform
import shutil
import tempfile
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path

import onnxruntime

from .errors import FormatError
from .onnx_session import open_session
from .seal import read_seal, sealed_digest

MODEL, WEIGHTS, SEAL = "model.onnx", "weights.data", "seal.json"
CHUNK = 1 << 24
LARGE = 1024
"""Bytes from which on a weight lies in a file of its own, which is mapped into memory."""


def place_of(path: str | os.PathLike[str], folder: str | os.PathLike[str], label: str) -> Path:
    """Where what onnxruntime makes of a file here is kept, or is to be.

    Args:
        path: an explainer's file, with its seal.
        folder: in which it is kept.
        label: what the file is called in messages.

    Raises:
        FormatError: the file has no seal.
    """
    if read_seal(path) is None:
        raise FormatError(f"{label} has no seal, by which what is kept of it is known: write it anew.")
    parts = (sealed_digest(path), onnxruntime.__version__, _processor())
    return Path(folder) / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def open_kept(place: Path, label: str, check: bool) -> onnxruntime.InferenceSession | None:
    """A session on what was kept there; None where nothing is, or nothing sound.

    Args:
        place: of `place_of`.
        label: what the file is called in messages.
        check: whether the content is compared with its checksums first.
    """
    if place.is_dir():
        with suppress(Exception):
            if not check or _is_whole(place):
                options = _quiet()
                options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
                return open_session(place / MODEL, label, None, options)
        shutil.rmtree(place, ignore_errors=True)
    return None


def open_and_keep(path: str | os.PathLike[str], place: Path, label: str) -> onnxruntime.InferenceSession:
    """A session on a file; what onnxruntime makes of it appears in its place as a whole.

    Raises:
        OSError: nothing can be written there.
        Exception: whatever onnxruntime raises on a damaged file.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".writing-", dir=place.parent))
    try:
        options = _quiet()
        options.optimized_model_filepath = str(scratch / MODEL)
        for name, value in (
            ("session.optimized_model_external_initializers_file_name", WEIGHTS),
            ("session.optimized_model_external_initializers_min_size_in_bytes", str(LARGE)),
            ("session.save_external_prepacked_constant_initializers", "1"),
        ):
            options.add_session_config_entry(name, value)
        session = open_session(path, label, None, options)
        written = {file.name: _checksum(file) for file in sorted(scratch.iterdir())}
        (scratch / SEAL).write_text(json.dumps(written))
        if place_of(path, place.parent, label) == place:  # the file was not replaced meanwhile
            with suppress(OSError):  # somebody else was first
                os.rename(scratch, place)
        return session
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_whole(place: Path) -> bool:
    known: dict[str, int] = json.loads((place / SEAL).read_text())
    return MODEL in known and all(_checksum(place / Path(name).name) == number for name, number in known.items())


def _checksum(path: Path) -> int:
    """CRC-32 of a file: more than twice as fast as SHA-256, for a copy that can be made anew at any time."""
    number = 0
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            number = zlib.crc32(block, number)
    return number


@cache
def _processor() -> str:
    """The processor and what it can do, as far as the system says."""
    lines: list[str] = []
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
        lines = [line for line in text.splitlines() if line.startswith(("model name", "flags", "Features", "CPU"))]
    return "\n".join([platform.system(), platform.machine(), platform.processor(), *lines])


def _quiet() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options
