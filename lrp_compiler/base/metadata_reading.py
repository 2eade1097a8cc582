"""The metadata of a file read: nothing of it is believed before it is looked at. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .errors import FormatError
from .metadata import SCHEMA, Metadata

_SECTIONS: dict[str, type] = {"composite": dict, "inputs": list, "outputs": list, "relevance": list, "versions": dict}
_OPTIONAL: dict[str, type | tuple[type, ...]] = {
    "seed_inputs": list,
    "latents": list,
    "spliced": list,
    "others": list,
    "explains": dict,
    "arguments": list,
    "constants": dict,
    "explained": int,
    "scale": str,
    "kind": str,
    "fixed": list,
    "plan": dict,
    "optimise": bool,
    "output_structure": str,
    "source": str,
    "rules": list,
    "sizes": dict,
    "ranges": dict,
    "reduce": list,
    "aggregate": list,
    "rows": dict,
    "tolerance": (int, float),
    "weights": str,
    "profile": str,
}
_VALUES = ("target", "seed", "classes")
_COUNT = range(1, 1 << 48)
"""What a size or a number of classes may be."""
_FITS: dict[str, Callable[[Any], bool]] = {
    "classes": lambda given: given is None or _is_count(given),
    "rules": lambda given: all(isinstance(entry, dict) and isinstance(entry.get("rule"), str) for entry in given),
    "sizes": lambda given: all(map(_is_count, given.values())),
    "rows": lambda given: all(map(_is_count, given.values())),
    "arguments": lambda given: all(isinstance(name, str) for name in given),
    "reduce": lambda given: all(isinstance(name, str) for name in given),
    "aggregate": lambda given: all(isinstance(name, str) for name in given),
    "explains": lambda given: (
        (given.get("count") is None or _is_count(given["count"]))
        and (given.get("classes") is None or isinstance(given["classes"], str) or _are_classes(given["classes"]))
    ),
    "tolerance": lambda given: 0 < given < 1,
}
"""What must hold besides, of those that are not None."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in _COUNT


def _is_class(value: Any) -> bool:
    """One of several: a number, or `{"pair": [a, b]}`."""
    pair = value.get("pair") if isinstance(value, dict) else [value]
    return isinstance(pair, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in pair)


def _are_classes(value: Any) -> bool:
    return all(map(_is_class, value if isinstance(value, list) else [value]))


def _numbers(picks: Any) -> list[int]:
    """All class numbers in what is picked."""
    parts = picks if isinstance(picks, list) else picks.values() if isinstance(picks, dict) else ()
    return [picks] if isinstance(picks, int) else [number for part in parts for number in _numbers(part)]


def read_metadata(text: str | None, label: str) -> Metadata:
    """Parse the metadata of one file.

    Args:
        text: what stands under `METADATA_KEY`; None if the file has no such key.
        label: how to call the file in a message.

    Raises:
        FormatError: no metadata, broken JSON, a part that is missing, or a schema newer than `SCHEMA`.
    """
    if text is None:
        raise FormatError(f"{label} was not written by lrp_compiler: it has no explainer metadata.")
    damaged = f"The explainer metadata of {label} is damaged"
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"{damaged}: {error}.") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise FormatError(f"{damaged}: it names no schema.")
    if schema > SCHEMA:
        raise FormatError(f"{label} was written by a newer lrp_compiler (schema {schema}; this one reads {SCHEMA}).")
    wrong = [key for key, kind in _SECTIONS.items() if not isinstance(data.get(key), kind)]
    wrong += [key for key in _VALUES if key not in data]
    wrong += [key for key, kind in _OPTIONAL.items() if data.get(key) is not None and not isinstance(data[key], kind)]
    wrong = wrong or [key for key, fits in _FITS.items() if data.get(key) is not None and not fits(data[key])]
    if wrong:
        raise FormatError(f"{damaged}: {wrong[0]!r} is missing or of a wrong kind.")
    found = Metadata.from_dict({key: value for key, value in data.items() if value is not None or key in _VALUES})
    if not {latent.name for latent in found.latents} <= {spec.name for spec in found.seed_inputs}:
        raise FormatError(f"{damaged}: 'latents' is missing or of a wrong kind.")
    if found.classes is not None and any(not -found.classes <= one < found.classes for one in _numbers(found.picks)):
        raise FormatError(f"{damaged}: it explains a class that the model does not have.")
    classes = found.explains.get("classes")
    # Several targets come first in each relevance.
    if isinstance(classes, list) and any(entry.tensor.shape[:1] != (len(classes),) for entry in found.relevance):
        raise FormatError(f"{damaged}: 'explains' is missing or of a wrong kind.")
    return found
