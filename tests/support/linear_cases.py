"""Calls of every linear-map operator, small enough to unroll into a matrix."""

from typing import Any

import torch
from torch import Tensor

from lrp_compiler.rules.operators.pooling import POOL

from .unrolled import Case

aten = torch.ops.aten


def tensor(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 7 * len(shape) + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def dense_cases() -> dict[str, Case]:
    W, b, x = tensor(3, 5, seed=1), tensor(3, seed=2), tensor(2, 5)

    def case(target: Any, *args: Any, active: str, **kwargs: Any) -> Case:
        tensors = [a.name for a, v in zip(target._schema.arguments, args, strict=False) if isinstance(v, Tensor)]
        parameters = tuple(name for name in tensors if name != active)
        return Case(target, args, (active,), kwargs, parameters=parameters)

    both = {
        "mm": (aten.mm.default, tensor(2, 4), tensor(4, 3, seed=1), "self", "mat2"),
        "bmm": (aten.bmm.default, tensor(2, 3, 4), tensor(2, 4, 2, seed=1), "self", "mat2"),
        "mv": (aten.mv.default, tensor(3, 4), tensor(4, seed=1), "self", "vec"),
        "dot": (aten.dot.default, tensor(4), tensor(4, seed=1), "self", "tensor"),
        "matmul": (aten.matmul.default, tensor(2, 3, 4), tensor(4, 5, seed=1), "self", "other"),
        "matmul, left broadcast": (aten.matmul.default, tensor(3, 4), tensor(2, 4, 2, seed=1), "self", "other"),
        "matmul, both": (aten.matmul.default, tensor(2, 1, 3, 4), tensor(3, 4, 2, seed=1), "self", "other"),
        "matmul, vectors": (aten.matmul.default, tensor(4), tensor(4, seed=1), "self", "other"),
        "matmul, vector matrix": (aten.matmul.default, tensor(4), tensor(4, 3, seed=1), "self", "other"),
        "matmul, vector matrices": (aten.matmul.default, tensor(4), tensor(2, 4, 3, seed=1), "self", "other"),
        "matmul, matrix vector": (aten.matmul.default, tensor(3, 4), tensor(4, seed=1), "self", "other"),
        "matmul, matrices vector": (aten.matmul.default, tensor(2, 3, 4), tensor(4, seed=1), "self", "other"),
    }
    scaled = {"alpha": -2, "beta": 0.5}
    cases = {
        "linear": case(aten.linear.default, x, W, b, active="input"),
        "linear of a sequence": case(aten.linear.default, tensor(2, 3, 4), tensor(5, 4, seed=1), active="input"),
        "linear of a vector": case(aten.linear.default, x[0], W, b, active="input"),
        "linear, wide": case(aten.linear.default, tensor(2, 40), tensor(3, 40, seed=1), b, active="input"),
        "addmm": case(aten.addmm.default, b, tensor(2, 4), tensor(4, 3, seed=1), active="mat1"),
        "addmm, right": case(aten.addmm.default, b, tensor(2, 4), tensor(4, 3, seed=1), active="mat2"),
        "addmm, scaled": case(aten.addmm.default, tensor(2, 1), tensor(2, 4), tensor(4, 3), active="mat1", **scaled),
        "addmv": case(aten.addmv.default, b, W, tensor(5), active="vec", **scaled),
        "mm, wide": case(aten.mm.default, tensor(2, 37), tensor(37, 3, seed=1), active="self"),
    }
    for name, (target, left, right, *sides) in both.items():
        cases |= {f"{name}, by {side}": case(target, left, right, active=side) for side in sides}
    return cases


def convolution(
    rank: int, size: tuple[int, ...], channels: tuple[int, int], kernel: tuple[int, ...], *, bias: bool = True,
    transposed: bool = False, target: Any = None, **options: Any,
) -> Case:  # fmt: skip
    plain = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
    grown = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
    target = target or (grown if transposed else plain)[rank - 1]
    inputs, outputs = channels
    groups = options.get("groups", 1)
    weight = (inputs, outputs // groups) if transposed else (outputs, inputs // groups)
    given = {"stride": [1], "padding": [0], "dilation": [1], "output_padding": [0], "groups": 1, **options}
    given["transposed"] = transposed
    names = [argument.name for argument in target._schema.arguments][3:]
    args = (tensor(2, inputs, *size), tensor(*weight, *kernel, seed=1), tensor(outputs, seed=2) if bias else None)
    parameters = ("weight", "bias") if bias else ("weight",)
    return Case(target, (*args, *map(given.get, names)), ("input",), channel=1, parameters=parameters)


def convolution_cases() -> dict[str, Case]:
    any_rank = aten.convolution.default
    return {
        "conv1d": convolution(1, (7,), (2, 3), (3,)),
        "conv1d, all": convolution(1, (12,), (2, 3), (3,), stride=[2], padding=[1], dilation=[2]),
        "conv1d, stride beyond the kernel": convolution(1, (11,), (2, 3), (2,), stride=[4]),
        "conv1d, kernel 1, stride 3": convolution(1, (9,), (2, 3), (1,), stride=[3], bias=False),
        "conv1d, dilated most": convolution(1, (13,), (1, 2), (3,), stride=[2], dilation=[3], padding=[2]),
        "conv1d, one window of many": convolution(1, (14,), (1, 2), (3,), stride=[12]),
        "conv2d": convolution(2, (4, 5), (2, 3), (3, 3), padding=[1]),
        "conv2d, uneven": convolution(2, (6, 7), (2, 4), (3, 2), stride=[2, 3], padding=[1, 0], dilation=[1, 2]),
        "conv2d, grouped": convolution(2, (5, 5), (4, 6), (3, 3), stride=[2], padding=[1], groups=2),
        "conv2d, depthwise": convolution(2, (6, 6), (3, 3), (3, 3), stride=[2], padding=[1], groups=3),
        "conv2d, depthwise multiplied": convolution(2, (5, 4), (2, 4), (3, 3), groups=2, bias=False),
        "conv2d, wide": convolution(2, (4, 4), (4, 2), (3, 3), padding=[1]),
        "conv2d, padding beyond need": convolution(2, (3, 3), (1, 2), (3, 3), stride=[2], padding=[2]),
        "conv3d": convolution(3, (3, 4, 5), (1, 2), (2, 3, 2), stride=[1, 2, 2], padding=[0, 1, 1]),
        "conv3d, grouped": convolution(3, (4, 3, 5), (2, 2), (2, 2, 2), dilation=[2, 1, 3], groups=2),
        "conv3d, wide": convolution(3, (3, 3, 3), (2, 2), (3, 3, 3), padding=[1]),
        "convolution": convolution(2, (4, 5), (2, 3), (3, 2), target=any_rank, stride=[2, 1], padding=[1, 0]),
        "up1d": convolution(1, (5,), (2, 3), (3,), transposed=True, stride=[2], padding=[1], output_padding=[1]),
        "up1d, dilated, padded out": convolution(
            1, (4,), (4, 2), (2,), transposed=True, stride=[2], dilation=[3], output_padding=[2], groups=2
        ),
        "up2d": convolution(2, (3, 4), (2, 3), (3, 3), transposed=True, padding=[1]),
        "up2d, grouped": convolution(
            2, (3, 2), (4, 6), (2, 3), transposed=True, stride=[2, 3], padding=[1, 0], output_padding=[1, 2], groups=2
        ),
        "up2d, stride beyond the kernel": convolution(2, (3, 3), (1, 2), (2, 2), transposed=True, stride=[3]),
        "up2d, wide": convolution(2, (3, 3), (4, 2), (3, 3), transposed=True, bias=False),
        "up3d": convolution(3, (2, 3, 2), (1, 2), (2, 2, 3), transposed=True, stride=[2, 1, 2], padding=[0, 1, 1]),
        "convolution, transposed": convolution(
            2, (3, 3), (2, 2), (3, 3), transposed=True, target=any_rank, stride=[2], padding=[1], output_padding=[1]
        ),
    }  # fmt: skip


def average_cases() -> dict[str, Case]:
    def pool(rank: int, size: tuple[int, ...], *options: Any) -> Case:
        target = {1: aten.avg_pool1d.default, 2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}[rank]
        return Case(target, (tensor(2, 2, *size), *options), ("self",), implied=True, channel=1)

    def windows(size: tuple[int, ...], *wanted: int) -> Case:
        ends = [[-(-(j + 1) * have // want) for j in range(want)] for have, want in zip(size, wanted, strict=True)]
        matrices = []
        for have, want, end in zip(size, wanted, ends, strict=True):
            rows = [[float(j * have // want <= i < end[j]) for i in range(have)] for j in range(want)]
            inside = torch.tensor(rows, dtype=torch.float64)
            matrices.append(inside / inside.sum(-1, keepdim=True))
        return Case(POOL, (tensor(2, 2, *size), matrices), ("self",), channel=1)

    def reduction(target: Any, *args: Any) -> Case:
        return Case(target, args, ("self",), implied=True, channel=1 if args[0].dim() > 2 else -1)

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
        "windows of unequal length": windows((7,), 3),
        "windows of unequal area": windows((5, 4), 3, 2),
        "windows of unequal volume": windows((3, 5, 4), 2, 3, 3),
        "mean of all": reduction(aten.mean.default, tensor(2, 3, 4)),
        "mean": reduction(aten.mean.dim, tensor(2, 3, 4), [-1, 1]),
        "mean, wide": reduction(aten.mean.dim, tensor(2, 40), [-1]),
        "sum of all": reduction(aten.sum.default, tensor(2, 3, 4)),
        "sum, dims kept": reduction(aten.sum.dim_IntList, tensor(2, 3, 4), [0, -1], True),
        "sum over no dim is over all": reduction(aten.sum.dim_IntList, tensor(2, 3), []),
        "sum, wide": reduction(aten.sum.dim_IntList, tensor(2, 40), [-1]),
        "cumsum": reduction(aten.cumsum.default, tensor(2, 3, 4), 1),
        "cumsum, wide": reduction(aten.cumsum.default, tensor(2, 34), -1),
    }


def interpolation_cases() -> dict[str, Case]:
    def case(op: Any, size: tuple[int, ...], *options: Any) -> Case:
        return Case(op.vec, (tensor(1, 2, *size), *options), ("input",), channel=1)

    return {
        "nearest1d, doubled": case(aten.upsample_nearest1d, (4,), [8], None),
        "nearest1d, odd": case(aten.upsample_nearest1d, (5,), [7], None),
        "nearest2d, scaled": case(aten.upsample_nearest2d, (3, 4), None, [2.0, 4.0]),
        "nearest2d, shrunk": case(aten.upsample_nearest2d, (5, 6), [3, 9], None),
        "nearest3d": case(aten.upsample_nearest3d, (2, 3, 2), None, [1.7, 1.0, 2.5]),
        "nearest-exact1d": case(aten._upsample_nearest_exact1d, (5,), [8], None),
        "nearest-exact2d": case(aten._upsample_nearest_exact2d, (3, 4), None, [2.0, 2.0]),
        "nearest-exact3d": case(aten._upsample_nearest_exact3d, (2, 3, 4), [5, 2, 4], None),
        "linear1d": case(aten.upsample_linear1d, (5,), [8], False, None),
        "linear1d, shrunk": case(aten.upsample_linear1d, (7,), [3], False, None),
        "linear1d, aligned": case(aten.upsample_linear1d, (4,), [9], True, None),
        "bilinear, scaled": case(aten.upsample_bilinear2d, (3, 4), None, False, [1.7, 2.0]),
        "bilinear, aligned": case(aten.upsample_bilinear2d, (3, 4), [5, 1], True, None),
        "trilinear": case(aten.upsample_trilinear3d, (2, 3, 2), [3, 4, 3], False, None),
        "bicubic": case(aten.upsample_bicubic2d, (4, 5), [7, 6], False, None),
        "bicubic, aligned": case(aten.upsample_bicubic2d, (4, 3), [6, 7], True, None),
        "bicubic, scaled": case(aten.upsample_bicubic2d, (4, 5), None, False, [1.7, 2.6]),
    }


def addition_cases() -> dict[str, Case]:
    a, b, row, column = tensor(2, 3), tensor(2, 3, seed=1), tensor(3, seed=2), tensor(2, 1, seed=3)
    both = ("self", "other")

    def shift(target: Any, left: Any, right: Any, active: str, **kwargs: Any) -> Case:
        constant = "other" if active == "self" else "self"
        named = (constant,) if isinstance(left, Tensor) and isinstance(right, Tensor) else ()
        return Case(target, (left, right), (active,), kwargs, parameters=named)

    return {
        "add": Case(aten.add.Tensor, (a, b), both),
        "add, scaled": Case(aten.add.Tensor, (a, b), both, {"alpha": -2}),
        "add, right broadcast": Case(aten.add.Tensor, (a, row), both),
        "add, left broadcast": Case(aten.add.Tensor, (row, a), both, {"alpha": 3}),
        "add, both broadcast": Case(aten.add.Tensor, (row, column), both),
        "add of a constant": shift(aten.add.Tensor, a, row, "self", alpha=2),
        "add to a constant": shift(aten.add.Tensor, row, a, "other", alpha=2),
        "add of a number": shift(aten.add.Tensor, a, 0.1, "self"),
        "add.Scalar": Case(aten.add.Scalar, (a, -0.1, 2), ("self",)),
        "sub": Case(aten.sub.Tensor, (a, b), both),
        "sub, scaled, broadcast": Case(aten.sub.Tensor, (column, row), both, {"alpha": 0.5}),
        "sub from a constant": shift(aten.sub.Tensor, row, a, "other"),
        "sub.Scalar": shift(aten.sub.Scalar, a, 2.0, "self"),
        "rsub": Case(aten.rsub.Tensor, (a, b), both, {"alpha": 2}),
        "rsub.Scalar": shift(aten.rsub.Scalar, a, 1.3, "self"),
    }


def norm_cases() -> dict[str, Case]:
    weight, bias = tensor(3, seed=1), tensor(3, seed=2)
    mean, variance = tensor(3, seed=3), tensor(3, seed=4).abs() + 0.5

    def batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Case:
        args = (x, weight, bias, mean, variance, False, 0.1, 1e-3, False)
        given = tuple(name for name, value in (("weight", weight), ("bias", bias)) if value is not None)
        return Case(aten.batch_norm.default, args, ("input",), channel=1, parameters=given)

    return {
        "batch_norm": batch_norm(tensor(2, 3), weight, bias),
        "batch_norm of images": batch_norm(tensor(2, 3, 2, 2), weight, bias),
        "batch_norm, not affine": batch_norm(tensor(2, 3, 4), None, None),
        "batch_norm, scale only": batch_norm(tensor(2, 3, 4), weight, None),
    }


def layer_norm_cases() -> dict[str, Case]:
    """With the variance held fixed the map is linear; on x itself it equals the layer norm."""

    def case(x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None) -> Case:
        dims, epsilon = tuple(range(-len(shape), 0)), 1e-2
        scale = 1 / torch.sqrt(x.var(dims, unbiased=False, keepdim=True) + epsilon)

        def frozen(h: Tensor) -> Tensor:
            y = (h - h.mean(dims, keepdim=True)) * scale
            return (y if weight is None else y * weight) + (0 if bias is None else bias)

        given = tuple(name for name, value in (("weight", weight), ("bias", bias)) if value is not None)
        args = (x, shape, weight, bias, epsilon)
        return Case(aten.layer_norm.default, args, ("input",), frozen=frozen, parameters=given)

    return {
        "layer_norm": case(tensor(2, 3, 4), [4], tensor(4, seed=1), tensor(4, seed=2)),
        "layer_norm over two dims": case(tensor(2, 3, 4), [3, 4], tensor(3, 4, seed=1), tensor(3, 4, seed=2)),
        "layer_norm, not affine": case(tensor(2, 4), [4], None, None),
    }


WEIGHTED = {**dense_cases(), **convolution_cases()}
SPLIT = {
    **WEIGHTED,
    **average_cases(),
    **interpolation_cases(),
    **addition_cases(),
    **norm_cases(),
}
NORMS = layer_norm_cases()
ALL = {**SPLIT, **NORMS}
