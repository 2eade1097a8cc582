"""Every way in which an op is written out in simpler ones."""

from .complex_pairs import pair_complex
from .products import write_out_products
<<<<<<< HEAD
from .program import written_out
=======
from .quantised import write_out_quantised
>>>>>>> 19d172d (Quantisers are written out as roundings, to the bit; tests of straight-through estimators)
from .scatters import write_out_scatters
from .table import DECOMPOSITIONS

__all__ = [
    "DECOMPOSITIONS",
    "pair_complex",
    "write_out_products",
    "write_out_quantised",
    "write_out_scatters",
    "written_out",
]
