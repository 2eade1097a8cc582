"""A net with parallel branches whose conditional relevance is worked out by hand.

x = [1, 2] ─ hidden ─ relu ─ second ─ relu ─ [2, 1]· ─┬─ logit 13
            └──────────────── skip ───────────────────┘

Without biases and with ε → 0 relevance is the share of each product: hidden [3, 2, 0], second [3, 5] → [6, 5], skip 2.
"""

import torch
from torch import Tensor, nn

X = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
LOGIT = 13.0


class Branches(nn.Module):
    """Two dense layers in a row, and a third beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(2, 3, bias=False)
        self.second = nn.Linear(3, 2, bias=False)
        self.last = nn.Linear(2, 1, bias=False)
        self.skip = nn.Linear(2, 1, bias=False)
        for layer, weight in (
            (self.hidden, [[1.0, 1.0], [2.0, 0.0], [1.0, -1.0]]),
            (self.second, [[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]),
            (self.last, [[2.0, 1.0]]),
            (self.skip, [[4.0, -1.0]]),
        ):
            layer.weight.data = torch.tensor(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.hidden(x).relu()).relu()) + self.skip(x)


PAST = [4.0, -2.0]
"""Relevance of x that goes past both layers."""

BY_HAND = {
    ("second:0", "logit"): 6,
    ("second:1", "logit"): 5,
    ("x:0", "logit"): 4,
    ("x:1", "logit"): -2,
    ("hidden:0", "second:0"): 6,
    ("hidden:0", "second:1"): 3,
    ("hidden:1", "second:1"): 2,
    ("x:0", "hidden:0"): 3,
    ("x:1", "hidden:0"): 6,
    ("x:0", "hidden:1"): 2,
}
"""Relevance that one unit hands to the other: lower, upper → how much."""


def through(hidden: list[int], second: list[int]) -> list[float]:
    """Relevance of x that passes the units chosen of both layers.

    Unit by unit: second₀ has 6, all of it from hidden₀; second₁ has 5, of it 3 from hidden₀ and 2 from hidden₁.
    hidden₀ hands ⅓ and ⅔ of what it gets to x₀ and x₁, hidden₁ all to x₀.
    """
    first = 6.0 * second[0] * hidden[0] + 3.0 * second[1] * hidden[0]
    other = 2.0 * second[1] * hidden[1]
    return [first / 3 + other, first * 2 / 3]
