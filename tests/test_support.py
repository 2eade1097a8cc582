"""The oracles are held to closed forms worked out by hand; what everything else is measured by must not be assumed."""

import copy

import pytest
import torch
from support import fixtures, zennit_oracle, zoo
from support.small import small
from torch import Tensor, nn
from zennit import rules as zennit_rules

pytestmark = pytest.mark.sampled(8)


def hand_net() -> nn.Module:
    """A 1×1 convolution of two channels, ReLU and a dense layer, on one pixel.

    On x = (2, −1): the hidden neurons collect (2, −1 and bias 1) = 2 and (−2, 4 and bias 1) = 3, the output collects
    (2, 6 and bias −4) = 4. Under ε the hidden relevance is therefore (2, 6).
    """
    convolution, dense = nn.Conv2d(2, 2, 1), nn.Linear(2, 1)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -4.0]]).view(2, 2, 1, 1))
        convolution.bias.copy_(torch.tensor([1.0, 1.0]))
        dense.weight.copy_(torch.tensor([[1.0, 2.0]]))
        dense.bias.fill_(-4.0)
    return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), dense)


HAND_INPUT = torch.tensor([2.0, -1.0])

# Shares of hidden relevance (2, 6), worked out neuron by neuron.
HAND_COMPOSITES = {
    "epsilon": [2 / 2 * 2 - 2 / 3 * 6, -1 / 2 * 2 + 4 / 3 * 6],
    "epsilon-plus": [2 / 3 * 2, 4 / 5 * 6],
    "epsilon-plus-flat": [1 / 2 * 2 + 1 / 2 * 6, 1 / 2 * 2 + 1 / 2 * 6],
    "epsilon-alpha2-beta1": [2 * 2 / 3 * 2 - 2 / 2 * 6, 2 * 4 / 5 * 6 - 1 / 1 * 2],
    "epsilon-alpha2-beta1-flat": [1 / 2 * 2 + 1 / 2 * 6, 1 / 2 * 2 + 1 / 2 * 6],
    # Bounds ±3: the first neuron collects (5, 2), the second (1, 16).
    "epsilon-gamma-box": [5 / 7 * 2 + 1 / 17 * 6, 2 / 7 * 2 + 16 / 17 * 6],
}

HAND_RULES = {
    "epsilon": (zennit_rules.Epsilon(1e-12), HAND_COMPOSITES["epsilon"]),
    "z-plus": (zennit_rules.ZPlus(1e-12), HAND_COMPOSITES["epsilon-plus"]),
    "alpha2-beta1": (zennit_rules.AlphaBeta(2, 1, 1e-12), HAND_COMPOSITES["epsilon-alpha2-beta1"]),
    "flat": (zennit_rules.Flat(1e-12), HAND_COMPOSITES["epsilon-plus-flat"]),
    "z-box": (zennit_rules.ZBox(-3.0, 3.0, 1e-12), HAND_COMPOSITES["epsilon-gamma-box"]),
    # With γ = ¼ the positive contributions count 5/4: (2.5, −1, bias 1.25) and (−2, 5, bias 1.25).
    "gamma": (
        zennit_rules.Gamma(0.25, 1e-12),
        [2.5 / 2.75 * 2 - 2 / 4.25 * 6, -1 / 2.75 * 2 + 5 / 4.25 * 6],
    ),
    # Squares, bias included: (1, 1, 1) and (1, 16, 1).
    "w-square": (zennit_rules.WSquare(1e-12), [1 / 3 * 2 + 1 / 18 * 6, 1 / 3 * 2 + 16 / 18 * 6]),
}


@pytest.mark.parametrize("name", HAND_COMPOSITES)
def test_composite_oracle_equals_the_closed_form(name: str) -> None:
    bounds = {"low": -3.0, "high": 3.0} if name == "epsilon-gamma-box" else {}
    x = HAND_INPUT.view(1, 2, 1, 1)

    result = zennit_oracle.relevance(hand_net(), x, 0, name, epsilon=1e-12, stabilizer=1e-12, **bounds)

    torch.testing.assert_close(result.flatten(), torch.tensor(HAND_COMPOSITES[name], dtype=torch.float64))


@pytest.mark.parametrize("name", HAND_RULES)
def test_rule_oracle_equals_the_closed_form(name: str) -> None:
    rule, expected = HAND_RULES[name]
    hidden_relevance = torch.tensor([2.0, 6.0]).view(1, 2, 1, 1)

    result = zennit_oracle.rule_relevance(hand_net()[0], HAND_INPUT.view(1, 2, 1, 1), hidden_relevance, rule)

    torch.testing.assert_close(result.flatten(), torch.tensor(expected, dtype=torch.float64))


def test_oracle_folds_batch_norm_into_the_convolution_before_it() -> None:
    plain = hand_net()
    normalised = nn.Sequential(copy.deepcopy(plain[0]), nn.BatchNorm2d(2, eps=0.5), *plain[1:]).eval()
    norm = normalised[1]
    with torch.no_grad():
        # Doubled by the convolution, halved by the norm; and a shift that the two add and take away again.
        norm.running_var.fill_(4 - norm.eps)
        norm.running_mean.fill_(3.0)
        normalised[0].weight.mul_(2)
        normalised[0].bias.mul_(2).add_(3.0)
    x = HAND_INPUT.view(1, 2, 1, 1)

    torch.testing.assert_close(
        zennit_oracle.relevance(normalised, x, 0, "epsilon-plus"),
        zennit_oracle.relevance(plain, x, 0, "epsilon-plus"),
    )


def test_oracle_leaves_the_model_alone_and_seeds_each_row_with_its_logit() -> None:
    example = zoo.SEVEN["resnet50"].build(dtype=torch.float64)
    zoo.zero_biases(example.model)
    before = copy.deepcopy(example.model.state_dict())
    (x,), _ = example.fresh(batch=2)
    target = torch.tensor([3, 7])

    result = zennit_oracle.relevance(example.model, x, target, "epsilon", epsilon=1e-12, stabilizer=1e-12)

    with torch.no_grad():
        logits = example.model(x)
    # Without biases ε loses nothing, residual additions included.
    torch.testing.assert_close(result.sum((1, 2, 3)), logits[[0, 1], target], rtol=1e-6, atol=1e-6)
    after = example.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_oracle_is_gradient_times_input_without_biases() -> None:
    example = zoo.SEVEN["vgg16"].build(dtype=torch.float64)
    zoo.zero_biases(example.model)
    (x,), _ = example.fresh(batch=2)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(example.model(x)[:, 4].sum(), x)

    result = zennit_oracle.relevance(example.model, x, 4, "epsilon", epsilon=1e-14, stabilizer=1e-14)

    torch.testing.assert_close(result, gradient * x.detach(), rtol=1e-6, atol=1e-8)


def final_logits(example: zoo.Example, batch: int) -> Tensor:
    args, kwargs = example.fresh(batch=batch, length=9)
    with torch.no_grad():
        logits = zoo.logits_of(example.model(*args, **kwargs))
    return logits[:, -1] if logits.ndim == 3 else logits


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.SEVEN)
def test_logits_differ_between_classes_and_between_inputs(name: str) -> None:
    logits = final_logits(zoo.SEVEN[name].build(), batch=4)

    assert 0.3 < logits.std(dim=1).mean() < 3
    assert logits.std(dim=0).mean() > 0.15


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.SEVEN)
def test_a_build_is_repeatable_and_leaves_the_global_generator_alone(name: str) -> None:
    state = torch.get_rng_state()
    first, second = (zoo.SEVEN[name].build().model.state_dict() for _ in range(2))

    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", zoo.SEVEN)
def test_models_export_with_dynamic_batch_and_sequence(name: str) -> None:
    assert_export(small(name))


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", zoo.SEVEN)
def test_models_export_with_dynamic_batch_and_sequence_at_full_depth(name: str, dtype: torch.dtype) -> None:
    assert_export(zoo.SEVEN[name].build(dtype=dtype))


def assert_export(example: zoo.Example) -> None:
    program = torch.export.export(
        example.model, example.args, example.kwargs, dynamic_shapes=example.dynamic_shapes
    ).module()

    args, kwargs = example.fresh(batch=3, length=9)
    with torch.no_grad():
        expected = zoo.logits_of(example.model(*args, **kwargs))
        torch.testing.assert_close(zoo.logits_of(program(*args, **kwargs)), expected)
    assert expected.dtype == next(example.model.parameters()).dtype


def test_zero_biases_leaves_no_shift_anywhere() -> None:
    model = zoo.zero_biases(zoo.SEVEN["efficientnet_lite0"].build(dtype=torch.float64).model)

    with torch.no_grad():
        assert model(torch.zeros(2, 3, 64, 64, dtype=torch.float64)).abs().max() == 0


@pytest.mark.parametrize("name", ["bert", "llama", "gemma3"])
def test_rebuilt_attnlrp_models_give_the_reference_logits(name: str) -> None:
    reference = fixtures.attnlrp(name)

    with torch.no_grad():
        logits = reference.model(input_ids=reference.input_ids).logits

    torch.testing.assert_close(logits, reference.logits, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["eps", "gamma"])
def test_rebuilt_dynamiclrp_cnn_gives_the_reference_logits(name: str) -> None:
    reference = fixtures.dynamiclrp_cnn(name)

    with torch.no_grad():
        torch.testing.assert_close(reference.model(reference.x), reference.logits, rtol=0, atol=1e-9)


def test_rebuilt_dynamiclrp_gpt2_gives_the_reference_logits() -> None:
    reference = fixtures.dynamiclrp_gpt2()

    with torch.no_grad():
        logits = reference.model(input_ids=reference.input_ids).logits[:, -1]

    torch.testing.assert_close(logits, reference.logits, rtol=0, atol=1e-9)
