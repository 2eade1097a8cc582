"""Every way in which an op is written out in simpler ones."""

from .algebra import work_out_algebra
from .complex_pairs import pair_complex
from .products import write_out_products
from .program import written_out
from .quantised import write_out_quantised
from .scatters import write_out_scatters
from .sparse import make_dense
from .statistics import write_out_layer_norms
from .table import DECOMPOSITIONS, decomposition_table

__all__ = [
    "DECOMPOSITIONS",
    "decomposition_table",
    "make_dense",
    "pair_complex",
    "work_out_algebra",
    "write_out_layer_norms",
    "write_out_products",
    "write_out_quantised",
    "write_out_scatters",
    "written_out",
]
