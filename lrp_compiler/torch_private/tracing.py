"""What is traced into a graph, and what the graph's nodes remember of it."""

from __future__ import annotations

import linecache
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_impls import fast_detach
from torch.fx import traceback
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot, track_tensor

UNKNOWN_MODULE = "_empty_nn_module_stack_from_metadata_hook"
"""The path that torch.export writes where it lost the module."""


def module_stack(node: fx.Node) -> list[tuple[str, str, str]]:
    """The module calls that a node was traced in, the outermost first: name of the call, path and class of the module.

    torch's own key says which call it is (`@1`: the second), and the module by its path or, after a strict export, by a
    number. The class is a string with its package, of what is traced into a graph the class itself. Waits for a
    documented form.
    """
    stack = node.meta.get("nn_module_stack") or {}
    return [
        (
            "".join((str(path), *str(key).partition("@")[1:])),
            str(path),
            getattr(kind, "__name__", str(kind)).rpartition(".")[2],
        )
        for key, (path, kind) in stack.items()
    ]


def annotate(note: Mapping[str, Any]) -> AbstractContextManager[None]:
    """What is traced in this block carries the note in `meta["custom"]`. Experimental in torch.fx.traceback."""
    return traceback.annotate(dict(note))


def notes_are_kept() -> AbstractContextManager[None]:
    """Tracing in this block keeps what `annotate` says."""
    return traceback.preserve_node_meta()


def notes_here() -> dict[str, Any]:
    """What `annotate` has nodes carry that are traced here, as `node.meta` has it."""
    custom = traceback.get_current_meta().get("custom")
    return {"custom": dict(custom)} if custom else {}


def python_dispatcher() -> AbstractContextManager[None]:
    """Behind `torch.func.vmap` only torch's Python decompositions keep symbolic sizes."""
    return enable_python_dispatcher()


def node_that_makes(tensor: Tensor) -> fx.Node | None:
    """While it is traced: the node of the graph that makes this tensor, batched by vmap or not."""
    mode = get_proxy_mode()
    while torch._C._functorch.is_batchedtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    slot: Any = None if mode is None else get_proxy_slot(tensor, mode.tracer, None)
    return None if slot is None else slot.proxy.node


def is_traced() -> bool:
    """Whether what is done now is traced into a graph."""
    return get_proxy_mode() is not None


def traced_again(node: fx.Node) -> Tensor:
    """While it is traced: a fresh symbolic tensor that this node makes, from what is known of its value."""
    mode: Any = get_proxy_mode()
    value = node.meta["val"]
    tensor: Tensor = fast_detach(value.fake_mode, value)
    track_tensor(tensor, fx.Proxy(node, mode.tracer), constant=None, tracer=mode.tracer)
    return tensor


@contextmanager
def sources_forgotten() -> Iterator[None]:
    """What is generated in the block keeps no copy of its source, by which torch lets tracebacks show generated lines.

    torch keeps one of every graph that is compiled anew, in every pass, for ever: megabytes for a large model. Waits
    for a cache in torch.fx that forgets.
    """
    cache = torch.fx.graph_module._loader.eval_cache
    before = set(cache)
    try:
        yield
    finally:
        for key in set(cache) - before:
            cache.pop(key, None)
            linecache.cache.pop(key, None)


def take_name(node: fx.Node, erased: fx.Node) -> None:
    """Give a node the name of one that it replaced, which torch keeps for ever. Waits for a public `Node.rename`."""
    node.graph._graph_namespace._used_names.discard(erased.name)
    node._rename(erased.name)
