"""What the graph of each stage may contain; checked between the passes in tests and wherever graphs are dumped.

unlifted    the program as a plain graph                    any op of torch's, inputs and weights known by name
forward     one spelling for everything                     nothing that `canonicalise` does away with
assigned    every operation that relevance reaches          … has a rule of its family, and operands in the graph
relevance   what the walk emitted                           every node knows what it explains and which rule made it
joint       both graphs in one                              every operation belongs to one half
final       what is handed out                              ops of torch's (or the user's) own alone, no backward ops
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import fx

from lrp_compiler.passes.graph import CHECKS, RESHAPES, assignment, everywhere, origin
from lrp_compiler.rules import RULES, find, traits
from lrp_compiler.torch_private import is_backward
from lrp_compiler.torch_private import schema as schema_of

Question = Callable[[fx.Node], str]
"""node → what is wrong with it; "": nothing."""
OWN = "lrp"
"""Namespace of the project's own ops."""


class StageError(AssertionError):
    """A pass left something in its graph that its stage does not allow: a fault of the compiler."""


@dataclass(frozen=True)
class Stage:
    """What a graph may contain.

    Args:
        name: of the stage.
        questions: asked of every node but the output, in loops' bodies, too.
        outside: asked only outside these: a body's inputs are its loop's operands, and its nodes its loop's.
    """

    name: str
    questions: tuple[Question, ...]
    outside: tuple[Question, ...] = ()


def check(by: str, module: fx.GraphModule, stage: Stage) -> None:
    """Make sure that the graph is what its stage promises.

    Raises:
        StageError: it is not; the message names the pass, `by`, and the node.
    """
    for node, problem in problems(module, stage):
        where = "" if node.graph is module.graph else "the body of a loop, in "
        raise StageError(
            f"{by} left {node.name} ({node.op} {node.target}) in {where}a graph of stage {stage.name!r}: {problem}."
        )


def problems(module: fx.GraphModule, stage: Stage) -> Iterator[tuple[fx.Node, str]]:
    """The nodes that do not belong there, and why; those of the graph itself before those of loops' bodies."""
    for inner in everywhere(module):
        questions = stage.questions if inner is not module else (*stage.questions, *stage.outside)
        for node in inner.graph.nodes:
            if node.op != "output":
                for question in questions:
                    if problem := question(node):
                        yield node, problem


def _known_kind(node: fx.Node) -> str:
    if node.op not in ("placeholder", "get_attr", "call_function"):
        return "graphs hold inputs, constants and calls alone"
    # A check has no value.
    return "" if "val" in node.meta or node.target in CHECKS else "nobody knows its value's shape"


def _called_by_its_name(node: fx.Node) -> str:
    own = node.op != "placeholder" or node.target == node.name
    return "" if own else "something else in the code may bear the name of its argument"


def _named_input(node: fx.Node) -> str:
    return "the input has no name" if node.op == "placeholder" and "input" not in node.meta else ""


def _functional(node: fx.Node) -> str:
    schema = schema_of(node.target)
    return "it changes its operands" if schema is not None and schema.is_mutable else ""


def _forward_only(node: fx.Node) -> str:
    return "no runtime has backward ops" if is_backward(node.target) else ""


def _one_spelling(node: fx.Node) -> str:
    if node.target in RESHAPES:
        return "reshapes have one spelling"
    if node.target in CHECKS:
        return "a check has no relevance"
    return (
        "it does nothing" if node.op == "call_function" and traits(node.target).copies and not _of_input(node) else ""
    )


def _of_input(node: fx.Node) -> bool:
    """Whether it makes an output of an input that is returned as it came, or of a value that is explained."""
    return any(user.op == "output" for user in node.users) or not node.users


def _assigned(node: fx.Node) -> str:
    given = assignment(node)
    if given is None or not given.rule:
        return ""
    operator = find(given.op(node))
    if operator is None or (operator.family, given.rule) not in RULES:
        return f"its rule {given.rule!r} is none of its operator"
    if given.kind != operator.kind:
        return f"it is of kind {operator.kind!r}, not {given.kind!r}"
    lost = [name for name in given.active if given.operand(name).graph is not node.graph]
    return f"its operand {lost[0]!r} is no node of this graph" if lost else ""


def _promised(node: fx.Node) -> str:
    known = node.op != "placeholder" or {"promise", "seed"} & node.meta.keys()
    return "" if known else "an input is a promise or belongs to the seed"


def _explains_something(node: fx.Node) -> str:
    if node.op != "call_function" or isinstance(node.meta.get("val"), torch.SymInt):
        return ""
    known = origin(node)
    return "nobody knows what it explains" if known is None or known.phase != "relevance" or not known.value else ""


def _of_one_half(node: fx.Node) -> str:
    return "it belongs to no half" if node.op == "call_function" and origin(node) is None else ""


def _known_form(node: fx.Node) -> str:
    known = origin(node)
    if known is None or not known.form:
        return ""
    if known.form not in ("unit", "total"):
        return f"relevance has no form {known.form!r}"
    return "" if known.of else "it is the relevance of nothing"


def _of_torch(node: fx.Node) -> str:
    return "the project's own ops are lowered" if getattr(node.target, "namespace", "") == OWN else ""


_ALWAYS = (_known_kind, _called_by_its_name, _functional, _forward_only)
UNLIFTED = Stage("unlifted", (*_ALWAYS, _named_input))
FORWARD = Stage("forward", (*UNLIFTED.questions, _one_spelling))
ASSIGNED = Stage("assigned", (*FORWARD.questions, _assigned))
RELEVANCE = Stage("relevance", (*_ALWAYS, _explains_something, _known_form), (_promised,))
JOINT = Stage("joint", (*_ALWAYS, _known_form), (_of_one_half,))
FINAL = Stage("final", (*JOINT.questions, _of_torch), JOINT.outside)
