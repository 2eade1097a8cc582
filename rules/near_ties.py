"""Near-ties: a largest value shares its relevance with what comes close to it.

Where two values of a window are equal but for rounding, rounding decides which one wins, and two runtimes may send all
relevance to different places. Here each value gets a share by how near it comes, from 1 for the largest down to 0 for
those that lie further off than a share δ of it:

    w_i = max(0, 1 − |m − x_i| / (δ |m|)),   R_i = w_i / Σ_j w_j · R

so that relevance is continuous in the values, and rounding of relative size u moves it by about u / δ. The sum is kept
in either form of relevance: in unit form `g_i = w_i / Σ_j w_j · g · m / x_i`. Equal values share alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .op import Op
from .registry import Flow, RuleError, family_rule
from .relevance import Relevance
from .selection import Selection, Transpose, route

WITHIN = 0.01
"""δ: some hundred-thousand times float32's rounding."""


@dataclass(frozen=True)
class Extreme:
    """The transpose of what picks one of several candidates, and who they were.

    Args:
        first_wins: the transpose: all to the first of the winners.
        candidates: the operand's values where they were candidates, and flags of those that are none (a border), or
            None.
        spread: a result's values, to broadcast against the candidates.
        dims: of the candidates, over which they were compared.
        back: what each candidate gets → what the operand gets.
    """

    first_wins: Transpose
    candidates: Callable[[], tuple[Tensor, Tensor | None]]
    spread: Transpose
    dims: tuple[int, ...]
    back: Transpose

    def __call__(self, r: Tensor) -> Tensor:
        """All to the first of the winners."""
        return self.first_wins(r)


@family_rule("selection", "near", hands_on=True)
def near(op: Op, selection: Selection, relevance: Relevance, within: float = WITHIN) -> Flow:
    """Relevance of a largest (smallest) value goes to all that come close to it; of any other selection as `route`.

    Args:
        op: a max pool, `amax` or `amin`; or anything else.
        selection: its transposes.
        relevance: of its result.
        within: δ, as a share of the largest value.

    Raises:
        RuleError: δ is not above 0.
    """
    if not within > 0:
        raise RuleError(f"within={within!r}: what still comes close, as a share of the largest value, must be above 0")
    shared = {
        name: partial(_shared, op, transpose, within, relevance.form) if isinstance(transpose, Extreme) else transpose
        for name, transpose in selection.items()
    }
    return route(op, shared, relevance)


def _shared(op: Op, extreme: Extreme, within: float, form: str, r: Tensor) -> Tensor:
    values, outside = extreme.candidates()
    largest = extreme.spread(op.output)
    apart = (largest - values).abs()
    # Where the largest value is 0, those that are 0 as well share; of any other it is too small to matter.
    reach = within * largest.abs() + torch.finfo(values.dtype).tiny
    weights = (1 - apart / reach).clamp(min=0)
    if outside is not None:
        weights = torch.where(outside, 0.0, weights)
    shares = weights / weights.sum(extreme.dims, keepdim=True)
    if form == "unit":
        shares = shares * torch.where((weights > 0) & (values != 0), largest / values, 1.0)
    return extreme.back(extreme.spread(r) * shares.to(r.dtype))
