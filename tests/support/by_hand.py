"""Language models written out in plain torch, with LRP's rules in place of derivatives.

Autograd does the walk, but what it carries is relevance itself: every operation that needs a rule is an
`autograd.Function` whose backward turns relevance of the result into relevance of the operands (views, slices and
copies have the same transpose for both). So it is divided by the activations and multiplied by them again at every
map, where the library passes it on undivided: no form, no pass and no rule is shared with what this judges.

The models take a state dict of transformers, by its names. Their rules are those of AttnLRP (arXiv 2402.05602) with the
ε of the composite at hand; options say what CP-LRP (arXiv 2202.07304) holds fixed instead.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Weights = Mapping[str, Tensor]
Shares = tuple[float, float]
HALVES = (0.5, 0.5)
TOTAL = 1e-6
"""ε of the map below a function with f(0) ≠ 0, in every composite: relevance reaches it as a total."""


@dataclass(frozen=True)
class Rules:
    """What the rules leave open.

    Args:
        epsilon: of linear maps, convolutions and sums.
        fixed: attention patterns, gates and what selects (Mamba's Δ, B and C) take nothing (CP-LRP); else they share.
    """

    epsilon: float = 0.0
    fixed: bool = False


# ---- Rules ----------------------------------------------------------------------------------------------------------


class _Explained(torch.autograd.Function):
    """`forward(*inputs)`, whose backward is `rule(relevance, result, *inputs)`: one relevance for each input."""

    @staticmethod
    def forward(
        ctx: Any, forward: Callable[..., Tensor], rule: Callable[..., Sequence[Any]], *inputs: Tensor
    ) -> Tensor:
        result = forward(*inputs)
        ctx.rule = rule
        ctx.save_for_backward(result, *inputs)
        return result

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        return None, None, *ctx.rule(relevance, *ctx.saved_tensors)


def linear_map(function: Callable[..., Tensor], *inputs: Tensor, epsilon: float, share: float = 1.0) -> Tensor:
    """ε rule for `y = function(*inputs)`, affine in each input: `R_x = x ⊙ Wᵀ(share · R / s(y))`."""

    def rule(relevance: Tensor, result: Tensor, *inputs: Tensor) -> list[Tensor]:
        stabilised = result + epsilon * torch.where(result < 0, -1.0, 1.0)
        with torch.enable_grad():
            inputs = tuple(value.detach().requires_grad_() for value in inputs)
            transposed = torch.autograd.grad(function(*inputs), inputs, share * relevance / stabilised)
        return [value.detach() * gradient for value, gradient in zip(inputs, transposed, strict=True)]

    return _Explained.apply(function, rule, *inputs)


def identity(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """An elementwise function, or a factor that is held fixed: relevance goes through."""
    return _Explained.apply(function, lambda relevance, result, x: (relevance,), x)


def product(a: Tensor, b: Tensor, shares: Shares = HALVES) -> Tensor:
    """`a ⊙ b`: by default half to each."""
    a, b = torch.broadcast_tensors(a, b)
    return _Explained.apply(torch.mul, lambda relevance, *rest: [share * relevance for share in shares], a, b)


def matrix_product(a: Tensor, b: Tensor, shares: Shares = HALVES) -> Tensor:
    """`A B`, term by term: each of the products that make an element passes its share on, to both factors."""

    def rule(relevance: Tensor, result: Tensor, a: Tensor, b: Tensor) -> list[Tensor]:
        terms = a.unsqueeze(-1) * b.unsqueeze(-3)  # [..., rows, inner, columns]
        of_terms = terms * (relevance / result).unsqueeze(-2)
        return [shares[0] * of_terms.sum(-1), shares[1] * of_terms.sum(-3)]

    return _Explained.apply(torch.matmul, rule, a, b)


def causal_softmax(scores: Tensor, fixed: bool) -> Tensor:
    """Softmax over the positions up to one's own: `R_x = x ⊙ (R − p ⊙ ΣR)`, or nothing."""
    length = scores.shape[-1]
    hidden = torch.ones(length, length).triu(1).bool()

    def forward(scores: Tensor) -> Tensor:
        return scores.masked_fill(hidden, -math.inf).softmax(-1)

    def rule(relevance: Tensor, p: Tensor, scores: Tensor) -> tuple[Tensor]:
        return (scores * (relevance - p * relevance.sum(-1, keepdim=True)),)

    return forward(scores).detach() if fixed else _Explained.apply(forward, rule, scores)


# ---- Layers ---------------------------------------------------------------------------------------------------------


def dense(x: Tensor, weights: Weights, name: str, rules: Rules) -> Tensor:
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    return linear_map(lambda x: functional.linear(x, weight, bias), x, epsilon=rules.epsilon)


def add(a: Tensor, b: Tensor, rules: Rules) -> Tensor:
    return linear_map(torch.add, a, b, epsilon=rules.epsilon)


def rms_norm(x: Tensor, weight: Tensor, floor: float) -> Tensor:
    """The root mean square is held fixed: what is left is a factor."""
    return identity(lambda x: weight * x / (x.square().mean(-1, keepdim=True) + floor).sqrt(), x)


def rotate(x: Tensor, base: float, rules: Rules) -> Tensor:
    """Rotary positions, `[batch, heads, sequence, size]`: element i and i + size/2 are turned as a pair."""
    length, size = x.shape[-2:]
    speed = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.arange(length, dtype=torch.float64).unsqueeze(1) * speed
    cosine, sine = angle.cos(), angle.sin()

    def turned(x: Tensor) -> Tensor:
        first, second = x[..., : size // 2], x[..., size // 2 :]
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)

    return linear_map(turned, x, epsilon=rules.epsilon)


def gate(signal: Tensor, by: Tensor, rules: Rules) -> Tensor:
    """`silu(by) ⊙ signal`."""
    return product(signal, identity(functional.silu, by), (1.0, 0.0) if rules.fixed else HALVES)


# ---- Models ---------------------------------------------------------------------------------------------------------


def llama(weights: Weights, config: Any, embedded: Tensor, rules: Rules) -> Tensor:
    """Logits `[batch, sequence, vocabulary]` of Llama from `[batch, sequence, features]`."""
    floor = config.rms_norm_eps
    x = embedded
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}"
        normed = rms_norm(x, weights[f"{at}.input_layernorm.weight"], floor)
        x = add(x, _attention(weights, config, f"{at}.self_attn", normed, rules), rules)
        normed = rms_norm(x, weights[f"{at}.post_attention_layernorm.weight"], floor)
        gated = gate(
            dense(normed, weights, f"{at}.mlp.up_proj", rules),
            dense(normed, weights, f"{at}.mlp.gate_proj", rules),
            rules,
        )
        x = add(x, dense(gated, weights, f"{at}.mlp.down_proj", rules), rules)
    return dense(rms_norm(x, weights["model.norm.weight"], floor), weights, "lm_head", rules)


def _attention(weights: Weights, config: Any, at: str, x: Tensor, rules: Rules) -> Tensor:
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    base = config.rope_parameters["rope_theta"]

    def projected(name: str, heads: int) -> Tensor:
        return dense(x, weights, f"{at}.{name}", rules).unflatten(-1, (heads, -1)).transpose(1, 2)

    own_group = torch.arange(heads) // (heads // groups)
    query = rotate(projected("q_proj", heads), base, rules)
    key = rotate(projected("k_proj", groups), base, rules)[:, own_group]
    value = projected("v_proj", groups)[:, own_group]
    scale = query.shape[-1] ** -0.5
    scores = identity(lambda scores: scores * scale, matrix_product(query, key.transpose(-1, -2)))
    pattern = causal_softmax(scores, rules.fixed)
    mixed = matrix_product(pattern, value, (0.0, 1.0) if rules.fixed else HALVES)
    return dense(mixed.transpose(1, 2).flatten(2), weights, f"{at}.o_proj", rules)


def mamba(weights: Weights, config: Any, embedded: Tensor, rules: Rules) -> Tensor:
    """Logits `[batch, sequence, vocabulary]` of Mamba from `[batch, sequence, features]`."""
    floor = config.layer_norm_epsilon
    x = embedded
    for layer in range(config.num_hidden_layers):
        at = f"backbone.layers.{layer}"
        normed = rms_norm(x, weights[f"{at}.norm.weight"], floor)
        x = add(x, _mixer(weights, config, f"{at}.mixer", normed, rules), rules)
    return dense(rms_norm(x, weights["backbone.norm_f.weight"], floor), weights, "lm_head", rules)


def _mixer(weights: Weights, config: Any, at: str, x: Tensor, rules: Rules) -> Tensor:
    signal, gate_input = dense(x, weights, f"{at}.in_proj", rules).chunk(2, -1)
    signal = identity(functional.silu, _causal_convolution(weights, f"{at}.conv1d", signal, rules))
    sizes = [config.time_step_rank, config.state_size, config.state_size]
    step, entry, readout = dense(signal, weights, f"{at}.x_proj", rules).split(sizes, -1)
    decay = -weights[f"{at}.A_log"].exp()
    skip = weights[f"{at}.D"]
    step = linear_map(lambda x: x @ weights[f"{at}.dt_proj.weight"].t(), step, epsilon=rules.epsilon)
    step = linear_map(lambda x: x + weights[f"{at}.dt_proj.bias"], step, epsilon=TOTAL)
    step = identity(functional.softplus, step)
    scanned = _scan(signal, step, entry, readout, decay, rules)
    scanned = add(scanned, identity(lambda x: x * skip, signal), rules)
    return dense(gate(scanned, gate_input, rules), weights, f"{at}.out_proj", rules)


def _causal_convolution(weights: Weights, at: str, x: Tensor, rules: Rules) -> Tensor:
    """Each channel by itself: what a position sees are its predecessors and itself."""
    kernel, bias = weights[f"{at}.weight"][:, 0], weights[f"{at}.bias"]
    reach = kernel.shape[-1]

    def convolved(x: Tensor) -> Tensor:
        length = x.shape[1]
        padded = functional.pad(x, (0, 0, reach - 1, 0))
        return sum((padded[:, tap : tap + length] * kernel[:, tap] for tap in range(reach)), bias)

    return linear_map(convolved, x, epsilon=rules.epsilon)


def _scan(signal: Tensor, step: Tensor, entry: Tensor, readout: Tensor, decay: Tensor, rules: Rules) -> Tensor:
    """`h_t = exp(A Δ_t) ⊙ h_{t−1} + Δ_t B_t x_t`, `y_t = h_t C_t`; one step after the other from h = 0."""
    to_signal, to_state = ((0.0, 1.0), (1.0, 0.0)) if rules.fixed else (HALVES, HALVES)
    state = torch.zeros(*signal.shape[::2], decay.shape[-1], dtype=signal.dtype)
    read = []
    for time in range(signal.shape[1]):
        delta = step[:, time].unsqueeze(-1)
        kept = identity(torch.exp, _scaled_copies(delta, decay))
        let_in = product(product(delta, entry[:, time].unsqueeze(1)), signal[:, time].unsqueeze(-1), to_signal)
        state = add(product(kept, state, to_signal), let_in, rules)
        read.append(matrix_product(state, readout[:, time].unsqueeze(-1), to_state).squeeze(-1))
    return torch.stack(read, 1)


def _scaled_copies(x: Tensor, factors: Tensor) -> Tensor:
    """`x ⊙ constants`, x broadcast: every copy hands back what it got."""
    return identity(lambda x: x * factors, x.expand(*x.shape[:-1], factors.shape[-1]))
