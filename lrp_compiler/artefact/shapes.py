"""Names for symbolic dims: `batch`, `sequence`, `height`, `width`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.base.errors import FormatError
from lrp_compiler.base.sizes import size_of
from lrp_compiler.base.specs import TensorSpec
from lrp_compiler.base.validate import dtype_name
from lrp_compiler.torch_private import expression, renamed


@dataclass(frozen=True)
class Specs:
    """Specs of several tensors, and the name given to every symbolic size among them."""

    tensors: list[TensorSpec]
    symbols: dict[Any, str]


def tensor_specs(nodes: Sequence[Any], names: Sequence[str], symbols: dict[Any, str] | None = None) -> Specs:
    """Describe the nodes' values.

    Args:
        nodes: graph nodes that hold tensors (anything else among them is left out).
        names: their public names.
        symbols: names of symbolic sizes that are known already; an unknown size gets a name by its place.
    """
    known = dict(symbols or {})
    tensors = []
    for node, name in zip(nodes, names, strict=True):
        value = node.meta.get("val") if isinstance(node, fx.Node) else None
        if isinstance(value, Tensor):
            shape = tuple(_dim(size, dim, value, name, known) for dim, size in enumerate(value.shape))
            tensors.append(TensorSpec(name, shape, dtype_name(value)))
    return Specs(tensors, known)


def in_names(size: Any, symbols: Mapping[Any, str]) -> str | None:
    """A size as an expression of the names of open sizes, `2*batch`; `None` where it does not follow from them."""
    if not isinstance(size, torch.SymInt):
        return None
    whole = expression(size)
    names = {symbol: symbols[symbol] for symbol in whole.free_symbols if symbol in symbols}
    text = str(renamed(whole, names))
    example = {name: at for at, name in enumerate(names.values(), 5)}
    try:
        fits = size_of(text, example) == whole.subs({symbol: example[name] for symbol, name in names.items()})
    except FormatError:
        return None
    return text if fits else None


def _dim(size: int | torch.SymInt, dim: int, value: Tensor, name: str, known: dict[Any, str]) -> int | str:
    if isinstance(size, int):
        return size
    known_as = expression(size)
    if known_as.is_Integer:
        return int(known_as)
    if known_as not in known:
        follows = known and not known_as.is_Symbol
        label = in_names(size, known) or str(known_as) if follows else _label(dim, value, name)
        known[known_as] = label if label not in known.values() else f"{name}_{label}"
    return known[known_as]


def _label(dim: int, value: Tensor, name: str) -> str:
    if dim == 0:
        return "batch"
    if dim == 1 and not value.is_floating_point():
        return "sequence"
    if value.dim() == 4 and dim in (2, 3):
        return ("height", "width")[dim - 2]
    return f"{name}_dim_{dim}"
