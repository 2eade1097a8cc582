"""Linear algebra of constants: worked out once, so that what is left is a product of matrices.

    inv(A) @ x               →     A⁻¹ @ x                 A⁻¹ a constant
    solve(A, x)              →     solve(A, 1) @ x         whatever solves: by LU, triangles, Cholesky
    matrix_exp(A) @ x        →     eᴬ @ x

No rule speaks of these operations where their matrix comes from an input, and ONNX has none of them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.passes.graph import Result, add_constant, arguments, constant_of, inline, is_tensor
from lrp_compiler.rules import bind, has_shape, traits

aten = torch.ops.aten


@dataclass(frozen=True)
class Solver:
    """An operation that is linear in one operand.

    Args:
        operand: its name.
        matrix: the name of the square matrix.
        picks: whether the solution is the first of several results.
    """

    operand: str
    matrix: str
    picks: bool = False


SOLVERS: dict[object, Solver] = {
    aten.linalg_solve.default: Solver("B", "A"),
    aten.linalg_solve_triangular.default: Solver("B", "self"),
    aten.linalg_lu_solve.default: Solver("B", "LU"),
    aten.cholesky_solve.default: Solver("self", "input2"),
    aten.triangular_solve.default: Solver("self", "A", picks=True),
}


def work_out_algebra(module: fx.GraphModule) -> Result:
    """Rewrite the forward graph in place."""
    known: dict[fx.Node, Any] = {}
    constant: set[fx.Node] = set()
    changed, declined = False, []
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and is_tensor(node):
            constant.add(node)
        if node.op != "call_function" or not (constant.issuperset(node.all_input_nodes) or node.target in SOLVERS):
            continue
        if node.target in SOLVERS and node.args and not constant.issuperset(node.all_input_nodes):
            reason = _solve(module, node, constant, known)
            changed |= reason is None
            declined += [(node.name, reason)] if reason else []
        else:
            constant.add(node)
            if _is_algebra(node):
                made = _worked_out(module, node, _value(module, node, known))
                constant.add(made)
                changed |= made is not node
    changed |= module.graph.eliminate_dead_code()
    return Result(module, changed, declined)


def _is_algebra(node: fx.Node) -> bool:
    """Whether it is such an operation, or one of its results."""
    maker = arguments(node)[0] if node.target is operator.getitem else node
    return is_tensor(node) and traits(maker.target).algebra


def _value(module: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    """What the constants that the node was made of come to; their chain may be as deep as a graph is."""
    waiting = [node]
    while waiting:
        one = waiting[-1]
        tensor = constant_of(module, one)
        missing = [] if tensor is not None else [operand for operand in one.all_input_nodes if operand not in known]
        if one not in known and missing:
            waiting += missing
            continue
        waiting.pop()
        if one not in known:
            if tensor is None:
                args, kwargs = fx.map_arg((one.args, one.kwargs), known.__getitem__)
                target: Callable[..., Any] = one.target  # type: ignore[assignment]
                tensor = target(*args, **kwargs)
            known[one] = tensor
    return known[node]


def _worked_out(module: fx.GraphModule, node: fx.Node, value: object) -> fx.Node:
    """The node, or the constant that takes its place."""
    if not isinstance(value, Tensor):
        return node
    with module.graph.inserting_before(node):
        made = add_constant(module, node.name, value.detach(), node.meta["val"])
    node.replace_all_uses_with(made)
    return made


def _solve(module: fx.GraphModule, node: fx.Node, constant: set[fx.Node], known: dict[fx.Node, Any]) -> str | None:
    """Put the solution for the unit vectors, multiplied by the operand, in its place; or why not."""
    solver = SOLVERS[node.target]
    given = bind(node.target, node.args, node.kwargs)
    operand = given[solver.operand]
    if not constant.issuperset(set(node.all_input_nodes) - {operand}) or operand is given[solver.matrix]:
        return "its matrix is no constant"
    matrix = given[solver.matrix].meta["val"]
    unit = torch.eye(int(matrix.shape[-1]), dtype=matrix.dtype, device=matrix.device)
    unit = unit.expand(*matrix.shape[:-2], *unit.shape)

    def of_unit_vectors(argument: Any) -> Any:
        return unit if argument is operand else _value(module, argument, known)

    args, kwargs = fx.map_arg((node.args, node.kwargs), of_unit_vectors)
    target: Callable[..., Any] = node.target  # type: ignore[assignment]
    with torch.no_grad():
        inverse = target(*args, **kwargs)
    inverse = inverse[0] if solver.picks else inverse
    with module.graph.inserting_before(node):
        made = add_constant(module, f"{node.name}_inverse", inverse.detach(), matrix)
    from_left = given.get("left", True)
    vector = operand.meta["val"].dim() == 1 or (
        node.target is aten.linalg_solve.default
        and operand.meta["val"].dim() == matrix.dim() - 1
        and has_shape(operand.meta["val"], matrix.shape[:-1])
    )

    def multiplied(x: Tensor, inverse: Tensor) -> Tensor:
        if vector:
            return torch.matmul(inverse, x.unsqueeze(-1)).squeeze(-1)
        return torch.matmul(inverse, x) if from_left else torch.matmul(x, inverse)

    result = inline(node, multiplied, (operand, made), {})
    if not solver.picks:
        node.replace_all_uses_with(result)
        return None
    for picked in list(node.users):
        if picked.target is operator.getitem and picked.args[1] == 0:
            picked.replace_all_uses_with(result)
    return None
