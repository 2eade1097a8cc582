"""The benchmark of faithfulness: its metrics against values worked out by hand, its flipping, its rows and tables."""

import argparse
import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.faithful import flipping, images, methods, metrics, report
from benchmarks.faithful.metrics import Curves
from lrp_compiler.rules.registry import RULES

pytestmark = pytest.mark.sampled(4)

# ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────────────

MORF = np.array([[1.0, 0.5, 0.0], [0.8, 0.2, 0.4]])
LERF = np.array([[1.0, 1.0, 0.0], [0.8, 0.9, 0.4]])


def test_metrics_equal_values_worked_out_by_hand() -> None:
    curves = Curves(MORF, LERF)
    np.testing.assert_allclose(metrics.abpc(curves), [0.25, 0.35])
    np.testing.assert_allclose(metrics.comprehensiveness(curves), [0.75, 0.5])
    np.testing.assert_allclose(metrics.sufficiency(curves), [0.5, 0.15])


def test_abpc_is_the_area_by_trapezoids_where_the_curves_meet_at_both_ends() -> None:
    gap = (LERF - MORF)[1]
    assert metrics.abpc(Curves(MORF, LERF))[1] == pytest.approx(np.trapezoid(gap, dx=1 / 2))


def test_a_row_states_the_papers_figure_as_four_times_the_accuracy_gap() -> None:
    row = metrics.flipping_row(Curves(MORF, LERF), Curves(MORF, LERF), seed=0, model="m", method="a", family="ours")
    assert row["abpc"] == pytest.approx(0.30)
    assert row["paper_abpc"] == pytest.approx(1.20)
    assert row["abpc_samples"] == pytest.approx([0.25, 0.35])
    assert row["curves"]["probability"]["morf"] == pytest.approx([0.9, 0.35, 0.2])
    assert (row["samples"], row["steps"]) == (2, 2)


def test_the_interval_of_a_mean_is_that_of_the_central_limit() -> None:
    samples = np.random.default_rng(1).normal(5.0, 2.0, 4000)
    low, high = metrics.interval(samples)
    half = 1.96 * samples.std() / np.sqrt(len(samples))
    assert low == pytest.approx(samples.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(samples.mean() + half, abs=0.1 * half)
    assert metrics.interval(np.full(7, 0.25)) == pytest.approx([0.25, 0.25])


def test_paired_differences_do_not_see_how_far_inputs_lie_apart() -> None:
    spread = np.random.default_rng(2).normal(0.0, 100.0, 50)
    mean, bounds = metrics.difference(spread + 0.5, spread)
    assert [mean, *bounds] == pytest.approx([0.5] * 3)


# ── flipping ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_most_relevant_places_go_first_in_groups_of_one_size() -> None:
    relevance = torch.tensor([[[[5.0, 1.0, 8.0], [2.0, 7.0, 3.0]]]])
    assert flipping.flip_times(relevance, patch=1, steps=3).tolist() == [[[2, 3, 1], [3, 1, 2]]]


def test_a_patch_counts_the_sum_over_its_pixels_and_channels() -> None:
    relevance = torch.zeros(1, 2, 4, 4)
    relevance[0, 0, 0, 0], relevance[0, 1, 1, 1] = 1.0, 1.0  # 2 in the patch at the upper left
    relevance[0, 0, 2, 3] = 1.5
    relevance[0, 1, 3, 0] = -3.0
    assert flipping.flip_times(relevance, patch=2, steps=4).tolist() == [[[1, 3], [4, 2]]]


def test_ties_are_broken_by_chance_and_alike_for_every_method() -> None:
    first, again = (flipping.flip_times(torch.zeros(1, 1, 28, 28), patch=1) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(first.flatten().bincount()[1:], torch.full((49,), 16))
    assert first[0, 0].unique().numel() > 10  # not row by row


def test_every_group_has_its_share_where_they_cannot_be_equal() -> None:
    times = flipping.flip_times(torch.rand(1, 3, 227, 227), patch=1)
    sizes = times.flatten().bincount()[1:]
    assert len(sizes) == 49
    assert sizes.max() - sizes.min() == 1


def test_the_blur_is_gaussian_and_keeps_what_is_constant() -> None:
    assert torch.allclose(flipping.blurred(torch.full((1, 3, 20, 20), 7.0), 2.5), torch.tensor(7.0))
    impulse = torch.zeros(1, 1, 41, 41)
    impulse[0, 0, 20, 20] = 1.0
    spread = flipping.blurred(impulse, 3.0)[0, 0]
    offsets = (torch.arange(41) - 20.0) ** 2
    assert float(spread.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float((spread.sum(0) * offsets).sum()) == pytest.approx(9.0, rel=0.03)  # cut off at three deviations


def brightness(x: Tensor) -> Tensor:
    """Two classes: the sum of the pixels against zero."""
    return torch.stack((x.sum((1, 2, 3)), torch.zeros(len(x))), dim=1)


def test_curves_follow_the_flips_of_both_orders() -> None:
    x = torch.tensor([[[[1.0, -0.5], [0.25, 0.5]]]])
    times = torch.tensor([[[1, 4], [3, 2]]])
    right = torch.tensor([[True, False]])
    probability, accuracy = flipping.curves(brightness, x, torch.zeros_like(x), times, right)
    np.testing.assert_allclose(probability.morf[0], torch.tensor([1.25, 0.25, -0.25, -0.5, 0.0]).sigmoid(), rtol=1e-6)
    np.testing.assert_allclose(probability.lerf[0], torch.tensor([1.25, 1.75, 1.5, 1.0, 0.0]).sigmoid(), rtol=1e-6)
    assert accuracy.morf[0].tolist() == [1, 1, 0, 0, 1]
    assert accuracy.lerf[0].tolist() == [1, 1, 1, 1, 1]


def test_several_images_at_once_are_what_each_is_alone() -> None:
    x = torch.randn(5, 1, 7, 7)
    times = flipping.flip_times(torch.randn_like(x), patch=1)
    right = torch.ones(5, 2, dtype=torch.bool)
    alone, _ = flipping.curves(brightness, x, torch.zeros_like(x), times, right, rows=1)
    together, _ = flipping.curves(brightness, x, torch.zeros_like(x), times, right, rows=3)
    np.testing.assert_allclose(alone.morf, together.morf)
    np.testing.assert_allclose(alone.lerf, together.lerf)


def test_the_opposite_relevance_has_the_opposite_abpc() -> None:
    x = torch.rand(4, 1, 7, 7) / 10
    right = torch.ones(4, 2, dtype=torch.bool)

    def gap(relevance: Tensor) -> np.ndarray:
        times = flipping.flip_times(relevance, patch=1)
        return metrics.abpc(flipping.curves(brightness, x, torch.zeros_like(x), times, right)[0])

    assert (gap(x) > 0).all()
    np.testing.assert_allclose(gap(-x), -gap(x), atol=1e-6)


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Block(nn.Module):
    """A residual block that may leave the addition to others, as timm's do."""

    def __init__(self) -> None:
        super().__init__()
        self.has_skip = True
        self.map = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.map(x)
        return out + x if self.has_skip else out


def small() -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Block()), *(nn.Flatten(), nn.Linear(4 * 25, 3))
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(quick: bool) -> images.Loaded:
        x = torch.randn(6, 1, 7, 7)
        right = torch.ones(6, 3, dtype=torch.bool)
        return images.Loaded(small(), x, right, (-3.0,), (3.0,), 1, 2.0, (4, 2), "noise", x[:2])

    methods = ("epsilon-plus", "zennit epsilon-plus", "random")
    monkeypatch.setitem(images.MODELS, "tiny", images.Model("Tiny", load, methods))


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_a_peer_with_the_same_composite_has_the_same_abpc() -> None:
    rows = {row["method"]: row for row in images.measure("tiny", None, False)}
    assert [row["family"] for row in rows.values()] == ["ours", "peer", "baseline"]
    ours, theirs, chance = (rows[name]["abpc_samples"] for name in rows)
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert ours != pytest.approx(chance, abs=1e-4)


@pytest.mark.usefixtures("tiny")
def test_what_a_peer_cannot_do_is_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def explain(subject: Any) -> Tensor:
        raise RuntimeError("no rule for it")

    failing = images.METHODS["zennit epsilon-plus"]
    monkeypatch.setitem(images.METHODS, "failing", type(failing)("peer", explain))
    (row,) = images.measure("tiny", ["failing"], False)
    assert row["failure"] == "RuntimeError: no rule for it"


def test_relevance_from_the_blurred_image_is_what_it_lacks_of_the_logit() -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 25, 3, bias=False)).eval()
    x = torch.randn(4, 1, 7, 7)
    replacement = flipping.blurred(x, 2.0)
    with torch.no_grad():
        said, without = model(x), model(replacement)
    target = said.argmax(-1)
    subject = methods.Subject(model, x, target, (-3.0,), (3.0,), replacement, x, rows=4)
    relevance = methods.averaged(0.0, 0.0, 0, True, subject)
    expected = (said - without).gather(1, target[:, None])[:, 0]
    assert torch.allclose(relevance.sum((1, 2, 3)), expected, atol=1e-5)


@pytest.mark.parametrize("told", [False, True])
def test_averaged_along_a_path_the_gradients_rules_are_integrated_gradients(told: bool) -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is an extra")
    torch.manual_seed(6)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 3)).eval()
    x = torch.randn(4, 1, 7, 7)
    replacement = flipping.blurred(x, 2.0)
    target = model(x).argmax(-1)
    subject = methods.Subject(model, x, target, (-3.0,), (3.0,), replacement, x, rows=4)
    relevance = methods.averaged(0.0, 0.0, methods.DRAWS, told, subject)
    options = {"baselines": replacement if told else None, "n_steps": methods.DRAWS, "method": "riemann_middle"}
    expected = attr.IntegratedGradients(model).attribute(x, target=target, **options)
    assert torch.allclose(relevance, expected, atol=1e-5)


def test_what_zennit_sees_computes_the_same() -> None:
    from benchmarks.faithful import canonizers

    x = torch.randn(2, 1, 7, 7)
    model = small()
    with torch.no_grad():
        assert torch.allclose(canonizers.prepared(copy.deepcopy(model))(x), model(x), atol=1e-6)


# ── rows and tables ──────────────────────────────────────────────────────────────────────────────────────────────────


def row(method: str, family: str, gap: float, model: str = "m") -> dict[str, Any]:
    curves = Curves(MORF, MORF + np.array([0, gap, 0]))
    about = {"model": model, "title": "Model", "about": "noise", "method": method, "family": family}
    return metrics.flipping_row(curves, curves, seed=0, seconds=1.0, **about)


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    found = {"machine": {"torch": "2"}, "rows": [row("a", "ours", 0.4), row("b", "peer", 0.2)]}
    report.write(tmp_path / "faithfulness.json", found)
    assert report.read(tmp_path / "faithfulness.json") == found


def test_a_new_row_takes_the_place_of_the_old_one() -> None:
    order = [("m", "a"), ("m", "b")]
    rows = report.put(report.put([], row("b", "peer", 0.2), order), row("a", "ours", 0.4), order)
    rows = report.put(rows, row("b", "peer", 0.3), order)
    assert [(each["method"], round(each["abpc"], 3)) for each in rows] == [("a", 0.2), ("b", 0.15)]


def test_the_summary_sets_the_best_of_ours_beside_the_best_of_the_others() -> None:
    rows = [row("a", "ours", 0.4), row("a2", "ours", 0.1), row("b", "peer", 0.2), row("random", "baseline", 0.0)]
    line = report.summary({"rows": rows}).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    shown = ["Model", "2", "a", "0.200 [0.200, 0.200]", "b", "0.100", "+0.100 [+0.100, +0.100]", "1 / 1", "0.000"]
    assert cells == shown
    text = report.markdown({"machine": {}, "rows": rows}, {"b": "a"})
    assert "| m | b | a | 0.1000 | 0.2000 | 1e-01 | 1e-01 |" in text


def test_the_best_is_scored_on_inputs_that_it_was_not_chosen_on() -> None:
    odd, even, middling = row("odd", "ours", 0.0), row("even", "ours", 0.0), row("middling", "ours", 0.0)
    odd["abpc_samples"], odd["seconds"] = [0.9, 0.0, 0.9, 0.1], 1.0
    even["abpc_samples"], even["seconds"] = [0.2, 0.7, 0.0, 0.7], 3.0
    middling["abpc_samples"] = [0.5, 0.3, 0.5, 0.3]
    found = report.chosen([odd, even, middling, row("b", "peer", 0.4)], "ours")
    # The first and third input choose "odd", which is scored on the second and fourth, and the other way round.
    assert found is not None
    assert (found.methods, found.seconds) == ("even / odd", 2.0)
    np.testing.assert_allclose(found.samples, [0.2, 0.0, 0.0, 0.1])
    assert report.chosen([odd], "peer") is None


def test_curves_are_drawn(tmp_path: Path) -> None:
    report.draw(tmp_path / "curves.png", [row("a", "ours", 0.4), row("random", "baseline", 0.0)])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("tiny")
def test_only_what_has_no_row_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    faithfulness = pytest.importorskip("benchmarks.faithful.run")
    monkeypatch.setattr(faithfulness, "PARTS", (images,))
    options = argparse.Namespace(models=["tiny"], methods=None, quick=False, again=False)
    known = [row("epsilon-plus", "ours", 0.4, "tiny")]
    assert list(faithfulness.wanted(options, known)) == [(images, "tiny", ["zennit epsilon-plus", "random"])]


def test_ours_must_lie_above_chance() -> None:
    faithfulness = pytest.importorskip("benchmarks.faithful.run")
    chance = row("random", "baseline", 0.05)
    assert faithfulness.not_beaten({"rows": [row("a", "ours", 0.4), chance]}) == []
    assert len(faithfulness.not_beaten({"rows": [row("a", "ours", 0.01), chance]})) == 1


def test_a_rule_with_its_sign_turned_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    faithfulness = pytest.importorskip("benchmarks.faithful.run")
    monkeypatch.setattr(faithfulness, "PARTS", (images,))
    generator = torch.Generator().manual_seed(3)

    def load(quick: bool) -> images.Loaded:
        x = torch.randn(40, 1, 7, 7, generator=generator)
        model = nn.Sequential(nn.Flatten(), nn.Linear(49, 3, bias=False)).eval()
        right = torch.ones(40, 3, dtype=torch.bool)
        return images.Loaded(model, x, right, (-3.0,), (3.0,), 1, 2.0, (40, 10), "noise", x[:2], runtime="torch")

    monkeypatch.setitem(images.MODELS, "linear", images.Model("Linear", load, ("epsilon", "random")))
    assert faithfulness.not_beaten({"rows": list(images.measure("linear", None, False))}) == []
    key = ("linear map", "epsilon")
    right = RULES[key]

    @functools.wraps(right)
    def turned(*args: Any, **options: Any) -> Any:
        return {name: found.map(torch.neg) for name, found in right(*args, **options).items()}

    monkeypatch.setitem(RULES, key, turned)
    assert faithfulness.not_beaten({"rows": list(images.measure("linear", None, False))}) == [
        "On linear epsilon does not clearly beat chance."
    ]
