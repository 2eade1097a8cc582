"""An explainer's ONNX file opened: as it is, or as what onnxruntime made of it before. Torch-free."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import onnxruntime

from .boundary import reason_of
from .errors import FormatError, LrpWarning
from .onnx_session import format_errors, open_session
from .optimised import open_and_keep, open_kept, place_of
from .seal import check_seal


def opened(
    path_or_bytes: str | os.PathLike[str] | bytes,
    label: str,
    providers: Sequence[Any] | None,
    session_options: onnxruntime.SessionOptions | None,
    *,
    check: bool,
    optimised: bool | str | os.PathLike[str],
) -> tuple[onnxruntime.InferenceSession, bool]:
    """A session on the file, and whether somebody vouches for it: its seal, a kept copy, or a caller who needs none.

    Args:
        path_or_bytes: the file, or its content.
        label: how to call it in a message.
        providers: onnxruntime's execution providers.
        session_options: onnxruntime's options.
        check: whether the content is compared with its seal.
        optimised: whether what onnxruntime makes of the file is kept, and where.

    Raises:
        FormatError: it is no such file, or damaged.
    """
    place = session = None
    if optimised and not isinstance(path_or_bytes, bytes):
        place = place_of(path_or_bytes, f"{label}.optimised" if optimised is True else optimised, label)
        session = open_kept(place, label, check)
    vouched = session is not None or not check or check_seal(path_or_bytes, label) is not None
    if place is not None and session is None and not check:
        try:  # what is kept is opened with check=True as well
            check_seal(path_or_bytes, label)
        except FormatError:
            place = None
    with format_errors(label):
        if session is None and place is not None and not isinstance(path_or_bytes, bytes):
            try:
                session = open_and_keep(path_or_bytes, place, label)
            except OSError as error:
                said = f"Nothing is kept of {label} in {place.parent}: {reason_of(error)}."
                warnings.warn(said, LrpWarning, stacklevel=4)  # as if the line that opens the explainer did
        return session or open_session(path_or_bytes, label, providers, session_options), vouched
