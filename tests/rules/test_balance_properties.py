"""What goes in comes out or is booked: the balance of every rule over drawn shapes, signs, zeros, ties and biases."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrp_compiler.rules import NONNEGATIVE, ONLY_POSITIVE, Facts, Op, propagate, total, unit

pytestmark = pytest.mark.sampled(8)

aten = torch.ops.aten
RULES: dict[str, dict[str, Any]] = {
    "epsilon": {},
    "z-plus": {},
    "alpha-beta": {},
    "gamma": {"gamma": 0.5},
    "gamma-one-sided": {},
    "w-square": {},
    "flat": {},
    "z-box": {"low": -3.5, "high": 3.5},
    "pass": {},
    "zero": {},
}
FORMS = ("z-plus", "alpha-beta", "gamma")
BIASED = ("epsilon", *FORMS, "gamma-one-sided", "w-square")

# Few different values, so that ties, zeros and sums that cancel are frequent.
values = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -3.0]), st.floats(-3, 3, allow_subnormal=False))
small = st.integers(1, 3)


def tensors(draw: st.DrawFn, *shape: int) -> Tensor:
    """Drawn values for up to 24 elements, the rest from a drawn seed with as many zeros and ties."""
    size = torch.Size(shape).numel()
    if size <= 24:
        return torch.tensor(draw(st.lists(values, min_size=size, max_size=size)), dtype=torch.float64).reshape(shape)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return (torch.randint(-6, 7, shape, generator=generator).double() / 2).reshape(shape)


Call = tuple[Any, tuple[Any, ...], tuple[str, ...]]


@st.composite
def dense(draw: st.DrawFn) -> Call:
    rows, fan_in, outputs = draw(small), draw(st.integers(1, 5)), draw(small)
    bias = tensors(draw, outputs) if draw(st.booleans()) else None
    return aten.linear.default, (tensors(draw, rows, fan_in), tensors(draw, outputs, fan_in), bias), ("input",)


@st.composite
def product(draw: st.DrawFn) -> Call:
    rows, fan_in, columns = draw(small), draw(small), draw(small)
    args = tensors(draw, rows, fan_in), tensors(draw, fan_in, columns)
    return aten.matmul.default, args, (draw(st.sampled_from(["self", "other"])),)


@st.composite
def convolution(draw: st.DrawFn) -> Call:
    dims, groups, transposed = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.booleans())
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel, stride, dilation = ([draw(small) for _ in range(dims)] for _ in range(3))
    padding = [draw(st.integers(0, length - 1)) for length in kernel]
    reach = [step * (length - 1) + 1 for step, length in zip(dilation, kernel, strict=True)]
    size = [max(1, least - 2 * pad) + draw(st.integers(0, 4)) for least, pad in zip(reach, padding, strict=True)]
    extra = [draw(st.integers(0, max(s, d) - 1)) if transposed else 0 for s, d in zip(stride, dilation, strict=True)]
    assume(
        not transposed
        or all(
            (n - 1) * s - 2 * p + r + e > 0 for n, s, p, r, e in zip(size, stride, padding, reach, extra, strict=True)
        )
    )
    channels = (inputs, outputs // groups) if transposed else (outputs, inputs // groups)
    x, weight = tensors(draw, draw(st.integers(1, 2)), inputs, *size), tensors(draw, *channels, *kernel)
    bias = tensors(draw, outputs) if draw(st.booleans()) else None
    options = (stride, padding, dilation, transposed, extra, groups)
    return aten.convolution.default, (x, weight, bias, *options), ("input",)


@st.composite
def average(draw: st.DrawFn) -> Call:
    kernel, stride = ([draw(small) for _ in range(2)] for _ in range(2))
    padding = [draw(st.integers(0, length // 2)) for length in kernel]
    size = [length + draw(st.integers(0, 4)) for length in kernel]
    divisor = draw(st.sampled_from([None, None, 4]))
    options = (kernel, stride, padding, draw(st.booleans()), draw(st.booleans()), divisor)
    return aten.avg_pool2d.default, (tensors(draw, 1, draw(small), *size), *options), ("self",)


@st.composite
def sum_(draw: st.DrawFn) -> Call:
    x = tensors(draw, draw(small), draw(small), draw(small))
    dims = draw(st.lists(st.integers(-3, 2), max_size=3, unique_by=lambda dim: dim % 3))
    kind = draw(st.sampled_from(["sum", "mean", "cumsum"]))
    if kind == "cumsum":
        return aten.cumsum.default, (x, draw(st.integers(-3, 2))), ("self",)
    target = aten.sum.dim_IntList if kind == "sum" else aten.mean.dim
    return target, (x, dims, draw(st.booleans())), ("self",)


@st.composite
def addition(draw: st.DrawFn) -> Call:
    rows, columns = draw(small), draw(small)
    shapes = [(rows, columns), (columns,), (rows, 1), (1,), ()]
    a, b = tensors(draw, *draw(st.sampled_from(shapes))), tensors(draw, *draw(st.sampled_from(shapes)))
    target = draw(st.sampled_from([aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor]))
    return target, (a, b), draw(st.sampled_from([("self", "other"), ("self",), ("other",)]))


@st.composite
def interpolation(draw: st.DrawFn) -> Call:
    size, wanted = ([draw(st.integers(1, 5)) for _ in range(2)] for _ in range(2))
    x = tensors(draw, 1, draw(st.integers(1, 2)), *size)
    target = draw(
        st.sampled_from([aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec])
    )
    align = () if target is aten.upsample_nearest2d.vec else (draw(st.booleans()),)
    return target, (x, wanted, *align, None), ("input",)


@st.composite
def batch_norm(draw: st.DrawFn) -> Call:
    channels = draw(small)
    x = tensors(draw, 2, channels, draw(small))
    weight, bias, mean = (tensors(draw, channels) for _ in range(3))
    variance = tensors(draw, channels).abs() + 0.1
    return aten.batch_norm.default, (x, weight, bias, mean, variance, False, 0.1, 1e-5, False), ("input",)


OPERATORS = [dense, product, convolution, average, sum_, addition, interpolation, batch_norm]


@pytest.mark.sampled(32)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("calls", OPERATORS, ids=lambda calls: calls.__name__)
def test_relevance_that_does_not_arrive_is_booked(calls: Any, rule: str) -> None:
    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def balance(data: st.DataObject) -> None:
        target, args, active = data.draw(calls())
        names = [argument.name for argument in target._schema.arguments]
        nonnegative = data.draw(st.booleans())
        if nonnegative:
            args = tuple(arg.abs() if name in active else arg for name, arg in zip(names, args, strict=False))
        only_positive = rule == "gamma" and data.draw(st.booleans())
        books: dict[str, float] = defaultdict(float)
        op = Op.eager(
            target,
            *args,
            active=active,
            facts=Facts.of({NONNEGATIVE: active if nonnegative else (), ONLY_POSITIVE: only_positive}),
            absorb=lambda cause, share: books.__setitem__(cause, books[cause] + float(share.sum())),
        )
        share = tensors(data.draw, *op.output.shape)
        arriving = data.draw(st.sampled_from([total(share), unit(share), unit(share, lambda: share * op.output)]))
        options = {**RULES[rule]}
        if rule != "zero":
            options["epsilon"] = data.draw(st.sampled_from([1e-6, 0.1]))
        if rule in BIASED:
            options["bias"] = data.draw(st.sampled_from(["absorb", "ignore"]))
        if rule in FORMS:
            options["form"] = data.draw(st.sampled_from(["auto", "direct", "half-sums"]))

        flow = propagate(op, arriving, rule, **options)

        arrived = {
            name: share.tensor if share.form == "total" else share.tensor * op.tensor(name)
            for name, share in flow.items()
            if share is not None
        }
        for name, passed in flow.items():
            if passed is not None and passed.as_total is not None:
                torch.testing.assert_close(passed.as_total(), arrived[name], rtol=1e-9, atol=1e-9)
        out = float(op.total(arriving).sum())
        scale = 1 + float(op.total(arriving).abs().sum()) + sum(float(R.abs().sum()) for R in arrived.values())
        assert sum(float(R.sum()) for R in arrived.values()) + sum(books.values()) == pytest.approx(
            out, abs=1e-9 * scale
        )

    balance()
