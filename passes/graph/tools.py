"""Small helpers that every pass may use."""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from keyword import iskeyword
from typing import Any, TypeGuard

import torch
from torch import fx

from lrp_compiler.base.frames import innermost
from lrp_compiler.rules import traits
from lrp_compiler.torch_private import UNKNOWN_MODULE, fake_tensor, module_stack, statically_known_true, unguarded

from .origin import share_origin

aten = torch.ops.aten


def is_tensor(node: object) -> TypeGuard[fx.Node]:
    """Whether the argument is a node whose value is a tensor."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)


def same_shape(a: fx.Node, b: fx.Node) -> bool:
    """Whether two tensors have one shape, for every size that is open; plain `==` would fix an open size.

    Of what is no tensor, as an operation's several results, nothing has the shape.
    """
    if not (is_tensor(a) and is_tensor(b)):
        return False
    sizes, others = a.meta["val"].shape, b.meta["val"].shape
    return len(sizes) == len(others) and all(statically_known_true(m == n) for m, n in zip(sizes, others, strict=True))


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """Positional arguments of a node, loosely typed."""
    return node.args


def inverts(node: fx.Node) -> bool:
    """Whether it gives a number or a weight over what it reads, or a negative power of that."""
    if traits(node.target).inverts:
        return True
    if node.target is aten.pow.Tensor_Scalar:
        return float(arguments(node)[1]) < 0
    above, below = (*node.args, None, None)[:2]
    return node.target is aten.div.Tensor and not _varies(above) and _varies(below)


def _varies(value: object) -> bool:
    """Whether the value is computed from an input, not a number or a weight."""
    return isinstance(value, fx.Node) and value.op == "call_function"


def outputs(module: fx.GraphModule) -> list[Any]:
    """What the graph returns: a flat list of nodes and plain values."""
    flat: Any = module.graph.output_node().args[0]
    return list(flat)


def module_path(node: fx.Node) -> str:
    """Path of the module that the node was traced in, "" for the model itself."""
    path = ([""] + [path for _, path, _ in module_stack(node)])[-1]
    return "" if path == UNKNOWN_MODULE else path


def module_calls(node: fx.Node) -> dict[str, str]:
    """The module calls that the node was traced in, the outermost first: `b` (the second time `b@1`) → path `b`."""
    return {key: path for key, path, _ in module_stack(node)}


LEAVES = "leaves"
"""`node.meta` key: calls of modules, as in `module_calls`, whose value the node makes, wherever it was traced."""


def value_calls(node: fx.Node) -> dict[str, str]:
    """The module calls that the node's value is made in: those it was traced in, and those of what it has taken up."""
    taken_up: dict[str, str] = node.meta.get(LEAVES, {})
    return module_calls(node) | taken_up


def takes_up(node: fx.Node, end: fx.Node) -> None:
    """The node does what `end` did, too, and makes its value: a batch norm that is folded, a bias of its own module."""
    node.meta[LEAVES] = {**value_calls(node), **value_calls(end)}


def is_between(node: fx.Node, end: fx.Node, paths: Collection[str]) -> bool:
    """Whether the node's value leaves one of these modules, and `end`, which reads it, is outside."""
    return not (set(value_calls(node).values()) - set(value_calls(end).values())).isdisjoint(paths)


def module_types(node: fx.Node) -> tuple[str, ...]:
    """Class names of the modules that the node was traced in, the outermost first."""
    return tuple(kind for _, _, kind in module_stack(node))


def inside(path: str, pattern: str) -> bool:
    """Whether the module at `path` is one that the pattern names, or lies inside such a one.

    `*` stands for anything between two dots, `**` for anything.
    """
    return re.match(rf"{_expression(pattern)}(\.|$)", path) is not None


def called(path: str, pattern: str) -> bool:
    """Whether `path` is what the pattern names: `*` and `**` as in `inside`, but not what lies within."""
    return re.fullmatch(_expression(pattern), path) is not None


def _expression(pattern: str) -> str:
    return ".*".join(re.escape(part).replace(r"\*", "[^.]*") for part in pattern.split("**"))


def is_asked_for(node: fx.Node, patterns: Collection[str]) -> bool:
    """Whether a pattern names the node, or a module whose value it makes."""
    calls = value_calls(node)
    leaves = {name: path for name, path in calls.items() if any(name not in value_calls(user) for user in node.users)}
    names = {node.name, *leaves, *leaves.values()}
    return any(called(name, pattern) for name in names for pattern in patterns)


def nearest(name: str, choices: Iterable[str], count: int = 3) -> str:
    """The choices that are written most like `name`, for a message."""
    known = sorted({choice for choice in choices if choice})
    return ", ".join(get_close_matches(name, known, count, 0.3) or known[:count])


def source_line(node: fx.Node) -> str:
    """`file:line: code` of the innermost frame that the node was traced from, "" where it is not known."""
    found = innermost(node.meta.get("stack_trace"))
    return "" if found is None else str(found)


PROVENANCE = ("nn_module_stack", "stack_trace")
"""Keys of `meta` under which torch writes of which module and line a node is."""


def provenance(node: fx.Node) -> dict[str, object]:
    """Of which module and line the node is, as another node's `meta` takes it."""
    return {key: node.meta[key] for key in PROVENANCE if key in node.meta}


def call(graph: fx.Graph, target: Any, *args: Any, like: fx.Node | None = None, **kwargs: Any) -> fx.Node:
    """Insert a call at the graph's insertion point, with `meta["val"]` worked out and provenance taken from `like`."""
    node = graph.call_function(target, args, kwargs)
    if like is not None:
        node.meta.update(provenance(like))
    values: Any = fx.map_arg((args, kwargs), lambda item: item.meta["val"])
    with unguarded(*node.all_input_nodes):
        node.meta["val"] = target(*values[0], **values[1])
    return node


def call_like(graph: fx.Graph, like: fx.Node, target: object, *args: object, **kwargs: object) -> fx.Node:
    """A call at the graph's insertion point that is made for the same purpose as `like`."""
    node = call(graph, target, *args, like=like, **kwargs)
    share_origin(node, like)
    return node


def add_placeholder(graph: fx.Graph, name: str) -> fx.Node:
    """Insert an input at the graph's insertion point, under a name that nothing else in the graph bears.

    What the generated code calls its argument is the node's name: fx keeps only those apart from each other, from
    Python's words and from the attributes that the code reads.
    """
    node = graph.placeholder(re.sub(r"\W", "_", name))
    node.target = node.name
    return node


def copy_node(graph: fx.Graph, node: fx.Node, copies: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """Copy a node of another graph to the insertion point; inputs stay under a name of their own (`add_placeholder`).

    Args:
        graph: that gets the copy.
        node: of the other graph.
        copies: node of the other graph → its copy, of every operand.
    """
    copy = graph.node_copy(node, copies.__getitem__)
    if copy.op == "placeholder":
        copy.target = copy.name
    return copy


def keep_tensor(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> str:
    """Register a tensor under a flat name of its own (`layer.1.weight` is not `layer_1.weight`), and return that."""
    flat = re.sub(r"\W", "_", name) + "_" * iskeyword(name)
    unique, number = flat, 0
    while hasattr(module, unique):
        number += 1
        unique = f"{flat}_{number}"
    module.register_buffer(unique, tensor)
    return unique


def add_constant(module: fx.GraphModule, name: str, tensor: torch.Tensor, fake_like: torch.Tensor) -> fx.Node:
    """Register a tensor on the module and insert the `get_attr` that reads it; `fake_like` lends its fake mode."""
    node = module.graph.get_attr(keep_tensor(module, name, tensor))
    node.meta["val"] = fake_tensor(tensor, fake_like)
    return node


def attribute(module: torch.nn.Module, path: str) -> Any:
    """The attribute at a dotted path."""
    return operator.attrgetter(path)(module)


def constant_of(module: fx.GraphModule, node: object) -> torch.Tensor | None:
    """The tensor that a `get_attr` node reads, else `None`."""
    if isinstance(node, fx.Node) and node.op == "get_attr":
        value = attribute(module, str(node.target))
        return value if isinstance(value, torch.Tensor) else None
    return None


def is_searched_for_nan(node: fx.Node) -> bool:
    """Whether a value, or the same elsewhere, is asked for what is missing in it: its own NaN get no relevance then."""
    waiting, seen = [node], {node}
    while waiting:
        for user in waiting.pop().users:
            if user.target is torch.ops.aten.isnan.default:
                return True
            known = traits(user.target)
            if user.op == "call_function" and (known.free or known.copies) and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False
