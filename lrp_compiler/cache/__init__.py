"""The compile cache: graphs of a model of the same structure are taken again, with the weights of today."""

from .entries import FOLDER, Cache, Entry, cache_of

__all__ = ["FOLDER", "Cache", "Entry", "cache_of"]
