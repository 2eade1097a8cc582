"""Llama and Mamba against the same rules carried by autograd through models written out by hand, in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from support import by_hand
from support.life import draw_parameters
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

import lrp_compiler as lrp

VOCABULARY = 29
ROUNDING = 1e-11
"""Of the largest relevance. float64 leaves up to 1.2e-13, under ε, which magnifies it where a sum nearly cancels."""


class InDouble(TorchFunctionMode):
    """Casts to float32 give float64: what the models calculate in single precision whatever their own."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = torch.Tensor.double if function is torch.Tensor.float else function
        return function(*map(self._raised, args), **{key: self._raised(value) for key, value in (kwargs or {}).items()})

    @staticmethod
    def _raised(value: Any) -> Any:
        return torch.float64 if value is torch.float32 else value


class Model(nn.Module):
    """Logits of a language model, all in double precision."""

    def __init__(self, language_model: nn.Module) -> None:
        super().__init__()
        self.language_model = language_model

    def forward(self, **inputs: Tensor) -> Tensor:
        with InDouble():
            return self.language_model(**inputs).logits


class OfEmbeddings(Model):
    """The same; torch.export opens no sizes of what comes in as `**inputs`."""

    def forward(self, inputs_embeds: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(inputs_embeds=inputs_embeds)


class Reference(NamedTuple):
    """A model of transformers, and its logits by hand from embeddings."""

    model: Model
    by_hand: Callable[..., Tensor]

    def logits(self, embedded: Tensor, rules: by_hand.Rules) -> Tensor:
        weights = {name: tensor.detach() for name, tensor in self.model.language_model.state_dict().items()}
        return self.by_hand(weights, self.model.language_model.config, embedded, rules)

    def relevance(self, embedded: Tensor, target: Tensor, rules: by_hand.Rules) -> Tensor:
        """Of every element of the embeddings, for each row's target logit at the last position."""
        embedded = embedded.clone().requires_grad_()
        explained = self.logits(embedded, rules)[:, -1].gather(1, target.unsqueeze(1))
        (relevance,) = torch.autograd.grad(explained, embedded, explained.detach())
        return relevance


def llama(attention: str = "sdpa") -> Reference:
    config = LlamaConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        vocab_size=VOCABULARY,
        use_cache=False,
        attn_implementation=attention,
    )
    return Reference(_alive(LlamaForCausalLM, config), by_hand.llama)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 3}
PUBLISHED = {"hidden_size": 768, "num_hidden_layers": 24, "state_size": 16, "time_step_rank": 48}
"""Of Mamba 130M."""


def mamba(sizes: dict[str, int] = SMALL) -> Reference:
    config = MambaConfig(
        **sizes, vocab_size=VOCABULARY, use_cache=False, tie_word_embeddings=False, residual_in_fp32=False
    )
    return Reference(_alive(MambaForCausalLM, config), by_hand.mamba)


def _alive(model: type[nn.Module], config: Any) -> Model:
    with torch.random.fork_rng(), InDouble():
        made = model(config).double()
    draw_parameters(made, seed=0)
    return Model(made).eval()


REFERENCES = {"llama-sdpa": llama, "llama-eager": partial(llama, "eager"), "mamba": mamba}
RULES = {
    "attnlrp": by_hand.Rules(),
    "cp-lrp": by_hand.Rules(fixed=True),
    "epsilon": by_hand.Rules(epsilon=1e-6),
}
TARGET = torch.tensor([3, 17])


def embeddings(reference: Reference, length: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size = reference.model.language_model.config.hidden_size
    return torch.randn(len(TARGET), length, size, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", REFERENCES)
def test_logits_by_hand_are_the_models(name: str) -> None:
    reference = REFERENCES[name]()
    embedded = embeddings(reference)

    with torch.no_grad():
        expected = reference.model(inputs_embeds=embedded)

    for rules in RULES.values():
        torch.testing.assert_close(reference.logits(embedded, rules), expected, rtol=0, atol=1e-10)


# The model written with the other attention is the same model: one composite is enough to see it every day.
CASES = [
    pytest.param(name, rules, marks=pytest.mark.heavy if name == "llama-eager" and rules != "attnlrp" else ())
    for name in REFERENCES
    for rules in RULES
]


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize(("name", "composite"), CASES)
def test_relevance_of_embeddings_is_the_references(name: str, composite: str) -> None:
    reference = REFERENCES[name]()
    embedded = embeddings(reference)
    expected = reference.relevance(embedded, TARGET, RULES[composite])
    kwargs = {"inputs_embeds": embedded}
    explainer = lrp.compile(reference.model, kwargs=kwargs, composite=composite, target="index")

    relevance = explainer(**kwargs, target=TARGET).relevance["inputs_embeds"]

    assert (relevance - expected).abs().max() <= ROUNDING * expected.abs().max()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["llama-sdpa", "mamba"])
def test_relevance_of_tokens_is_the_references_sum_over_features(name: str) -> None:
    reference = REFERENCES[name]()
    input_ids = torch.tensor([[5, 11, 28, 3, 11], [7, 0, 19, 19, 2]])
    embedded = reference.model.language_model.get_input_embeddings()(input_ids).detach()
    expected = reference.relevance(embedded, TARGET, RULES["attnlrp"]).sum(-1)
    explainer = lrp.compile(reference.model, kwargs={"input_ids": input_ids}, composite="attnlrp", target="index")

    relevance = explainer(input_ids=input_ids, target=TARGET).relevance["input_ids"]

    assert (relevance - expected).abs().max() <= ROUNDING * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "composite", "lengths"),
    [
        (SMALL, "attnlrp", (1, 2, 33)),
        (SMALL, "cp-lrp", (1, 2, 33)),
        pytest.param(PUBLISHED, "cp-lrp", (5, 32, 100), marks=pytest.mark.heavy),
    ],
    ids=["small-attnlrp", "small-cp-lrp", "published-cp-lrp"],
)
def test_mamba_takes_any_length_and_is_the_reference_at_each(
    sizes: dict[str, int], composite: str, lengths: tuple[int, ...]
) -> None:
    """transformers writes the steps out one by one: what is captured at five takes as many as come.

    At the published size the reference's tape of a hundred steps is six gigabytes.
    """
    reference = mamba(sizes)
    explainer = lrp.compile(
        OfEmbeddings(reference.model.language_model).eval(),
        kwargs={"inputs_embeds": embeddings(reference)},
        composite=composite,
        target=lrp.Target("index", position="last"),
        dynamic_shapes={"inputs_embeds": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}},
    )
    for length in lengths:
        embedded = embeddings(reference, length)
        expected = reference.relevance(embedded, TARGET, RULES[composite])

        relevance = explainer(inputs_embeds=embedded, target=TARGET).relevance["inputs_embeds"]

        assert (relevance - expected).abs().max() <= ROUNDING * expected.abs().max()
