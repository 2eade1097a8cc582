"""Ops that are written out: the same numbers as torch's own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_compiler.passes.decompose.scatters import WRITTEN_OUT
from lrp_compiler.passes.decompose.table import DECOMPOSITIONS, decomposition_table
from lrp_compiler.rules import OPERATORS, rule

aten = torch.ops.aten


def tensor(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


Q, K, V = tensor(2, 4, 3, 8), tensor(2, 4, 5, 8, seed=1), tensor(2, 4, 5, 8, seed=2)
GROUPED_K, GROUPED_V = tensor(2, 2, 5, 8, seed=1), tensor(2, 2, 5, 8, seed=2)
ALLOWED = torch.tensor([[True, False, True, True, False], [False] * 5, [True] * 5])
ATTENTION = aten.scaled_dot_product_attention.default
A = tensor(2, 3, 4)
ROWS = torch.tensor([1, 0, 1])
PLACES = torch.tensor([[[0, 1, 2, 0], [1, 2, 0, 1], [0, 0, 1, 2]]] * 2)

CALLS: dict[str, tuple[Any, tuple, dict]] = {
    "attention": (ATTENTION, (Q, K, V), {}),
    "attention, scaled": (ATTENTION, (Q, K, V), {"scale": 0.3}),
    "attention, causal": (ATTENTION, (Q, Q, Q), {"is_causal": True}),
    "attention, causal with more keys": (ATTENTION, (Q, K, V), {"is_causal": True}),
    "attention, float mask": (ATTENTION, (Q, K, V, tensor(3, 5, seed=3)), {}),
    "attention, bool mask with an empty row": (ATTENTION, (Q, K, V, ALLOWED), {}),
    "attention, grouped heads": (ATTENTION, (Q, GROUPED_K, GROUPED_V), {"enable_gqa": True}),
    "a view that copies": (aten.narrow_copy.default, (tensor(2, 7), 1, 2, 3), {}),
    "distance": (aten.dist.default, (tensor(2, 7), tensor(2, 7, seed=1), 3), {}),
    "sum of products": (aten.addbmm.default, (tensor(2, 3), tensor(4, 2, 5), tensor(4, 5, 3, seed=1)), {"alpha": 2}),
    "split": (aten.split.Tensor, (tensor(2, 7), 3, 1), {}),
    "split, negative dim": (aten.split.Tensor, (tensor(2, 7), 3, -1), {}),
    "split with sizes": (aten.split_with_sizes.default, (tensor(2, 7), [1, 4, 2], 1), {}),
    "chunk": (aten.chunk.default, (tensor(2, 7), 3, 1), {}),
    "chunk into more than there are": (aten.chunk.default, (tensor(2, 5), 4, 1), {}),
    "unbind": (aten.unbind.int, (tensor(2, 3), -1), {}),
    "adaptive average to 1": (aten.adaptive_avg_pool2d.default, (tensor(2, 3, 5, 7), [1, 1]), {}),
    "adaptive average, divisible": (aten.adaptive_avg_pool2d.default, (tensor(2, 3, 6, 8), [3, 2]), {}),
    "adaptive average, uneven": (aten.adaptive_avg_pool2d.default, (tensor(2, 3, 5, 7), [3, 2]), {}),
    "adaptive average, growing": (aten.adaptive_avg_pool2d.default, (tensor(2, 3, 2, 3), [4, 5]), {}),
    "adaptive average, 1d": (aten.adaptive_avg_pool1d.default, (tensor(2, 3, 7), [3]), {}),
    "adaptive average, 3d": (aten.adaptive_avg_pool3d.default, (tensor(2, 3, 4, 5, 6), [2, 2, 3]), {}),
    "conv1d, same": (aten.conv1d.padding, (tensor(2, 3, 7), tensor(4, 3, 4), tensor(4), [1], "same", [2]), {}),
    "conv2d, same": (aten.conv2d.padding, (tensor(2, 3, 5, 6), tensor(4, 3, 2, 3), None, [1, 1], "same"), {}),
    "conv2d, valid": (aten.conv2d.padding, (tensor(2, 3, 5, 6), tensor(4, 3, 2, 3), tensor(4), [2, 1], "valid"), {}),
    "conv3d, same": (
        aten.conv3d.padding,
        (tensor(1, 2, 3, 4, 5), tensor(2, 1, 2, 3, 2), None, [1], "same", [1], 2),
        {},
    ),
    "rms_norm": (aten.rms_norm.default, (tensor(2, 3, 4), [4], tensor(4)), {}),
    "rms_norm over two dims": (aten.rms_norm.default, (tensor(2, 3, 4), [3, 4], None, 0.1), {}),
    "log_softmax": (aten.log_softmax.int, (tensor(2, 3, 4), 1), {}),
    "log_softmax, kernel": (aten._log_softmax.default, (tensor(2, 3), -1, False), {}),
    "copy": (aten.copy.default, (tensor(2, 3, 4), torch.arange(4.0)), {}),
    "slice_scatter": (aten.slice_scatter.default, (A, tensor(2, 2, 4), 1, 1, 3), {}),
    "slice_scatter, negative": (aten.slice_scatter.default, (A, tensor(2, 3, 2), -1, -3, -1), {}),
    "slice_scatter, to the end": (aten.slice_scatter.default, (A, tensor(2, 3, 2), 2, 2), {}),
    "slice_scatter, beyond the end": (aten.slice_scatter.default, (A, tensor(2, 3, 2), 2, 2, 99), {}),
    "slice_scatter of all": (aten.slice_scatter.default, (A, tensor(2, 3, 4, seed=4)), {}),
    "slice_scatter of nothing": (aten.slice_scatter.default, (A, tensor(2, 0, 4), 1, 2, 1), {}),
    "slice_scatter, stepped": (aten.slice_scatter.default, (A, tensor(2, 3, 2), 2, 0, 4, 2), {}),
    "select_scatter": (aten.select_scatter.default, (A, tensor(2, 4), 1, 2), {}),
    "select_scatter, negative": (aten.select_scatter.default, (A, tensor(2, 3), -1, -4), {}),
    "diagonal_scatter": (aten.diagonal_scatter.default, (tensor(3, 4), tensor(3)), {}),
    "diagonal_scatter, inner dims": (aten.diagonal_scatter.default, (A, tensor(2, 3), 1, 1, 2), {}),
    "index_put, mask": (aten.index_put.default, (A, [A > 0], torch.tensor(7.0).double()), {}),
    "index_put, mask of rows": (aten.index_put.default, (A, [A[..., 0] > 0], tensor(4)), {}),
    "index_put, mask of inner dim": (aten.index_put.default, (A, [None, A[0, :, 0] > 0], tensor(4)), {}),
    "index_put, one dim": (aten.index_put.default, (A, [None, torch.tensor([2, -3])], tensor(2, 2, 4)), {}),
    "index_put, one dim, broadcast": (aten.index_put.default, (A, [ROWS], tensor(4)), {}),
    "index_put, added": (aten.index_put.default, (A, [None, ROWS], tensor(2, 3, 4), True), {}),
    "index_put, unchecked": (aten._unsafe_index_put.default, (A, [ROWS[:2], ROWS[1:]], tensor(2, 4)), {}),
    "index_add": (aten.index_add.default, (A, 1, ROWS, tensor(2, 3, 4)), {"alpha": 2}),
    "index_add, negative dim": (aten.index_add.default, (A, -1, ROWS, tensor(2, 3, 3)), {}),
    "index_copy": (aten.index_copy.default, (A, 2, torch.tensor([3, 1]), tensor(2, 3, 2)), {}),
    "index_fill": (aten.index_fill.int_Scalar, (A, 1, ROWS, 7.0), {}),
    "index_fill by a tensor": (aten.index_fill.int_Tensor, (A, -1, ROWS, torch.tensor(7.0).double()), {}),
    "masked_scatter": (aten.masked_scatter.default, (A, A > 0, tensor(30)), {}),
    "masked_scatter, broadcast": (aten.masked_scatter.default, (A, A[:, :1] > 0, tensor(30)), {}),
    "scatter_reduce, sum": (aten.scatter_reduce.two, (A, 1, PLACES, tensor(2, 3, 4, seed=2), "sum"), {}),
    "scatter_reduce, mean": (aten.scatter_reduce.two, (A, 1, PLACES, tensor(2, 3, 4, seed=2), "mean"), {}),
    "scatter_reduce, mean without self": (
        aten.scatter_reduce.two,
        (A, 1, PLACES, tensor(2, 3, 4, seed=2), "mean"),
        {"include_self": False},
    ),
    "adaptive max": (aten.adaptive_max_pool2d.default, (tensor(2, 3, 5, 7), [3, 2]), {}),
    "adaptive max, divisible": (aten.adaptive_max_pool2d.default, (tensor(2, 3, 6, 4), [3, 2]), {}),
    "adaptive max, equals": (aten.adaptive_max_pool2d.default, (torch.zeros(2, 3, 5, 5), [2, 3]), {}),
    "adaptive max, growing": (aten.adaptive_max_pool2d.default, (tensor(3, 2, 3), [4, 5]), {}),
    "adaptive max, 1d": (aten.adaptive_max_pool1d.default, (tensor(2, 3, 7), [3]), {}),
    "adaptive max, 3d": (aten.adaptive_max_pool3d.default, (tensor(2, 3, 4, 5, 6), [2, 2, 4]), {}),
    "max_unpool": (
        aten.max_unpool2d.default,
        (*aten.max_pool2d_with_indices.default(tensor(2, 3, 4, 6), [2, 2]), [4, 6]),
        {},
    ),
    "pad, constant": (aten.pad.default, (A, [1, -1, 0, 2], "constant", 3.0), {}),
    "pad, reflect": (aten.pad.default, (tensor(2, 3, 5, 4), [1, 3, 4, 0], "reflect"), {}),
    "pad, replicate": (aten.pad.default, (tensor(2, 3, 2, 4), [1, 2, 5, 0], "replicate"), {}),
    "pad, replicate, cropping": (aten.pad.default, (tensor(2, 3, 5, 4), [-1, 2, 1, -2], "replicate"), {}),
    "pad, circular": (aten.pad.default, (tensor(2, 3, 5, 4), [1, 2, 4, 0], "circular"), {}),
    "reflection_pad1d": (aten.reflection_pad1d.default, (A, [2, 1]), {}),
    "replication_pad3d": (aten.replication_pad3d.default, (tensor(1, 2, 3, 2, 2), [1, 0, 2, 1, 0, 3]), {}),
    "group_norm": (aten.group_norm.default, (tensor(2, 6, 5, 3), 3, tensor(6), tensor(6, seed=1), 1e-5), {}),
    "group_norm, plain": (aten.group_norm.default, (tensor(2, 6, 5), 2), {}),
    "group_norm, kernel": (aten.native_group_norm.default, (A, tensor(3), None, 2, 3, 4, 1, 1e-5), {}),
    "layer_norm, kernel": (aten.native_layer_norm.default, (A, [3, 4], tensor(3, 4), None, 1e-5), {}),
    "instance_norm": (
        aten.instance_norm.default,
        (tensor(2, 3, 5, 4), tensor(3), tensor(3, seed=1), None, None, True, 0.1, 1e-5, True),
        {},
    ),
    "instance_norm, kept statistics": (
        aten.instance_norm.default,
        (tensor(2, 3, 5), None, None, tensor(3), tensor(3).abs() + 1, False, 0.1, 1e-5, True),
        {},
    ),
    "batch norm of the batch": (
        aten._native_batch_norm_legit.no_stats,
        (tensor(4, 3, 5), tensor(3), None, True, 0.1, 1e-5),
        {},
    ),
    **{
        f"{order}-norm": (aten.linalg_vector_norm.default, (A, order, [0, -1], True), {})
        for order in (2, 1, 0, 3, 2.5, float("inf"), -float("inf"))
    },
    "norm of all": (aten.linalg_vector_norm.default, (A,), {}),
    "variance": (aten.var.correction, (A, [0, 2]), {"keepdim": True}),
    "variance, biased": (aten.var.correction, (A, [1]), {"correction": 0}),
    "variance of all": (aten.var.correction, (A,), {}),
    "standard deviation": (aten.std.correction, (A, [-1]), {"correction": 2}),
    "variance and mean": (aten.var_mean.correction, (A, [1]), {}),
    "largest": (aten.max.default, (A,), {}),
    "smallest": (aten.min.default, (A,), {}),
    "kthvalue": (aten.kthvalue.default, (A, 2, 1), {}),
    "median": (aten.median.dim, (A, -1, True), {}),
    "median of all": (aten.median.default, (A,), {}),
    "cdist": (aten.cdist.default, (A, tensor(2, 5, 4), 3.0), {}),
    "prod": (aten.prod.dim_int, (PLACES, 1), {"dtype": torch.float64}),
    "prod of all": (aten.prod.default, (PLACES.int(),), {}),
    "cumprod": (aten.cumprod.default, (PLACES > 0, 1), {}),
    "logcumsumexp": (aten.logcumsumexp.default, (A, 1), {}),
    "nanmedian": (aten.nanmedian.dim, (A, 1), {}),
    "lerp": (aten.lerp.Scalar, (A, tensor(2, 3, 4, seed=2), 0.3), {}),
    "lerp by a tensor": (aten.lerp.Tensor, (A, tensor(2, 3, 4, seed=2), tensor(4)), {}),
    "bilinear": (aten.bilinear.default, (A, tensor(2, 3, 5), tensor(6, 4, 5), tensor(6)), {}),
    "clamp by tensors": (aten.clamp.Tensor, (A, tensor(4), tensor(4) + 1), {}),
    "clamp_min by a tensor": (aten.clamp_min.Tensor, (A, tensor(4)), {}),
    "clamp_max by a tensor": (aten.clamp_max.Tensor, (A, tensor(4)), {}),
    "rrelu": (aten.rrelu.default, (A, 0.1, 0.4), {}),
    "baddbmm": (aten.baddbmm.default, (tensor(3, 5), A, tensor(2, 4, 5)), {"beta": 2, "alpha": 0.5}),
    "full_like": (aten.full_like.default, (A, 3), {}),
    "full_like of another dtype": (aten.full_like.default, (A, 3), {"dtype": torch.int64, "pin_memory": False}),
    "hypot": (aten.hypot.default, (A, tensor(4)), {}),
    **{
        f"embedding_bag, mode {mode}": (
            aten._embedding_bag.default,
            (tensor(9, 4), torch.tensor([1, 2, 4, 5, 4, 3]), torch.tensor([0, 2, 2, 5]), False, mode),
            {},
        )
        for mode in (0, 1)
    },
    "embedding_bag, by its name": (
        aten.embedding_bag.padding_idx,
        (tensor(9, 4), torch.tensor([1, 2, 4, 5]), torch.tensor([0, 3, 4]), False, 1, False, None, True, None),
        {},
    ),
    "embedding_bag, weighted": (
        aten._embedding_bag.default,
        (tensor(9, 4), torch.tensor([1, 2, 4, 5]), torch.tensor([0, 3]), False, 0, False, tensor(4)),
        {},
    ),
    "embedding_bag, padded": (
        aten._embedding_bag.default,
        (tensor(9, 4), torch.tensor([1, 2, 4, 2]), torch.tensor([0, 3]), False, 1, False, None, False, 2),
        {},
    ),
    "index, mask of bytes": (aten.index.Tensor, (A, [(A > 0).to(torch.uint8)]), {}),
    "scatter that adds": (aten.scatter.reduce, (A, 1, PLACES, tensor(2, 3, 4, seed=2)), {"reduce": "add"}),
    "index_reduce": (aten.index_reduce.default, (A, 1, ROWS, tensor(2, 3, 4), "amin"), {"include_self": False}),
    "histc": (aten.histc.default, (A, 4, -1, 1), {}),
    "type_as": (aten.type_as.default, (tensor(3), torch.ones(1)), {}),
    "as_strided": (aten.as_strided.default, (tensor(3, 8), [3, 3, 4], [8, 2, 1]), {}),
    "as_strided, from further on": (aten.as_strided.default, (tensor(3, 8), [3, 3], [4, 3], 2), {}),
    "as_strided, of a transposed": (aten.as_strided.default, (tensor(3, 8).t(), [3, 3], [4, 3], 2), {}),
    "antialiased": (aten._upsample_bilinear2d_aa.default, (tensor(1, 2, 5, 7), [3, 4], False), {}),
    "antialiased, cubic": (aten._upsample_bicubic2d_aa.default, (tensor(1, 2, 5, 7), [3, 9], True), {}),
    "sampled volume": (aten.grid_sampler_3d.default, (tensor(1, 2, 3, 4, 5), tensor(1, 2, 2, 2, 3), 0, 1, False), {}),
    "fmax": (aten.fmax.default, (A, torch.where(A > 1, torch.nan, A.flip(0))), {}),
    "fmin": (aten.fmin.default, (torch.where(A > 1, torch.nan, A), A[:, :1]), {}),
    "copysign of zeros": (aten.copysign.Tensor, (A, torch.tensor([2.0, -2.0, 0.0, -0.0])), {}),
    "copysign, of a number": (aten.copysign.Scalar, (A, -0.0), {}),
    "ldexp": (aten.ldexp.Tensor, (A, torch.tensor([-3, 0, 1, 4])), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_written_out_computes_the_same(name: str) -> None:
    target, args, kwargs = CALLS[name]

    written_out, expected = (DECOMPOSITIONS | WRITTEN_OUT)[target](*args, **kwargs), target(*args, **kwargs)

    if "embedding_bag" in target._opname:  # the other results serve torch's own backward
        written_out, expected = written_out[0], expected[0]
    torch.testing.assert_close(
        list(written_out) if isinstance(expected, (list, tuple)) else written_out,
        list(expected) if isinstance(expected, (list, tuple)) else expected,
        rtol=1e-12,
        atol=1e-13,
        equal_nan=True,
    )


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.AdaptiveAvgPool2d((3, 2)),
        torch.nn.AdaptiveAvgPool2d((None, 1)),
        torch.nn.AdaptiveAvgPool2d((7, 7)),
        torch.nn.Conv2d(2, 2, 2, padding="same").double(),
    ],
    ids=str,
)
def test_it_is_written_out_within_a_program(layer: torch.nn.Module) -> None:
    x = tensor(2, 2, 5, 3)
    program = torch.export.export(layer.eval(), (x,)).run_decompositions(DECOMPOSITIONS)

    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize(
    "target", [op for op in DECOMPOSITIONS if op not in {call[0] for call in CALLS.values()}], ids=str
)
def test_what_has_no_call_above_shares_its_function_with_one_that_has(target: Any) -> None:
    functions = {DECOMPOSITIONS[call[0]].__qualname__ for call in CALLS.values() if call[0] in DECOMPOSITIONS}
    elsewhere = ("lstm", "gru", "rnn", "_grouped_mm")  # test_recurrent.py, test_experts.py
    elsewhere += ("empty", "new_empty")  # any value is right

    assert DECOMPOSITIONS[target].__qualname__ in functions or target._opname.startswith(elsewhere)


def test_torchs_own_decompositions_write_out_what_no_rule_speaks_of() -> None:
    table = decomposition_table()

    assert aten.glu.default in table
    assert aten.einsum.default in table
    assert not [op for op in table if op in OPERATORS and op not in DECOMPOSITIONS]


def test_an_op_with_a_rule_of_the_users_own_stays_whole() -> None:
    try:
        rule(aten.glu.default, aten.cdist.default)(lambda op, relevance: relevance)
        table = decomposition_table()
    finally:
        del OPERATORS[aten.glu.default], OPERATORS[aten.cdist.default]

    assert aten.glu.default not in table
    assert aten.cdist.default not in table
