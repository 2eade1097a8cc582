"""The walk that emits relevance, what it starts from, and several targets at once."""

from .emit import emit_relevance
from .seed import Seed, SeedMode, seed_relevance
from .walk import propagate_relevance, wide

__all__ = [
    "Seed",
    "SeedMode",
    "emit_relevance",
    "propagate_relevance",
    "seed_relevance",
    "wide",
]
