"""Sums of zero-filled pieces become concatenations; the values stay, and so does what overlaps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.nn.functional import pad

from lrp_compiler.passes.optimise.concatenate_pieces import concatenate_pieces

pytestmark = pytest.mark.sampled(4)

X = torch.randn(3, 4, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def placed(x: Tensor, start: int, size: int, length: int) -> Tensor:
    """Rows of dim 2, from `start`, in `length` rows of zeros."""
    return pad(x[:, :, :size].sin(), [0, 0, start, length - start - size])


WHOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "in order": lambda x: placed(x, 0, 2, 5) + placed(x, 2, 3, 5),
    "out of order": lambda x: placed(x, 4, 1, 7) + placed(x, 0, 3, 7) + placed(x, 5, 2, 7) + placed(x, 3, 1, 7),
    "with gaps": lambda x: placed(x, 1, 1, 9) + placed(x, 4, 2, 9) + placed(x, 7, 1, 9),
    "one in front of the rest": lambda x: placed(x, 0, 2, 6) + (placed(x, 2, 4, 6) + x.cos()),
    "another dim": lambda x: pad(x[..., :2], [3, 0]) + pad(x[..., :3], [0, 2]),
    "fifty steps": lambda x: sum((placed(x, 49 - at, 1, 50) for at in range(1, 50)), placed(x, 49, 1, 50)),
}
KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "overlapping": lambda x: placed(x, 0, 3, 5) + placed(x, 2, 3, 5),
    "filled with ones": lambda x: pad(x[:, :, :2], [0, 0, 0, 4], value=1.0) + placed(x, 2, 4, 6),
    "read by others": lambda x: (a := placed(x, 0, 2, 6)) + placed(x, 2, 4, 6) + a.sum(),
    "cropped": lambda x: pad(x, [0, 0, 0, -2]) + pad(x[:, :, :2], [0, 0, 2, 0]),
    "along two dims": lambda x: pad(x[:, :, :2], [0, 0, 0, 4]) + pad(x[..., :2], [0, 3]),
    "two dims at once": lambda x: pad(x[:, :, :2, :2], [0, 3, 0, 4]) + pad(x[:, :, :4, :3], [2, 0, 2, 0]),
    "broadcast": lambda x: pad(x[:1, :, :2], [0, 0, 0, 4]) + pad(x[:, :, :4], [0, 0, 2, 0]),
}
REASONS = {
    "overlapping": ["its pieces overlap"],
    "filled with ones": ["it has one piece"],
    "read by others": ["it is read elsewhere, too", "it has one piece"],
    "cropped": ["it has one piece"],
    "along two dims": ["its pieces lie along different dims"],
    "two dims at once": ["it has zeros along several dims, or none"] * 2,
    "broadcast": ["it is repeated or cast in its sum", "it has one piece"],
}


def sums(graph: fx.GraphModule) -> int:
    return len(graph.graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor))


@pytest.mark.sampled(16)
@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("dynamic", [False, True])
def test_pieces_side_by_side_are_one_concatenation(name: str, dynamic: bool, graph_of: Callable) -> None:
    graph = graph_of(WHOLE[name], X, dynamic=dynamic)
    (before,) = graph(X)

    result = concatenate_pieces(graph)

    assert result.modified
    (after,) = result.graph_module(X)
    assert torch.equal(after, before)
    assert len(graph.graph.find_nodes(op="call_function", target=torch.ops.aten.cat.default)) == 1
    assert sums(graph) == ("rest" in name)


def test_pieces_that_overlap_go_into_several_rows(graph_of: Callable) -> None:
    def windows(x: Tensor) -> Tensor:
        return (
            placed(x, 0, 4, 8) + placed(x, 2, 4, 8) + placed(x, 4, 4, 8) + x.sum(2, keepdim=True).expand(-1, -1, 8, -1)
        )

    graph = graph_of(windows, X)
    (before,) = graph(X)

    assert concatenate_pieces(graph).modified
    # 0–4 and 4–8 fit side by side; 2–6 lies across both.
    assert sums(graph) == 2
    assert torch.allclose(graph(X)[0], before, rtol=1e-15, atol=1e-15)


@pytest.mark.sampled(16)
@pytest.mark.parametrize("name", KEPT)
def test_other_sums_stay(name: str, graph_of: Callable, targets: Callable) -> None:
    graph = graph_of(KEPT[name], X)
    before = targets(graph)

    result = concatenate_pieces(graph)

    assert not result.modified
    assert targets(graph) == before
    assert [reason for _, reason in result.declined] == REASONS[name]
