"""Relevance of differences: what an output says more of x than of a reference x₀, place by place.

Here relevance in unit form multiplies the difference of a value from that at the reference: `R = (a − a₀) ⊙ g`. Each
rule finds `g` of its operands such that `Σ (a − a₀) ⊙ g` is what the result's is, exactly, so that the relevance of the
inputs sums to `f(x) − f(x₀)`. There is one rule a family, all called "difference"; composite "reference" takes them:

    linear maps, selections     the transpose; what is added takes nothing, whatever it is
    functions                   the slope Δf/Δx of each element; the derivative at the midpoint where Δx is small
    products, matrix products   the other factor's midpoint, ½(b + b₀)
    products of n elements      the others' products as one changes after the other, the mean of both orders
    powers, angles, …           of two operands: the mean of what one changes before and after the other
    quotients                   the product with 1/b, and Δ(1/b) = −Δb / (b b₀)
    softmax                     L ⊙ g − L/ΣL · Σ(L ⊙ g), L the logarithmic mean of p and p₀
    extremes                    the place of the larger end takes all: it changed at least as much as the result

What an operation reads besides what is explained (an index, a mask, a divisor that is held fixed) may differ at the
reference, too; then the map is the mean of both ends', and what its own change is worth is absorbed as "decision".

Source: on functions the rescale rule of Shrikumar et al., "Learning important features through propagating activation
differences", arXiv 1704.02685; on extremes that of its implementations for max pools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from .elementwise import Quotient
from .linear_map import LinearMap, Term
from .matmul import transpose_left, transpose_right
from .op import Op
from .product import Factors, Product, equal_shares
from .registry import Flow, RuleError, describe, family_rule, find
from .relevance import Relevance, difference, sum_to_shape, times, total, unit
from .selection import FILLED, Selection
from .traits import traits

NAME = "difference"
"""Of the rules."""
DECISION = "decision"
"""What the books call the share of what differs at the reference and is not explained."""
SCALE = "scale"
"""Kind of functions that multiply by a constant."""
Back = Callable[[Tensor], Tensor]


def _check(op: Op) -> None:
    if not op.differs:
        raise RuleError("The rule 'difference' explains differences from a reference: take composite='reference'")


def multiplier(op: Op, relevance: Relevance) -> Tensor:
    """`g` of the result; what is given in total form and lies where nothing differs is lost, and booked."""
    _check(op)
    if relevance.form == "unit":
        return relevance.tensor
    amount = op.amount
    same = (amount == 0).to(amount.dtype)
    op.absorb("stabiliser", lambda: relevance.tensor * same)
    return relevance.tensor / (amount + same)


def _handed(op: Op, shares: Mapping[str, Tensor]) -> Flow:
    if op.wanted:
        raise RuleError(f"{' and '.join(op.wanted)} of {op.target}: weights do not differ at a reference")
    return {name: unit(share.to(op.dtype(name))) for name, share in shares.items()}


def _mean(op: Op, g: Tensor, here: Mapping[str, Back], there: Callable[[], Mapping[str, Back]]) -> Flow:
    """The transposes of an affine map, or, where what they read differs at the reference, the mean of both ends'."""
    op.varied = False
    shares = {name: back(g) for name, back in here.items()}
    if op.varied:
        shares = {name: (shares[name] + back(g)) / 2 for name, back in there().items()}
    op.absorb(DECISION, partial(_decided, op, g))
    return _handed(op, shares)


def _decided(op: Op, g: Tensor) -> Tensor:
    """What the map's own change is worth: both maps of the midpoints, since each is affine."""
    if not (op.varied or op.varying):
        return g.new_zeros(())
    other = op.there
    middles = {name: (op.tensor(name) + other.tensor(name)) / 2 for name in op.active}
    return times(g, difference(op.calculated(middles), other.calculated(middles)))


@family_rule("linear map", NAME, of_differences=True)
def linear_map(op: Op, linear: LinearMap, relevance: Relevance) -> Flow:
    """`g_x = Wᵀ g`; constants do not differ."""
    g = multiplier(op, relevance)

    def backs(linear: LinearMap) -> dict[str, Back]:
        return {term.operand: partial(_transposed, term) for term in linear.terms}

    (first, *_) = linear.terms
    if first.between is not None:
        (other, *_) = describe(op.there).terms
        return _handed(op, {first.operand: first.transpose(g, first.between(first.weight(), other.weight()))})
    return _mean(op, g, backs(linear), lambda: backs(describe(op.there)))


def _transposed(term: Term, q: Tensor) -> Tensor:
    return term.transpose(q, term.weight())


@family_rule("selection", NAME, of_differences=True)
def selection(op: Op, chosen: Selection, relevance: Relevance) -> Flow:
    """The transpose; of extremes the place of the larger end, of a bounded value its slope."""
    known = traits(op.target)
    if known.derivative is not None:
        return function(op, None, relevance)
    g = multiplier(op, relevance)
    if known.extreme:
        return _extreme(op, chosen, g, known.extreme)

    def backs(chosen: Selection) -> dict[str, Back]:
        return {name: chosen[name] for name in op.active}

    if relevance.form == "total":
        op.varied = False
        shares = {name: back(relevance.tensor) for name, back in backs(chosen).items()}
        if not op.varied:
            return {name: total(share) for name, share in shares.items()}
    return _mean(op, g, backs(chosen), lambda: backs(describe(op.there)))


def _extreme(op: Op, chosen: Selection, g: Tensor, largest: int) -> Flow:
    """`R` where the result of the larger end (of a smallest value: of the smaller) stood, at both ends.

    There the operand differs at least as much as the result, so that no multiplier is larger than g.
    """
    there: Selection = describe(op.there)
    amount = op.amount
    at_x = (amount * largest >= 0).to(g.dtype)
    R_x, R_there = g * amount * at_x, g * amount * (1 - at_x)
    shares = {}
    for name in op.active:
        moved = op.amount_of(name)
        same = (moved == 0).to(g.dtype)
        R = chosen[name](R_x) + there[name](R_there)
        shares[name] = R / (moved + same) + chosen[name](g) * same
    op.absorb(DECISION, lambda: _beyond(op, chosen, R_x) + _beyond(op.there, there, R_there))
    return _handed(op, shares)


def _beyond(op: Op, chosen: Selection, R: Tensor) -> Tensor:
    """What of an extreme lies on operands that are not explained."""
    shares = [back(R).sum() for name, back in chosen.items() if not op.is_active(name) and name != FILLED]
    return torch.stack(shares).sum() if shares else R.new_zeros(())


@family_rule("elementwise", NAME, of_differences=True)
def function(op: Op, quotient: Quotient, relevance: Relevance) -> Flow:
    """`g_x = g ⊙ Δf/Δx`; of a function that multiplies by a constant that constant."""
    _check(op)
    (name,) = op.active
    shape = op.shape(name)
    if relevance.form == "total":
        return {name: relevance.map(lambda R: sum_to_shape(R.to(op.dtype(name)), shape))}
    g, entry = relevance.tensor, find(op)
    if entry is not None and entry.kind == SCALE:
        assert quotient is not None

        def backs(factor: Callable[[], Tensor | float]) -> dict[str, Back]:
            return {name: lambda q: sum_to_shape(q * factor(), shape)}

        return _mean(op, g, backs(quotient), lambda: backs(describe(op.there)))
    x, there = op.tensor(name), op.there.tensor(name)
    if not op.varying:
        found = slope(op, name, (x, there), (op.output, op.there.output))
        return _handed(op, {name: sum_to_shape(g * found, shape)})
    ends = [(end.calculated({name: x}), end.calculated({name: there})) for end in (op, op.there)]
    slopes = [slope(end, name, (x, there), values) for end, values in zip((op, op.there), ends, strict=True)]
    (here_x, here_there), (there_x, there_there) = ends
    op.absorb(DECISION, lambda: g * (difference(here_x, there_x) + difference(here_there, there_there)) / 2)
    return _handed(op, {name: sum_to_shape(g * (slopes[0] + slopes[1]) / 2, shape)})


ROUNDINGS = 4.0
"""By how many of its last digits a function's value may be off."""


def slope(op: Op, name: str, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
    """`Δf/Δx`, element by element; the derivative at the midpoint wherever that says the same.

    The quotient of two small differences is rounding. The derivative is taken as long as `f′ Δx` is Δf but for the
    rounding of f itself, so that no digit of the sum is lost, and nothing need be known of where f is smooth.

    Args:
        op: the function.
        name: the operand that it is a function of.
        x: its two ends.
        y: the function's values there.
    """
    moved, risen = difference(*x), difference(*y)
    middle = (x[0] + x[1]) / 2
    steep = _derivative(op, name, middle)
    off = (steep * moved - risen).abs()
    near = off <= ROUNDINGS * torch.finfo(middle.dtype).eps * (y[0].abs() + y[1].abs())
    return torch.where(near, steep, risen / (moved + (moved == 0).to(moved.dtype)))


def _derivative(op: Op, name: str, middle: Tensor) -> Tensor:
    """f′ at the midpoint; 0 of a region of which only the ends are known, so that its quotient is taken everywhere."""
    known = traits(op.target).derivative
    if known is not None:
        return known(op, middle)
    return torch.zeros_like(middle) if isinstance(op.target, str) else _central(op, name, middle)


def _central(op: Op, name: str, middle: Tensor) -> Tensor:
    """The derivative by central differences, as wide as their errors of rounding and of curvature are alike."""
    width: float = torch.finfo(middle.dtype).eps ** (1 / 3)
    above, below = middle + width, middle - width
    return (op.calculated({name: above}) - op.calculated({name: below})) / (above - below)


@family_rule("product", NAME, of_differences=True)
def product(op: Op, product: Product, relevance: Relevance) -> Flow:
    """`g_a = g ⊙ ½(b + b₀)`; of what is no plain product the mean of what each alone would change, before and after."""
    g = multiplier(op, relevance)
    if None in product.factors.values():
        return _of_two(op, g, *product.factors)
    middles = {name: _middle(op, str(factor)) for name, factor in product.factors.items()}
    return _handed(op, {name: sum_to_shape(g * middle, op.shape(name)) for name, middle in middles.items()})


def _middle(op: Op, name: str) -> Tensor:
    return (op.tensor(name) + op.there.tensor(name)) / 2


def _of_two(op: Op, g: Tensor, first: str, second: str) -> Flow:
    """`Δ_a f = ½ (f(a, b) − f(a₀, b) + f(a, b₀) − f(a₀, b₀))`, likewise of b: the shares add up to Δf.

    They are Shapley's of two players. Where f is none between the ends (a power of a negative number) half of Δf each.
    """
    ends = {name: (op.tensor(name), op.there.tensor(name)) for name in (first, second)}
    both, neither = op.output, op.there.output
    (a, a_there), (b, b_there) = ends[first], ends[second]
    of_first, of_second = (op.calculated({first: one, second: other}) for one, other in ((a, b_there), (a_there, b)))
    whole = difference(both, neither)
    apart = difference(of_first, of_second)
    halves = {first: (whole + apart) / 2, second: (whole - apart) / 2}
    defined = apart.isfinite()
    shares = {name: torch.where(defined, half, whole / 2) for name, half in halves.items()}
    return {name: total(sum_to_shape(g * share, op.shape(name))) for name, share in shares.items()}


@family_rule("factors", NAME, of_differences=True)
def factors(op: Op, factors: Factors, relevance: Relevance) -> Flow:
    """`g_i = g ⊙ ½ (Π_{j<i} a_j Π_{j>i} a₀_j + Π_{j<i} a₀_j Π_{j>i} a_j)`: one factor changes after the other, in both
    orders; of two that is the midpoint of the other one."""
    if factors.laid is None:
        return equal_shares(op, factors, relevance)
    g = factors.grow(multiplier(op, relevance))
    (name,) = op.active
    here, there = factors.laid(op.tensor(name)), factors.laid(op.there.tensor(name))
    each = (_before(here) * _behind(there) + _before(there) * _behind(here)) / 2
    return _handed(op, {name: factors.back(g * each)})


def _before(x: Tensor) -> Tensor:
    """Of each place along the last dim the product of all before it."""
    return torch.cat([torch.ones_like(x[..., :1]), x[..., :-1]], -1).cumprod(-1)


def _behind(x: Tensor) -> Tensor:
    return _before(x.flip(-1)).flip(-1)


@family_rule("quotient", NAME, of_differences=True)
def quotient(op: Op, exact: bool, relevance: Relevance) -> Flow:
    """`g_a = g ⊙ ½(1/b + 1/b₀)`, `g_b = −g ⊙ ½(a + a₀) / (b b₀)`; of what is no plain quotient as of a product."""
    g = multiplier(op, relevance)
    if not exact:
        return _of_two(op, g, "self", "other")
    b, there = op.tensor("other"), op.there.tensor("other")
    each = {"self": g * (1 / b + 1 / there) / 2, "other": -g * _middle(op, "self") / (b * there)}
    return _handed(op, {name: sum_to_shape(share, op.shape(name)) for name, share in each.items()})


@family_rule("matrix product", NAME, of_differences=True)
def matrix_product(op: Op, operands: tuple[str, str], relevance: Relevance) -> Flow:
    """`g_A = g · ½(B + B₀)ᵀ`, `g_B = ½(A + A₀)ᵀ · g`."""
    left, right = operands
    g = multiplier(op, relevance)
    shares = {
        left: transpose_left(g, _middle(op, right), op.shape(left)),
        right: transpose_right(g, _middle(op, left), op.shape(right)),
    }
    return _handed(op, shares)


@family_rule("softmax", NAME, of_differences=True)
def softmax(op: Op, dim: int, relevance: Relevance) -> Flow:
    """`g_x = L ⊙ g − L/ΣL · Σ(L ⊙ g)`, with L the logarithmic mean of p and p₀: 0 where a mask makes one of them 0.

    From `Δp = L ⊙ Δ ln p` and `Δ ln p = Δx − Δ ln Σ eˣ`, whose sum over L is 0 since Σ Δp is. Logarithms are the
    operand's, since p may be too small to be told from 0, which only −∞ makes it.
    """
    g = multiplier(op, relevance)
    (name,) = op.active
    p, there = op.output, op.there.output
    x, x_there = op.tensor(name), op.there.tensor(name)
    masked = x.isneginf() | x_there.isneginf()
    mean = logarithmic_mean(p, there, (_log_softmax(x, dim), _log_softmax(x_there, dim)))
    share = shares_of(mean, [dim])
    weighted = (mean * g).sum(dim, keepdim=True)

    def masked_at_one_end() -> Tensor:
        return (p - there) * masked.to(p.dtype) * (g - (share * g).sum(dim, keepdim=True))

    op.absorb(DECISION, masked_at_one_end)
    return _handed(op, {name: mean * g - share * weighted})


def _log_softmax(x: Tensor, dim: int) -> Tensor:
    """ln p; −∞ in a row that is masked as a whole, too."""
    return torch.where(x.isneginf(), x, x - torch.logsumexp(x, dim, keepdim=True))


def shares_of(weights: Tensor, dims: list[int]) -> Tensor:
    """Weights ≥ 0 over their sum; 0 where all of them are, in a row that is masked as a whole."""
    whole = weights.sum(dims, keepdim=True)
    return weights / (whole + (whole == 0).to(whole.dtype))


CLOSE = 0.03
"""(p − q) / (p + q) up to which four terms of a series are exact in double precision."""


def logarithmic_mean(p: Tensor, q: Tensor, logarithms: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """`(p − q) / (ln p − ln q)` of numbers ≥ 0, 0 where one is; of close ones ½(p + q) · z / artanh z by its series.

    z is (p − q) / (p + q).

    Args:
        p, q: both numbers.
        logarithms: theirs, if they are known: a number may be too small to be told from 0, and is none.
    """
    ln_p, ln_q = logarithms or (p.log(), q.log())
    none = ln_p.isneginf() | ln_q.isneginf() | ((p == 0) & (q == 0))
    p, q = torch.where(none, 1.0, p), torch.where(none, 1.0, q)
    z = (p - q) / (p + q)
    square = z * z
    series = (p + q) / 2 * (1 - square * (1 / 3 + square * (4 / 45 + square * (44 / 945 + square * (428 / 14175)))))
    close = z.abs() < CLOSE
    found = torch.where(close, series, (p - q) / torch.where(close | none, 1.0, ln_p - ln_q))
    return torch.where(none, 0.0, found)
