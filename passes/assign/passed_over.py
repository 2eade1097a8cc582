"""Values that may be NaN or infinite where a choice takes another value instead.

    where(x > 0, log(x), 0)             log(x) of a negative number: relevance of it is 0, its slope NaN

What is chosen passes relevance; what is not gets none, and 0 · NaN would make NaN of that. So it is for all that is
made of such a value, element by element, until the choice; what adds elements up spoils more than one of them.
"""

from __future__ import annotations

from torch import fx

from lrp_compiler.passes.graph import assignment, everywhere, is_searched_for_nan
from lrp_compiler.rules import PASSED_OVER, Call, bind, of_family, traits

from .signs import floats_of, nonnegative_values


def mark_passed_over(module: fx.GraphModule) -> None:
    """Write down `PASSED_OVER`, in the bodies of loops, too."""
    graphs = list(everywhere(module))
    if not any(traits(node.target).chooses for graph in graphs for node in graph.graph.nodes):
        return
    known = nonnegative_values(module)
    for graph in graphs:
        undefined: set[fx.Node] = set()
        for node in graph.graph.nodes:
            if _undefined(node, undefined, known):
                undefined.add(node)
        chosen_from: set[fx.Node] = set()
        for node in reversed(graph.graph.nodes):
            if any(traits(user.target).chooses or (user in chosen_from and _by_element(user)) for user in node.users):
                chosen_from.add(node)
        for node in graph.graph.nodes:
            given = assignment(node)
            if given is not None:
                given.know(PASSED_OVER, node in undefined and node in chosen_from and _by_element(node))


def _undefined(node: fx.Node, undefined: set[fx.Node], known: set[fx.Node]) -> bool:
    if is_searched_for_nan(node):
        return True
    if node.op != "call_function":
        return False
    if _by_element(node) and any(operand in undefined for operand in floats_of(node)):
        return True
    asked = traits(node.target).undefined
    if asked is None:
        return False
    return asked(Call(bind(node.target, node.args, node.kwargs), floats_of(node), known.__contains__))


def _by_element(node: fx.Node) -> bool:
    """Whether each element of the result is made of one of every operand."""
    what = traits(node.target)
    return (
        what.arithmetic
        or what.pairs
        or what.free
        or what.copies
        or what.chooses
        or of_family(node.target, "elementwise")
    )
