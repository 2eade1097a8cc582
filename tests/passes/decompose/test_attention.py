"""Attention and log-softmax: as torch's own ops, on any shape and under any mask."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from support.drawn import Case, computes_the_same, dim_of, drawn, shape_of, small
from torch import Tensor

from lrp_compiler.passes.decompose.attention import DECOMPOSITIONS

aten = torch.ops.aten


def attention(draw: st.DrawFn) -> Any:
    grouped = draw(st.booleans())
    heads = draw(st.integers(1, 2))
    lead = [draw(small), heads] if grouped else shape_of(draw, 0, 2)
    rows, columns, size, values = (draw(small) for _ in range(4))
    queries = [lead[0], heads * draw(st.integers(1, 3))] if grouped else lead
    args = [drawn(draw, *queries, rows, size), drawn(draw, *lead, columns, size), drawn(draw, *lead, columns, values)]
    options: dict[str, Any] = {"scale": draw(st.sampled_from([None, 0.3, 2.0]))}
    if grouped:
        options["enable_gqa"] = True
    mask = draw(st.sampled_from(["none", "causal", "float", "bool", "of each head"]))
    if mask == "causal":
        options["is_causal"] = True
    elif mask == "float":
        options["attn_mask"] = drawn(draw, rows, columns)
    elif mask == "bool":
        options["attn_mask"] = drawn(draw, rows, columns) > -0.5
    elif mask == "of each head":
        options["attn_mask"] = drawn(draw, *queries, rows, columns) > -0.5
    return tuple(args), options


def log_softmax(draw: st.DrawFn) -> Any:
    x = drawn(draw, *shape_of(draw, 1, 3)) * draw(st.sampled_from([1.0, 300.0]))
    if draw(st.booleans()):
        x = x.masked_fill(x < -1, -float("inf"))
    return (x, dim_of(draw, x.dim())), {}


def log_softmax_of_another_dtype(draw: st.DrawFn) -> Any:
    (x, dim), _ = log_softmax(draw)
    return (x.to(draw(st.sampled_from([torch.float64, torch.float32]))), dim, torch.float64), {}


def log_softmax_kernel(draw: st.DrawFn) -> Any:
    (x, dim), _ = log_softmax(draw)
    return (x, dim, False), {}


CASES: dict[Any, Case] = {
    aten.scaled_dot_product_attention.default: attention,
    aten.log_softmax.int: log_softmax_of_another_dtype,
    aten._log_softmax.default: log_softmax_kernel,
}
"""Op → random arguments of it; an op without any has no business in the table."""


@pytest.mark.parametrize("op", DECOMPOSITIONS, ids=str)
def test_it_computes_what_torch_does(op: Any) -> None:
    computes_the_same(op, DECOMPOSITIONS[op], CASES[op])


@pytest.mark.parametrize("mask", ["bool", "float"])
def test_a_row_whose_mask_leaves_nothing_is_zero(mask: str) -> None:
    allowed = torch.tensor([[True, False, True], [False, False, False]])
    given = allowed if mask == "bool" else torch.zeros(2, 3).double().masked_fill(~allowed, -float("inf"))
    query, key, value = (torch.randn(1, rows, 4, dtype=torch.float64) for rows in (2, 3, 3))

    found = DECOMPOSITIONS[aten.scaled_dot_product_attention.default](query, key, value, given)

    weights = torch.softmax((query @ key.transpose(1, 2) / 2)[:, 0, [0, 2]], -1)
    torch.testing.assert_close(found[:, 0], weights @ value[0, [0, 2]], rtol=1e-13, atol=1e-13)
    assert found[:, 1].eq(0).all()


# ---- In a graph of any batch size ----

X = torch.randn(2, 2, 3, 4, dtype=torch.float64)
MASK = torch.tensor([[True, False, True], [True, True, False], [True, True, True]])
attend = torch.nn.functional.scaled_dot_product_attention
WRITTEN: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "plain": (lambda x: attend(x, x, x), ["matmul", "softmax", "matmul"]),
    "masked": (lambda x: attend(x, x, x, MASK), ["matmul", "add", "_safe_softmax", "matmul"]),
    "causal": (lambda x: attend(x, x, x, is_causal=True), ["matmul", "add", "softmax", "matmul"]),
    "grouped": (lambda x: attend(x, x[:, :1], x[:, :1], enable_gqa=True), ["matmul", "softmax", "matmul"]),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", WRITTEN)
def test_in_a_graph_it_is_two_products_and_a_softmax(name: str, graph_of: Callable, targets: Callable) -> None:
    function, expected = WRITTEN[name]

    module = graph_of(function, X, dynamic=True)

    assert [target for target in targets(module) if target in ("matmul", "add", "softmax", "_safe_softmax")] == expected
    x = torch.randn(5, 2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x)[0], function(x), rtol=1e-13, atol=1e-13)


def test_a_log_softmax_is_a_difference(graph_of: Callable, targets: Callable) -> None:
    module = graph_of(lambda x: torch.log_softmax(x, 1), X, dynamic=True)

    assert targets(module) == ["logsumexp", "sub"]
    x = torch.randn(5, 2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x)[0], torch.log_softmax(x, 1), rtol=1e-13, atol=1e-13)
