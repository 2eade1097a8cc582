"""What is said to go row by row does: a row of its operands, put in alone, makes that row of the result."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx

import lrp_compiler as lrp
from lrp_compiler.passes.forward.rows import BY_ROWS, SIZES, Grid, operands_of, sized
from lrp_compiler.passes.graph import call

aten = torch.ops.aten
ROWS, COLUMNS = 3, 4


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


SCORES, MASK, FLAGS = drawn(2, ROWS, COLUMNS), drawn(ROWS, COLUMNS), drawn(ROWS, COLUMNS) > 0
LAST = Grid(-2, -1)
CASES: list[tuple[Any, tuple[Any, ...], Grid]] = [
    (aten.softmax.int, (SCORES, -1), LAST),
    (aten.softmax.int, (SCORES, 0), LAST),
    (aten._softmax.default, (SCORES, 2, False), LAST),
    (aten._safe_softmax.default, (SCORES, -1), LAST),
    (aten.matmul.default, (drawn(2, ROWS, 5), drawn(2, 5, COLUMNS)), LAST),
    (aten.matmul.default, (drawn(2, ROWS, 5), drawn(5, COLUMNS)), LAST),
    (aten.bmm.default, (drawn(2, ROWS, 5), drawn(2, 5, COLUMNS)), LAST),
    (aten.full.default, ([2, ROWS, COLUMNS], 0.5), LAST),
    (aten.expand.default, (MASK, [2, ROWS, COLUMNS]), LAST),
    (aten.expand.default, (drawn(ROWS, 1), [2, ROWS, COLUMNS]), LAST),
    (aten.expand.default, (drawn(1, COLUMNS), [ROWS, COLUMNS]), LAST),
    (aten.unsqueeze.default, (MASK, 0), LAST),
    (aten.unsqueeze.default, (MASK, 1), Grid(-3, -1)),
    (aten.unsqueeze.default, (MASK, -1), Grid(-3, -2)),
    (aten.permute.default, (drawn(ROWS, COLUMNS, 2), [2, 0, 1]), LAST),
    (aten.transpose.int, (drawn(ROWS, 2, COLUMNS), 0, 1), LAST),
    (aten.transpose.int, (drawn(2, COLUMNS, ROWS), 1, -1), LAST),
    (aten.slice.Tensor, (drawn(5, ROWS, COLUMNS), 0, 1, 4), LAST),
    (aten.squeeze.dim, (drawn(ROWS, 1, COLUMNS), 1), LAST),
    (aten.squeeze.dim, (drawn(2, ROWS, COLUMNS), 0), LAST),
    (aten.select.int, (drawn(ROWS, 2, COLUMNS), 1, 0), LAST),
    (aten.select.int, (drawn(ROWS, COLUMNS, 2), -1, 0), LAST),
    (aten.embedding.default, (drawn(7, 2), (MASK > 0).long()), Grid(-3, -2)),
    (aten.reshape.default, (drawn(2, 3, ROWS, COLUMNS), [6, ROWS, COLUMNS]), LAST),
    (aten.reshape.default, (drawn(2, ROWS, 6), [2, ROWS, 2, 3]), Grid(-3)),
    (aten.reshape.default, (drawn(2, ROWS, 2, 3), [2, ROWS, 6]), Grid(-2)),
    (aten.where.ScalarOther, (FLAGS, SCORES, 0.0), LAST),
    (aten.where.ScalarSelf, (FLAGS, 0.0, SCORES), LAST),
    (aten.where.Scalar, (FLAGS, 0.0, 1.0), LAST),
    (aten.where.self, (FLAGS, SCORES, drawn(1)), LAST),
    (aten.masked_fill.Scalar, (SCORES, FLAGS, -1.0), LAST),
    (aten.masked_fill.Tensor, (SCORES, FLAGS, torch.tensor(-1.0).double()), LAST),
    (aten.add.Tensor, (SCORES, drawn(ROWS, 1)), LAST),
    (aten.le.Tensor, (torch.arange(COLUMNS), torch.arange(ROWS).unsqueeze(-1)), LAST),
    (aten._to_copy.default, (FLAGS,), LAST),
    (aten.tanh.default, (SCORES,), LAST),
]


def traced(target: Any, args: tuple[Any, ...]) -> fx.Node:
    """A node that calls the op, its tensors as placeholders."""
    graph = fx.Graph()
    places = []
    for number, argument in enumerate(args):
        if isinstance(argument, Tensor):
            place = graph.placeholder(f"operand_{number}")
            place.meta["val"] = argument
            places.append(place)
        else:
            places.append(argument)
    return call(graph, target, *places)


def names(case: Any) -> str:
    return str(case) if not isinstance(case, tuple | Grid) else ""


@pytest.mark.parametrize(("target", "args", "grid"), CASES, ids=names)
def test_a_row_of_the_operands_makes_that_row_of_the_result(target: Any, args: tuple[Any, ...], grid: Grid) -> None:
    node = traced(target, args)
    read = operands_of(node, grid)
    assert read is not None
    where = dict(read)
    for row in range(ROWS):

        def one(argument: Any, row: int = row) -> Any:
            if isinstance(argument, fx.Node):
                value = argument.meta["val"]
                rows = where[argument].rows
                return value if rows is None else value.narrow(rows, row, 1)
            return argument

        given = [one(argument) for argument in node.args]
        number = sized(node)
        if number is not None:
            sizes = list(given[number])
            sizes[grid.rows] = 1
            given[number] = sizes
        found = target(*given)
        torch.testing.assert_close(found, node.meta["val"].narrow(grid.rows, row, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("target", "args", "grid"),
    [
        (aten.softmax.int, (SCORES, 1), LAST),
        (aten.cumsum.default, (SCORES, 1), LAST),
        (aten.matmul.default, (drawn(2, ROWS, 5), drawn(2, 5, COLUMNS)), Grid(-1, -2)),
        (aten.matmul.default, (drawn(5), drawn(2, 5, COLUMNS)), LAST),
        (aten.slice.Tensor, (SCORES, 1, 0, 2), LAST),
        (aten.embedding.default, (drawn(7, COLUMNS), torch.zeros(ROWS).long()), LAST),
        (aten.reshape.default, (drawn(COLUMNS, ROWS), [ROWS, COLUMNS]), LAST),
    ],
    ids=names,
)
def test_what_mixes_rows_is_not_said_to(target: Any, args: tuple[Any, ...], grid: Grid) -> None:
    assert operands_of(traced(target, args), grid) is None


def test_every_operation_of_the_table_is_tried() -> None:
    assert {target for target, *_ in CASES} >= {*BY_ROWS, *SIZES}


def test_a_dim_of_size_one_is_neither_rows_nor_columns() -> None:
    node = traced(aten.add.Tensor, (SCORES, drawn(ROWS, 1)))
    assert [grid for _, grid in operands_of(node, LAST) or []] == [LAST, Grid(-2, None)]


@pytest.mark.parametrize(
    ("shape", "dim", "there"), [((COLUMNS,), 0, Grid(None, -1)), ((ROWS,), -1, Grid(-1, None)), ((), 0, Grid())]
)
def test_a_dim_that_is_added_is_none_of_the_operands(shape: tuple[int, ...], dim: int, there: Grid) -> None:
    grid = LAST if shape else Grid(-1)

    assert [place for _, place in operands_of(traced(aten.unsqueeze.default, (drawn(*shape), dim)), grid) or []] == [
        there
    ]


@pytest.mark.parametrize("composite", ["epsilon", "attnlrp"])
def test_the_inner_product_of_two_vectors_is_no_attention(composite: str) -> None:
    class Inner(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.inner(x, y).reshape(1, 1)

    x, y = drawn(5), drawn(5)
    found = lrp.compile(Inner().eval(), (x, y), composite=composite, target=0)(x, y).relevance

    torch.testing.assert_close(found["x"], x * y / 2, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found["y"], x * y / 2, rtol=1e-5, atol=1e-9)
