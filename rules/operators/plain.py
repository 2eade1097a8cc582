"""Traits of ops that no rule speaks of: constants, and what reduces an activation to a statistic."""

from __future__ import annotations

import torch

from lrp_compiler.rules.traits import always_nonnegative, declare, filled_with

aten = torch.ops.aten

declare(aten.full.default, aten.full_like.default, sign=filled_with("fill_value"))
declare(aten.scalar_tensor.default, sign=filled_with("s"))
declare(aten.zeros.default, aten.zeros_like.default, aten.ones.default, aten.ones_like.default, sign=always_nonnegative)
declare(
    aten.empty_like.default,
    aten.full_like.default,
    aten.ones_like.default,
    aten.rand_like.default,
    aten.randint_like.default,
    aten.randint_like.low_dtype,
    aten.randn_like.default,
    aten.zeros_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.new_full.default,
    aten.new_ones.default,
    aten.new_zeros.default,
    of_shape=True,
)
declare(aten.var.dim, aten.var.correction, reduces=True)
declare(
    aten.std.dim,
    aten.std.correction,
    aten.linalg_vector_norm.default,
    aten.norm.ScalarOpt_dim,
    reduces=True,
    roots=True,
)
declare(
    aten.topk.default,
    aten.sort.default,
    aten.sort.stable,
    aten.mode.default,
    aten.max.dim,
    aten.min.dim,
    aten.cummax.default,
    aten.cummin.default,
    ranks=True,
)
declare(aten.addmm.default, bias="self")
