"""Pools over adaptive windows, padding by name, borders that mirror: as torch's own ops, on any shape."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from support.drawn import Case, computes_the_same, drawn, maybe, small
from support.whole import holds
from torch import Tensor, nn

from lrp_compiler.passes.decompose.windows import DECOMPOSITIONS

aten = torch.ops.aten
functional = nn.functional


def lead(draw: st.DrawFn) -> list[int]:
    """Batch and channels, or channels alone."""
    return [draw(small), draw(small)] if draw(st.booleans()) else [draw(small)]


def adaptive(dims: int, ties: bool = False) -> Case:
    def case(draw: st.DrawFn) -> Any:
        sizes = [draw(st.integers(1, 7)) for _ in range(dims)]
        wanted = [draw(st.integers(1, 8)) for _ in range(dims)]
        return (drawn(draw, *lead(draw), *sizes, ties=ties and draw(st.booleans())), wanted), {}

    return case


def unpool(dims: int) -> Case:
    """What a max pool found is put back; windows of any stride, so places may be named twice."""

    def case(draw: st.DrawFn) -> Any:
        sizes = [draw(st.integers(2, 6)) for _ in range(dims)]
        pool = functional.max_pool2d if dims == 2 else functional.max_pool3d
        values, indices = pool(drawn(draw, *lead(draw), *sizes), 2, draw(st.integers(1, 2)), return_indices=True)
        return (values, indices, sizes, *([[2, 2, 2], [0, 0, 0]] if dims == 3 else [])), {}

    return case


def convolution(dims: int) -> Case:
    def case(draw: st.DrawFn) -> Any:
        groups, per_group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        kernel, dilation = ([draw(st.integers(1, 4)) for _ in range(dims)] for _ in range(2))
        padding = draw(st.sampled_from(["same", "valid"]))
        reach = [step * (length - 1) + 1 for step, length in zip(dilation, kernel, strict=True)]
        sizes = [least + draw(st.integers(0, 3)) for least in reach]
        stride = [1 if padding == "same" else draw(st.integers(1, 2)) for _ in range(dims)]
        outputs = groups * draw(st.integers(1, 2))
        channels = groups * per_group
        batch = [draw(small)] if draw(st.booleans()) else []
        x, weight = drawn(draw, *batch, channels, *sizes), drawn(draw, outputs, per_group, *kernel)
        bias = maybe(draw, lambda: drawn(draw, outputs))
        return (x, weight, bias, stride, padding, dilation, groups), {}

    return case


def amounts(draw: st.DrawFn, sizes: list[int], least: int, most: Callable[[int], int]) -> list[int]:
    """Elements before and behind each dim, the last dim first, so that something is left."""
    pairs = []
    for size in reversed(sizes):
        before = draw(st.integers(max(least, 1 - size), most(size)))
        after = draw(st.integers(max(least, 1 - size - min(before, 0)), most(size)))
        pairs += [before, after]
    return pairs


MOST: dict[str, Callable[[int], int]] = {
    "reflect": lambda size: size - 1,
    "circular": lambda size: size,
    "replicate": lambda size: 5,
    "constant": lambda size: 3,
}


def border(dims: int, mode: str, least: int = 0) -> Case:
    """A border around the last dims, by an op that has its mode in its name."""

    def case(draw: st.DrawFn) -> Any:
        sizes = [draw(st.integers(1, 5)) for _ in range(dims)]
        return (drawn(draw, *lead(draw), *sizes), amounts(draw, sizes, least, MOST[mode])), {}

    return case


def circular(draw: st.DrawFn) -> Any:
    return border(draw(st.integers(1, 3)), "circular")(draw)


def padded(draw: st.DrawFn) -> Any:
    mode = draw(st.sampled_from(list(MOST)))
    least = 0 if mode == "circular" else -2
    (x, pad), _ = border(draw(st.integers(1, 3)), mode, least)(draw)
    if mode == "constant":
        return (x, pad[: 2 * draw(st.integers(0, len(pad) // 2))], mode, draw(st.sampled_from([None, 0.0, -1.5]))), {}
    return (x, pad, mode), {}


CASES: dict[Any, Case] = {
    aten.adaptive_avg_pool1d.default: adaptive(1),
    aten.adaptive_avg_pool2d.default: adaptive(2),
    aten._adaptive_avg_pool2d.default: adaptive(2),
    aten.adaptive_avg_pool3d.default: adaptive(3),
    aten._adaptive_avg_pool3d.default: adaptive(3),
    aten.adaptive_max_pool1d.default: adaptive(1, ties=True),
    aten.adaptive_max_pool2d.default: adaptive(2, ties=True),
    aten.adaptive_max_pool3d.default: adaptive(3, ties=True),
    aten.max_unpool2d.default: unpool(2),
    aten.max_unpool3d.default: unpool(3),
    aten.conv1d.padding: convolution(1),
    aten.conv2d.padding: convolution(2),
    aten.conv3d.padding: convolution(3),
    aten.pad.default: padded,
    aten._pad_circular.default: circular,
    aten.reflection_pad1d.default: border(1, "reflect", -2),
    aten.reflection_pad2d.default: border(2, "reflect", -2),
    aten.reflection_pad3d.default: border(3, "reflect", -2),
    aten.replication_pad1d.default: border(1, "replicate", -2),
    aten.replication_pad2d.default: border(2, "replicate", -2),
    aten.replication_pad3d.default: border(3, "replicate", -2),
}
"""Op → random arguments of it; an op without any has no business in the table."""


@pytest.mark.slow
@pytest.mark.parametrize("op", DECOMPOSITIONS, ids=str)
def test_it_computes_what_torch_does(op: Any) -> None:
    computes_the_same(op, DECOMPOSITIONS[op], CASES[op])


# ---- In a graph of any batch size ----


IMAGE = torch.ones(2, 4, 6, 8, dtype=torch.float64)
THREE, TWO = (torch.ones(2, 4, rows, 3, dtype=torch.float64) for rows in (3, 2))
WRITTEN: dict[str, tuple[Callable[[Tensor], Tensor], list[str] | None]] = {
    "to one place": (lambda x: functional.adaptive_avg_pool2d(x, 1), ["mean"]),
    "windows of equal size": (lambda x: functional.adaptive_avg_pool2d(x, (3, 4)), ["avg_pool2d"]),
    "one dim kept": (lambda x: functional.adaptive_avg_pool2d(x, (None, 2)), ["avg_pool2d"]),
    "largest of uneven windows": (lambda x: functional.adaptive_max_pool2d(x, (4, 3)), None),
    "put back": (lambda x: functional.max_unpool2d(*functional.max_pool2d(x, 2, return_indices=True), 2), None),
    "an even border": (lambda x: functional.conv2d(x, THREE, padding="same"), ["conv2d"]),
    "an odd border": (
        lambda x: functional.conv2d(x, TWO, padding="same"),
        ["constant_pad_nd", "conv2d"],
    ),
    "no border": (lambda x: functional.conv2d(x, TWO, padding="valid"), ["conv2d"]),
    "mirrored": (lambda x: functional.pad(x, (3, 0, 0, 2), "reflect"), None),
    "round the batch": (lambda x: functional.pad(x[:, 0].permute(1, 2, 0), (0, 1), "circular"), None),
}


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", WRITTEN)
def test_in_a_graph_it_is_written_out_for_any_batch_size(name: str, graph_of: Callable, targets: Callable) -> None:
    function, expected = WRITTEN[name]

    module = graph_of(function, IMAGE, dynamic=True)

    x = torch.randn(5, 4, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(module(x)[0], function(x), rtol=1e-13, atol=1e-13)
    found = [target.removesuffix("_copy") for target in targets(module) if target not in ("arange", "sym_size")]
    assert expected is None or found == expected
    assert not [node for node in module.graph.nodes if node.target in DECOMPOSITIONS]


def test_windows_of_unequal_size_are_one_map(graph_of: Callable) -> None:
    """A pool over matrices, which has a rule; not a slice and a mean for every window."""
    module = graph_of(lambda x: functional.adaptive_avg_pool2d(x, (4, 3)), IMAGE, dynamic=True)

    (pool,) = [node for node in module.graph.nodes if str(node.target) == "lrp.pool.default"]

    rows, columns = pool.args[1]
    assert (rows.meta["val"].shape, columns.meta["val"].shape) == ((4, 6), (3, 8))
    assert module.graph.output_node().args[0] == (pool,)
    x = torch.randn(3, 4, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(module(x)[0], functional.adaptive_avg_pool2d(x, (4, 3)), rtol=1e-13, atol=1e-13)


def test_a_dim_without_a_border_is_not_looked_up(graph_of: Callable, targets: Callable) -> None:
    module = graph_of(lambda x: functional.pad(x, (0, 0, 1, 1), "replicate"), IMAGE, dynamic=True)

    assert targets(module).count("index_select") == 1


@pytest.mark.parametrize("amounts", [(-1, 2), (3, -2)])
def test_a_border_that_goes_round_what_was_cropped_is_torchs(amounts: tuple[int, int]) -> None:
    x = torch.arange(1.0, 6.0).reshape(1, 1, 5)

    found = DECOMPOSITIONS[aten.pad.default](x, amounts, "circular")

    assert found.tolist() == functional.pad(x, amounts, "circular").tolist()


def test_a_place_that_overlapping_windows_name_is_shared_by_them() -> None:
    class Unpool(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.max_unpool2d(*functional.max_pool2d(x, 3, 1, return_indices=True), 3, 1).flatten(1)

    x = torch.randn(1, 2, 5, 5)
    largest = int(Unpool()(x).abs().argmax())

    relevance = holds(Unpool(), (x,), target=largest)(x.double()).relevance["x"].flatten()

    assert relevance[largest] == x.double().flatten()[largest]
    assert relevance.count_nonzero() == 1
