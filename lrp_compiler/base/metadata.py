"""What an explainer's file says about itself: JSON under one key of the ONNX model's metadata. Torch-free.

The writer and the runtime both take the key and the schema's number from here.
"""

import json
from typing import Any

from .errors import FormatError

METADATA_KEY = "lrp_compiler"
SCHEMA = 1
TOLERANCE = 1e-3
"""What seed − Σ inputs − Σ absorbed may be in float32, as a share of Σ|R|; in float64 it is rounding alone."""

_SECTIONS = {"composite": dict, "inputs": list, "outputs": list, "relevance": list, "versions": dict}
_VALUES = ("target", "seed", "classes")


def read_metadata(text: str | None, label: str) -> dict[str, Any]:
    """Parse the metadata of one file.

    Args:
        text: what stands under `METADATA_KEY`; None if the file has no such key.
        label: how to call the file in a message.

    Returns:
        `schema`, `composite`, `target`, `seed`, `classes`, `inputs`, `outputs`, `relevance`, `versions`; and of this
        release `seed_inputs`, `rules` (with how many nodes each explains), `plan`, `source` (SHA-256 of the captured
        model), `sizes` (the example's, of every open dim), `tolerance`, `weights` and `profile` (of an ONNX file).

    Raises:
        FormatError: no metadata, broken JSON, a part that is missing, or a schema newer than `SCHEMA`.
    """
    if text is None:
        raise FormatError(f"{label} was not written by lrp_compiler: it has no explainer metadata.")
    damaged = f"The explainer metadata of {label} is damaged"
    try:
        metadata = json.loads(text)
    except json.JSONDecodeError as error:
        raise FormatError(f"{damaged}: {error}.") from error
    schema = metadata.get("schema") if isinstance(metadata, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise FormatError(f"{damaged}: it names no schema.")
    if schema > SCHEMA:
        raise FormatError(f"{label} was written by a newer lrp_compiler (schema {schema}; this one reads {SCHEMA}).")
    wrong = [key for key, kind in _SECTIONS.items() if not isinstance(metadata.get(key), kind)]
    wrong += [key for key in _VALUES if key not in metadata]
    if wrong:
        raise FormatError(f"{damaged}: {wrong[0]!r} is missing or of a wrong kind.")
    if not all(isinstance(entry, dict) and "input" in entry for entry in metadata["relevance"]):
        raise FormatError(f"{damaged}: a relevance does not name its input.")
    return metadata
