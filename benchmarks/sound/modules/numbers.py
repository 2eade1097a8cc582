"""Arithmetic: functions of one value, products and sums of several, reductions, casts, complex numbers."""

from __future__ import annotations

from .writing import Line, Value, alike, anything, broadcasts, deep, op, real, rows, steps, truth, unreal, whole, wide

ACTIVATIONS = (
    *("nn.ReLU()", "nn.GELU()", "nn.SiLU()", "nn.Tanh()", "nn.Sigmoid()", "nn.ELU()", "nn.LeakyReLU(0.1)"),
    *("nn.GELU('tanh')", "nn.Hardswish()", "nn.Hardsigmoid()", "nn.ReLU6()", "nn.Softplus()", "nn.Mish()"),
    *("nn.SELU()", "nn.CELU(0.5)", "nn.Hardtanh(-0.5, 1.0)", "nn.Softsign()", "nn.LogSigmoid()", "nn.Tanhshrink()"),
    *("nn.Softshrink(0.2)", "nn.Hardshrink(0.3)", "nn.Threshold(0.1, 0.0)", "nn.RReLU()", "nn.PReLU()"),
    *("nn.Dropout(0.5)", "nn.AlphaDropout(0.3)", "nn.Identity()", "nn.ReLU(inplace=True)"),
)
FUNCTIONS = (
    *("torch.abs({})", "torch.exp({}.clamp(max=3))", "torch.log1p({}.abs())", "torch.sqrt({}.abs() + 0.1)"),
    *("torch.sin({})", "torch.cos({})", "torch.erf({})", "torch.atan({})", "torch.square({})", "{} ** 3", "-{}"),
    *("{}.pow(2)", "{}.abs().pow(0.5)", "1 / ({}.abs() + 0.5)", "torch.rsqrt({}.abs() + 0.2)", "{}.clamp(-0.5, 0.7)"),
    *("{}.clamp(min=0)", "torch.sinh({}.clamp(-2, 2))", "{}.expm1().clamp(max=5)", "torch.where({} > 0, {}, 0.1 * {})"),
    *("2 ** {}.clamp(max=3)", "{} * 0.5 + 1", "(1 - {}) * 2", "3 / (2 + {} ** 2)", "torch.logit({}.sigmoid())"),
    *("torch.nan_to_num({})", "{}.trunc() * 0.1 + {}", "torch.heaviside({}, {}.new_ones(())) * {}", "{} % 1.5"),
    *("torch.fmod({}, 0.7)", "torch.sign({}) * {}", "torch.copysign({}, {} - 0.2)", "torch.xlogy({}.abs(), 2.0)"),
    *("torch.addcmul({}, {}, {}, value=0.3)", "torch.lerp({}, {} * 2, 0.3)", "torch.hypot({}, {} + 1)"),
)
HARD = (
    *("torch.round({})", "torch.floor({} * 2) / 2", "torch.sign({})", "{}.ceil()", "({} > 0).to({}.dtype)"),
    *("{} + ({}.round() - {}).detach()", "torch.fake_quantize_per_tensor_affine({}.float(), 0.1, 0, -128, 127)"),
)
NORMALS = (
    *("{}.softmax(-1)", "{}.log_softmax(-1)", "F.normalize({}, dim=-1)", "({}).softmax(1)", "F.softmin({}, -1)"),
    *("{} / {}.norm(dim=-1, keepdim=True).clamp(min=0.1)", "{} - {}.mean(-1, keepdim=True)", "{}.cumsum(-1)"),
    *("({} - {}.mean()) / ({}.std() + 0.1)", "{} / ({}.sum(-1, keepdim=True).abs() + 1)", "{}.cumsum(1)"),
    *("{}.cumprod(-1)", "{}.logcumsumexp(-1)", "{} - {}.logsumexp(-1, keepdim=True)", "F.glu({}, -1)"),
    *("{}.cummax(-1).values", "{} - {}.amax(-1, keepdim=True)", "{} / ({}.var(-1, keepdim=True) + 0.5).sqrt()"),
)
REDUCTIONS = (
    *("{}.mean(-1)", "{}.sum(1)", "{}.amax(-1)", "{}.mean(1, keepdim=True)", "{}.max(-1).values", "{}.amin(1)"),
    *("{}.var(-1)", "{}.std(-1, unbiased=False)", "{}.norm(dim=-1)", "{}.logsumexp(-1)", "{}.prod(-1)"),
    *("{}.norm(p=1, dim=1)", "{}.min(1).values", "{}.median(-1).values", "{}.kthvalue(1, -1).values", "{}.nanmean(-1)"),
    *("torch.linalg.vector_norm({}, dim=-1)", "{}.std_mean if False else {}.mean(-1)", "{}.aminmax(dim=-1).max"),
)
SIZES = (
    *("{} / {}.shape[0]", "{} * {}.shape[-1] ** -0.5", "{} + {}.size(1)", "{} / math.sqrt({}.shape[-1])"),
    *("{} * ({}.shape[0] // 2)", "{} / {}.numel()", "{} / len({})", "{} - {}.dim()"),
)
CASTS = (
    *("{}.double().to({}.dtype)", "{}.float().tanh().to({}.dtype)", "{}.half().to({}.dtype)", "{}.to({}.dtype)"),
    *("{} * {}.long().to({}.dtype)", "{}.type_as({})", "({}.bfloat16() + 1).to({}.dtype)", "{}.to(torch.float64) + 1"),
    *(
        "{} + {}.int()",
        "({} * 8).to(torch.int32).to({}.dtype) / 8",
        "{}.contiguous().clone()",
        "{}.detach() * 0.1 + {}",
    ),
)


def _write(text: str, x: Value) -> str:
    return text.replace("{}", str(x))


@op(real, often=12)
def activation(at: Line, x: Value) -> str:
    return f"{at.module(at.pick(*ACTIVATIONS))}({x})"


@op(real, often=10)
def function(at: Line, x: Value) -> str:
    return _write(at.pick(*FUNCTIONS), x)


@op(real, often=1)
def hard(at: Line, x: Value) -> str:
    return _write(at.pick(*HARD), x)


@op(wide, often=5)
def normalised(at: Line, x: Value) -> str:
    return _write(at.pick(*NORMALS), x)


@op(wide, often=4)
def reduction(at: Line, x: Value) -> str:
    return _write(at.pick(*REDUCTIONS), x)


@op(deep)
def reduction_of_space(at: Line, x: Value) -> str:
    dims = at.pick("(-2, -1)", "(1, -1)", "[0, 2]" if x.dim > 3 else "[1, 2]")
    return f"{x}.{at.pick('mean', 'sum', 'amax', 'var')}({dims}, keepdim={at.pick('True', 'False')})"


@op(real)
def a_single_number(at: Line, x: Value) -> str:
    return at.pick(f"{x} * {x}.mean()", f"{x} - {x}.max()", f"{x} / (1 + {x}.sum() ** 2)", f"{x} + {x}.norm()")


@op(real, often=3)
def size_as_a_number(at: Line, x: Value) -> str:
    return _write(at.pick(*SIZES), x)


@op(real, often=3)
def cast(at: Line, x: Value) -> str:
    return _write(at.pick(*CASTS), x)


@op(real, often=3)
def with_a_parameter(at: Line, x: Value) -> str:
    size = x.shape[-1]
    p = at.parameter(*at.pick((size,), (1,), (), x.shape[1:]))
    return f"{x} {at.pick('*', '+', '-', '/')} {at.pick(p, f'{p}.exp()', f'({p}.abs() + 0.5)')}"


@op(real, broadcasts, often=8)
def arithmetic(at: Line, x: Value, y: Value) -> str:
    way = at.pick("{} + {}", "{} * {}", "{} - {}", "{} / ({}.abs() + 0.5)", "torch.add({}, {}, alpha=-0.5)")
    return way.format(x, y)


@op(real, alike, often=4)
def two_of_a_shape(at: Line, x: Value, y: Value) -> str:
    ways = (
        "torch.maximum({}, {})",
        "torch.minimum({}, {})",
        "torch.where({0} > {1}, {0}, {1} * 0.5)",
        "{} * {}.sigmoid()",
    )
    ways += (
        "torch.atan2({}, {}.abs() + 0.3)",
        "({}.abs() + 0.1) ** {}",
        "torch.fmax({}, {})",
        "torch.hypot({}, {} + 1)",
    )
    ways += ("torch.lerp({}, {}, 0.3)", "torch.addcdiv({0}, {1}, {0}.abs() + 1)", "torch.logaddexp({}, {})")
    ways += ("torch.remainder({}, {}.abs() + 0.5)", "torch.div({}, {}.abs() + 0.5, rounding_mode='floor')")
    return at.pick(*ways).format(x, y)


@op(deep, alike, often=4)
def matrix_product(at: Line, x: Value, y: Value) -> str:
    return at.pick(f"{x} @ {y}.transpose(-2, -1)", f"torch.matmul({x}.transpose(-1, -2), {y})", f"{x} @ {y}.mT / 2")


@op(rows, alike)
def similarity(at: Line, x: Value, y: Value) -> str:
    ways = (
        "F.cosine_similarity({0}, {1})[:, None]",
        "torch.cdist({0}, {1})",
        "{0} @ {1}.t()",
        "torch.cdist({0}, {1}, p=1)",
    )
    ways += (
        "F.pairwise_distance({0}, {1}, keepdim=True)",
        "torch.outer({0}[:, 0], {1}[:, 0])",
        "torch.kron({0}, {1}[:1])",
    )
    return at.pick(*ways).format(x, y)


@op(steps, alike, often=3)
def einsum(at: Line, x: Value, y: Value) -> str:
    way = at.pick(
        "btc,btc->bt", "btc,bsc->bts", "btc,btd->bcd", "btc,btc->btc", "btc,bsd->btsd", "btc,btc->b", "btc,btc->c"
    )
    return f"torch.einsum('{way}', {x}, {y})"


@op(steps)
def einsum_with_weights(at: Line, x: Value) -> str:
    way, shape = at.pick(
        ("btc,cd->btd", (x.shape[2], 3)),
        ("btc,tcd->btd", (x.shape[1], x.shape[2], 2)),
        ("btc,ts->bsc", (x.shape[1], 3)),
        ("btc,hcd->bhtd", (2, x.shape[2], 2)),
        ("btc,c->bt", (x.shape[2],)),
        ("btc,->btc", ()),
    )
    return f"torch.einsum('{way}', {x}, {at.parameter(*shape)})"


@op(real)
def matrix_of_weights(at: Line, x: Value) -> str:
    p = at.parameter(x.shape[-1], at.pick(3, 2))
    return at.pick(
        f"{x} @ {p}", f"torch.tensordot({x}, {p}, 1)", f"F.linear({x}, {p}.t()) + 1", f"{x} @ torch.softmax({p}, 0)"
    )


@op(rows)
def affine_written_out(at: Line, x: Value) -> str:
    w, b = at.parameter(3, x.shape[1]), at.parameter(3)
    ways = (
        f"F.linear({x}, {w}) + {b}",
        f"torch.addmm({b}, {x}, {w}.t())",
        f"torch.baddbmm({b}, {x}[None], {w}.t()[None])[0]",
    )
    return at.pick(*ways)


@op(real, truth, often=6)
def masked(at: Line, x: Value, mask: Value) -> str:
    ways = (
        "{0}.masked_fill({1}, 0.0)",
        "torch.where({1}, {0}, {0}.new_zeros(()))",
        "{0} * {1}",
        "{0} * (~{1}).to({0}.dtype)",
    )
    ways += ("{0}.masked_fill({1}, float('-inf')).softmax(-1).nan_to_num()", "torch.where({1}, {0}, {0} * 0.5)")
    return at.pick(*ways).format(x, mask)


@op(real)
def masked_by_itself(at: Line, x: Value) -> str:
    ways = ("{0} * ({0} > 0)", "{0}.masked_fill({0} < 0, 0.5)", "torch.where({0} > 0.3, {0}, torch.zeros_like({0}))")
    ways += ("{0} * ({0} >= {0}.mean(-1, keepdim=True)).to({0}.dtype)", "{0}.masked_fill({0}.isnan(), 0.0)")
    return at.pick(*ways).format(x)


@op(whole, often=4)
def numbers_from_integers(at: Line, ids: Value) -> str:
    ways = ("F.one_hot({0}.clamp(0, 4), 5).float()", "{0}.float() / 4", "torch.log({0}.float().abs() + 1)")
    ways += (
        "({0} % 3).float() * 0.5",
        "({0} > 2).float()",
        "({0}[..., None] == torch.arange(4)).float()",
        "{0} * 0.25",
    )
    return at.pick(*ways).format(ids)


@op(anything, often=2)
def integers(at: Line, x: Value) -> str | None:
    if x.dim < 2 or x.tensor.is_complex():
        return None
    ways = (
        "{0}.argmax(-1)",
        "({0} > 0).long()",
        "{0}.argsort(-1)",
        "torch.bucketize({0}.float(), torch.tensor([-0.5, 0.5]))",
    )
    ways += ("torch.arange({0}.shape[1]).expand({0}.shape[0], -1)", "({0} * 3).long().clamp(0, 5)", "{0}.long() + 1")
    return at.pick(*ways).format(x)


@op(anything, often=2)
def truths(at: Line, x: Value) -> str | None:
    if x.dim < 2 or x.tensor.is_complex():
        return None
    ways = (
        "{0} > 0",
        "torch.ones_like({0}, dtype=torch.bool).tril()",
        "torch.arange({0}.shape[-1]) < 2",
        "({0} > 0) & ({0} < 1)",
    )
    return at.pick(*ways).format(x)


@op(whole)
def lengths_as_a_mask(at: Line, ids: Value) -> str | None:
    return f"torch.arange({at.pick(4, 3)}) < {ids}[:, :1]" if ids.dim == 2 else None


@op(wide, often=2)
def fourier(at: Line, x: Value) -> str:
    way = at.pick("rfft({0})", "fft({0})", "rfft({0}, norm='ortho')", "rfft2({0})" if x.dim > 2 else "rfft({0}, dim=1)")
    return f"torch.fft.{way.format(x)}"


@op(real, alike, often=1)
def complex_number(at: Line, x: Value, y: Value) -> str:
    return at.pick(f"torch.complex({x}, {y})", f"torch.polar({x}.abs(), {y})")


@op(unreal, often=8)
def of_complex(at: Line, z: Value) -> str:
    ways = (
        "{0}.abs()",
        "torch.view_as_real({0}).flatten(-2)",
        "{0}.real",
        "{0}.imag",
        "{0} * (0.5 + 1j)",
        "{0}.conj()",
    )
    ways += (
        "{0}.abs() ** 2",
        "torch.fft.irfft({0})",
        "{0}.real + {0}.imag",
        "torch.fft.ifft({0}).real",
        "{0} * {0}.conj()",
    )
    ways += ("{0}.angle()", "{0}.flip(-1)", "{0}[..., :2]", "torch.cat([{0}, {0}.conj()], -1)", "{0}.exp()", "{0} / 2")
    return at.pick(*ways).format(z)


@op(unreal, often=2)
def complex_weights(at: Line, z: Value) -> str:
    size = z.shape[-1]
    p = at._attribute("p", lambda name: f"self.{name} = nn.Parameter(torch.randn({size}, 3, dtype=torch.cfloat))")
    return f"{z} @ {p}"


@op(steps, often=2)
def rotary(at: Line, x: Value) -> str | None:
    if x.shape[2] % 2:
        return None
    at.first(f"f = torch.outer(torch.arange({x}.shape[1]), 1 / 10 ** torch.arange({x.shape[2] // 2})).to({x}.dtype)")
    if at.pick(0, 1):
        at.first(f"z = torch.view_as_complex({x}.reshape(*{x}.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(f), f)")
        return "torch.view_as_real(z).flatten(2)"
    at.first(f"l, r = {x}.chunk(2, -1)")
    return "torch.cat([l * f.cos() - r * f.sin(), r * f.cos() + l * f.sin()], -1)"
