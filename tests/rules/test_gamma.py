"""The signed γ rule against Zennit's, in float64, and its books."""

from collections import defaultdict

import pytest
import torch
from support import zennit_oracle
from torch import Tensor, nn
from zennit.rules import Gamma

from lrp_compiler.rules import Op, propagate, total
from lrp_compiler.rules.op import bind

aten = torch.ops.aten

MODULES = {
    # Narrow maps are split into W⁺ and W⁻, wide ones into half-sums.
    "linear, narrow": (lambda: nn.Linear(7, 5), (3, 7)),
    "linear, wide": (lambda: nn.Linear(40, 6), (3, 40)),
    "conv2d, narrow": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1), (2, 2, 7, 9)),
    "conv2d, wide": (lambda: nn.Conv2d(6, 4, 3, bias=False), (2, 6, 6, 7)),
}


def op_of(module: nn.Module, x: Tensor, nonnegative: bool, books: dict[str, float]) -> Op:
    if isinstance(module, nn.Linear):
        target, args = aten.linear.default, (x, module.weight, module.bias)
    else:
        target = aten.conv2d.default
        args = (x, module.weight, module.bias, module.stride, module.padding)
    return Op(
        target,
        bind(target, args, {}),
        target(*args),
        fetch=lambda tensor: tensor,
        active=["input"],
        nonnegative=["input"] if nonnegative else [],
        absorb=lambda cause, share: books.__setitem__(cause, books[cause] + float(share.sum())),
    )


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_gamma_equals_zennits_and_its_books_close(name: str, nonnegative: bool) -> None:
    torch.manual_seed(0)
    build, shape = MODULES[name]
    module = build().double().requires_grad_(False)
    x = torch.randn(shape, dtype=torch.float64)
    x = x.abs() if nonnegative else x
    books: dict[str, float] = defaultdict(float)
    op = op_of(module, x, nonnegative, books)
    relevance = torch.randn_like(op.output)

    share = propagate(op, total(relevance), "gamma", gamma=0.25, epsilon=1e-6)["input"]

    assert share is not None
    ours = share.tensor if share.form == "total" else share.tensor * x
    theirs = zennit_oracle.rule_relevance(module, x, relevance, Gamma(gamma=0.25, stabilizer=1e-6))
    assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()
    assert float(relevance.sum() - ours.sum()) == pytest.approx(sum(books.values()), abs=1e-9)
