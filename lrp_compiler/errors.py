"""The errors that lrp_compiler raises, for `except` clauses; torch-free. They live in `base/errors.py`."""

from lrp_compiler.base.errors import (
    CaptureError,
    CompositeError,
    FormatError,
    InputError,
    LrpError,
    UnsupportedNode,
    UnsupportedOpError,
)

__all__ = [
    "CaptureError",
    "CompositeError",
    "FormatError",
    "InputError",
    "LrpError",
    "UnsupportedNode",
    "UnsupportedOpError",
]
