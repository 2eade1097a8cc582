"""torch's private corners, all in one room: what each is for here, and the public way that it waits for.

Everything else in the project keeps to torch's documented interfaces. When a release of torch moves something, this is
the room to look at; `make test-torch` tries others.
"""

from __future__ import annotations

from torch._ops import OpOverload
from torch.export.pt2_archive import PT2ArchiveReader
from torch.export.pt2_archive import constants as archive_layout
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing as untraced
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.passes.dialect.common.cse_pass import CSEPass
from torch.fx.passes.infra.pass_base import PassResult
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._python_dispatch import _disable_current_modes as without_modes
from torch.utils._sympy.value_ranges import ValueRanges

from .archives import compile_package, load_package, mapped_weights, record_size
from .ops import core_decompositions, decompositions_of, is_backward, op_name, schema, takes_a_path
from .programs import changed, data_dependent_lines, hold_what_is_in, stand_ins, without_stand_ins
from .replaced import (
    composites_noted_quickly,
    numbers_in_double,
    pools_stay_open,
    promotion_where_dtypes_mix,
    remembered_annotations,
    sequences_stay_open,
    translations_read_once,
)
from .sizes import (
    SYMBOLIC,
    bound,
    counts_in,
    expression,
    fake_mode_of,
    fake_tensor,
    hint,
    known_size,
    largest,
    range_of,
    renamed,
    unguarded,
)
from .tracing import (
    UNKNOWN_MODULE,
    annotate,
    is_traced,
    module_stack,
    node_that_makes,
    notes_are_kept,
    notes_here,
    python_dispatcher,
    sources_forgotten,
    take_name,
    traced_again,
)

__all__ = [
    "SYMBOLIC",
    "UNKNOWN_MODULE",
    "CSEPass",  # merging what is calculated twice; waits for a pass in torch.export
    "OpOverload",  # the type of `torch.ops.aten.add.Tensor`; waits for a public name
    "PT2ArchiveReader",  # what is in a .pt2 before anything of it is run; waits for a safe torch.export.load
    "PassResult",  # what torch's own passes return; documented, in an experimental module
    "TorchDispatchMode",  # who sees every call of an op; documented, in a private module
    "ValueRanges",  # what an ExportedProgram knows of its sizes; waits for a public constructor
    "annotate",
    "archive_layout",
    "bound",
    "changed",
    "compile_package",
    "composites_noted_quickly",
    "core_decompositions",
    "counts_in",
    "data_dependent_lines",
    "decompositions_of",
    "expression",
    "fake_mode_of",
    "fake_tensor",
    "hint",
    "hold_what_is_in",
    "is_backward",
    "is_traced",
    "known_size",
    "largest",
    "load_package",
    "make_fx",  # tracing of functions into graphs; torch.export traces modules alone
    "mapped_weights",
    "module_stack",
    "node_that_makes",
    "notes_are_kept",
    "notes_here",
    "numbers_in_double",
    "op_name",
    "pools_stay_open",
    "promotion_where_dtypes_mix",
    "python_dispatcher",
    "pytree",  # nested inputs and outputs; waits for torch.utils.pytree
    "range_of",
    "record_size",
    "remembered_annotations",
    "renamed",
    "schema",
    "sequences_stay_open",
    "sources_forgotten",
    "stand_ins",
    "statically_known_true",  # what is known of sizes without fixing them; waits for torch.sym_* of the kind
    "take_name",
    "takes_a_path",
    "traced_again",
    "translations_read_once",
    "unguarded",
    "untraced",  # looking at symbolic values while something else is traced; waits for a public name
    "without_modes",  # looking at a tensor itself while something else is traced; waits for a public name
    "without_stand_ins",
]
