"""Products of two activations, elementwise, quotients, and what else two activations make together.

Source: the uniform rule of Achtibat et al., "AttnLRP", arXiv 2402.05602.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .conditions import predicate
from .facts import Fact
from .op import Op
from .registry import Flow, family_rule
from .relevance import Relevance, sum_to_shape, total
from .selection import Selection, Transpose, route

GATE: Fact[str | None] = Fact("gate", None)
"""Of a product: the name of the operand that gates the other one (see `find_gates`)."""

gated = predicate(lambda op: op.fact(GATE) is not None)
"""One operand gates the other."""


@dataclass(frozen=True)
class Product:
    """A product of two operands.

    Args:
        factors: by operand, the name of what it is multiplied by; `None` where the operation is no plain product, and
            relevance goes on in total form.
        gate: the operand that gates the other one, if there is one.
    """

    factors: Mapping[str, str | None]
    gate: str | None = None


@family_rule("product", "uniform")
def uniform(op: Op, product: Product, relevance: Relevance) -> Flow:
    """Half to each: `R_a = R_b = R/2`; in unit form `g_a = g ⊙ b / 2`."""

    def share(name: str, factor: str | None) -> Relevance:
        whole = total(op.total(relevance)) if factor is None else relevance.rescaled(lambda g: g * op.tensor(factor))
        return whole.map(lambda r: sum_to_shape(0.5 * r, op.shape(name)))

    return {name: share(name, factor) for name, factor in product.factors.items()}


@family_rule("product", "signal")
def signal(op: Op, product: Product, relevance: Relevance) -> Flow:
    """The gate is held fixed: what it lets through takes all, `g_a = g ⊙ gate`.

    Source: Arras et al., "Explaining recurrent neural network predictions in sentiment analysis", 2017,
    arXiv 1706.07206 ("signal-take-all"); for gated layers of transformers Ali et al., arXiv 2202.07304.
    """
    gate = str(product.gate)
    name = str(product.factors[gate])
    share = relevance.rescaled(lambda g: g * op.tensor(gate))
    return {name: share.map(lambda r: sum_to_shape(r, op.shape(name))), gate: None}


@family_rule("quotient", "frozen-divisor")
def frozen_divisor(op: Op, exact: bool, relevance: Relevance) -> Flow:
    """The divisor is held fixed: all to the dividend, `g_a = g / b`; of what is no plain quotient in total form."""
    share = relevance.rescaled(lambda g: g / op.tensor("other")) if exact else total(op.total(relevance))
    return {"self": share.map(lambda r: sum_to_shape(r, op.shape("self"))), "other": None}


@dataclass(frozen=True)
class Factors:
    """Products of any number of elements of one operand.

    Args:
        shares: gives each factor its equal share of what its product has.
        laid: the operand → the factors of each product, `[*products, factors]`, 1 where one has fewer; None: they
            cannot be laid out so.
        grow: what each product has → to broadcast against these.
        back: what each of these gets → what the operand gets.
    """

    shares: Selection
    laid: Transpose | None = None
    grow: Transpose = lambda r: r
    back: Transpose = lambda r: r


@family_rule("factors", "uniform")
def equal_shares(op: Op, factors: Factors, relevance: Relevance) -> Flow:
    """`R / n` to each of the n factors that one product has; the operator says which these are."""
    return route(op, factors.shares, total(op.total(relevance)))
