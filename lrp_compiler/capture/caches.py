"""Keys and values for a next call, which models return of themselves: an explanation is of one call alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lrp_compiler.torch_private import pytree

from .kinds import parameters_of

CACHE = "use_cache"
"""An argument, or an entry of the configuration, by which models return keys and values."""


@contextmanager
def without_cache(
    model: torch.nn.Module, kwargs: dict[str, Any], dynamic_shapes: Any
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield keyword arguments and shapes with which the model returns no cache; it is as it was when the block ends.

    It is switched off by the model's argument, or else by its configuration; what still comes out (prefix tuning hands
    one in from inside) is left out of the outputs. Who asks for a cache keeps it.
    """
    if CACHE in kwargs:
        yield kwargs, dynamic_shapes
        return
    if CACHE in parameters_of(model):
        kwargs = {**kwargs, CACHE: False}
        if isinstance(dynamic_shapes, dict):
            dynamic_shapes = {**dynamic_shapes, CACHE: None}
        elif isinstance(dynamic_shapes, list | tuple):
            dynamic_shapes = (*dynamic_shapes, None)
    configurations = {id(found): found for found in _configurations(model) if getattr(found, CACHE, None) is True}
    hook = model.register_forward_hook(_left_out)
    try:
        for configuration in configurations.values():
            setattr(configuration, CACHE, False)
        yield kwargs, dynamic_shapes
    finally:
        hook.remove()
        for configuration in configurations.values():
            setattr(configuration, CACHE, True)


def _configurations(model: torch.nn.Module) -> Iterator[Any]:
    for module in model.modules():
        configuration = getattr(module, "config", None)
        if configuration is not None and not isinstance(configuration, dict | torch.nn.Module):
            yield configuration
            yield from (part for part in vars(configuration).values() if hasattr(part, CACHE))


def _is_cache(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) and (
        hasattr(value, "get_seq_length") or type(value).__name__.endswith("Cache")
    )


def _left_out(module: torch.nn.Module, args: Any, output: Any) -> Any:
    return pytree.tree_map(lambda leaf: None if _is_cache(leaf) else leaf, output, is_leaf=_is_cache)
