"""The walk that emits relevance, what it starts from, and several targets at once."""

from .aggregate import maps_of
from .emit import Question, emit_relevance
from .latents import Latent, Mask, Put, feature_dim, gates_of, latents_of, put_on
from .loops import know_inside, open_loops
from .seed import Seed, SeedMode, seed_relevance
from .walk import MASKED, Listeners, propagate_relevance, wide

__all__ = [
    "MASKED",
    "Latent",
    "Listeners",
    "Mask",
    "Put",
    "Question",
    "Seed",
    "SeedMode",
    "emit_relevance",
    "feature_dim",
    "gates_of",
    "know_inside",
    "latents_of",
    "maps_of",
    "open_loops",
    "propagate_relevance",
    "put_on",
    "seed_relevance",
    "wide",
]
