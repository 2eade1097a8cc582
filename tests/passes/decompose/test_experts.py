"""Mixtures of experts: every row by the matrix of its own expert, as a loop over the rows does it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.passes.decompose.experts import DECOMPOSITIONS, grouped_rows

aten = torch.ops.aten
grouped_mm = DECOMPOSITIONS[aten._grouped_mm.default]
ROWS, WEIGHTS, BIAS = (torch.randn(*shape, dtype=torch.float64) for shape in ((7, 4), (3, 4, 5), (3, 5)))
ENDS = [[2, 5, 7], [0, 7, 7], [3, 3, 7], [7, 7, 7], [1, 2, 5], [0, 0, 0]]
"""Where the rows of each of three experts end: some have none, and some rows no expert."""


def by_hand(rows: Tensor, weights: Tensor, ends: list[int], bias: Tensor | None = None) -> Tensor:
    result = torch.zeros(len(rows), weights.shape[2], dtype=rows.dtype)
    for row in range(ends[-1]):
        expert = next(index for index, end in enumerate(ends) if row < end)
        result[row] = rows[row] @ weights[expert] + (0 if bias is None else bias[expert])
    return result


@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_every_row_meets_its_own_expert(ends: list[int]) -> None:
    offsets = torch.tensor(ends, dtype=torch.int32)

    torch.testing.assert_close(grouped_rows(ROWS, WEIGHTS, offsets), by_hand(ROWS, WEIGHTS, ends))
    torch.testing.assert_close(grouped_mm(ROWS, WEIGHTS, offsets, BIAS), by_hand(ROWS, WEIGHTS, ends, BIAS))


@pytest.mark.parametrize("ends", ENDS[:4], ids=str)
def test_or_every_column_of_the_right_matrix_does(ends: list[int]) -> None:
    found = grouped_mm(WEIGHTS.transpose(1, 2), ROWS.t(), torch.tensor(ends, dtype=torch.int32))

    torch.testing.assert_close(found, by_hand(ROWS, WEIGHTS, ends).t())


def test_without_ends_matrices_meet_in_pairs() -> None:
    batches = torch.randn(3, 2, 4, dtype=torch.float64)

    torch.testing.assert_close(grouped_mm(batches, WEIGHTS), batches @ WEIGHTS)
    assert grouped_mm(batches, WEIGHTS, out_dtype=torch.float32).dtype is torch.float32


def test_groups_along_what_is_summed_over_are_let_be() -> None:
    assert grouped_mm(ROWS.t(), ROWS, torch.tensor([7], dtype=torch.int32)) is NotImplemented


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_what_torchs_kernel_does(dtype: torch.dtype) -> None:
    rows, weights = torch.randn(9, 16, dtype=dtype), torch.randn(3, 16, 8, dtype=dtype)
    offsets = torch.tensor([4, 4, 9], dtype=torch.int32)

    expected = functional.grouped_mm(rows, weights, offs=offsets)

    torch.testing.assert_close(grouped_mm(rows, weights, offsets), expected)


@pytest.mark.parametrize(("bins", "low", "high"), [(4, 0, 3), (5, -1.0, 1.5), (1, 0, 2)])
def test_a_histogram_counts_as_torchs(bins: int, low: float, high: float) -> None:
    x = torch.tensor([-1.0, 0, 0, 0.5, 1, 1.5, 1.6, 2, 3, 3.5])

    found = DECOMPOSITIONS[aten.histc.default](x, bins, low, high)

    assert found.tolist() == torch.histc(x, bins, low, high).tolist()


class Experts(nn.Module):
    """As transformers has them: rows sorted by expert, two layers, put back in their order and added up."""

    def __init__(self) -> None:
        super().__init__()
        self.route, self.head = nn.Linear(8, 3), nn.Linear(8, 3)
        self.up, self.down = nn.Parameter(torch.randn(3, 8, 16)), nn.Parameter(torch.randn(3, 16, 8))

    def forward(self, x: Tensor) -> Tensor:
        shares, experts = self.route(x).softmax(-1).topk(2)
        sorted_experts, order = experts.flatten().sort()
        ends = torch.histc(sorted_experts.float(), bins=3, min=0, max=2).cumsum(0, dtype=torch.int32)
        multiply = torch.ops.transformers.grouped_mm_fallback
        rows = multiply(multiply(x[order // 2], self.up, ends).relu(), self.down, ends)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0])
        rows = (rows * shares.flatten()[order].unsqueeze(1))[back]
        return self.head(rows.view(x.shape[0], 2, 8).sum(1))


def test_relevance_is_that_of_each_rows_own_expert() -> None:
    """In the limit ε → 0, with the router fixed and no biases: gradient × input of the network written as a loop."""
    pytest.importorskip("transformers.integrations.moe")
    model = Experts().eval()
    nn.init.zeros_(model.head.bias)
    x = torch.randn(5, 8)
    composite = lrp.Composite(
        "fixed router", (lrp.Entry("*", "fixed", path="route"), *lrp.composites.attnlrp().entries)
    )
    explainer = lrp.compile(
        model, (x[:3],), composite=composite, target=1, dynamic_shapes={"x": {0: torch.export.Dim("rows")}}
    )

    explanation = explainer(x)

    leaf = x.clone().requires_grad_()
    shares, experts = model.route(x).softmax(-1).topk(2)
    mixed = torch.stack(
        [
            sum(share * ((row @ model.up[e]).relu() @ model.down[e]) for share, e in zip(*pair, strict=True))
            for row, pair in zip(leaf, zip(shares.detach(), experts.tolist(), strict=True), strict=True)
        ]
    )
    logits = model.head(mixed)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), leaf)
    torch.testing.assert_close(explanation.output, logits)
    torch.testing.assert_close(explanation.relevance["x"], (gradient * leaf).detach())


def test_torchs_own_op_is_written_out_as_well(graph_of: Callable, targets: Callable) -> None:
    """Only of bfloat16 does torch.export take it."""
    rows, weights = torch.randn(9, 16, dtype=torch.bfloat16), torch.randn(3, 16, 8, dtype=torch.bfloat16)
    offsets = torch.tensor([4, 4, 9], dtype=torch.int32)

    module = graph_of(lambda rows: functional.grouped_mm(rows, weights, offs=offsets), rows)

    assert "matmul" in targets(module)
    assert "_grouped_mm" not in targets(module)
    torch.testing.assert_close(module(rows)[0], functional.grouped_mm(rows, weights, offs=offsets))
