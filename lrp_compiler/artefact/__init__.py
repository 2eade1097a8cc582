"""What was compiled, what is said about it, a call of it, and its own file."""

from .artefact import Artefact
from .calling import of_array
from .describe import artefact_of
from .observing import observed
from .provenance import source_hash
from .shapes import tensor_specs
from .storage import read_explainer, write_explainer

__all__ = [
    "Artefact",
    "artefact_of",
    "observed",
    "of_array",
    "read_explainer",
    "source_hash",
    "tensor_specs",
    "write_explainer",
]
