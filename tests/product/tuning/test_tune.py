"""`lrp.tune`: perturbation curves against closed forms, the choice that a model needs, and what is said about it."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.tuned import gammas, linear
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

import lrp_compiler as lrp
from lrp_compiler.base.errors import CompositeError, InputError, LrpError
from lrp_compiler.tuning.flipping import feature_map, replacement

"""`lrp.tune`: perturbation curves against closed forms, the choice that a model needs, and what is said about it."""

pytestmark = pytest.mark.sampled(4)


class Difference(nn.Module):
    """relu(a + s) − relu(b + s): s cancels. Linear where the sums are positive, so ε finds what a, b and s contribute.

    Under γ the positive neuron is stressed, and s gets relevance that it does not deserve.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(3, 2, bias=False), nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]))
            self.out.weight.copy_(torch.tensor([[1.0, -1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x).relu())


class Tokens(nn.Module):
    """The sum of what tokens weigh, those behind the mask left out; token 0 weighs nothing."""

    WEIGHTS = (0.0, 1.0, 2.0, 4.0, -1.0)

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.tensor(self.WEIGHTS)[:, None])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return (self.table(input_ids)[..., 0] * attention_mask).sum(1, keepdim=True)


TRIPLES = torch.tensor([[1.0, 0.5, 10.0]]) * torch.tensor([[1.0], [2.0], [3.0]])
"""(a, b, s) for `Difference`."""

BY_HAND: dict[str, Any] = {"baseline": 0.0, "measure": "logit"}

ONE: dict[str, Any] = {"composite": "attnlrp", "grid": {"epsilon": [0.0]}, "baseline": 0.0}
"""One setting, whose relevance on a linear model is its contributions."""


def test_the_area_on_a_linear_model_is_the_one_worked_out_by_hand() -> None:
    # Contributions 3, 2 and 1. MoRF says 6, 3, 1, 0 (area 7/3), LeRF 6, 5, 3, 0 (area 11/3).
    found = lrp.tune(linear(3, 2, 1), torch.ones(1, 3), measure="logit", **ONE)

    np.testing.assert_allclose(found.best.fractions, [0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(found.best.morf, [6, 3, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(found.best.lerf, [6, 5, 3, 0], rtol=1e-6)
    assert found.score.mean == pytest.approx(4 / 3, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_area_of_probabilities_on_a_linear_model_is_its_closed_form(batch_size: int) -> None:
    weights, x, baseline = np.random.default_rng(0).normal(size=(3, 9, 6))
    contributions, left = weights[0] * x, weights[0] * (x - baseline)
    total = contributions.sum(1)
    falls = np.take_along_axis(left, np.argsort(-contributions, 1), 1)

    def area(removed: np.ndarray) -> np.ndarray:
        logits = total[:, None] - np.concatenate((np.zeros((9, 1)), removed.cumsum(1)), 1)
        p = 1 / (1 + np.exp(-logits))
        return (p[:, 1:] + p[:, :-1]).sum(1) / 2 / 6

    model = linear(*weights[0], dtype=torch.float64)
    options = {**ONE, "baseline": torch.from_numpy(baseline)}
    found = lrp.tune(model, torch.from_numpy(x), batch_size=batch_size, **options)

    np.testing.assert_allclose(found.default.samples, area(falls[:, ::-1]) - area(falls), rtol=1e-10, atol=1e-12)


def test_fewer_steps_replace_several_features_at_once() -> None:
    # Contributions 4, 3, 2, 1, two at a time: MoRF says 10, 3, 0, LeRF 10, 7, 0.
    found = lrp.tune(linear(1, 2, 3, 4), torch.ones(1, 4), measure="logit", steps=2, **ONE)

    np.testing.assert_allclose(found.best.morf, [10, 3, 0], rtol=1e-6)
    np.testing.assert_allclose(found.best.lerf, [10, 7, 0], rtol=1e-6)


def test_padding_is_never_replaced_and_short_rows_count_as_much_as_long_ones() -> None:
    # Row 0 weighs 4, 2, 1 and −1. MoRF: 6, 2, 0, −1, 0, LeRF: 6, 7, 6, 4, 0. Row 1 weighs 2 and 1: 3, 1, 0 and 3, 2, 0.
    ids = torch.tensor([[3, 2, 1, 4], [2, 1, 3, 3]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])

    found = lrp.tune(
        Tokens().eval(),
        kwargs={"input_ids": ids, "attention_mask": mask},
        wrt="input_ids",
        measure="logit",
        **{**ONE, "baseline": 0},
    )

    areas = [(6 / 2 + 7 + 6 + 4) / 4 - (6 / 2 + 2 + 0 - 1) / 4, (3 / 2 + 2) / 2 - (3 / 2 + 1) / 2]
    np.testing.assert_allclose(found.default.samples, areas, rtol=1e-6)


@pytest.mark.slow
def test_features_given_by_number_move_together_and_negative_ones_stay() -> None:
    # The groups {0, 2} and {1} contribute 4 and 2, the last element stays: 7, 3, 1 and 7, 5, 1.
    found = lrp.tune(linear(3, 2, 1, 1), torch.ones(1, 4), measure="logit", features=torch.tensor([7, 9, 7, -1]), **ONE)

    np.testing.assert_allclose(found.best.morf, [7, 3, 1], rtol=1e-6)
    np.testing.assert_allclose(found.best.lerf, [7, 5, 1], rtol=1e-6)


@pytest.mark.slow
def test_the_class_is_the_predicted_one_or_the_one_that_is_asked_for() -> None:
    # Two classes, w·x and 0; the second one's relevance is 0, so only what is measured differs.
    model = nn.Sequential(nn.Linear(2, 2, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0, -1.0], [-2.0, 1.0]]))
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])

    def starts(target: Any) -> list[float]:
        found = lrp.tune(model, x, measure="logit", target=target, **ONE)
        return [float(found.best.morf[0]), float(found.score.mean)]

    # Predicted are classes 0 and 1, each with logit 1 and contributions 2 and −1: MoRF 1, −1, 0 and LeRF 1, 2, 0.
    assert starts("argmax") == pytest.approx([1.0, 1.5])
    assert starts(torch.tensor([0, 1])) == pytest.approx([1.0, 1.5])
    # Class 0 has logits 1 and −1; the second row loses −2 last and 1 first: MoRF −1, −2, 0 and LeRF −1, 1, 0.
    assert starts(lrp.Target(0, output=0)) == pytest.approx([0.0, 1.5])


def test_a_program_of_a_fixed_batch_size_is_run_in_batches_of_that_size() -> None:
    # As in the first test, scaled by 1 to 5: 4/3 of it.
    program = torch.export.export(linear(3, 2, 1), (torch.ones(2, 3),))

    found = lrp.tune(program, torch.arange(1.0, 6.0)[:, None].expand(5, 3), measure="logit", **ONE)

    np.testing.assert_allclose(found.default.samples, 4 / 3 * np.arange(1, 6), rtol=1e-6)


@pytest.mark.slow
def test_the_setting_is_found_that_the_model_needs() -> None:
    # γ = 0 orders a, s, b: MoRF ½, −½, −½, 0 and LeRF ½, 1, 1, 0, so 1. Under γ = 1 s comes before a: MoRF ½, ½, −½, 0
    # and LeRF ½, 1, 0, 0, so ⅓. Rows are multiples of the first.
    best = lrp.tune(
        Difference().eval(), TRIPLES, composite=gammas, grid={"gamma": [0.0, 1.0]}, baseline=0.0, measure="logit"
    )

    assert best.options == {"gamma": 0.0}
    np.testing.assert_allclose(best.best.samples, [1, 2, 3], rtol=1e-9)
    np.testing.assert_allclose(best.default.samples, [1 / 3, 2 / 3, 1], rtol=1e-9)
    np.testing.assert_allclose(best.best.gain.mean, 4 / 3, rtol=1e-9)
    assert [value for value, _ in best.curve()] == [0.0, 1.0]
    assert best.clearly_better


@pytest.mark.slow
def test_the_best_composite_is_ready_to_compile_with() -> None:
    best = lrp.tune(Difference().eval(), TRIPLES, composite=gammas, grid={"gamma": [0.0]}, baseline=0.0)

    relevance = lrp.compile(Difference().eval(), (TRIPLES,), composite=best.composite, target=0)(TRIPLES).relevance["x"]

    torch.testing.assert_close(relevance, TRIPLES * torch.tensor([1.0, -1.0, 0.0]), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_settings_that_change_no_rule_of_the_model_are_measured_once() -> None:
    steps: list[str] = []
    grid = {"conv": [0.0, 1.0], "linear": [0.0]}

    found = lrp.tune(linear(3, 2, 1), torch.ones(2, 3), composite="attnlrp-gamma", grid=grid, progress=steps.append)

    assert len(found.trials) == 3
    assert sum("flip" in step for step in steps) == 2


@pytest.mark.slow
def test_by_default_composites_are_compared_with_the_chosen_one() -> None:
    """By hand as above: ε finds what a, b and s contribute."""
    steps: list[str] = []

    found = lrp.tune(Difference().eval(), TRIPLES, baseline=0.0, measure="logit", progress=steps.append)

    names = [trial.options["composite"] for trial in found.trials]
    assert names == ["auto", "epsilon", "epsilon-plus", "attnlrp", "attnlrp-gamma", "cp-lrp", "reference"]
    assert found.default.composite.name == "auto"
    np.testing.assert_allclose(found.default.samples, [1, 2, 3], rtol=1e-9)
    # epsilon is what auto chooses here, and epsilon-plus differs in convolutions alone: measured once.
    assert sum("flip" in step for step in steps) == 4
    assert found.unused == ()


@pytest.mark.slow
def test_differences_are_taken_from_what_replaced_features_show() -> None:
    # Replaced, the features cost 0.3, 1 and 4; contributions are 3, 2 and 1. MoRF by differences: 6, 2, 1, 0.7, LeRF 6,
    # 5.7, 4.7, 0.7.
    baseline = torch.tensor([0.9, 0.5, -3.0])

    found = lrp.tune(linear(3, 2, 1), torch.ones(4, 3), baseline=baseline, measure="logit")

    assert found.composite.name == "reference"
    np.testing.assert_allclose(found.best.samples, [(5.7 + 4.7 - 2 - 1) / 3] * 4, rtol=1e-6)
    np.testing.assert_allclose(found.default.samples, [-(5.7 + 4.7 - 2 - 1) / 3] * 4, rtol=1e-6)


@pytest.mark.slow
def test_what_is_not_replaced_is_compared_with_itself() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(10, 3), nn.Linear(3, 1, bias=False)

        def forward(self, x: Tensor, ids: Tensor, scale: Tensor) -> Tensor:
            return self.out(x / scale * self.table(ids).mean(1))

    torch.manual_seed(0)
    model, ids, scale = Both().eval(), torch.randint(0, 10, (4, 5)), torch.rand(4, 3) + 1
    x, baseline = torch.randn(4, 3), torch.tensor([0.9, 0.5, -3.0])
    grid = {"composite": ["auto", "reference"]}

    found = lrp.tune(model, (x, ids, scale), wrt="x", baseline=baseline, measure="logit", grid=grid, steps=3)

    # In x the model is linear: what an element is worth is its weight times how far it lies from the baseline.
    with torch.no_grad():
        left = (x - baseline) / scale * model.table(ids).mean(1) * model.out.weight
        falls = left.sort(1, descending=True).values.cumsum(1)[:, :-1]
        rises = left.sort(1).values.cumsum(1)[:, :-1]
    np.testing.assert_allclose(found.trials[1].samples, (falls - rises).sum(1) / 3, rtol=1e-5)
    assert torch.equal(found.reference, baseline[None])
    assert any("It compares with the input" in note for note in found.notes) == (found.composite.name == "reference")


def test_one_feature_or_one_step_orders_nothing() -> None:
    for options in ({"steps": 1}, {"features": torch.zeros(3, dtype=torch.int64)}):
        found = lrp.tune(linear(3, 2, 1), torch.ones(4, 3), **{**ONE, **options})
        np.testing.assert_array_equal(found.default.samples, [0.0] * 4)


def test_rows_that_are_not_finite_are_no_part_of_the_mean() -> None:
    x = torch.cat([torch.randn(6, 3), torch.full((1, 3), torch.nan)])

    found = lrp.tune(linear(3, 2, 1), x, composite="attnlrp", grid={"epsilon": [0.0]})

    assert found.left_out == (6,)


def test_a_composite_that_must_be_told_something_is_tuned_by_itself() -> None:
    with pytest.raises(CompositeError, match=r"needs low and high: tune it by itself"):
        lrp.tune(linear(3, 2, 1), torch.ones(4, 3), grid={"composite": ["epsilon-gamma-box"]})
    with pytest.raises(InputError, match="wrt names the input"):
        lrp.tune(linear(3, 2, 1), torch.ones(4, 3), wrt=["input", "other"])  # type: ignore[arg-type]


@pytest.mark.slow
def test_padding_is_as_it_is_in_what_is_compared_with() -> None:
    ids, mask = torch.tensor([[3, 2, 1, 4], [2, 1, 3, 3]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    grid = {"composite": ["auto", "reference"]}

    found = lrp.tune(
        Tokens().eval(),
        kwargs={"input_ids": ids, "attention_mask": mask},
        wrt="input_ids",
        measure="logit",
        grid=grid,
        baseline=0,
    )

    # Token 0 weighs nothing, so that differences from it are contributions.
    by_differences = found.trials[1]
    assert by_differences.options == {"composite": "reference"}
    np.testing.assert_allclose(by_differences.samples, found.default.samples, rtol=1e-6)


@pytest.mark.parametrize("aggregate", ["0", ["0"]])
def test_relevance_summed_over_layers_is_a_second_way_to_read_a_setting(aggregate: Any) -> None:
    # Pixels contribute 4, 6, 6 and 5. What the convolution returns has 10 more of each, so that sums over layers are
    # 48, 42, 32 and 20: the other order. Replaced, they cost what they contribute.
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(4, 1, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(10.0)
        model[2].weight.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0]]))
    x = torch.tensor([1.0, 2.0, 3.0, 5.0]).view(1, 1, 2, 2).expand(4, 1, 2, 2)
    grid = {"composite": ["auto"]}

    found = lrp.tune(model, x, grid=grid, baseline=0.0, measure="logit", aggregate=aggregate)

    own, summed = found.trials
    assert (own.options, own.aggregate) == ({"composite": "auto", "aggregate": "no"}, ())
    assert (summed.options, summed.aggregate) == ({"composite": "auto", "aggregate": "yes"}, ("0",))
    np.testing.assert_allclose(own.samples, [7 / 4] * 4, rtol=1e-5)
    np.testing.assert_allclose(summed.samples, [-3 / 4] * 4, rtol=1e-5)
    assert found.aggregate == ()
    assert "aggregate" in str(found)


@pytest.mark.slow
def test_what_does_not_fit_a_model_is_left_out_of_what_is_tried_unasked() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept, self.out = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
                h = torch.tanh(self.kept(h) + x)
                return h, h.clone()

            return self.out(scan(step, x[:, 0] * 0, x.transpose(0, 1))[0])

    torch.manual_seed(0)
    model, x = Recurrent().eval(), torch.randn(4, 5, 2)

    found = lrp.tune(model, x)

    assert [trial.options["composite"] for trial in found.trials][-1] == "cp-lrp"
    assert any("composite=reference does not fit this model" in note for note in found.notes)
    with pytest.raises(LrpError, match="differences"):
        lrp.tune(model, x, grid={"composite": ["reference"]})


@pytest.mark.slow
def test_by_default_what_the_model_does_not_meet_is_not_tuned() -> None:
    found = lrp.tune(linear(3, 2, 1), torch.ones(2, 3), composite="attnlrp-gamma")

    assert set(found.options) == {"linear"}
    assert found.unused == ("conv",)
    assert any("conv changes nothing" in note for note in found.notes)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_result_and_another_breaks_ties_otherwise() -> None:
    # Everything contributes alike, but what is left when it is replaced differs: the order among equals decides.
    baseline = torch.linspace(-3, 3, 12)

    def samples(seed: int) -> np.ndarray:
        options = {**ONE, "baseline": baseline}
        return lrp.tune(linear(*[1.0] * 12), torch.ones(2, 12), seed=seed, **options).default.samples

    first = samples(1)
    np.testing.assert_array_equal(samples(1), first)
    assert not np.allclose(samples(2), first)


@pytest.mark.slow
def test_the_model_and_the_inputs_are_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    x = torch.randn(3, 3, 6, 6, requires_grad=True)
    before, given = copy.deepcopy(model.state_dict()), x.detach().clone()

    lrp.tune(model, (x,), composite="attnlrp-gamma", grid={"conv": [0.0]}, steps=3)

    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert not any(module.training or module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert x.grad is None
    torch.testing.assert_close(x.detach(), given, rtol=0, atol=0)
    lrp.compile(model, (x.detach(),))
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_inputs_on_which_the_model_is_not_finite_are_left_out_and_named() -> None:
    x = torch.ones(4, 3)
    x[2, 1] = float("nan")

    found = lrp.tune(linear(3, 2, 1), x, measure="logit", **ONE)

    assert found.left_out == (2,)
    assert found.inputs == (0, 1, 3)
    np.testing.assert_allclose(found.default.samples, [4 / 3] * 3, rtol=1e-6)
    assert "Left out: inputs 2" in str(found)


def boxed(high: float = 1.0) -> lrp.Composite:
    """Not finite for a bound that float32 does not hold."""
    return lrp.Composite("boxed", (lrp.Entry("linear", "z-box", {"low": 0.0, "high": high}, position="first"),))


@pytest.mark.slow
def test_a_setting_whose_relevance_is_not_finite_is_named_and_never_chosen() -> None:
    found = lrp.tune(Difference().eval(), TRIPLES, composite=boxed, grid={"high": [1e39]}, baseline=0.0)

    assert found.best is found.default
    assert found.trials[1].failed == [0, 1, 2]
    assert np.isnan(found.trials[1].score.mean)
    assert any("not finite" in note and "high=1e+39" in note for note in found.notes)


def test_without_any_finite_setting_there_is_no_result() -> None:
    def beyond(high: float = 1e39) -> lrp.Composite:
        return boxed(high)

    with pytest.raises(LrpError, match="Under every setting"):
        lrp.tune(Difference().eval(), TRIPLES, composite=beyond, grid={"high": [2e39]}, baseline=0.0)


def test_functions_that_explain_a_module_are_told_apart() -> None:
    # The first function says what is true of s, the second one that s is all.
    def reversed_or_not(sign: float = -1.0) -> lrp.Composite:
        def rule(op: lrp.Op, relevance: lrp.Relevance) -> lrp.Relevance:
            return lrp.total(op.tensor("0") * sign)

        return lrp.Composite("own", (lrp.Entry("*", rule, path="0"),))

    found = lrp.tune(
        linear(3, 2, 1), torch.tensor([[3.0, 2.0, 1.0]]), composite=reversed_or_not, grid={"sign": [1.0]}, **BY_HAND
    )

    # Contributions 9, 4 and 1: MoRF 14, 5, 1, 0 and LeRF 14, 13, 9, 0; the other way round under the sign −1.
    assert [trial.score.mean for trial in found.trials] == pytest.approx([-16 / 3, 16 / 3])


def plain(message: str) -> str:
    """One sentence, without a trace of what is inside."""
    assert message.endswith(".")
    assert "\n" not in message
    return message


MODEL = linear(3, 2, 1)

X = torch.ones(3, 3)

WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no inputs": (lambda: lrp.tune(MODEL, ()), "There are no calibration inputs"),
    "an empty batch": (lambda: lrp.tune(MODEL, torch.ones(0, 3)), "There are no calibration inputs"),
    "rows that differ": (
        lambda: lrp.tune(Tokens().eval(), (torch.ones(2, 3).long(), torch.ones(4, 3))),
        "different numbers of rows (2, 4)",
    ),
    "an empty grid": (lambda: lrp.tune(MODEL, X, grid={}), "The grid is empty"),
    "no values": (
        lambda: lrp.tune(MODEL, X, composite="epsilon", grid={"epsilon": []}),
        "The grid gives 'epsilon' no values",
    ),
    "one value": (lambda: lrp.tune(MODEL, X, composite="epsilon", grid={"epsilon": 0.1}), "a list is wanted"),
    "an unknown option": (
        lambda: lrp.tune(MODEL, X, composite="epsilon", grid={"gamma": [1]}),
        "no option 'gamma' to tune: it takes epsilon",
    ),
    "an unknown settled option": (
        lambda: lrp.tune(MODEL, X, composite="epsilon", options={"gamma": 1}),
        "no option 'gamma'",
    ),
    "a missing option": (lambda: lrp.tune(MODEL, X, composite="epsilon-gamma-box"), "needs low and high"),
    "a value that is none": (
        lambda: lrp.tune(MODEL, X, composite="epsilon", grid={"epsilon": [-1.0]}),
        "a finite number from 0 up, not -1.0",
    ),
    "an unknown composite": (lambda: lrp.tune(MODEL, X, composite="gamma"), "Unknown composite 'gamma'"),
    "an unknown composite in place of auto's": (
        lambda: lrp.tune(MODEL, X, grid={"composite": ["gamma"]}),
        "Unknown composite 'gamma'",
    ),
    "a composite that is none": (lambda: lrp.tune(MODEL, X, grid={"composite": [1]}), "is a str, not 1"),
    "nothing to tune": (
        lambda: lrp.tune(MODEL, X, composite=lrp.Composite("bare")),
        "no option that leads to a γ, α or ε",
    ),
    "nothing that matters": (
        lambda: lrp.tune(MODEL, X, composite="attnlrp-gamma", options={"linear": 0.0}),
        "conv of the composite 'attnlrp-gamma' change nothing",
    ),
    "options of a table": (lambda: lrp.tune(MODEL, X, composite=gammas(), options={"gamma": 1}), "composite's name"),
    "a target of another shape": (lambda: lrp.tune(MODEL, X, target=torch.zeros(2).long(), **ONE), "shape [2]"),
    "a class that is not there": (lambda: lrp.tune(MODEL, X, target=1, **ONE), "out of range"),
    "several targets": (lambda: lrp.tune(MODEL, X, target=[0, 1], **ONE), "one class of each input"),
    "a target at run time": (lambda: lrp.tune(MODEL, X, target="index", **ONE), "one class of each input"),
    "a position at run time": (lambda: lrp.tune(MODEL, X, target=lrp.Target(0, position="index")), "one position"),
    "an unknown measure": (lambda: lrp.tune(MODEL, X, measure="accuracy"), "Unknown measure 'accuracy'"),
    "no steps": (lambda: lrp.tune(MODEL, X, steps=0), "steps is a whole number from 1 up, not 0"),
    "no batch": (lambda: lrp.tune(MODEL, X, batch_size=0), "batch_size is a whole number from 1 up"),
    "a seed of relevance": (lambda: lrp.tune(MODEL, X, seed="value"), "seed is a whole number, not 'value'"),  # type: ignore[arg-type]
    "an unknown input": (lambda: lrp.tune(MODEL, X, wrt="y", **ONE), "not 'y'"),
    "pixels of no image": (lambda: feature_map(X, "pixels"), "[batch, channels, height, width]"),
    "unknown features": (lambda: feature_map(X, "words"), "features='words'"),
    "features of another shape": (
        lambda: feature_map(X, torch.arange(4)),
        "integers are wanted that broadcast to [3, 3]",
    ),
    "no features": (lambda: feature_map(X, torch.tensor(-1)), "nothing to replace"),
    "a blur of no image": (lambda: replacement(X, "blur"), "baseline='blur'"),
    "a baseline of another shape": (lambda: replacement(X, torch.ones(4)), "shape [4]"),
    "half a token": (lambda: replacement(X.long(), 0.5), "holds integers"),
    "no token": (lambda: replacement(X.long(), None), "baseline=tokenizer.mask_token_id"),
    "a program of another batch size": (
        lambda: lrp.tune(torch.export.export(MODEL, (torch.ones(2, 3),)), X, batch_size=3, **ONE),
        "batches of 2 rows",
    ),
    "a model that is not finite": (lambda: lrp.tune(MODEL, X * torch.nan, **ONE), "not finite on any input"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_said_in_one_sentence(what: str) -> None:
    call, expected = WRONG[what]

    with pytest.raises((InputError, CompositeError)) as raised:
        call()

    assert expected in plain(str(raised.value))


@pytest.mark.parametrize("baseline", [99, -1])
def test_a_token_that_the_model_does_not_have_is_said(baseline: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(20, 3)).eval()
    with pytest.raises(InputError, match="choose another baseline"):
        lrp.tune(model, torch.randint(0, 10, (4, 5)), baseline=baseline, composite="epsilon", grid={"epsilon": [1e-6]})
