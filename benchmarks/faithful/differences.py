"""Relevance of differences, a spike in eager torch: what an output says more of x than of a reference, place by place.

An exported graph is run on x and on the reference x₀ at once. Going back, a multiplier g of every value is found such
that g ⊙ (a − a₀), summed, is the difference of the outputs at each step, so that R = (x − x₀) ⊙ g sums to f(x) − f(x₀)
exactly. What is linear hands g on by its transpose, and its biases take nothing; the rest by rules of this file:

    functions       Δf/Δa, the derivative at the midpoint where Δa is small
    products        the other factor's midpoint, ½(b + b₀)
    softmax         L ⊙ g − L/ΣL · Σ(L ⊙ g), L the logarithmic mean of p and p₀
    layer norms     from their primitives: the deviation takes part
    max pools       pairs of places, max(a, b) = b + relu(a − b), first along rows, then along columns

On functions this is DeepLIFT's rescale rule (arXiv 1704.02685). `Rules` takes parts away, to see what they are worth,
or turns them into those of GIM (arXiv 2505.17630). Only operators are there that the networks of `candidates` have.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map

from lrp_compiler.rules.differences import logarithmic_mean

ATEN = torch.ops.aten
LOWEST = -1e30
"""What a max pool's border shows."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A value at x, which multipliers are asked of, and at the reference."""

    here: Tensor
    there: Tensor


@dataclass(frozen=True)
class Rules:
    """What multipliers are made of.

    Args:
        norm: "whole": deviations take part; "fixed": they are constants, as to LRP.
        softmax: "differences"; "fixed": it takes nothing; a temperature: the gradient of softmax(scores / temperature)
            (GIM: 2).
        product: "midpoint"; "half": half of the other factor at x (LRP's uniform rule).
        slope: "differences"; "gradient": the derivative at x.
        small: differences at which smooth functions take the derivative at the midpoint.
    """

    norm: str = "whole"
    softmax: str | float = "differences"
    product: str = "midpoint"
    slope: str = "differences"
    small: float = 1e-3


def gim(temperature: float) -> Rules:
    """GIM's rules for a temperature; with R = x ⊙ g and temperature 1 those of AttnLRP but for functions."""
    return Rules(norm="fixed", softmax=temperature, product="half", slope="gradient")


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Given(torch.autograd.Function):
    """A value with the multipliers that are given for its operands."""

    @staticmethod
    def forward(ctx: Any, back: Callable[[Tensor], tuple[Tensor, ...]], value: Tensor, *_: Tensor) -> Tensor:
        ctx.back = back
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *multipliers: Tensor) -> Any:
        return (None, None, *ctx.back(*multipliers))


def given(f: Callable[..., Tensor], back: Callable[[Tensor], tuple[Tensor, ...]], *operands: Pair) -> Pair:
    """`f` of the operands; `back` says what each of them gets of a multiplier of the result."""
    value = f(*(pair.here.detach() for pair in operands))
    return Pair(_Given.apply(back, value, *(pair.here for pair in operands)), f(*(pair.there for pair in operands)))


def _is_pair(value: Any) -> bool:
    return isinstance(value, Pair)


def linear(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Pair:
    """`f`, of which autograd's transpose is the rule."""

    def side(at: str) -> Any:
        taken = tree_map(lambda v: getattr(v, at) if _is_pair(v) else v, (list(args), kwargs))
        return f(*taken[0], **taken[1])

    here = side("here")
    with torch.no_grad():
        return Pair(here, side("there"))


def smooth(
    f: Callable[[Tensor], Tensor], derivative: Callable[[Tensor], Tensor], a: Pair, rules: Rules, small: float
) -> Pair:
    """An elementwise function; `small` = 0 for one with corners, whose quotient of differences is exact."""
    x, there = a.here.detach(), a.there
    by = x - there
    near = by.abs() <= small
    slope = torch.where(near, derivative((x + there) / 2), (f(x) - f(there)) / torch.where(near, 1.0, by))
    if rules.slope == "gradient":
        slope = derivative(x)
    return given(f, lambda g: (g * slope,), a)


def product(a: Pair, b: Pair, rules: Rules, matrices: bool = False) -> Pair:
    """Elementwise, sizes of 1 stretched, or of matrices."""
    of_a, of_b = (((v.here.detach() + v.there) if rules.product == "midpoint" else v.here.detach()) / 2 for v in (a, b))
    if matrices:
        return given(torch.matmul, lambda g: (g @ of_b.mT, of_a.mT @ g), a, b)
    return given(torch.mul, lambda g: ((g * of_b).sum_to_size(of_a.shape), (g * of_a).sum_to_size(of_b.shape)), a, b)


def softmax(scores: Pair, dim: int, rules: Rules) -> Pair:
    """Probabilities along `dim`."""

    def probabilities(x: Tensor) -> Tensor:
        return x.softmax(dim)

    x = scores.here.detach()
    if rules.softmax == "fixed":
        return given(probabilities, lambda g: (torch.zeros_like(g),), scores)
    if rules.softmax == "differences":
        mean = logarithmic_mean(probabilities(x), probabilities(scores.there))
    else:
        mean = probabilities(x / float(rules.softmax))
    share = mean / mean.sum(dim, keepdim=True)
    return given(probabilities, lambda g: (mean * g - share * (mean * g).sum(dim, keepdim=True),), scores)


def layer_norm(a: Pair, weight: Tensor, bias: Tensor, eps: float, rules: Rules) -> Pair:
    """Over the last dim."""
    centred = linear(lambda x: x - x.mean(-1, keepdim=True), a)
    variance = linear(lambda x: x.mean(-1, keepdim=True) + eps, product(centred, centred, rules))
    if rules.norm == "fixed":
        scale = Pair(variance.here.detach().rsqrt(), variance.there.rsqrt())
        normal = given(
            lambda x: x * (x.square().mean(-1, keepdim=True) + eps).rsqrt(), lambda g: (g * scale.here,), centred
        )
    else:
        small = 1e-4 * float(variance.there.mean())
        inverse = smooth(torch.rsqrt, lambda x: -0.5 * x**-1.5, variance, rules, small)
        normal = product(centred, inverse, rules)
    return linear(lambda x: x * weight + bias, normal)


def larger(a: Pair, b: Pair) -> Pair:
    """max(a, b) = b + relu(a − b)."""
    x, there = a.here.detach() - b.here.detach(), a.there - b.there
    same = x == there
    share = torch.where(same, (x > 0).to(x.dtype), (x.relu() - there.relu()) / torch.where(same, 1.0, x - there))
    return given(torch.maximum, lambda g: (g * share, g * (1 - share)), a, b)


def max_pool(a: Pair, size: list[int], stride: list[int], shape: torch.Size) -> Pair:
    """Without padding; `shape` of the result, whose last windows may reach over the border."""
    spans = [(places - 1) * step + 1 for places, step in zip(shape[-2:], stride, strict=True)]
    over = [max(0, span + k - 1 - have) for span, k, have in zip(spans, size, a.there.shape[-2:], strict=True)]
    a = linear(lambda x: functional.pad(x, (0, over[1], 0, over[0]), value=LOWEST), a)
    for dim in (3, 2):
        at = dim - 2

        def cut(x: Tensor, start: int, dim: int = dim, at: int = at) -> Tensor:
            return x[(slice(None),) * dim + (slice(start, start + spans[at], stride[at]),)]

        found = linear(cut, a, 0)
        for start in range(1, size[at]):
            found = larger(found, linear(cut, a, start))
        a = found
    return a


# ── graphs ───────────────────────────────────────────────────────────────────────────────────────────────────────────

LINEAR = {
    getattr(getattr(ATEN, name), overload)
    for name, _, overload in (
        each.partition(".")
        for each in (
            *("reshape.default", "permute.default", "expand.default", "clone.default", "add.Tensor", "select.int"),
            *("unsqueeze.default", "squeeze.dims", "cat.default", "slice.Tensor", "mul.Scalar", "mean.dim"),
            *("sum.dim_IntList", "constant_pad_nd.default", "_to_copy.default", "convolution.default", "addmm.default"),
            # Of conditions both sides are worked out, and `where` takes each side's own.
            *("eq.Scalar", "logical_not.default", "any.dim", "full_like.default", "where.self"),
        )
    )
}
FUNCTIONS: dict[Any, tuple[Callable[..., Tensor], Callable[..., Tensor], bool]] = {
    ATEN.relu.default: (torch.relu, lambda x: (x > 0).to(x.dtype), False),
    ATEN.hardtanh.default: (
        functional.hardtanh,
        lambda x, low=-1.0, high=1.0: ((x > low) & (x < high)).to(x.dtype),
        False,
    ),
    ATEN.gelu.default: (
        functional.gelu,
        lambda x: (1 + torch.erf(x / math.sqrt(2))) / 2 + x * torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi),
        True,
    ),
}
"""Function, derivative, and whether it is smooth."""


class Differences(fx.Interpreter):
    """An exported graph on pairs.

    Args:
        program: of `exported`.
        rules: what multipliers are made of.
        watched: names of nodes that are kept.
    """

    def __init__(self, program: fx.GraphModule, rules: Rules, watched: Iterable[str] = ()) -> None:
        super().__init__(program)
        self.rules, self.watched, self.kept = rules, set(watched), dict[str, Pair]()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.watched:
            value.here.retain_grad()
            self.kept[n.name] = value
        return value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        pairs = sum(map(_is_pair, tree_leaves((args, kwargs))))
        target = ATEN.reshape.default if target is ATEN.view.default else target
        if not pairs or target is operator.getitem:
            return super().call_function(target, args, kwargs)
        if target is ATEN.sym_size.int:
            return args[0].there.shape[args[1]]
        if target in FUNCTIONS:
            f, derivative, is_smooth = FUNCTIONS[target]
            at, rest = args[0], args[1:]
            small = self.rules.small if is_smooth else 0.0
            return smooth(lambda x: f(x, *rest), lambda x: derivative(x, *rest), at, self.rules, small)
        if target in (ATEN.mul.Tensor, ATEN.bmm.default) and pairs == 2:
            return product(*args, self.rules, matrices=target is ATEN.bmm.default)
        if target is ATEN._softmax.default:
            return softmax(args[0], args[1], self.rules)
        if target is ATEN.native_layer_norm.default and len(args[1]) == 1:
            return (layer_norm(args[0], *args[2:5], self.rules),)
        if target is ATEN.max_pool2d_with_indices.default and not any(tree_leaves(args[3:4])):
            shape = target(args[0].there, *args[1:])[0].shape
            return (max_pool(args[0], args[1], args[2] or args[1], shape),)
        if target is ATEN._native_batch_norm_legit_no_training.default:
            return (linear(lambda x: target(x, *args[1:])[0], args[0]),)
        one_active = target in (ATEN.mul.Tensor, ATEN.bmm.default) or (
            target is ATEN.div.Tensor and _is_pair(args[0]) and not _is_pair(args[1])
        )
        if target in LINEAR or one_active:
            return linear(target, *args, **kwargs)
        raise NotImplementedError(f"{target} has no rule for differences here.")


def exported(model: nn.Module, args: tuple[Any, ...], dynamic_shapes: Any) -> fx.GraphModule:
    """The model's graph, as `explain` takes it."""
    program = torch.export.export(model, args, dynamic_shapes=dynamic_shapes).run_decompositions()
    graph: fx.GraphModule = program.module(check_guards=False)
    return graph


def explain(
    program: fx.GraphModule,
    x: Tensor,
    reference: Tensor,
    target: Tensor,
    rules: Rules,
    watched: Iterable[str] = (),
    rest: tuple[Tensor, ...] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Relevance of x's differences from the reference, and that of nodes inside.

    Args:
        program: of `exported`; takes x, then `rest`, and returns logits `[batch, classes]`.
        x, reference: of the same shape.
        target: the classes that are explained, int64 `[batch]`.
    """
    here = x.detach().clone().requires_grad_()
    run = Differences(program, rules, watched)
    with torch.enable_grad():
        logits: Pair = tree_leaves(run.run(Pair(here, reference.detach()), *rest))[0]
        logits.here.gather(1, target[:, None]).sum().backward()  # type: ignore[no-untyped-call]

    def relevance(pair: Pair) -> Tensor:
        assert pair.here.grad is not None
        found: Tensor = (pair.here.detach() - pair.there) * pair.here.grad
        return found

    inside = {name: relevance(pair) for name, pair in run.kept.items()}
    return relevance(Pair(here, reference.detach())), inside
