"""What tuning says of its settings: intervals, gains, edges, the table, and the grid that it takes by default."""

import re
from typing import Any

import numpy as np
import pytest
from support.tuned import gammas, trial

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.tuning.tuned import Interval, Tuned, bootstrap
from lrp_compiler.tuning.variants import variants

pytestmark = pytest.mark.sampled(4)


def tuned(*rows: tuple[dict[str, Any], Any]) -> Tuned:
    return Tuned(
        tuple(trial(samples, rows[0][1], **options) for options, samples in rows), tuple(range(len(rows[0][1])))
    )


NOISE = np.random.default_rng(0).normal(size=400)


def test_the_interval_is_that_of_a_mean() -> None:
    found = bootstrap(NOISE)

    error = NOISE.std() / 20
    assert found.mean == pytest.approx(NOISE.mean())
    assert found.low == pytest.approx(NOISE.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(NOISE.mean() + 1.96 * error, abs=0.15 * error)
    assert bootstrap(np.full(5, 2.0)) == Interval(2.0, 2.0, 2.0)


def test_a_gain_that_is_noise_is_not_called_better() -> None:
    found = tuned(({"gamma": 0.25}, np.zeros(400)), ({"gamma": 0.5}, NOISE - NOISE.mean() + 0.01))

    assert found.options == {"gamma": 0.5}
    assert not found.clearly_better
    assert found.notes[0].startswith("No setting is clearly better")


def test_a_gain_on_every_input_is_called_better_and_holds_on_unseen_ones() -> None:
    found = tuned(({"gamma": 0.25}, NOISE), ({"gamma": 0.5}, NOISE + 0.2), ({"gamma": 1.0}, NOISE))

    assert found.clearly_better
    assert found.held_out_gain == pytest.approx(0.2)
    assert found.notes[0].startswith("gamma=0.5 gains 0.2000 (0.2000 to 0.2000) over the default")


def test_the_best_of_many_that_differ_by_chance_gains_nothing_on_unseen_inputs() -> None:
    draws = np.random.default_rng(1).normal(size=(30, 40))
    draws[0] = 0

    found = tuned(*(({"gamma": float(number)}, row) for number, row in enumerate(draws)))

    assert found.best.gain.mean > 0.2
    assert found.held_out_gain < 0.5 * found.best.gain.mean


@pytest.mark.parametrize(("best", "end"), [(0.05, "smallest"), (0.25, None), (4.0, "largest")])
def test_a_best_value_at_the_edge_of_the_grid_is_said_to_be_there(best: float, end: str | None) -> None:
    found = tuned(*(({"gamma": value}, np.full(20, float(value == best))) for value in (0.25, 0.05, 4.0)))

    edges = [note for note in found.notes if "wider grid" in note]
    assert edges == (
        [] if end is None else [f"gamma={best:g} is the {end} value tried: a wider grid may hold a better one."]
    )


def test_nothing_lies_below_zero_so_zero_is_no_edge() -> None:
    found = tuned(({"gamma": 0.25}, np.zeros(20)), ({"gamma": 0.0}, np.ones(20)))

    assert not any("wider grid" in note for note in found.notes)


def test_a_score_like_that_of_chance_is_said_to_be_so() -> None:
    found = tuned(({"gamma": 0.25}, NOISE - NOISE.mean()))

    assert any("random order" in note for note in found.notes)


def test_the_curve_runs_along_one_option_with_the_others_as_in_the_best() -> None:
    values = {(0.25, 0.05): 0.0, (0.0, 0.05): 1.0, (0.0, 1.0): 3.0, (0.25, 1.0): 2.0}
    found = tuned(*(({"conv": conv, "linear": dense}, np.full(5, v)) for (conv, dense), v in values.items()))

    assert [(value, score.mean) for value, score in found.curve("conv")] == [(0.0, 3.0), (0.25, 2.0)]
    assert [(value, score.mean) for value, score in found.curve("linear")] == [(0.05, 1.0), (1.0, 3.0)]
    with pytest.raises(InputError, match="Say along which option, one of conv, linear"):
        found.curve()


def test_the_table_has_a_row_for_every_setting_and_marks_the_best() -> None:
    text = str(tuned(({"gamma": 0.25}, np.zeros(20)), ({"gamma": 0.0}, np.ones(20))))

    assert re.search(r"0\.25 .* 0\.0000 \(0\.0000 to 0\.0000\) .* default", text)
    assert re.search(r"0 .* 1\.0000 \(1\.0000 to 1\.0000\) .* 1\.0000 \(1\.0000 to 1\.0000\) .* best", text)


@pytest.mark.parametrize(
    ("composite", "options", "tuned_options"),
    [
        ("epsilon", {}, {"epsilon"}),
        ("epsilon-gamma-box", {"low": -1, "high": 1}, {"gamma"}),
        ("attnlrp-gamma", {}, {"conv", "linear"}),
        ("attnlrp-gamma", {"conv": 0.0}, {"linear"}),
        ("dynamic-lrp", {}, {"conv_gamma", "linear_gamma"}),
        (lrp.composites.cp_lrp, {}, {"epsilon"}),
        (gammas, {}, {"gamma"}),
        (gammas(), {}, {"gamma"}),
        (lrp.composites.epsilon_alpha2_beta1(), {}, {"alpha"}),
    ],
)
def test_the_default_grid_is_read_from_where_the_options_lead(
    composite: Any, options: dict[str, float], tuned_options: set[str]
) -> None:
    assert set(variants(composite, options).default_grid()) == tuned_options


def test_alpha_takes_beta_along() -> None:
    made = variants(lrp.composites.epsilon_alpha2_beta1()).make({"alpha": 1.5})

    assert made.entries[0].options == {"alpha": 1.5, "beta": 0.5, "epsilon": 1e-6}


def test_the_options_of_a_table_can_be_set_for_one_kind_alone() -> None:
    choices = variants(lrp.composites.attnlrp_gamma(conv=0.25, linear=0.05))

    both, one = choices.make({"gamma": 1.0}), choices.make({"linear.gamma": 1.0})

    assert [entry.options["gamma"] for entry in both.entries[:2]] == [1.0, 1.0]
    assert [entry.options["gamma"] for entry in one.entries[:2]] == [0.25, 1.0]
    assert (choices.defaults["gamma"], choices.defaults["linear.gamma"]) == (None, 0.05)
