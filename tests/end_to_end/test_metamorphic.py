"""Changes of a network that change nothing, or permute or scale its relevance: the two networks are compared.

Everything is in float64, where only the order of summation may differ.
"""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.blocks import INPUTS, Between, GatedMLP, Net, ResidualNet, TransformerBlock, build, draw
from support.variants import FunctionalResidualNet, FusedAttention, ModuleAttention, WrittenOutBlock, WrittenOutMLP
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

import lrp_compiler as lrp

pytestmark = pytest.mark.sampled(12)

COMPOSITES = pytest.mark.parametrize("composite", ["epsilon", "epsilon-plus", "attnlrp"])
# Every rule of these composites meets the kind of network that it is made for.
EVERY_DAY = {
    (ResidualNet, "epsilon"),
    (ResidualNet, "epsilon-plus"),
    (TransformerBlock, "attnlrp"),
    (GatedMLP, "attnlrp"),
}


def networks(*composites: str) -> pytest.MarkDecorator:
    """Every network under every composite; heavy, where the same rules meet the same kinds of operations elsewhere."""
    pairs = [(network, composite) for network in INPUTS for composite in composites]
    cases = [pytest.param(*pair, marks=() if pair in EVERY_DAY else pytest.mark.heavy) for pair in pairs]
    return pytest.mark.parametrize(("network", "composite"), cases)


def relevance(model: nn.Module, x: Tensor, composite: str, **call: Any) -> Tensor:
    """Relevance of the only input for class 1, or as `call` has it."""
    options = {"target": 1} | {key: call.pop(key) for key in ("target", "seed") if isinstance(call.get(key), str)}
    (result,) = lrp.compile(model.eval(), (x,), composite=composite, **options)(x, **call).relevance.values()
    return result


def assert_same(result: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    assert scale > 0
    assert float((result - expected).abs().max()) <= 1e-12 * scale


# ---- An operation inserted that does nothing ------------------------------------------------------------------------


def halves(x: Tensor) -> list[Tensor]:
    return list(x.split([x.shape[-1] // 2, x.shape[-1] - x.shape[-1] // 2], -1))


NO_OPS: dict[str, Between] = {
    "view": lambda x: x.reshape(-1).view(x.shape),
    "flatten": lambda x: x.flatten(1).unflatten(1, x.shape[1:]),
    "transpose twice": lambda x: x.transpose(0, -1).transpose(-1, 0),
    "permute twice": lambda x: x.permute(*range(1, x.dim()), 0).permute(-1, *range(x.dim() - 1)),
    "contiguous": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1).contiguous().clone(),
    "split and cat": lambda x: torch.cat(halves(x), -1),
    "chunk and cat": lambda x: torch.cat(x.chunk(3), 0),
    "unbind and stack": lambda x: torch.stack(x.unbind(1), 1),
    "stack and unbind": lambda x: torch.stack([x, 2 * x], 1).unbind(1)[0],
    "unsqueeze and squeeze": lambda x: x.unsqueeze(1).squeeze(1),
    "expand and select": lambda x: x.unsqueeze(0).expand(2, *x.shape).select(0, 1),
    "repeat and slice": lambda x: x.repeat(2, *[1] * (x.dim() - 1))[x.shape[0] :],
    "pad and crop": lambda x: functional.pad(x, (1, 2), value=7.0)[..., 1:-2],
    "flip twice": lambda x: x.flip(0, -1).flip(0, -1),
    "roll back": lambda x: x.roll(2, -1).roll(-2, -1),
    "index": lambda x: x[torch.arange(x.shape[0])].index_select(-1, torch.arange(x.shape[-1])),
    "gather": lambda x: x.gather(-1, torch.arange(x.shape[-1]).expand(x.shape)),
    "where": lambda x: torch.where(torch.ones(x.shape, dtype=torch.bool), x, torch.tensor(9.0, dtype=x.dtype)),
    "masked_fill": lambda x: x.masked_fill(torch.zeros(x.shape, dtype=torch.bool), 9.0),
    "plus 0": lambda x: 0 + (x + 0 - 0.0),
    "times 1": lambda x: 1.0 * (x * 1 / 1),
    "neg twice": lambda x: x.neg().neg(),
    "dropout": lambda x: functional.dropout(x, 0.5, training=False),
    "cast": lambda x: x.to(torch.float64),
    "matmul with the identity": lambda x: x @ torch.eye(x.shape[-1], dtype=x.dtype),
}
STABILISED = {"matmul with the identity"}
"""A linear map of its own: nothing changes in the limit ε → 0 only."""


# The first pair of each network every day; the others go through rules that other networks have tried by then.
PAIRS = [
    pytest.param(network, composite, marks=pytest.mark.heavy if number else ())
    for network, composites in (
        (ResidualNet, ("epsilon-plus", "epsilon", "attnlrp")),
        (TransformerBlock, ("attnlrp", "epsilon")),
        (GatedMLP, ("attnlrp", "epsilon")),
    )
    for number, composite in enumerate(composites)
]


@cache
def original(network: type[Net], composite: str) -> Tensor:
    return relevance(build(network), draw(INPUTS[network]), composite)


@pytest.mark.slow
@pytest.mark.sampled(48)
@pytest.mark.parametrize(("network", "composite"), PAIRS)
@pytest.mark.parametrize("name", NO_OPS)
def test_an_operation_that_does_nothing_changes_nothing(name: str, network: type[Net], composite: str) -> None:
    if name in STABILISED and composite != "attnlrp":
        pytest.skip("a linear map has a stabiliser of its own")
    changed = build(network)
    changed.between = NO_OPS[name]

    assert_same(relevance(changed, draw(INPUTS[network]), composite), original(network, composite))


# ---- The same computation, said differently -------------------------------------------------------------------------


class Applied(nn.Module):
    """Modules one after the other, each of them perhaps several times."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.steps = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = x + step(torch.relu(x))
        return x.flatten(1)


@COMPOSITES
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(6, 6), (3, 6)),
        (lambda: nn.Conv2d(4, 4, 3, padding=1), (3, 4, 5, 5)),
        (lambda: nn.LayerNorm(6), (3, 6)),
    ],
    ids=["linear", "convolution", "layer norm"],
)
def test_a_shared_module_equals_its_untied_copy(
    make: Callable[[], nn.Module], shape: tuple[int, ...], composite: str
) -> None:
    torch.manual_seed(0)
    shared, x = make().double(), draw(shape)
    tied = Applied(shared, shared, shared)
    untied = Applied(shared, copy.deepcopy(shared), copy.deepcopy(shared))

    assert_same(relevance(tied, x, composite), relevance(untied, x, composite))


@COMPOSITES
@pytest.mark.parametrize("variant", [FunctionalResidualNet, FusedAttention, ModuleAttention])
def test_the_functional_form_equals_the_module_form(variant: type[Net], composite: str) -> None:
    module = variant.__bases__[0]

    assert_same(relevance(build(variant), draw(INPUTS[module]), composite), original(module, composite))


# In a composite with a stabiliser, each sum and each map on the way would have one of its own.
@pytest.mark.slow
@pytest.mark.parametrize("variant", [WrittenOutBlock, WrittenOutMLP])
def test_primitives_equal_the_operation_that_they_write_out(variant: type[Net]) -> None:
    whole = variant.__bases__[0]

    assert_same(relevance(build(variant), draw(INPUTS[whole]), "attnlrp"), original(whole, "attnlrp"))


class Branches(nn.Module):
    def __init__(self, add: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.classes = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(75, 4)
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(torch.relu(self.add(x, self.inner(x))).flatten(1))


@COMPOSITES
def test_the_order_of_a_residual_addition_does_not_matter(composite: str) -> None:
    x = draw((3, 3, 5, 5))
    results = []
    for add in (
        lambda a, b: a + b,
        lambda a, b: b + a,
        lambda a, b: a - b.neg(),
        lambda a, b: torch.stack([b, a]).sum(0),
    ):
        torch.manual_seed(0)
        results.append(relevance(Branches(add).double(), x, composite))

    for result in results[1:]:
        assert_same(result, results[0])


# ---- Rows, permutations, seeds --------------------------------------------------------------------------------------


@networks("epsilon", "epsilon-plus", "attnlrp")
def test_a_batch_equals_its_rows_alone(network: type[Net], composite: str) -> None:
    model, x = build(network), draw(INPUTS[network])
    explainer = lrp.compile(model, (x[:2],), composite=composite, dynamic_shapes=({0: Dim("batch")},))

    together = explainer(x).relevance["x"]
    alone = torch.cat([explainer(row.unsqueeze(0)).relevance["x"] for row in x])

    assert_same(together, alone)


@networks("epsilon", "epsilon-plus", "attnlrp")
def test_permuted_input_channels_have_permuted_relevance(network: type[Net], composite: str) -> None:
    dim = 2 if network is TransformerBlock else 1
    first: nn.Module = nn.Conv2d(3, 3, 3, padding=1) if network is ResidualNet else nn.Linear(INPUTS[network][-1], 8)
    if network is not ResidualNet:
        first = nn.Sequential(first, nn.ReLU(), nn.Linear(8, INPUTS[network][-1]))
    model, x = nn.Sequential(first.double(), build(network)), draw(INPUTS[network])
    order = torch.randperm(x.shape[dim], generator=torch.Generator().manual_seed(2))
    permuted = copy.deepcopy(model)
    weight = next(permuted.parameters())
    weight.data = weight.data[:, order]

    expected = relevance(model, x, composite).index_select(dim, order)

    assert_same(relevance(permuted, x.index_select(dim, order), composite), expected)


@pytest.mark.slow
@COMPOSITES
def test_permuted_tokens_have_permuted_relevance(composite: str) -> None:
    model, x = build(TransformerBlock), draw(INPUTS[TransformerBlock])
    order = torch.tensor([3, 0, 4, 2, 1])

    assert_same(relevance(model, x[:, order], composite), original(TransformerBlock, composite)[:, order])


@networks("epsilon", "epsilon-plus", "attnlrp")
def test_relevance_is_linear_in_the_seed(network: type[Net], composite: str) -> None:
    model, x = build(network), draw(INPUTS[network])
    explainer = lrp.compile(model, (x,), composite=composite, seed="tensor")
    classes = model(x).shape[1]
    first, second = draw((3, classes), seed=3), draw((3, classes), seed=4)

    parts = [explainer(x, seed=seed).relevance["x"] for seed in (first, second)]

    assert_same(explainer(x, seed=2.5 * first - second).relevance["x"], 2.5 * parts[0] - parts[1])


# In the limit ε → 0 a seed in total form must be divided all the same, with a stabiliser that the value has not.
@networks("epsilon", "epsilon-plus")
def test_a_seed_of_one_scaled_by_the_logit_is_the_seed_of_the_value(network: type[Net], composite: str) -> None:
    model, x = build(network), draw(INPUTS[network])
    with torch.no_grad():
        z = model(x)
    seed = torch.zeros_like(z)
    seed[:, 1] = z[:, 1]

    given = relevance(model, x, composite, seed="one")
    value = original(network, composite)

    shape = (-1,) + (1,) * (x.dim() - 1)
    assert_same(given * z[:, 1].view(shape), value)


class Padded(nn.Module):
    """A strided convolution of an image with zeros around it, put there by the convolution or by ops in front of it."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own = own
        self.convolution = nn.Conv2d(2, 3, 3, stride=2, padding=1 if own else 0)
        self.classes = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.own else functional.pad(functional.pad(x, [1, 1]), [0, 0, 1, 1])
        return self.classes(self.convolution(x).relu().mean((2, 3)))


FIRST_LAYER = {
    "z-box": lrp.composites.epsilon_gamma_box([-0.5, -1.0], [1.0, 2.0]),
    "flat": lrp.composites.epsilon_plus_flat(),
    "w-square": lrp.Composite("w²", (lrp.Entry("convolution", "w-square"),)),
    "z-plus": lrp.composites.epsilon_plus(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST_LAYER)
def test_it_does_not_matter_who_puts_zeros_around_an_image(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    own, other = (Padded(choice).double().eval() for choice in (True, False))
    other.load_state_dict(own.state_dict())
    x = torch.randn(2, 2, 7, 8, dtype=torch.float64)
    batch = {0: torch.export.Dim("batch")}
    first, second = (
        lrp.compile(model, (x,), composite=FIRST_LAYER[name], dynamic_shapes=(batch,)) for model in (own, other)
    )
    expected = first(x).relevance["x"]
    assert torch.allclose(second(x).relevance["x"], expected, rtol=1e-12, atol=0)
    # The notes of a file know of the border as well: observing reads them.
    second.save(tmp_path / "padded.lrp.pt2")
    observed = lrp.load(tmp_path / "padded.lrp.pt2").observe("convolution")
    assert torch.allclose(observed(x).relevance["x"], expected, rtol=1e-12, atol=0)
