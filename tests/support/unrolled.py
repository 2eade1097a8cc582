"""A call of a linear map, unrolled into a matrix, and the table of rules applied to that matrix.

The matrix is had by applying the op to a basis, so that it shares nothing with the library's transposes; the table is
written down as in the papers, so that it shares nothing with the library's rules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.rules import NONNEGATIVE, Fact, Facts, Op, Values, bind


@dataclass(eq=False)
class Case:
    """A call of an op, with what the op alone does not say.

    Args:
        target, args, kwargs: the call.
        active: which operands carry relevance.
        facts: what an analysis found out.
        frozen: the map, where the op itself is not linear.
        implied: the weights are implied and equal within an output.
        channel: the channel dim of the first active operand.
        parameters: operands whose relevance may be asked for.
    """

    target: Any
    args: tuple[Any, ...]
    active: tuple[str, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    frozen: Callable[[Tensor], Tensor] | None = None
    implied: bool = False
    channel: int = -1
    parameters: tuple[str, ...] = ()

    @cached_property
    def operands(self) -> dict[str, Tensor]:
        bound = bind(self.target, self.args, self.kwargs)
        return {name: bound[name] for name in self.active}

    @cached_property
    def output(self) -> Tensor:
        return self.target(*self.args, **self.kwargs)

    @cached_property
    def matrix(self) -> tuple[Tensor, Tensor]:
        """`W` and `b` of the map unrolled: all active operands in one vector, by applying the map to a basis."""
        zeros = {name: torch.zeros_like(value) for name, value in self.operands.items()}
        b = self.apply(zeros).flatten()
        columns = [
            self.apply({**zeros, name: basis.reshape(value.shape)}).flatten() - b
            for name, value in self.operands.items()
            for basis in torch.eye(value.numel(), dtype=value.dtype)
        ]
        return torch.stack(columns, 1), b

    @property
    def x(self) -> Tensor:
        return torch.cat([value.flatten() for value in self.operands.values()])

    def apply(self, operands: dict[str, Tensor]) -> Tensor:
        if self.frozen is not None:
            (only,) = operands.values()
            return self.frozen(only)
        return self.with_operands(operands).output

    def with_operands(self, operands: dict[str, Tensor]) -> "Case":
        names = [argument.name for argument in self.target._schema.arguments]
        args = tuple(operands.get(name, value) for name, value in zip(names, self.args, strict=False))
        return replace(self, args=args)

    def made_nonnegative(self) -> "Case":
        operands = {name: value.abs() for name, value in self.operands.items()}
        case = self.with_operands(operands).knowing({NONNEGATIVE: self.active})
        case.__dict__["matrix"] = self.matrix
        return case

    def knowing(self, known: dict[Fact[Any], Any]) -> "Case":
        """The same case, of which an analysis has found out something more."""
        facts = self.facts
        for fact, value in known.items():
            facts = facts.known(fact, value)
        case = replace(self, facts=facts)
        case.__dict__["matrix"] = self.matrix
        return case

    def op(self, wanted: Sequence[str] = (), **told: Any) -> Op:
        return Op(
            self.target,
            bind(self.target, self.args, self.kwargs),
            self.output,
            Values(lambda handle: handle, **told),
            active=self.active,
            facts=self.facts,
            wanted=wanted,
        )


@dataclass(frozen=True)
class Shares:
    """What a rule makes of R: relevance of the active operands in one vector, and what leaves the flow."""

    relevance: Tensor
    constants: float
    lost: float


Parts = list[tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor]]
"""Parts of R, each with the (x, W) whose contributions it is shared among, and the bias with its own contribution."""


def shares(parts: Parts, epsilon: float, lost: float = 0.0) -> Shares:
    """Each part of R shared out in proportion to its contributions, signed stabiliser ε."""
    relevance: Any = 0
    constants = 0.0
    for R, pairs, c in parts:
        z = sum((V @ y for y, V in pairs), c)
        q = R / (z + epsilon * torch.where(z >= 0, 1.0, -1.0).to(z.dtype))
        relevance = relevance + sum(y * (V.T @ q) for y, V in pairs)
        constants += float((c * q).sum())
        lost += float((R * epsilon / (z.abs() + epsilon)).sum())
    return Shares(relevance, constants, lost)


def table(
    rule: str, case: Case, R: Tensor, *, epsilon: float, bias: str = "absorb", alpha: float = 2.0, beta: float = 1.0,
    gamma: float = 0.25, low: Tensor | float = 0.0, high: Tensor | float = 1.0,
) -> Shares:  # fmt: skip
    """The rule's row of the table; low and high broadcastable to the operands in one vector."""
    (W, true_b), x, R = case.matrix, case.x, R.flatten()
    b = torch.zeros_like(true_b) if bias == "ignore" else true_b
    p, n, P, N = x.clamp(min=0), x.clamp(max=0), W.clamp(min=0), W.clamp(max=0)
    bp, bn, one, none = b.clamp(min=0), b.clamp(max=0), torch.ones_like(x), torch.zeros_like(b)
    match rule:
        case "epsilon":
            return shares([(R, [(x, W)], b)], epsilon)
        case "z-plus":
            return shares([(R, [(p, P), (n, N)], bp)], epsilon)
        case "alpha-beta":
            return shares([(alpha * R, [(p, P), (n, N)], bp), (-beta * R, [(p, N), (n, P)], bn)], epsilon)
        case "gamma":
            z = W @ x + true_b
            strong, weak = (W + gamma * P, b + gamma * bp), (W + gamma * N, b + gamma * bn)
            return shares(
                [
                    (R * (z > 0), [(p, strong[0]), (n, weak[0])], strong[1]),
                    (R * (z < 0), [(p, weak[0]), (n, strong[0])], weak[1]),
                ],
                epsilon,
                lost=float((R * (z == 0)).sum()),
            )
        case "gamma-one-sided":
            return shares([(R, [(x, W + gamma * P)], b + gamma * bp)], epsilon)
        case "w-square":
            return shares([(R, [(one, W if case.implied else W**2)], b**2)], epsilon)
        case "flat":
            return shares([(R, [(one, W if case.implied else (W != 0).to(W.dtype))], none)], epsilon)
        case "z-box":
            low, high = low * one, high * one
            return shares([(R, [(x, W), (-low, P), (-high, N)], none)], epsilon)
    raise AssertionError(rule)
