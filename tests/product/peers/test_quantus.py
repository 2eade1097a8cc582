"""Quantus' interface: a function of model, inputs and targets as arrays, that its metrics call."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.peers import quantus as shim


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()


TARGETS = np.array([2, 0, 1])


def test_arrays_in_arrays_out() -> None:
    net, x = network(), np.random.default_rng(0).normal(size=(3, 2, 6, 6))

    found = lrp.quantus.explain(net, x, TARGETS, composite="epsilon")
    summed = lrp.quantus.explain(net, x, TARGETS, composite="epsilon", reduce_axes=(1,))

    given = torch.from_numpy(x).float()
    explainer = lrp.compile(net, (given,), composite="epsilon", target="index")
    np.testing.assert_array_equal(found, explainer(given, target=torch.from_numpy(TARGETS)).relevance["input"].numpy())
    np.testing.assert_array_equal(summed, found.sum(1, keepdims=True))
    with pytest.raises(InputError, match=r"an nn\.Module"):
        lrp.quantus.explain("net", x, TARGETS)


@pytest.mark.slow
def test_what_is_kept_goes_with_its_model() -> None:
    net = nn.Linear(3, 2).eval()
    lrp.quantus.explain(net, torch.randn(2, 3), [0, 1])
    gone = weakref.ref(net)
    assert net in shim._KEPT
    del net
    gc.collect()

    assert gone() is None


def test_its_metrics_take_it() -> None:
    """One whose value is known: relevance of a linear model, x ⊙ w, is what the logit loses where x becomes 0."""
    quantus = pytest.importorskip("quantus")
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2, bias=False)).eval()
    x = np.random.default_rng(0).normal(size=(2, 1, 6, 6)).astype(np.float32)
    options = {"abs": False, "normalise": False, "disable_warnings": True, "display_progressbar": False}

    metric = quantus.FaithfulnessCorrelation(
        nr_runs=20, subset_size=5, perturb_func_kwargs={"perturb_baseline": 0.0}, **options
    )
    scores = metric(
        net,
        x,
        np.array([0, 1]),
        explain_func=lrp.quantus.explain,
        explain_func_kwargs={"composite": lrp.composites.epsilon(1e-9)},
        device="cpu",
    )

    # A correlation of twenty sums in float32, each a difference of two outputs.
    np.testing.assert_allclose(scores, 1.0, atol=1e-3)
