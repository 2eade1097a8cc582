"""Attributions of image models by name: ours, Zennit's, LXT's, captum's, and chance.

A method takes a `Subject` and returns relevance shaped like its images, of the class that the model predicts for each.
Every method is used as its own documentation does, with its own defaults where the table says nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import lrp_compiler as lrp

COMPOSITES = lrp.composites


@dataclass(frozen=True)
class Subject:
    """A model and the images that are explained.

    Args:
        model: in eval mode; `[batch, channels, height, width]` → logits `[batch, classes]`.
        x: the images as the model takes them.
        target: the predicted class of each, int64 `[n]`.
        low, high: what a pixel can be, one number a channel.
        replacement: what flipped places show, shaped like `x`.
        background: images that GradientSHAP draws its baselines from.
        rows: how many images are explained at once.
        seed: of everything drawn.
        stages: modules whose outputs are maps of ever fewer places, the last of each size; what is summed over layers.
    """

    model: nn.Module
    x: Tensor
    target: Tensor
    low: tuple[float, ...]
    high: tuple[float, ...]
    replacement: Tensor
    background: Tensor
    rows: int
    seed: int = 0
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """How relevance is had; `same`: the method of ours that computes the same by other means."""

    family: str
    explain: Callable[[Subject], Tensor]
    same: str | None = None
    about: str = ""


def in_batches(subject: Subject, explain: Callable[[slice], Tensor]) -> Tensor:
    """`explain` for some rows at a time, the random numbers of each batch by the subject's seed."""
    found = []
    for at in range(0, len(subject.x), subject.rows):
        torch.manual_seed(subject.seed + at)
        found.append(explain(slice(at, at + subject.rows)).detach())
    return torch.cat(found)


# ── ours ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def ours(composite: Callable[[Subject], lrp.Composite], subject: Subject) -> Tensor:
    """Compiled once, with an open batch, and run in torch."""
    explainer = compiled(subject, composite=composite(subject))

    def explain(rows: slice) -> Tensor:
        return next(iter(explainer(subject.x[rows], target=subject.target[rows]).relevance.values()))

    with torch.no_grad():
        return in_batches(subject, explain)


def compiled(subject: Subject, **options: Any) -> lrp.Explainer:
    """With an open batch; the class is said by each call."""
    shapes = ({0: torch.export.Dim("batch")},)
    return lrp.compile(subject.model, (subject.x[:2],), target="index", dynamic_shapes=shapes, **options)


def _ours(name: str, about: str = "", **options: Any) -> Method:
    return Method("ours", partial(ours, lambda _: COMPOSITES.COMPOSITES[name](**options)), about=about)


def _gamma_box(gamma: float = 0.25) -> Method:
    def composite(subject: Subject) -> lrp.Composite:
        return COMPOSITES.epsilon_gamma_box(list(subject.low), list(subject.high), gamma=gamma)

    return Method("ours", partial(ours, composite))


def _cp_gamma(conv: float, linear: float) -> Method:
    """Attention patterns held fixed as in `cp-lrp`, γ on weights: what LXT recommends for vision transformers."""
    optional = {"optional": True}
    entries = (
        lrp.Entry("convolution", "gamma", {"gamma": conv}, **optional),
        lrp.Entry("linear", "gamma", {"gamma": linear}, **optional),
        *COMPOSITES.cp_lrp().entries,
    )
    return Method("ours", partial(ours, lambda _: lrp.Composite("cp-lrp-gamma", entries)))


def averaged(conv: float, linear: float, points: int, blurred: bool, subject: Subject) -> Tensor:
    """LRP of what lies between a reference image and x: `(x − reference) ⊙ mean of R(p) / p` over points p between.

    The first map's rule is ε → 0, so that R(p) / p is what it asks of each pixel, whatever the pixel's value; the rest
    is `attnlrp-gamma`. Points lie as in integrated gradients by midpoints, which this is for a network where every rule
    is the gradient's; the reference is zero, or the image that flipped places show. `points` = 0: at x itself.
    """
    first = lrp.Entry("convolution", "epsilon", {"epsilon": 0.0}, position="first", optional=True)
    composite = lrp.Composite("averaged", (first, *COMPOSITES.attnlrp_gamma(conv, linear).entries))
    explainer = compiled(subject, composite=composite)
    reference = subject.replacement if blurred else torch.zeros_like(subject.x)
    steps = [(at + 0.5) / points for at in range(points)] or [1.0]

    def explain(rows: slice) -> Tensor:
        way, total = subject.x[rows] - reference[rows], torch.zeros_like(subject.x[rows])
        for step in steps:
            point = reference[rows] + step * way
            (relevance,) = explainer(point, target=subject.target[rows]).relevance.values()
            total += torch.where(point == 0, 0.0, relevance / point)
        return way * total / len(steps)

    with torch.no_grad():
        return in_batches(subject, explain)


def of_differences(blurred: bool, subject: Subject) -> Tensor:
    """The library's `reference`: what f(x) − f(reference) owes to each pixel; one backward behind two forwards.

    The reference is zero, or the image that flipped places show.
    """
    explainer = compiled(subject, composite="reference")
    against = subject.replacement if blurred else torch.zeros_like(subject.x)

    def explain(rows: slice) -> Tensor:
        found = explainer(subject.x[rows], target=subject.target[rows], reference=against[rows])
        return next(iter(found.relevance.values()))

    with torch.no_grad():
        return in_batches(subject, explain)


def over_stages(composite: lrp.Composite, subject: Subject) -> Tensor:
    """Relevance of the stages' outputs and of the image, summed place by place: the library's `aggregate=`."""
    explainer = compiled(subject, composite=composite, aggregate=subject.stages)

    def explain(rows: slice) -> Tensor:
        return next(iter(explainer(subject.x[rows], target=subject.target[rows]).aggregate.values()))[:, None]

    with torch.no_grad():
        return in_batches(subject, explain)


TOLD = "from the blurred image: it is told what flipped places show"
DRAWS = 20
"""Samples of SmoothGrad and GradientSHAP, and points of integrated gradients and of averages along a path."""
FEWER = (1, 5)
"""Points of integrated gradients where it is asked what they owe to their number."""
AVERAGED = ((0.0, 0.0), (0.05, 0.01), (0.25, 0.05))
"""γ of convolutions and dense layers behind the first map."""
GAMMAS = ((0.05, 0.01), (0.25, 0.01), (0.25, 0.05), (1.0, 0.05), (1.0, 0.25), (10.0, 0.5), (0.1, 0.01))
"""γ of convolutions and of dense layers."""
BOX_GAMMAS = (0.05, 0.1, 1.0)
OURS: dict[str, Method] = {
    "epsilon": _ours("epsilon"),
    "epsilon-plus": _ours("epsilon-plus"),
    "epsilon-plus-flat": _ours("epsilon-plus-flat"),
    "epsilon-alpha2-beta1": _ours("epsilon-alpha2-beta1"),
    "epsilon-alpha2-beta1-flat": _ours("epsilon-alpha2-beta1-flat"),
    "epsilon-gamma-box": _gamma_box(),
    **{f"epsilon-gamma-box({gamma:g})": _gamma_box(gamma) for gamma in BOX_GAMMAS},
    "attnlrp": _ours("attnlrp"),
    "cp-lrp": _ours("cp-lrp"),
    "dynamic-lrp": _ours("dynamic-lrp"),
    "dynamic-lrp(0.25, 0.05)": _ours("dynamic-lrp", conv_gamma=0.25, linear_gamma=0.05),
    **{f"attnlrp-gamma({c:g}, {d:g})": _ours("attnlrp-gamma", conv=c, linear=d) for c, d in GAMMAS},
    **{f"cp-lrp-gamma({c:g}, {d:g})": _cp_gamma(c, d) for c, d in GAMMAS[:3]},
    "reference": Method("ours", partial(of_differences, False)),
    "reference-blurred": Method("ours", partial(of_differences, True), about=TOLD),
    "epsilon-plus-over-stages": Method("ours", partial(over_stages, COMPOSITES.epsilon_plus())),
    **{
        f"attnlrp-gamma({c:g}, {d:g})-averaged{'-blurred' * told}": Method(
            "ours", partial(averaged, c, d, DRAWS, told), about=TOLD * told
        )
        for c, d in AVERAGED
        for told in (False, True)
    },
    **{
        f"attnlrp-gamma({c:g}, {d:g})-blurred": Method("ours", partial(averaged, c, d, 0, True), about=TOLD)
        for c, d in AVERAGED
    },
}

# ── Zennit ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def zennit(name: str, subject: Subject) -> Tensor:
    """Zennit 0.5.1, with batch norms folded exactly and residual additions as modules (`canonizers.py`)."""
    from zennit import composites

    from benchmarks.faithful import canonizers

    bounds: dict[str, Any] = {
        key: torch.tensor(value).view(1, -1, 1, 1)
        for key, value in (("low", subject.low), ("high", subject.high))
        if name == "EpsilonGammaBox"
    }
    model = canonizers.prepared(copy.deepcopy(subject.model))
    make = canonizers.epsilon_everywhere if name == "Epsilon" else getattr(composites, name)
    with make(canonizers=canonizers.merging(), **bounds).context(model) as explained:

        def explain(rows: slice) -> Tensor:
            x = subject.x[rows].clone().requires_grad_()
            said = explained(x)
            value = said.detach() * nn.functional.one_hot(subject.target[rows], said.shape[-1])
            (relevance,) = torch.autograd.grad(said, x, value)
            return relevance

        return in_batches(subject, explain)


ZENNIT = {
    "epsilon": "Epsilon",
    "epsilon-plus": "EpsilonPlus",
    "epsilon-plus-flat": "EpsilonPlusFlat",
    "epsilon-alpha2-beta1": "EpsilonAlpha2Beta1",
    "epsilon-alpha2-beta1-flat": "EpsilonAlpha2Beta1Flat",
    "epsilon-gamma-box": "EpsilonGammaBox",
}

# ── LXT ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def lxt(conv: float, linear: float, subject: Subject) -> Tensor:
    """LXT 2.1 in build/peers, on torchvision's vision transformer; γ = 0: the ε rule."""
    from benchmarks.faithful import lxt_vit

    return lxt_vit.relevance(subject.model, subject.x, subject.target, conv, linear, subject.rows)


# ── captum ───────────────────────────────────────────────────────────────────────────────────────────────────────────

NOISE = 0.15
"""SmoothGrad's deviation, as a share of the range of pixels (Smilkov et al.: 10 to 20 %)."""


class FixedNorm(nn.Module):
    """A layer norm over the last dim whose deviation is a constant to the gradient, as it is to LRP."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """`x`, `[…, features]`, normalised."""
        deviation = (x.var(-1, correction=0, keepdim=True) + self.norm.eps).sqrt().detach()
        return (x - x.mean(-1, keepdim=True)) / deviation * self.norm.weight + self.norm.bias


def with_fixed_norms(model: nn.Module) -> nn.Module:
    """A copy of the model; its results are the same."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(parent, name, FixedNorm(child))
    return model


def captum(
    name: str, options: Callable[[Subject, slice], dict[str, Any]], fixed_norms: bool, subject: Subject
) -> Tensor:
    """captum 0.9; a method "Noise X" is X behind a NoiseTunnel."""
    from captum import attr

    model = with_fixed_norms(subject.model) if fixed_norms else subject.model
    made = getattr(attr, name.removeprefix("Noise "))(model)
    made = attr.NoiseTunnel(made) if name.startswith("Noise ") else made

    def explain(rows: slice) -> Tensor:
        x = subject.x[rows].clone().requires_grad_()
        relevance: Tensor = made.attribute(x, target=subject.target[rows], **options(subject, rows))
        return relevance

    return in_batches(subject, explain)


def _captum(
    name: str,
    options: Callable[[Subject, slice], dict[str, Any]] = lambda _, __: {},
    about: str = "",
    fixed_norms: bool = False,
) -> Method:
    return Method("peer", partial(captum, name, options, fixed_norms), about=about)


def _smooth(subject: Subject, _: slice) -> dict[str, Any]:
    deviation = NOISE * max(high - low for low, high in zip(subject.low, subject.high, strict=True))
    return {"nt_type": "smoothgrad", "nt_samples": DRAWS, "nt_samples_batch_size": 1, "stdevs": deviation}


def _path(points: int, blurred: bool, subject: Subject, rows: slice) -> dict[str, Any]:
    told = {"baselines": subject.replacement[rows]} if blurred else {}
    return {"n_steps": points, "internal_batch_size": len(subject.x[rows]), **told}


CAPTUM: dict[str, Method] = {
    "gradient-x-input": _captum("InputXGradient"),
    "integrated-gradients": _captum("IntegratedGradients", partial(_path, DRAWS, False)),
    "integrated-gradients-blurred": _captum("IntegratedGradients", partial(_path, DRAWS, True), TOLD),
    **{
        f"integrated-gradients-blurred({points})": _captum(
            "IntegratedGradients", partial(_path, points, True), f"{TOLD}; {points} of the {DRAWS} points"
        )
        for points in FEWER
    },
    "integrated-gradients-blurred, norms fixed": _captum(
        "IntegratedGradients",
        partial(_path, DRAWS, True),
        f"{TOLD}; the deviations of layer norms are constants, as to LRP",
        fixed_norms=True,
    ),
    "smoothgrad": _captum("Noise Saliency", _smooth),
    "saliency": _captum("Saliency"),
    "gradient-shap": _captum("GradientShap", lambda s, _: {"n_samples": DRAWS, "baselines": s.background}),
}

# ── chance ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def chance(subject: Subject) -> Tensor:
    """Normal noise."""
    return torch.randn(subject.x.shape, generator=torch.Generator().manual_seed(subject.seed))


METHODS: dict[str, Method] = {
    **OURS,
    **{f"zennit {name}": Method("peer", partial(zennit, theirs), same=name) for name, theirs in ZENNIT.items()},
    "lxt cp-lrp": Method("peer", partial(lxt, 0.0, 0.0), same="cp-lrp"),
    "lxt cp-lrp-gamma(0.25, 0.05)": Method("peer", partial(lxt, 0.25, 0.05), about="γ only where a module is a Linear"),
    **CAPTUM,
    "random": Method("baseline", chance),
}
