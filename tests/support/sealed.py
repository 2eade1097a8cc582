"""Files that a test has changed, sealed again as if they had been written so."""

import zipfile
from pathlib import Path

import onnx

from lrp_compiler.base.seal import SEAL_KEY, Seal, file_digest, seal


def save_sealed(model: onnx.ModelProto, path: Path) -> Path:
    """Write a model under a new seal; weights beside it are those that it has loaded."""
    kept = [entry for entry in model.metadata_props if entry.key != SEAL_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, path)
    names = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    seal(path, Seal({name: file_digest(path.with_name(name)) for name in sorted(names)}))
    return path


def reseal_zip(path: Path) -> Path:
    """Give a zip, which may have a comment, a new seal."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b""
    seal(path)
    return path
