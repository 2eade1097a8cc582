"""Linear-map rules against Zennit's, in float64, over every module that Zennit has a rule for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import zennit_oracle
from torch import Tensor, nn
from zennit import rules as zennit

from lrp_compiler.rules import NONNEGATIVE, Facts, Op, propagate, total

aten = torch.ops.aten
EPSILON = 1e-6
CONVOLUTIONS: dict[type[nn.Module], Any] = {
    nn.Conv1d: aten.conv1d.default,
    nn.Conv2d: aten.conv2d.default,
    nn.Conv3d: aten.conv3d.default,
}
TRANSPOSED: dict[type[nn.Module], Any] = {
    nn.ConvTranspose1d: aten.conv_transpose1d.default,
    nn.ConvTranspose2d: aten.conv_transpose2d.input,
    nn.ConvTranspose3d: aten.conv_transpose3d.input,
}
AVERAGES: dict[type[nn.Module], Any] = {nn.AvgPool1d: aten.avg_pool1d.default, nn.AvgPool2d: aten.avg_pool2d.default}

# Maps up to 64 products wide are split into W⁺ and W⁻, wider ones into half-sums.
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 5), (3, 7)),
    "linear without bias": (lambda: nn.Linear(7, 5, bias=False), (2, 3, 7)),
    "linear, wide": (lambda: nn.Linear(70, 6), (3, 70)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), (2, 3, 10)),
    "conv1d, dilated": (lambda: nn.Conv1d(4, 6, 3, padding=2, dilation=2, groups=2, bias=False), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1), (2, 2, 7, 9)),
    "conv2d, wide": (lambda: nn.Conv2d(8, 4, 3, bias=False), (2, 8, 5, 6)),
    "conv2d, depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 5, 6)),
    "conv2d, uneven": (
        lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 3), padding=(1, 0), dilation=(1, 2)),
        (2, 2, 7, 8),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 3, (2, 3, 3), stride=(1, 2, 1), padding=(0, 1, 1)), (1, 2, 4, 5, 4)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=1), (2, 3, 6)),
    "conv_transpose1d, dilated": (lambda: nn.ConvTranspose1d(4, 6, 3, dilation=2, groups=2, bias=False), (2, 4, 6)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 2, 4, 5)),
    "conv_transpose2d, wide": (lambda: nn.ConvTranspose2d(8, 4, 3), (2, 8, 4, 3)),
    "conv_transpose2d, grouped": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=(0, 1), groups=2),
        (2, 4, 3, 4),
    ),
    "conv_transpose3d": (
        lambda: nn.ConvTranspose3d(2, 2, 2, stride=(1, 2, 2), output_padding=(0, 1, 0)),
        (1, 2, 3, 2, 3),
    ),
    "avg_pool1d": (lambda: nn.AvgPool1d(3, 2, padding=1), (2, 3, 8)),
    "avg_pool2d": (lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False), (2, 3, 7, 8)),
    "avg_pool2d, own divisor": (lambda: nn.AvgPool2d((2, 3), divisor_override=5), (2, 3, 7, 8)),
}  # fmt: skip
AVERAGE_NAMES = [name for name in MODULES if name.startswith("avg")]
SIGNED = ("z-plus", "alpha-beta", "gamma")
"""Zennit clamps and stresses parameters; a pool has none, so that its signed rules are no oracle there."""

LOW, HIGH = -4.0, 4.5
RULES: dict[str, tuple[str, dict[str, Any], Callable[..., Any]]] = {
    "epsilon": ("epsilon", {}, lambda **k: zennit.Epsilon(epsilon=EPSILON, **k)),
    "epsilon, large": ("epsilon", {"epsilon": 0.25}, lambda **k: zennit.Epsilon(epsilon=0.25, **k)),
    "z-plus": ("z-plus", {}, lambda **k: zennit.ZPlus(stabilizer=EPSILON, **k)),
    "z-plus, direct": ("z-plus", {"form": "direct"}, lambda **k: zennit.ZPlus(stabilizer=EPSILON, **k)),
    "alpha-beta": ("alpha-beta", {}, lambda **k: zennit.AlphaBeta(2.0, 1.0, stabilizer=EPSILON, **k)),
    "alpha-beta 1.5": (
        "alpha-beta",
        {"alpha": 1.5, "beta": 0.5},
        lambda **k: zennit.AlphaBeta(1.5, 0.5, stabilizer=EPSILON, **k),
    ),
    "gamma": ("gamma", {}, lambda **k: zennit.Gamma(0.25, stabilizer=EPSILON, **k)),
    "gamma, direct": ("gamma", {"form": "direct"}, lambda **k: zennit.Gamma(0.25, stabilizer=EPSILON, **k)),
    "gamma 125": ("gamma", {"gamma": 125.0}, lambda **k: zennit.Gamma(125.0, stabilizer=EPSILON, **k)),
    "w-square": ("w-square", {}, lambda **k: zennit.WSquare(stabilizer=EPSILON, **k)),
    "flat": ("flat", {}, lambda **k: zennit.Flat(stabilizer=EPSILON, **k)),
}


def op_of(module: nn.Module, x: Tensor, nonnegative: bool) -> Op:
    kind = type(module)
    if kind is nn.Linear:
        target, args = aten.linear.default, (x, module.weight, module.bias)
    elif kind in CONVOLUTIONS:
        args = (x, module.weight, module.bias, module.stride, module.padding, module.dilation, module.groups)
        target = CONVOLUTIONS[kind]
    elif kind in TRANSPOSED:
        weights = (x, module.weight, module.bias)
        args = (*weights, module.stride, module.padding, module.output_padding, module.groups, module.dilation)
        target = TRANSPOSED[kind]
    else:
        dims = 1 if kind is nn.AvgPool1d else 2
        spatial = (module.kernel_size, module.stride, module.padding)
        sizes = [[size] * dims if isinstance(size, int) else list(size) for size in spatial]
        extra = (module.divisor_override,) if dims == 2 else ()
        target, args = AVERAGES[kind], (x, *sizes, module.ceil_mode, module.count_include_pad, *extra)
    name = "self" if kind in AVERAGES else "input"
    return Op.eager(target, *args, facts=Facts.of({NONNEGATIVE: (name,) if nonnegative else ()}))


def compare(name: str, nonnegative: bool, rule: str, options: dict[str, Any], oracle: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    build, shape = MODULES[name]
    module = build().double().requires_grad_(False)
    x = torch.randn(shape, dtype=torch.float64)
    x = x.abs() if nonnegative else x
    op = op_of(module, x, nonnegative)
    R = torch.randn_like(op.output)

    (share,) = propagate(op, total(R), rule, **options).values()

    assert share is not None
    ours = share.tensor if share.form == "total" else share.tensor * x
    theirs = zennit_oracle.rule_relevance(module, x, R, oracle(x))
    assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rule"),
    [(name, rule) for name in MODULES for rule in RULES if name not in AVERAGE_NAMES or not rule.startswith(SIGNED)],
)
def test_a_rule_equals_zennits(name: str, rule: str) -> None:
    ours, options, oracle = RULES[rule]
    for nonnegative in (False, True):
        compare(name, nonnegative, ours, {"epsilon": EPSILON, **options}, lambda x: oracle())
        if ours != "flat":
            ignored = {"epsilon": EPSILON, "bias": "ignore", **options}
            compare(name, nonnegative, ours, ignored, lambda x: oracle(zero_params=["bias"]))


@pytest.mark.parametrize("name", [name for name in MODULES if name not in AVERAGE_NAMES])
def test_the_box_equals_zennits(name: str) -> None:
    compare(
        name,
        False,
        "z-box",
        {"low": LOW, "high": HIGH, "epsilon": EPSILON},
        lambda x: zennit.ZBox(torch.full_like(x, LOW), torch.full_like(x, HIGH), stabilizer=EPSILON),
    )


def test_a_box_by_channel_equals_zennits() -> None:
    low, high = torch.tensor([-5.0, -4.0], dtype=torch.float64), torch.tensor([4.0, 6.0], dtype=torch.float64)
    ends = [end.view(1, 2, 1, 1).expand(MODULES["conv2d"][1]) for end in (low, high)]

    compare(
        "conv2d",
        False,
        "z-box",
        {"low": low.tolist(), "high": high.tolist(), "epsilon": EPSILON},
        lambda x: zennit.ZBox(*ends, stabilizer=EPSILON),
    )


def test_pass_equals_zennits_where_the_shape_is_kept() -> None:
    compare("conv2d, depthwise", False, "pass", {}, lambda x: zennit.Pass())
