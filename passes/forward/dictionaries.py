"""Dictionaries spliced into the forward graph: a value becomes what its features say of it, and what they miss.

    x  →  f = encode(x);  a = decode(f) − decode(0);  r = remainder(x, a);  a + r

The values of the network stay what they are. f, a and r are values like any other, in modules `<path>.features`,
`<path>.approximation` and `<path>.remainder`, where `path` is that of the module which x leaves: relevance of x is that
of a and of r; what goes through a comes back through the features, what goes through r is x's own. Without decode(0), a
constant, all that decode hands on is the features'.

Source: Marks et al., "Sparse feature circuits", arXiv 2403.19647 (features and error terms of sparse autoencoders).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, fx

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.errors import InputError
from lrp_compiler.passes.decompose import decomposition_table
from lrp_compiler.passes.graph import attribute, canonicalise, is_tensor, nearest, same_shape, trace_into, value_calls
from lrp_compiler.rules import REMAINDER
from lrp_compiler.torch_private import hint

STACK = "nn_module_stack"


class Dictionary(Protocol):
    """A sparse autoencoder, or what else reads a value as features and makes something like it of them."""

    def encode(self, x: Tensor, /) -> Tensor:
        """x → features."""

    def decode(self, features: Tensor, /) -> Tensor:
        """Features → something like x."""


def splice_dictionaries(module: fx.GraphModule, splices: Mapping[str, Dictionary]) -> None:
    """Insert each dictionary behind the value that leaves its module; in place.

    Args:
        module: the forward graph, in one spelling.
        splices: path of a module → its dictionary, with methods `encode(x) → features` and `decode(features) → x`.

    Raises:
        InputError: there is no such module, or not exactly one float tensor leaves it; the dictionary fails on it, or
            makes something else of it than a tensor of its shape.
    """
    for path, dictionary in splices.items():
        _splice(module, path, _leaving(module, path), dictionary)
    module.recompile()


def _leaving(module: fx.GraphModule, path: str) -> fx.Node:
    """The one value that leaves the module."""
    calls = {node: list(value_calls(node).items()) for node in module.graph.nodes if node.op == "call_function"}
    inside = {node: {call for call, of in known if of == path} for node, known in calls.items()}
    names = {call for known in inside.values() for call in known}
    if not names:
        near = nearest(path, {of for known in calls.values() for _, of in known if of})
        raise InputError(f"splice names {path!r}, which is no module that computes anything; near it: {near}.")
    leaving: list[fx.Node] = [
        node
        for node, own in inside.items()
        if own and is_tensor(node) and any(user.op == "output" or not inside.get(user) for user in node.users)
    ]
    if len(names) > 1 or len(leaving) != 1 or not leaving[0].meta["val"].is_floating_point():
        raise InputError(f"splice={path!r}: a dictionary belongs where exactly one value of floats leaves, once.")
    return leaving[0]


def _splice(module: fx.GraphModule, path: str, value: fx.Node, dictionary: Dictionary) -> None:
    place, readers = value.next, list(value.users)
    features = _traced(place, value, f"{path}.features", dictionary.encode, [value], path)
    decoded = _traced(
        place, value, f"{path}.approximation", _without_bias(dictionary, features, path), [features], path
    )
    if not same_shape(decoded, value):
        raise InputError(
            f"The dictionary of splice={path!r} makes {list(decoded.meta['val'].shape)} of a value of shape "
            f"{list(value.meta['val'].shape)}."
        )
    if decoded.meta["val"].dtype != value.meta["val"].dtype:
        raise InputError(
            f"The dictionary of splice={path!r} makes {decoded.meta['val'].dtype} of a value of "
            f"{value.meta['val'].dtype}: bring it to this dtype first."
        )
    if not _depends(decoded, value):
        raise InputError(
            f"The dictionary of splice={path!r} makes the same of every value: nothing of it is explained."
        )
    missed = _traced(place, value, f"{path}.remainder", REMAINDER, [value, decoded], path)
    whole = _traced(place, value, "", torch.add, [decoded, missed], path)
    for reader in readers:
        reader.replace_input_with(value, whole)


def _without_bias(dictionary: Dictionary, features: fx.Node, path: str) -> Callable[[Tensor], Tensor]:
    """decode, without what it makes of no features at all: a constant, where it takes features of one place alone."""
    like = features.meta["val"]

    def nothing(sizes: Sequence[int]) -> Tensor:
        with torch.no_grad():
            made: Tensor = dictionary.decode(torch.zeros(sizes, dtype=like.dtype, device=like.device))
        return made.detach().clone()

    with contextlib.suppress(Exception):
        constant = nothing([hint(like.shape[-1])])
        return lambda given: dictionary.decode(given) - constant
    try:  # of maps, say, whose channels come first
        nothing([hint(size) for size in like.shape])
    except Exception as error:
        raise InputError(f"The dictionary of splice={path!r} fails on the value there: {reason_of(error)}.") from error
    return lambda given: dictionary.decode(given) - dictionary.decode(torch.zeros_like(given))


def _depends(node: fx.Node, value: fx.Node) -> bool:
    """Whether a node follows from the value, by more than its shape."""
    reached, waiting = {node}, [node]
    while waiting:
        for one in waiting.pop().all_input_nodes:
            if one is value:
                return True
            if is_tensor(one) and one not in reached:
                reached.add(one)
                waiting.append(one)
    return False


def _traced(
    place: fx.Node, value: fx.Node, name: str, function: Callable[..., Tensor], args: list[fx.Node], path: str
) -> fx.Node:
    """What the function makes of the nodes' values, in a module of this name within that of `value`."""
    last = place.prev

    def checked(*given: Tensor) -> Tensor:
        result = function(*given)
        if not isinstance(result, Tensor) or not result.is_floating_point():
            kind = f"a tensor of {result.dtype}" if isinstance(result, Tensor) else type(result).__name__
            raise InputError(f"The dictionary of splice={path!r} returns {kind}, no tensor of floats.")
        return result

    try:
        made = trace_into(place, checked, args, table=dict(decomposition_table()), tidy=canonicalise, like=value)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"The dictionary of splice={path!r} fails on the value there: {reason_of(error)}.") from error
    if made in args:
        raise InputError(f"The dictionary of splice={path!r} hands back what it is given: there is nothing to explain.")
    node = last.next
    while node is not place:
        following = node.next
        if node.op == "get_attr":
            _merge(node)
        elif name:
            node.meta[STACK] = {**(value.meta.get(STACK) or {}), name: (name, name.rpartition(".")[2])}
        node = following
    return made


def _merge(constant: fx.Node) -> None:
    """A tensor that an earlier node reads already has one node, as weights of the model have."""
    owner = constant.graph.owning_module
    assert isinstance(owner, fx.GraphModule)
    tensor = attribute(owner, str(constant.target))
    for other in constant.graph.find_nodes(op="get_attr"):
        if other is constant:
            return
        same = attribute(owner, str(other.target))
        if _place(same) == _place(tensor):
            constant.replace_all_uses_with(other)
            constant.graph.erase_node(constant)
            return


def _place(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
