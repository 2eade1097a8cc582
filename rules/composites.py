"""The composites that have a name, each a short table as in its paper, and the table of them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from lrp_compiler.base.errors import CompositeError, did_you_mean
from lrp_compiler.base.validate import is_number, shortened

from .composite import ANY, FIXED, Composite, Entry
from .first_layer import Bound

Chosen = tuple[str, Mapping[str, object]]
"""A rule, and its options."""
Row = tuple[str | tuple[str, ...], str] | tuple[str | tuple[str, ...], str, Mapping[str, object]]
"""One kind or several, their rule, and perhaps its options."""


def _table(*rows: Row) -> tuple[Entry, ...]:
    """Entries of a composite that is meant for any model: what matches nothing is fine."""
    return tuple(replace(Entry(*row), optional=True) for row in rows)


LINEAR_MAPS = ("convolution", "linear")
LIMIT = {"epsilon": 0.0}
"""ε → 0: no stabiliser, no division."""


def _zennit(name: str, epsilon: float, convolution: Chosen | None, *first: Entry) -> Composite:
    """Zennit's ground: ε on what is dense, added or averaged, activations and batch norms pass."""
    stabilised = {"epsilon": epsilon}
    rows = _table(
        ("convolution", *(convolution or ("epsilon", stabilised))),
        (("linear", "addition", "average", "sum", "interpolation"), "epsilon", stabilised),
        ("batch norm", "pass"),
        # Zennit has no rule for normalisations of activations; the limit keeps them free of a division.
        ("normalization", "epsilon", LIMIT),
        # A constant added to an activation takes its share without a stabiliser: it may be a mask of −∞.
        ("shift", "epsilon", LIMIT),
    )
    return Composite(name, (*first, *rows))


def _first(kind: str | tuple[str, ...], rule: str, options: Mapping[str, object]) -> Entry:
    return Entry(kind, rule, options, position="first", optional=True)


def epsilon(epsilon: float = 1e-6) -> Composite:
    """ε rule on every linear map; batch norms that could not be folded pass; max pools: winner takes all."""
    return _zennit("epsilon", epsilon, None)


def epsilon_plus(epsilon: float = 1e-6) -> Composite:
    """z⁺ on convolutions, ε on dense layers, residual additions and average pools (Montavon et al., 2019)."""
    return _zennit("epsilon-plus", epsilon, ("z-plus", {"epsilon": epsilon}))


def epsilon_plus_flat(epsilon: float = 1e-6) -> Composite:
    """As `epsilon_plus`, with the flat rule on the first linear map."""
    flat = _first(LINEAR_MAPS, "flat", {"epsilon": epsilon})
    return _zennit("epsilon-plus-flat", epsilon, ("z-plus", {"epsilon": epsilon}), flat)


def _alpha2_beta1(epsilon: float) -> Chosen:
    return "alpha-beta", {"alpha": 2.0, "beta": 1.0, "epsilon": epsilon}


def epsilon_alpha2_beta1(epsilon: float = 1e-6) -> Composite:
    """αβ with α = 2, β = 1 on convolutions, the rest as `epsilon_plus`."""
    return _zennit("epsilon-alpha2-beta1", epsilon, _alpha2_beta1(epsilon))


def epsilon_alpha2_beta1_flat(epsilon: float = 1e-6) -> Composite:
    """As `epsilon_alpha2_beta1`, with the flat rule on the first linear map."""
    flat = _first(LINEAR_MAPS, "flat", {"epsilon": epsilon})
    return _zennit("epsilon-alpha2-beta1-flat", epsilon, _alpha2_beta1(epsilon), flat)


def epsilon_gamma_box(low: Bound, high: Bound, gamma: float = 0.25, epsilon: float = 1e-6) -> Composite:
    """Signed γ on convolutions, z-box on the first of them, ε on the rest (Montavon et al., 2019).

    Args:
        low: least value of the network's normalised input; a number, or one for each channel.
        high: greatest value.
        gamma: stress on contributions of the output's own sign.
        epsilon: the stabiliser.
    """
    bounds = {"low": _plain(low), "high": _plain(high), "epsilon": epsilon}
    box = _first("convolution", "z-box", bounds)
    return _zennit("epsilon-gamma-box", epsilon, ("gamma", {"gamma": gamma, "epsilon": epsilon}), box)


def _plain(bound: Bound) -> float | list[float]:
    if is_number(bound):
        return float(bound)  # type: ignore[arg-type]
    values = getattr(bound, "tolist", lambda: bound)()
    values = [values] if is_number(values) else values
    if not (isinstance(values, list | tuple) and values and all(map(is_number, values))):
        raise CompositeError(f"A bound of the input is a number, or one for each channel, not {shortened(bound)}.")
    return [float(value) for value in values]


DENSE = ("linear", "addition", "average", "sum", "interpolation", "normalization", "batch norm")


def attnlrp(epsilon: float = 0.0, gates: str = "uniform") -> Composite:
    """AttnLRP: ε rule on linear maps, by default in its limit ε → 0; uniform products, Taylor softmax, frozen norms.

    Source: Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers",
    arXiv 2402.05602.

    Args:
        epsilon: the stabiliser; 0 for the limit, which needs no division.
        gates: "uniform" (a gate and what it lets through share alike) or "signal" (the gate takes nothing).
    """
    # Not with z⁺ and γ: what rounding adds would drown what is left of the relevance.
    return Composite("attnlrp", _attention(epsilon, gates, ("quantisation", "straight-through")))


def _attention(epsilon: float, gates: str, *more: Row) -> tuple[Entry, ...]:
    stabilised = {"epsilon": epsilon}
    return _table(
        *more,
        (("convolution", *DENSE), "epsilon", stabilised),
        ("matmul", "uniform", stabilised),
        ("gate", gates),
        ("readout", gates, stabilised),
        ("shift", "epsilon", LIMIT),
    )


def cp_lrp(epsilon: float = 0.0) -> Composite:
    """CP-LRP: as `attnlrp`, but attention patterns and gates are held fixed.

    Source: Ali et al., "XAI for Transformers: Better Explanations through Conservative Propagation", ICML 2022,
    arXiv 2202.07304.
    """
    return Composite("cp-lrp", _attention(epsilon, "signal", ("softmax", FIXED)))


def attnlrp_gamma(conv: float = 0.25, linear: float = 0.05, epsilon: float = 0.0, gates: str = "uniform") -> Composite:
    """As `attnlrp`, with the signed γ rule on convolution and linear weights.

    Args:
        conv: γ of convolutions.
        linear: γ of dense layers.
        epsilon: the stabiliser of the other linear maps; 0 for the limit.
        gates: as in `attnlrp`.
    """
    gammas = (("convolution", "gamma", {"gamma": conv}), ("linear", "gamma", {"gamma": linear}))
    return Composite("attnlrp-gamma", _attention(epsilon, gates, *gammas))


def dynamic_lrp(
    conv_gamma: float | None = None, linear_gamma: float | None = None, matmul: str = "full", epsilon: float = 1e-11
) -> Composite:
    """The rules of DynamicLRP: magnitude splits, biases as operands of an addition, seed 1.

    Source: "Always Keep Your Promises: DynamicLRP, A Model-Agnostic Solution to Layer-Wise Relevance Propagation",
    arXiv 2512.07010.

    Args:
        conv_gamma: γ of convolutions; `None`: ε rule.
        linear_gamma: γ of dense layers; `None`: ε rule.
        matmul: relevance of a product of two activations: "full" to each, or "uniform" (half to each).
        epsilon: the stabiliser.
    """

    def weighted(gamma: float | None) -> Chosen:
        return ("epsilon", {"epsilon": epsilon}) if gamma is None else ("gamma", {"gamma": gamma, "epsilon": epsilon})

    entries = _table(
        ("convolution", *weighted(conv_gamma)),
        ("linear", *weighted(linear_gamma)),
        (("addition", "shift", "sum", "average", "product", "gate", "factor"), "magnitude", {"epsilon": epsilon}),
        (("matmul", "readout"), matmul, {"epsilon": epsilon}),
        (("normalization", "batch norm"), "pass"),
    )
    return Composite("dynamic-lrp", entries, seed="one", primitives=True)


def reference() -> Composite:
    """Differences from a reference: `R = (x − x₀) ⊙ g`, and `Σ R = f(x) − f(x₀)`; called with `reference=…`.

    Source: `rules/differences.py`, after DeepLIFT (Shrikumar et al., arXiv 1704.02685).
    """
    return Composite("reference", (Entry(ANY, "difference", optional=True),), differences=True)


def auto() -> Composite:
    """One of the others, chosen from the model's structure when it is compiled, by what was measured.

    Which, and why, stands in the explainer's metadata; the table is `passes/assign/choose_composite.py`.
    """
    return Composite("auto", by_structure=True)


COMPOSITES: dict[str, Callable[..., Composite]] = {
    "auto": auto,
    "epsilon": epsilon,
    "epsilon-plus": epsilon_plus,
    "epsilon-plus-flat": epsilon_plus_flat,
    "epsilon-alpha2-beta1": epsilon_alpha2_beta1,
    "epsilon-alpha2-beta1-flat": epsilon_alpha2_beta1_flat,
    "epsilon-gamma-box": epsilon_gamma_box,
    "attnlrp": attnlrp,
    "cp-lrp": cp_lrp,
    "attnlrp-gamma": attnlrp_gamma,
    "dynamic-lrp": dynamic_lrp,
    "reference": reference,
}
"""By the name that `compile(composite=…)` takes."""


def composite_named(name: object) -> Callable[..., Composite]:
    """What makes the composite of that name.

    Raises:
        CompositeError: there is none.
    """
    if isinstance(name, str) and name in COMPOSITES:
        return COMPOSITES[name]
    known = ", ".join(sorted(COMPOSITES))
    if callable(name):
        called = getattr(name, "__name__", "function")
        raise CompositeError(
            f"The composite is a function: call it, as in {called}(), or give one of the names {known}."
        )
    hint = did_you_mean(name, COMPOSITES) if isinstance(name, str) else ""
    raise CompositeError(f"Unknown composite {shortened(name)}{hint}: choose one of {known}.")
