"""Relevance by layers and by heads."""

import numpy as np
import pytest
import torch
from support.explanations import made

from lrp_compiler.base.errors import InputError


def test_layers_are_bars_of_their_sums_beside_the_logit() -> None:
    values = np.random.default_rng(0).normal(size=(2, 2, 7))
    inside = {"block.0": values[0], "block.1": values[1]}
    explanation = made({"x": np.ones((2, 5)), **inside}, {"x": np.ones((2, 5))})
    for figure in (explanation.layers(row=1), explanation.layers(inside, row=1)):
        (axis,) = figure.axes
        assert [bar.get_width() for bar in axis.patches] == pytest.approx(list(values[:, 1].sum(-1)))
        assert [label.get_text() for label in axis.get_yticklabels()] == ["block.0", "block.1"]
        assert "class 0: logit 7, Σ relevance 5" in figure.get_suptitle()
        assert any(line.get_xdata()[0] == 7.0 for line in axis.lines)
    apart = explanation.layers(row=1, parts=True).axes[0].patches
    assert [bar.get_width() for bar in apart[:2]] == pytest.approx(
        [values[0, 1].clip(min=0).sum(), values[0, 1].clip(max=0).sum()]
    )


def test_heads_are_a_map_of_layers_and_heads() -> None:
    values = np.random.default_rng(0).normal(size=(2, 2, 3, 5, 4))  # layers, batch, heads, sequence, size
    inside = {"0": values[0], "1": torch.from_numpy(values[1])}
    explanation = made({"x": np.ones((2, 5))})
    expected = values[:, 1].sum((2, 3))
    image = explanation.heads(inside, row=1).axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), expected)
    assert image.get_clim() == (-np.abs(expected).max(), np.abs(expected).max())
    joined = {name: np.asarray(array).swapaxes(1, 2).reshape(2, 5, 12) for name, array in inside.items()}
    image = explanation.heads(joined, row=1, axis=-1, count=3).axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), expected)


def test_layers_that_do_not_fit_are_refused() -> None:
    explanation = made({"x": np.ones((2, 5))})
    with pytest.raises(InputError, match="compile with wrt=, naming modules"):
        explanation.layers()
    with pytest.raises(InputError, match="the batch must be in front"):
        explanation.layers({"a": np.ones(1)}, row=1)
    with pytest.raises(InputError, match="no 4 heads in axis -1"):
        explanation.heads({"a": np.ones((2, 5, 6))}, axis=-1, count=4)
    with pytest.raises(InputError, match="same number of heads"):
        explanation.heads({"a": np.ones((2, 3)), "b": np.ones((2, 4))})
    with pytest.raises(InputError, match="Target 1 cannot be drawn"):
        explanation.layers({"a": np.ones((2, 3))}, target=1)
