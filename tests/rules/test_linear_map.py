"""Rules of linear maps against closed forms and against the formulas applied to the map unrolled into a matrix."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_compiler.rules import Op, bind, propagate, total, unit

aten = torch.ops.aten


def tensor(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 7 * len(shape) + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@dataclass
class Case:
    """A call of an op: its arguments, which of them carry relevance, and the map if the op alone does not say it."""

    target: Any
    args: tuple[Any, ...]
    active: tuple[str, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    frozen: Callable[[Tensor], Tensor] | None = None

    def operands(self) -> dict[str, Tensor]:
        bound = bind(self.target, self.args, self.kwargs)
        return {name: bound[name] for name in self.active}

    def apply(self, operands: dict[str, Tensor]) -> Tensor:
        if self.frozen is not None:
            (only,) = operands.values()
            return self.frozen(only)
        names = [argument.name for argument in self.target._schema.arguments]
        args = tuple(operands.get(name, value) for name, value in zip(names, self.args, strict=False))
        return self.target(*args, **{**self.kwargs, **{n: t for n, t in operands.items() if n in self.kwargs}})

    def op(self, nonnegative: tuple[str, ...] = (), absorb: Any = None, asked: Any = None) -> Op:
        return Op(
            self.target,
            bind(self.target, self.args, self.kwargs),
            self.target(*self.args, **self.kwargs),
            fetch=lambda handle: handle,
            active=self.active,
            nonnegative=nonnegative,
            absorb=absorb,
            asked=asked,
        )


@dataclass
class Dense:
    """The same map as a matrix: `z = W x + b`, all active operands in one vector."""

    W: Tensor
    b: Tensor
    x: Tensor

    @classmethod
    def of(cls, case: Case) -> "Dense":
        operands = case.operands()
        zeros = {name: torch.zeros_like(value) for name, value in operands.items()}
        b = case.apply(zeros).flatten()
        columns = []
        for name, value in operands.items():
            for basis in torch.eye(value.numel(), dtype=value.dtype):
                columns.append(case.apply({**zeros, name: basis.reshape(value.shape)}).flatten() - b)
        return cls(torch.stack(columns, 1), b, torch.cat([value.flatten() for value in operands.values()]))

    def epsilon(self, R: Tensor, epsilon: float) -> Tensor:
        z = self.W @ self.x + self.b
        return self.x * (self.W.T @ (R / stabilised(z, epsilon)))

    def alpha_beta(self, R: Tensor, alpha: float, beta: float, epsilon: float) -> Tensor:
        P, N = self.W.clamp(min=0), self.W.clamp(max=0)
        p, n = self.x.clamp(min=0), self.x.clamp(max=0)
        excited = alpha * R / stabilised(P @ p + N @ n + self.b.clamp(min=0), epsilon)
        inhibited = beta * R / stabilised(N @ p + P @ n + self.b.clamp(max=0), epsilon)
        return p * (P.T @ excited - N.T @ inhibited) + n * (N.T @ excited - P.T @ inhibited)


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    return z + epsilon * torch.where(z >= 0, 1.0, -1.0).to(z.dtype)


def relevance_of(flow: dict, operands: dict[str, Tensor]) -> Tensor:
    """Total relevance of the active operands in one vector."""
    parts = [
        flow[name].tensor if flow[name].form == "total" else flow[name].tensor * value
        for name, value in operands.items()
    ]
    for part, value in zip(parts, operands.values(), strict=True):
        assert part.shape == value.shape
    return torch.cat([part.flatten() for part in parts])


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))


def linear_cases() -> dict[str, Case]:
    return {
        "linear": Case(aten.linear.default, (tensor(2, 5), tensor(3, 5, seed=1), tensor(3, seed=2)), ("input",)),
        "linear of a sequence": Case(aten.linear.default, (tensor(2, 3, 4), tensor(5, 4, seed=1)), ("input",)),
        "linear of a vector": Case(aten.linear.default, (tensor(4), tensor(3, 4, seed=1), tensor(3)), ("input",)),
        "linear, wide": Case(
            aten.linear.default, (tensor(2, 40), tensor(3, 40, seed=1), tensor(3, seed=2)), ("input",)
        ),
        "addmm": Case(aten.addmm.default, (tensor(3), tensor(2, 4), tensor(4, 3, seed=1)), ("mat1",)),
        "addmm, right": Case(aten.addmm.default, (tensor(3), tensor(2, 4), tensor(4, 3, seed=1)), ("mat2",)),
        "addmm, scaled": Case(
            aten.addmm.default, (tensor(2, 1), tensor(2, 4), tensor(4, 3)), ("mat1",), {"alpha": -2, "beta": 0.5}
        ),
        "mm": Case(aten.mm.default, (tensor(2, 4), tensor(4, 3, seed=1)), ("self",)),
        "mm, right": Case(aten.mm.default, (tensor(2, 4), tensor(4, 3, seed=1)), ("mat2",)),
        "mm, wide": Case(aten.mm.default, (tensor(2, 37), tensor(37, 3, seed=1)), ("self",)),
        "bmm": Case(aten.bmm.default, (tensor(2, 3, 4), tensor(2, 4, 2, seed=1)), ("self",)),
        "bmm, right": Case(aten.bmm.default, (tensor(2, 3, 4), tensor(2, 4, 2, seed=1)), ("mat2",)),
        "matmul": Case(aten.matmul.default, (tensor(2, 3, 4), tensor(4, 5, seed=1)), ("self",)),
        "matmul, right broadcast": Case(aten.matmul.default, (tensor(2, 3, 4), tensor(4, 5, seed=1)), ("other",)),
        "matmul, left broadcast": Case(aten.matmul.default, (tensor(3, 4), tensor(2, 4, 2, seed=1)), ("self",)),
        "matmul, both broadcast": Case(aten.matmul.default, (tensor(2, 1, 3, 4), tensor(3, 4, 2, seed=1)), ("self",)),
        "matmul, both broadcast, right": Case(
            aten.matmul.default, (tensor(2, 1, 3, 4), tensor(3, 4, 2, seed=1)), ("other",)
        ),
        "matmul of vectors": Case(aten.matmul.default, (tensor(4), tensor(4, seed=1)), ("self",)),
        "matmul of vectors, right": Case(aten.matmul.default, (tensor(4), tensor(4, seed=1)), ("other",)),
        "matmul, vector times matrix": Case(aten.matmul.default, (tensor(4), tensor(4, 3, seed=1)), ("self",)),
        "matmul, vector times matrix, right": Case(aten.matmul.default, (tensor(4), tensor(4, 3, seed=1)), ("other",)),
        "matmul, vector times matrices": Case(aten.matmul.default, (tensor(4), tensor(2, 4, 3, seed=1)), ("self",)),
        "matmul, vector times matrices, right": Case(
            aten.matmul.default, (tensor(4), tensor(2, 4, 3, seed=1)), ("other",)
        ),
        "matmul, matrix times vector": Case(aten.matmul.default, (tensor(3, 4), tensor(4, seed=1)), ("self",)),
        "matmul, matrix times vector, right": Case(aten.matmul.default, (tensor(3, 4), tensor(4, seed=1)), ("other",)),
        "matmul, matrices times vector": Case(aten.matmul.default, (tensor(2, 3, 4), tensor(4, seed=1)), ("self",)),
        "matmul, matrices times vector, right": Case(
            aten.matmul.default, (tensor(2, 3, 4), tensor(4, seed=1)), ("other",)
        ),
    }


def convolution(
    rank: int,
    size: tuple[int, ...],
    channels: tuple[int, int],
    kernel: tuple[int, ...],
    bias: bool = True,
    **options: Any,
) -> Case:
    target = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}[rank]
    inputs, outputs = channels
    groups = options.get("groups", 1)
    order = ("stride", "padding", "dilation", "groups")
    defaults = {"stride": [1], "padding": [0], "dilation": [1], "groups": 1}
    args = (
        tensor(2, inputs, *size),
        tensor(outputs, inputs // groups, *kernel, seed=1),
        tensor(outputs, seed=2) if bias else None,
        *({**defaults, **options}[name] for name in order),
    )
    return Case(target, args, ("input",))


def convolution_cases() -> dict[str, Case]:
    return {
        "conv1d": convolution(1, (7,), (2, 3), (3,)),
        "conv1d, strided, dilated, padded": convolution(1, (12,), (2, 3), (3,), stride=[2], padding=[1], dilation=[2]),
        "conv1d, stride beyond the kernel": convolution(1, (11,), (2, 3), (2,), stride=[4]),
        "conv1d, kernel 1, stride 3": convolution(1, (9,), (2, 3), (1,), stride=[3], bias=False),
        "conv1d, dilation beyond the stride": convolution(
            1, (13,), (1, 2), (3,), stride=[2], dilation=[3], padding=[2]
        ),
        "conv1d, one window of many": convolution(1, (14,), (1, 2), (3,), stride=[12]),
        "conv2d": convolution(2, (4, 5), (2, 3), (3, 3), padding=[1]),
        "conv2d, uneven": convolution(2, (6, 7), (2, 4), (3, 2), stride=[2, 3], padding=[1, 0], dilation=[1, 2]),
        "conv2d, grouped": convolution(2, (5, 5), (4, 6), (3, 3), stride=[2], padding=[1], groups=2),
        "conv2d, depthwise": convolution(2, (6, 6), (3, 3), (3, 3), stride=[2], padding=[1], groups=3),
        "conv2d, depthwise multiplied": convolution(2, (5, 4), (2, 4), (3, 3), groups=2, bias=False),
        "conv2d, stride beyond the kernel": convolution(2, (8, 7), (1, 2), (2, 2), stride=[3, 5]),
        "conv2d, wide": convolution(2, (4, 4), (4, 2), (3, 3), padding=[1]),
        "conv2d, padding beyond need": convolution(2, (3, 3), (1, 2), (3, 3), stride=[2], padding=[2]),
        "conv3d": convolution(3, (3, 4, 5), (1, 2), (2, 3, 2), stride=[1, 2, 2], padding=[0, 1, 1]),
        "conv3d, grouped, dilated": convolution(3, (4, 3, 5), (2, 2), (2, 2, 2), dilation=[2, 1, 3], groups=2),
        "conv3d, wide": convolution(3, (3, 3, 3), (2, 2), (3, 3, 3), padding=[1]),
    }


def average_cases() -> dict[str, Case]:
    def pool(rank: int, size: tuple[int, ...], *options: Any) -> Case:
        target = {1: aten.avg_pool1d.default, 2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}[rank]
        return Case(target, (tensor(2, 2, *size), *options), ("self",))

    return {
        "avg_pool1d": pool(1, (7,), [3], [2], [1]),
        "avg_pool1d, padding not counted": pool(1, (7,), [3], [2], [1], False, False),
        "avg_pool1d, ceiled": pool(1, (8,), [3], [2], [0], True),
        "avg_pool2d": pool(2, (6, 4), [2, 2]),
        "avg_pool2d, overlapping": pool(2, (5, 6), [3, 2], [1, 2]),
        "avg_pool2d, padding counted": pool(2, (5, 5), [3, 3], [2, 2], [1, 1]),
        "avg_pool2d, padding not counted": pool(2, (5, 5), [3, 3], [2, 2], [1, 1], False, False),
        "avg_pool2d, ceiled, padding counted": pool(2, (6, 7), [3, 3], [2, 2], [1, 1], True, True),
        "avg_pool2d, ceiled, padding not counted": pool(2, (6, 7), [3, 3], [2, 2], [1, 1], True, False),
        "avg_pool2d, ceiled, no padding": pool(2, (6, 8), [3, 3], [2, 2], [0, 0], True),
        "avg_pool2d, own divisor": pool(2, (4, 6), [2, 3], [2, 3], [0, 0], False, True, 5),
        "avg_pool2d, own divisor, ceiled": pool(2, (5, 6), [2, 3], [2, 2], [1, 1], True, False, 5),
        "avg_pool2d, stride beyond the kernel": pool(2, (8, 7), [2, 2], [3, 4]),
        "avg_pool3d": pool(3, (4, 3, 5), [2, 2, 3], [2, 1, 2], [1, 0, 1], False, False),
        "avg_pool3d, ceiled": pool(3, (4, 3, 5), [2, 2, 3], [2, 2, 2], [0, 1, 1], True, True),
        "mean of all": Case(aten.mean.default, (tensor(2, 3, 4),), ("self",)),
        "mean": Case(aten.mean.dim, (tensor(2, 3, 4), [-1, 1]), ("self",)),
        "mean, dims kept": Case(aten.mean.dim, (tensor(2, 3, 4), [-1], True), ("self",)),
        "mean, wide": Case(aten.mean.dim, (tensor(2, 40), [-1]), ("self",)),
        "sum of all": Case(aten.sum.default, (tensor(2, 3, 4),), ("self",)),
        "sum": Case(aten.sum.dim_IntList, (tensor(2, 3, 4), [0, -1]), ("self",)),
        "sum, dims kept": Case(aten.sum.dim_IntList, (tensor(2, 3, 4), [1], True), ("self",)),
        "sum over no dim is over all": Case(aten.sum.dim_IntList, (tensor(2, 3), []), ("self",)),
        "sum, wide": Case(aten.sum.dim_IntList, (tensor(2, 40), [-1]), ("self",)),
    }


def addition_cases() -> dict[str, Case]:
    a, b, row, column = tensor(2, 3), tensor(2, 3, seed=1), tensor(3, seed=2), tensor(2, 1, seed=3)
    return {
        "add": Case(aten.add.Tensor, (a, b), ("self", "other")),
        "add, scaled": Case(aten.add.Tensor, (a, b), ("self", "other"), {"alpha": -2}),
        "add, right broadcast": Case(aten.add.Tensor, (a, row), ("self", "other")),
        "add, left broadcast": Case(aten.add.Tensor, (row, a), ("self", "other"), {"alpha": 3}),
        "add, both broadcast": Case(aten.add.Tensor, (row, column), ("self", "other")),
        "add of a constant": Case(aten.add.Tensor, (a, row), ("self",), {"alpha": 2}),
        "add to a constant": Case(aten.add.Tensor, (row, a), ("other",), {"alpha": 2}),
        "add of a number": Case(aten.add.Tensor, (a, 1.5), ("self",)),
        "add.Scalar": Case(aten.add.Scalar, (a, -0.5, 2), ("self",)),
        "sub": Case(aten.sub.Tensor, (a, b), ("self", "other")),
        "sub, scaled, broadcast": Case(aten.sub.Tensor, (column, row), ("self", "other"), {"alpha": 0.5}),
        "sub from a constant": Case(aten.sub.Tensor, (row, a), ("other",)),
        "sub.Scalar": Case(aten.sub.Scalar, (a, 2.0), ("self",)),
        "rsub": Case(aten.rsub.Tensor, (a, b), ("self", "other"), {"alpha": 2}),
        "rsub.Scalar": Case(aten.rsub.Scalar, (a, 1.0), ("self",)),
    }


def norm_cases() -> dict[str, Case]:
    weight, bias = tensor(3, seed=1), tensor(3, seed=2)
    mean, variance = tensor(3, seed=3), tensor(3, seed=4).abs() + 0.5

    def batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Case:
        return Case(aten.batch_norm.default, (x, weight, bias, mean, variance, False, 0.1, 1e-3, False), ("input",))

    return {
        "batch_norm": batch_norm(tensor(2, 3), weight, bias),
        "batch_norm of images": batch_norm(tensor(2, 3, 2, 2), weight, bias),
        "batch_norm, not affine": batch_norm(tensor(2, 3, 4), None, None),
        "batch_norm, scale only": batch_norm(tensor(2, 3, 4), weight, None),
    }


def layer_norm_cases() -> dict[str, Case]:
    """With the variance held fixed the map is linear; on x itself it equals the layer norm."""

    def case(x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, epsilon: float = 1e-2) -> Case:
        dims = tuple(range(-len(shape), 0))
        scale = 1 / torch.sqrt(x.var(dims, unbiased=False, keepdim=True) + epsilon)

        def frozen(h: Tensor) -> Tensor:
            y = (h - h.mean(dims, keepdim=True)) * scale
            y = y if weight is None else y * weight
            return y if bias is None else y + bias

        return Case(aten.layer_norm.default, (x, shape, weight, bias, epsilon), ("input",), frozen=frozen)

    return {
        "layer_norm": case(tensor(2, 3, 4), [4], tensor(4, seed=1), tensor(4, seed=2)),
        "layer_norm over two dims": case(tensor(2, 3, 4), [3, 4], tensor(3, 4, seed=1), tensor(3, 4, seed=2)),
        "layer_norm, not affine": case(tensor(2, 4), [4], None, None),
        "layer_norm, scale only": case(tensor(2, 4), [4], tensor(4, seed=1), None),
    }


SPLIT = {**linear_cases(), **convolution_cases(), **average_cases(), **addition_cases(), **norm_cases()}
ALL = {**SPLIT, **layer_norm_cases()}
WITH_CONSTANT = [
    name
    for name, case in SPLIT.items()
    if case.apply({operand: torch.zeros_like(value) for operand, value in case.operands().items()}).any()
]


@pytest.mark.parametrize("name", ALL)
def test_the_limit_is_the_transpose_of_the_map(name: str) -> None:
    case = ALL[name]
    dense, g = Dense.of(case), torch.randn_like(case.op().output)

    flow = propagate(case.op(), unit(g), "epsilon", epsilon=0.0)

    assert all(relevance.form == "unit" for relevance in flow.values())
    close(torch.cat([flow[name].tensor.flatten() for name in case.active]), dense.W.T @ g.flatten())


@pytest.mark.parametrize("name", ALL)
def test_the_limit_asks_for_no_forward_value_but_the_weights(name: str) -> None:
    case, read = ALL[name], []
    op = case.op(asked=read.append)
    g = unit(torch.randn(op.output_shape, dtype=torch.float64))

    propagate(op, g, "epsilon", epsilon=0.0)

    weights = [value for value in op.arguments.values() if isinstance(value, Tensor)]
    if not name.startswith("layer_norm"):  # its scale is a function of its input
        weights = [value for value in weights if all(value is not operand for operand in case.operands().values())]
    # The result of the op is no argument, so reading it would show here.
    assert all(any(value is weight for weight in weights) for value in read)


@pytest.mark.parametrize("form", ["unit", "total"])
@pytest.mark.parametrize("name", ALL)
def test_epsilon_equals_its_formula(name: str, form: str) -> None:
    case = ALL[name]
    dense, z = Dense.of(case), case.op().output
    R = torch.randn_like(z)

    flow = propagate(case.op(), total(R) if form == "total" else unit(R / z), "epsilon", epsilon=0.03)

    close(relevance_of(flow, case.operands()), dense.epsilon(R.flatten(), 0.03))


@pytest.mark.parametrize("name", SPLIT)
def test_z_plus_equals_its_formula(name: str) -> None:
    case = SPLIT[name]
    dense, R = Dense.of(case), torch.randn_like(case.op().output)

    flow = propagate(case.op(), total(R), "z-plus", epsilon=0.03)

    close(relevance_of(flow, case.operands()), dense.alpha_beta(R.flatten(), 1, 0, 0.03))


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 1.0), (1.5, 0.5)])
@pytest.mark.parametrize("name", SPLIT)
def test_alpha_beta_equals_its_formula(name: str, alpha: float, beta: float) -> None:
    case = SPLIT[name]
    dense, z = Dense.of(case), case.op().output
    R = torch.randn_like(z)

    flow = propagate(case.op(), unit(R / z), "alpha-beta", alpha=alpha, beta=beta, epsilon=0.03)

    close(relevance_of(flow, case.operands()), dense.alpha_beta(R.flatten(), alpha, beta, 0.03))


@pytest.mark.parametrize("rule", ["z-plus", "alpha-beta"])
@pytest.mark.parametrize("name", SPLIT)
def test_signed_rules_on_nonnegative_inputs_are_the_same_rules(name: str, rule: str) -> None:
    case = SPLIT[name]
    operands = case.operands()
    args = tuple(arg.abs() if any(arg is value for value in operands.values()) else arg for arg in case.args)
    positive = Case(case.target, args, case.active, case.kwargs)
    dense, R = Dense.of(positive), torch.randn_like(positive.op().output)
    options = {"alpha": 1, "beta": 0} if rule == "z-plus" else {"alpha": 2, "beta": 1}

    flow = propagate(positive.op(nonnegative=case.active), total(R), rule, epsilon=0.03)

    assert all(relevance.form == "unit" for relevance in flow.values())
    close(relevance_of(flow, positive.operands()), dense.alpha_beta(R.flatten(), **options, epsilon=0.03))


@pytest.mark.parametrize("name", WITH_CONSTANT)
def test_an_ignored_bias_is_left_out_of_the_denominator(name: str) -> None:
    case = SPLIT[name]
    dense, R = Dense.of(case), torch.randn_like(case.op().output)
    without = Dense(dense.W, torch.zeros_like(dense.b), dense.x)
    operands = case.operands()

    epsilon = propagate(case.op(), total(R), "epsilon", epsilon=0.03, bias="ignore")
    signed = propagate(case.op(), total(R), "alpha-beta", epsilon=0.03, bias="ignore")

    close(relevance_of(epsilon, operands), without.epsilon(R.flatten(), 0.03))
    close(relevance_of(signed, operands), without.alpha_beta(R.flatten(), 2, 1, 0.03))


@pytest.mark.parametrize("name", ALL)
def test_epsilons_losses_are_those_of_bias_and_stabiliser(name: str) -> None:
    case, epsilon = ALL[name], 0.03
    dense, R = Dense.of(case), torch.randn_like(case.op().output)
    booked: dict[str, float] = {}
    op = case.op(absorb=lambda cause, share: booked.update({cause: booked.get(cause, 0) + float(share.sum())}))

    propagate(op, total(R), "epsilon", epsilon=epsilon)

    z = dense.W @ dense.x + dense.b
    q = R.flatten() / stabilised(z, epsilon)
    assert booked.pop("stabiliser") == pytest.approx(float((R.flatten() * epsilon / (z.abs() + epsilon)).sum()))
    assert sum(booked.values()) == pytest.approx(float((dense.b * q).sum()), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", SPLIT)
def test_alpha_betas_losses_are_those_of_bias_stabiliser_and_empty_parts(name: str) -> None:
    case, epsilon = SPLIT[name], 0.03
    dense, R = Dense.of(case), torch.randn_like(case.op().output).flatten()
    booked: dict[str, float] = {}
    op = case.op(absorb=lambda cause, share: booked.update({cause: booked.get(cause, 0) + float(share.sum())}))

    propagate(op, total(R.reshape(case.op().output_shape)), "alpha-beta", alpha=2.0, beta=1.0, epsilon=epsilon)

    P, N = dense.W.clamp(min=0), dense.W.clamp(max=0)
    p, n = dense.x.clamp(min=0), dense.x.clamp(max=0)
    expected = {"stabiliser": 0.0, "empty": 0.0, "constants": 0.0}
    for share, z, b in (
        (2.0, P @ p + N @ n + dense.b.clamp(min=0), dense.b.clamp(min=0)),
        (-1.0, N @ p + P @ n + dense.b.clamp(max=0), dense.b.clamp(max=0)),
    ):
        # In half-sums a part that cancels is rounding noise instead of zero.
        empty = z.abs() < 1e-14
        expected["empty"] += float((share * R * empty).sum())
        expected["stabiliser"] += float((share * R * epsilon / (z.abs() + epsilon) * ~empty).sum())
        expected["constants"] += float((share * R / stabilised(z, epsilon) * b).sum())
    lost = {cause: booked.pop(cause) for cause in ("empty", "stabiliser")}
    assert lost["empty"] + lost["stabiliser"] == pytest.approx(expected["empty"] + expected["stabiliser"])
    assert sum(booked.values()) == pytest.approx(expected["constants"], rel=1e-9, abs=1e-9)


# ---- By hand ----

# On x = (2, −1): the neurons collect (2, −1 and bias 1) = 2 and (−2, 4 and bias 1) = 3; their relevance is (2, 6).
X = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
WEIGHT = torch.tensor([[1.0, 1.0], [-1.0, -4.0]], dtype=torch.float64)
BIAS = torch.tensor([1.0, 1.0], dtype=torch.float64)
HIDDEN = torch.tensor([[2.0, 6.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("epsilon", [2 / 2 * 2 - 2 / 3 * 6, -1 / 2 * 2 + 4 / 3 * 6]),
        ("z-plus", [2 / 3 * 2, 4 / 5 * 6]),
        ("alpha-beta", [2 * 2 / 3 * 2 - 2 / 2 * 6, 2 * 4 / 5 * 6 - 1 / 1 * 2]),
        ("zero", [0, 0]),
    ],
)
def test_two_neurons_by_hand(rule: str, expected: list[float]) -> None:
    op = Op.eager(aten.linear.default, X, WEIGHT, BIAS)
    options = {"epsilon": 1e-12} if rule != "zero" else {}

    flow = propagate(op, total(HIDDEN), rule, **options)

    result = torch.zeros(2, dtype=torch.float64) if flow["input"] is None else relevance_of(flow, {"input": X})
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64))


def test_a_neuron_without_positive_contributions_passes_nothing_on() -> None:
    x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[-1.0, -3.0]])

    flow = propagate(Op.eager(aten.linear.default, x, weight), total(torch.tensor([[5.0]])), "z-plus")

    assert torch.equal(relevance_of(flow, {"input": x}), torch.zeros(2))


def test_a_zero_sum_is_stabilised_to_the_positive_side() -> None:
    x, weight = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0]])

    flow = propagate(Op.eager(aten.linear.default, x, weight), total(torch.tensor([[1.0]])), "epsilon", epsilon=0.5)

    assert torch.equal(relevance_of(flow, {"input": x}), torch.tensor([2.0, -2.0]))


def test_batch_norm_may_pass_relevance_unchanged() -> None:
    case, R = SPLIT["batch_norm of images"], tensor(2, 3, 2, 2, seed=9)

    flow = propagate(case.op(), total(R), "pass")

    assert flow["input"].form == "total"
    assert torch.equal(flow["input"].tensor, R)


def test_a_normalisation_has_no_signed_rule() -> None:
    case = ALL["layer_norm"]

    with pytest.raises(LookupError, match="epsilon"):
        propagate(case.op(), total(case.op().output), "z-plus")


@pytest.mark.parametrize("fan_in", [2, 9, 32, 33, 300])
@pytest.mark.parametrize("rule", ["z-plus", "alpha-beta"])
def test_signed_rules_are_exact_to_float32_on_random_weights(rule: str, fan_in: int) -> None:
    generator = torch.Generator().manual_seed(fan_in)
    x, weight = torch.randn(16, fan_in, generator=generator), torch.randn(8, fan_in, generator=generator)
    R = torch.randn(16, 8, generator=generator)
    exact = Dense.of(Case(aten.linear.default, (x.double(), weight.double()), ("input",)))
    options = {"alpha": 1, "beta": 0} if rule == "z-plus" else {"alpha": 2, "beta": 1}

    flow = propagate(Op.eager(aten.linear.default, x, weight), total(R), rule)

    expected = exact.alpha_beta(R.double().flatten(), **options, epsilon=1e-6)
    error = (relevance_of(flow, {"input": x}).double() - expected).abs().max()
    assert error <= 5e-6 * expected.abs().max()
