"""What any pass may use: nodes, their assignment and origin, a graph's notes, text and clean-up, tracing into it."""

from .assignment import Assignment, assign, assignment
from .canonicalise import CHECKS, RESHAPES, canonicalise
from .dominators import Dominators
from .inline import inline, trace_into, write_out
from .notes import REBUILT, WAIT, note_of, write_notes
from .origin import SEEDED, Origin, is_named, origin, set_origin, share_origin
from .precision import Float64
from .result import Result
from .scan import Scan, everywhere, from_torch, in_bodies, result_number, scan_of, scans, to_torch, without_unread
from .simplify import simplify
from .sizes import Sizes
from .text import graph_text, operation_text, type_text
from .tools import (
    LEAVES,
    add_constant,
    add_placeholder,
    arguments,
    attribute,
    call,
    call_like,
    called,
    constant_of,
    copy_node,
    inside,
    is_between,
    is_tensor,
    keep_tensor,
    module_calls,
    module_path,
    module_types,
    nearest,
    outputs,
    same_shape,
    source_line,
    takes_up,
    value_calls,
)
from .twins import TWIN, twins_of

__all__ = [
    "without_unread",
    "to_torch",
    "scans",
    "scan_of",
    "result_number",
    "in_bodies",
    "from_torch",
    "everywhere",
    "Scan",
    "CHECKS",
    "LEAVES",
    "REBUILT",
    "RESHAPES",
    "SEEDED",
    "TWIN",
    "WAIT",
    "Assignment",
    "Dominators",
    "Float64",
    "Origin",
    "Result",
    "Sizes",
    "add_constant",
    "add_placeholder",
    "arguments",
    "assign",
    "assignment",
    "attribute",
    "call",
    "call_like",
    "called",
    "canonicalise",
    "constant_of",
    "copy_node",
    "graph_text",
    "inline",
    "inside",
    "is_between",
    "is_named",
    "is_tensor",
    "keep_tensor",
    "module_calls",
    "module_path",
    "module_types",
    "nearest",
    "note_of",
    "operation_text",
    "origin",
    "outputs",
    "same_shape",
    "set_origin",
    "share_origin",
    "simplify",
    "source_line",
    "takes_up",
    "trace_into",
    "twins_of",
    "type_text",
    "value_calls",
    "write_notes",
    "write_out",
]
