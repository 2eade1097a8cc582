"""Relevance of sounds, over frequencies and over time."""

import numpy as np
import pytest
from support.explanations import LABELS, LOGITS, made
from support.figures import texts

from lrp_compiler.base.errors import InputError


def test_a_spectrogram_has_its_relevance_above_and_over_time_below() -> None:
    relevance = np.random.default_rng(0).normal(size=(2, 4, 30))
    sound = np.random.default_rng(1).normal(size=(2, 4, 30)).astype(np.float32)
    figure = made({"mel": relevance}, {"mel": sound}).spectrogram(rate=10, percentile=100, labels=LABELS)
    heard, drawn = figure.axes[0].images
    np.testing.assert_array_equal(heard.get_array(), sound[0])
    np.testing.assert_array_equal(drawn.get_array(), relevance[0])
    assert drawn.get_clim()[1] == np.abs(relevance[0]).max()
    assert list(drawn.get_extent()) == [0, 3.0, 0, 4]
    up, down = (shape.get_paths()[0].vertices for shape in figure.axes[1].collections)
    moments = relevance[0].sum(0)
    assert up[:, 1].max() == pytest.approx(moments.max())
    assert down[:, 1].min() == pytest.approx(moments.min())
    assert f"dog (class 1)\nlogit 5, Σ relevance {relevance[0].sum():.4g}"[:30] in texts(figure)


def test_what_is_cut_off_is_stated() -> None:
    relevance = np.ones((2, 4, 30))
    sound = relevance.astype(np.float32)
    figure = made({"mel": relevance}, {"mel": sound}).spectrogram(rate=10, seconds=2.0)
    assert figure.axes[0].images[1].get_array().shape == (4, 20)
    assert "behind what is shown: 40" in texts(figure)
    turned = made({"mel": relevance.swapaxes(1, 2)}, {"mel": sound.swapaxes(1, 2)}).spectrogram(time_axis=-2)
    assert turned.axes[0].images[1].get_array().shape == (4, 30)


def test_relevance_of_samples_is_summed_over_windows() -> None:
    rate = 1000
    time = np.arange(500) / rate
    tone = np.sin(2 * np.pi * 125 * time).astype(np.float32)[np.newaxis]
    relevance = np.zeros((1, 500))
    relevance[0, 200:210], relevance[0, 300] = 0.5, -2.0
    figure = made({"wave": relevance}, {"wave": tone}, LOGITS[:1]).spectrogram(rate=rate)
    (heard,) = figure.axes[0].images  # nothing on top: samples have no frequency
    assert heard.get_array().shape == (21, 50)
    assert heard.get_array()[:, 25].argmax() == 125 * 40 // rate
    up, down = (shape.get_paths()[0].vertices for shape in figure.axes[1].collections)
    assert up[up[:, 1].argmax()] == pytest.approx([0.205, 5.0])
    assert down[down[:, 1].argmin()] == pytest.approx([0.305, -2.0])


def test_what_is_no_sound_is_refused() -> None:
    with pytest.raises(InputError, match="needs relevance of sound"):
        made({"ids": np.ones((2, 5))}, {"ids": np.ones((2, 5), np.int64)}).spectrogram()
