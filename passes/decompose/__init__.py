"""Every way in which an op is written out in simpler ones."""

from .complex_pairs import pair_complex
from .products import write_out_products
from .scatters import write_out_scatters
from .table import DECOMPOSITIONS, decomposition_table

__all__ = [
    "DECOMPOSITIONS",
    "decomposition_table",
    "pair_complex",
    "write_out_products",
    "write_out_scatters",
]
