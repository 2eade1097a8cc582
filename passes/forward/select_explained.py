"""The explained value, added to the forward graph: `[batch, classes]`.

    logits [batch, sequence, classes]                →    select(logits, 1, −1)
    map [batch, classes, height, width], "sum"       →    sum(map, [2, 3])
    a user's function of the outputs                 →    its own graph, ending in [batch, 1]

so that relevance finds its way back through ordinary rules. Each selection is a plain function that is traced into the
graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.errors import InputError
from lrp_compiler.passes.decompose import DECOMPOSITIONS
from lrp_compiler.passes.graph import add_placeholder, call, canonicalise, is_tensor, outputs, trace_into
from lrp_compiler.torch_private import fake_mode_of

from .probabilities import kind_of, logits_behind
from .target import Step, Target

aten = torch.ops.aten

EXPLAINED = "lrp_explained"
"""`node.meta` flag of the explained value."""
OUTPUT = "lrp_output"
"""`node.meta` of the explained value: what the model returns of it, "probability" or "log-probability"; "": itself."""
KIND = "lrp_kind"
"""Likewise: what it is itself, where a probability is asked for."""
POSITION = "position"
"""Name of the run-time input that says where in the sequence."""
MASK = "attention_mask"
"""The input that says which positions of a sequence are padding: its name, or the end of it."""


def select_explained(module: fx.GraphModule, output: int, name: str, target: Target) -> fx.Node:
    """Insert the explained value, `[batch, classes]`, and return its node.

    Args:
        module: the forward graph; a run-time position becomes a placeholder of it.
        output: number of the explained tensor among the graph's flat outputs.
        name: that output's name, for messages.
        target: which position is meant.

    Raises:
        InputError: the output has no batch dim, or the position does not fit it.
    """
    node: fx.Node = outputs(module)[output]
    kind = kind_of(module, node) if target.probability else ""
    node, made_of_it = (node, "") if target.probability else logits_behind(module, node)
    shape = node.meta["val"].shape
    if len(shape) <= 2:
        if target.position is not None:
            raise InputError(f"Output {name!r} has shape {list(shape)}: there is no position to choose.")
        reshape = _row if len(shape) < 2 else _same
        explained = node if len(shape) == 2 and not made_of_it else splice(module, reshape, [node])
    else:
        explained = _at_position(module, node, name, target)
    explained.meta[EXPLAINED] = True
    explained.meta[OUTPUT] = made_of_it
    explained.meta[KIND] = kind
    return explained


def _row(z: Tensor) -> Tensor:
    """`[batch]` as `[batch, 1]`; a single number, a loss say, as the one row that it is: `[1, 1]`."""
    return z.unsqueeze(-1) if z.dim() else z.reshape(1, 1)


def select_by_function(
    module: fx.GraphModule, function: Callable[[Any], Tensor], structured: Callable[[Sequence[Tensor]], object]
) -> fx.Node:
    """Insert what `function` makes of the model's outputs, `[batch]`, as `[batch, 1]`.

    Args:
        module: the forward graph.
        function: outputs in the model's own structure → `[batch]`, or a single number.
        structured: the graph's outputs → the same in that structure.

    Raises:
        InputError: the function fails on the outputs, or returns something else.
    """
    flat = outputs(module)
    nodes = [item for item in flat if is_tensor(item)]

    def value(*tensors: Tensor) -> Tensor:
        given = dict(zip(nodes, tensors, strict=True))
        result = function(structured([given.get(item, item) for item in flat]))
        if not isinstance(result, Tensor) or result.dim() > 1:
            got = f"shape {list(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            raise InputError(f"The target function must return a tensor of shape [batch], not {got}.")
        if not result.is_floating_point():
            raise InputError(f"The target function must return floating-point numbers, not {result.dtype}.")
        return _row(result)

    try:
        explained = splice(module, value, nodes)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"The target function failed on the model's outputs: {reason_of(error)}.") from error
    explained.meta[EXPLAINED] = True
    return explained


def explained_value(module: fx.GraphModule) -> fx.Node | None:
    """The `[batch, classes]` node that is explained, once it is selected."""
    return next((node for node in module.graph.nodes if node.meta.get(EXPLAINED)), None)


def splice(module: fx.GraphModule, function: Callable[..., Tensor], nodes: Sequence[fx.Node]) -> fx.Node:
    """Trace `function` of the nodes' values into the graph, before its output, and return the node of the result."""
    output = module.graph.output_node()
    chosen = trace_into(output, function, nodes, table=DECOMPOSITIONS, tidy=canonicalise)
    # A function that only picks an output makes a node of its own all the same: the flag must not fall on a value that
    # has other uses.
    with module.graph.inserting_before(output):
        return call(module.graph, aten.alias.default, chosen) if chosen in nodes else chosen


def _at_position(module: fx.GraphModule, node: fx.Node, name: str, target: Target) -> fx.Node:
    shape = node.meta["val"].shape
    rank = len(shape)
    class_dim = (rank - 1 if rank == 3 else 1) if target.class_dim is None else target.class_dim
    if not (-rank < class_dim < rank and class_dim):
        raise InputError(
            f"Target(class_dim={class_dim}) does not fit output {name!r} of shape {list(shape)}: choose 1 to "
            f"{rank - 1}."
        )
    class_dim %= rank
    dims = [dim for dim in range(1, rank) if dim != class_dim]
    position = target.position
    if position is None and rank > 3:
        raise InputError(
            f"Output {name!r} has shape {list(shape)}: say where, as in "
            f"lrp.Target(position=({', '.join('0' for _ in dims)})), or position='sum' for all of it."
        )
    if position in ("index", "last-unpadded"):
        if len(dims) != 1:
            raise InputError(f"Output {name!r} has shape {list(shape)}: position={position!r} fits sequences only.")
        where, at = (
            (run_time_input(module, POSITION, node, 1), _given) if position == "index" else (_mask(module, name), _last)
        )
        return splice(module, partial(_gathered, at=at, dim=dims[0]), [node, where])
    steps = _steps(position, len(dims))
    if len(steps) != len(dims):
        raise InputError(
            f"Output {name!r} has shape {list(shape)}: a position has {len(dims)} part{'s' * (len(dims) > 1)}, "
            f"not {len(steps)}" + ("; for several in one sum give a slice or a range." if len(dims) == 1 else ".")
        )
    for dim, step in zip(dims, steps, strict=True):
        size = shape[dim]
        if isinstance(step, int) and isinstance(size, int) and not -size <= step < size:
            raise InputError(f"Position {step} is out of range: output {name!r} has size {size} in dimension {dim}.")
    return splice(module, partial(_sliced, dims=dims, steps=steps), [node])


def _steps(position: object, count: int) -> tuple[Step, ...]:
    if position == "sum":
        return (slice(None),) * count
    if position in (None, "last"):
        return (-1,) * count
    return position if isinstance(position, tuple) else (position,)


def _sliced(z: Tensor, dims: Sequence[int], steps: Sequence[Step]) -> Tensor:
    """Picked where the step is an int, summed over where it is a slice."""
    for dim, step in reversed(list(zip(dims, steps, strict=True))):
        if isinstance(step, int):
            z = z.select(dim, step)
        else:
            z = aten.slice.Tensor(z, dim, step.start, step.stop, step.step or 1).sum(dim)
    return z


def _gathered(z: Tensor, where: Tensor, at: Callable[[Tensor], Tensor], dim: int) -> Tensor:
    """`z` at one position for each row."""
    rows = at(where).reshape(-1, 1, 1).expand(*(1 if d == dim else size for d, size in enumerate(z.shape)))
    return z.gather(dim, rows).squeeze(dim)


def _same(z: Tensor) -> Tensor:
    return z


def _given(position: Tensor) -> Tensor:
    return position


def _last(mask: Tensor) -> Tensor:
    """The last position of each row whose mask is not 0."""
    positions = torch.arange(mask.shape[-1], device=mask.device)
    return ((mask != 0).to(torch.int64) * positions).argmax(-1)


def run_time_input(module: fx.GraphModule, name: str, node: fx.Node, dims: int) -> fx.Node:
    """Add an input of whole numbers to the forward graph, in the shape of the first dims of the node's value."""
    placeholders = module.graph.find_nodes(op="placeholder")
    value = node.meta["val"]
    with module.graph.inserting_after(placeholders[-1]):
        placeholder = add_placeholder(module.graph, name)
    with fake_mode_of(value):
        placeholder.meta["val"] = torch.empty(value.shape[:dims], dtype=torch.int64, device=value.device)
    placeholder.meta["input"] = name
    placeholder.meta["seed"] = name
    return placeholder


def _mask(module: fx.GraphModule, name: str) -> fx.Node:
    for node in module.graph.find_nodes(op="placeholder"):
        if str(node.meta["input"]).endswith(MASK) and node.meta["val"].dim() == 2:
            found: fx.Node = node
            return found
    raise InputError(
        f"position='last-unpadded' of output {name!r} needs an input {MASK!r} of shape [batch, sequence]: "
        "give one, or use position='index'."
    )
