"""Quantisation: by value, or as if it did not round."""

import torch
from torch import Tensor

from lrp_compiler.rules import Op, Values, propagate, total, unit
from lrp_compiler.rules.registry import QUANTISED

X = torch.linspace(-2.0, 2.0, 9)


def test_a_quantisation_is_no_rounding_to_relevance_and_says_what_rounding_added() -> None:
    x = torch.tensor([-9.0, -0.26, 0.0, 0.1, 0.74, 1.3, 9.0])
    y = (torch.round(x / 0.5).clamp(-2, 2)) * 0.5
    booked: dict[str, Tensor] = {}
    op = Op(
        QUANTISED,
        {"self": x, "over": 0.5, "back": 0.5},
        y,
        Values(lambda tensor: tensor, absorb=booked.__setitem__),
        active=("self",),
    )

    flow = propagate(op, unit(torch.full_like(x, 2.0)), "straight-through")

    inside = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(flow["self"].tensor, 2 * torch.where(inside > 0, 1.0, y / x.where(x != 0, 1.0)))
    torch.testing.assert_close(booked["quantisation"], 2 * inside * (y - x))


def test_relevance_of_a_quantisation_in_total_form_stays_what_it_is() -> None:
    op = Op(QUANTISED, {"self": X}, X.round(), Values(lambda tensor: tensor), active=("self",))

    flow = propagate(op, total(torch.ones_like(X)))

    torch.testing.assert_close(flow["self"].tensor, torch.ones_like(X))


def test_by_value_nothing_is_asked_but_what_went_in_and_came_out() -> None:
    """`g_x = g ⊙ f(x)/x`; scales that are calculated would be promises of their own."""
    asked: list[Tensor] = []
    x, step = torch.tensor([-9.0, -0.26, 0.1, 0.74]), torch.tensor(0.5)
    y = torch.round(x / step).clamp(-2, 2) * step
    values = Values(lambda tensor: tensor, asked.append)
    op = Op(QUANTISED, {"self": x, "over": step}, y, values, active=("self",))

    flow = propagate(op, unit(torch.ones_like(x)), "identity")

    torch.testing.assert_close(flow["self"].tensor, y / x)
    assert {id(tensor) for tensor in asked} == {id(x), id(y)}
