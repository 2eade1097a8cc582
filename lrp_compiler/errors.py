"""The errors that lrp_compiler raises, for `except` clauses, and its warning; torch-free. From `base/errors.py`."""

from lrp_compiler.base.errors import (
    CaptureError,
    CompositeError,
    FormatError,
    InputError,
    InstallError,
    InternalError,
    LrpError,
    LrpWarning,
    UnsupportedNode,
    UnsupportedOpError,
)

__all__ = [
    "CaptureError",
    "CompositeError",
    "FormatError",
    "InputError",
    "InstallError",
    "InternalError",
    "LrpError",
    "LrpWarning",
    "UnsupportedNode",
    "UnsupportedOpError",
]
