"""The logits of a model that returns probabilities.

    logits ─ softmax ─ log ─ squeeze ─► output          logits ─ squeeze ─► explained

A softmax or a sigmoid at the end turns the order of the logits into shares of 1: under rules that hold an attention
pattern fixed no relevance passes it, under the others what is explained is by how much one class beats the others *and*
how far the function is saturated. What is meant is mostly the logit in front.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lrp_compiler.passes.graph import call, is_tensor
from lrp_compiler.rules import bind, traits

aten = torch.ops.aten

PROBABILITY, LOGARITHM = "probability", "log-probability"
OF_PROBABILITIES = {
    aten.log.default: 1,
    aten.exp.default: -1,
    aten.clamp.default: 0,
    aten.clamp_min.default: 0,
    aten.clamp_max.default: 0,
}
"""What may stand behind the function, and by how many logarithms it changes what is returned."""


def logits_behind(output: fx.Node) -> tuple[fx.Node, str]:
    """The value in front of the functions that make probabilities of logits, and what the output is of it.

    Args:
        output: a node of the forward graph, `[batch, ...]`.

    Returns:
        The logits in the shape of the output (new nodes where the shape is changed behind the function), and
        "probability" or "log-probability"; the output itself and "" where it is none of them.
    """
    found, made_of_it, moved = _found(output)
    if found is None:
        return output, ""
    logits = found
    for step in reversed(moved):
        with output.graph.inserting_before(output.graph.output_node()):
            logits = call(output.graph, step.target, logits, *step.args[1:], like=step, **step.kwargs)
    return logits, made_of_it


def kind_of(output: fx.Node) -> str:
    """What the output is: "probability" or "log-probability", or "" where it is none of them."""
    return _found(output)[1]


def _found(output: fx.Node) -> tuple[fx.Node | None, str, list[fx.Node]]:
    """The logits as they are made, what the output is of them, and the steps that change their shape from there on."""
    moved: list[fx.Node] = []
    logarithms, found, kept = 0, None, 0
    node = output
    while node.op == "call_function" and is_tensor(node):
        given = bind(node.target, node.args, node.kwargs)
        operand: Any = given.get("self")
        if traits(node.target).squashes and not _mixes_rows(node, given):
            logarithms += node.target is aten.log_sigmoid.default
            found, kept = operand, len(moved)
        elif (operand := _log_softmax_of(node, given)) is not None:
            logarithms += 1
            found, kept = operand, len(moved)
        elif node.target in OF_PROBABILITIES:
            operand = given["self"]
            logarithms += OF_PROBABILITIES[node.target]
        elif traits(node.target).free or traits(node.target).copies:
            operand = given.get("self")
            if not (traits(node.target).casts or traits(node.target).copies):
                moved.append(node)
        else:
            break
        if not is_tensor(operand):
            break
        node = operand
    return found, "" if found is None else LOGARITHM if logarithms > 0 else PROBABILITY, moved[:kept]


def _mixes_rows(node: fx.Node, given: Any) -> bool:
    """Whether the rows of the batch share the probability among them."""
    return "dim" in given and given["dim"] % max(node.meta["val"].dim(), 1) == 0


def _log_softmax_of(node: fx.Node, given: Any) -> fx.Node | None:
    """`x` of `x − logsumexp(x)`, as a log-softmax is written out."""
    if node.target is not aten.sub.Tensor or given.get("alpha", 1) != 1:
        return None
    left, right = (value if isinstance(value, fx.Node) else None for value in (given["self"], given["other"]))
    if left is None or right is None or right.target is not aten.logsumexp.default or right.args[0] is not left:
        return None
    (dim, *rest) = bind(right.target, right.args, right.kwargs)["dim"]
    return None if rest or dim % left.meta["val"].dim() == 0 else left
