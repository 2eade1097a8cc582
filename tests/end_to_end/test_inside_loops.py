"""What happens inside loops is seen: relevance of the values of the steps, and their books."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.export import Dim

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError, LrpError
from lrp_compiler.runtime import OnnxExplainer

OPEN = {"x": {0: Dim("batch"), 1: Dim("time")}}
EXACT = 1e-12
"""Of float64's 2⁻⁵³ over some twenty steps."""


class Net(nn.Module):
    """Written as a loop, or out; a state is handed on as it is, one starts from the input, one is made in a loop."""

    def __init__(self, written_out: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.given, self.kept, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.written_out = written_out

    def step(self, weights: Tensor, states: Any, x: Tensor) -> Any:
        h, before = states
        h = torch.tanh(self.given(x) + self.kept(h) + 0.3 * before)
        h = self.over(lambda z, weight: (torch.relu(z @ weight) + 0.5 * z, z * 1.0), h, weights)[0]
        return (h, states[0] * 1.0), h * 2.0

    def over(self, step: Any, states: Any, given: Tensor) -> Any:
        if not self.written_out:
            return scan(step, states, given)
        results = []
        for now in given.unbind(0):
            states, result = step(states, now)
            results.append(result)
        return states, torch.stack(results)

    def first(self, x: Tensor) -> Tensor:
        return torch.zeros_like(self.given(x[:, 0]))

    def forward(self, x: Tensor) -> Tensor:
        start = self.first(x)
        weights = torch.stack([self.kept.weight.T, 0.5 * self.kept.weight])
        step = partial(self.step, weights)
        (h, before), every = self.over(step, (start, self.given(x.mean(1))), x.transpose(0, 1))
        return self.head(h + 0.5 * before + every.mean(0))


class Started(Net):
    """Every state starts from the input: a first state that is a constant is, written out, part of a layer."""

    def first(self, x: Tensor) -> Tensor:
        return 0.5 * self.given(x[:, 0])


def sample(batch: int, time: int) -> Tensor:
    return torch.randn(batch, time, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(batch * time))


def compiled(model: nn.Module, composite: str = "attnlrp", **options: Any) -> lrp.Explainer:
    return lrp.compile(model.double().eval(), (sample(2, 4),), composite=composite, dynamic_shapes=OPEN, **options)


COMPOSITES = ["attnlrp", "epsilon", "epsilon-plus", "epsilon-alpha2-beta1"]


@pytest.mark.slow
@pytest.mark.parametrize("composite", COMPOSITES)
def test_every_operation_of_the_steps_is_in_the_books(composite: str) -> None:
    explainer = compiled(Net(), composite)
    for batch, time in ((3, 5), (1, 1)):
        _check_books(explainer.audit(sample(batch, time)))


def _check_books(books: Any) -> None:
    inside = {entry.op for entry in books.entries if entry.node.startswith("scan_")}
    assert {"aten.tanh.default", "aten.relu.default"} <= inside
    assert all(abs(entry.error) <= EXACT for entry in books.entries)
    assert abs(books.error) <= EXACT
    assert sum(books.inputs.values()) != 0
    handed = dict.fromkeys((entry.node for entry in books.entries), 0.0)
    for (_, taker), share in books.flows.items():
        handed[taker] = handed.get(taker, 0.0) + share
    for entry in books.entries:
        seeded = books.seed if entry is books.entries[0] else 0.0
        assert entry.relevance_in == pytest.approx(handed[entry.node] + seeded, abs=EXACT)
    assert abs(books.by_module().error) <= EXACT


@pytest.mark.slow
def test_books_of_float32_loops_are_kept_in_float64() -> None:
    explainer = lrp.compile(Net().eval(), (sample(2, 4).float(),), composite="epsilon", dynamic_shapes=OPEN)

    books = explainer.audit(sample(3, 5).float())

    assert all(abs(entry.error) <= EXACT for entry in books.entries)


@pytest.mark.slow
def test_relevance_of_every_step_is_what_the_steps_written_out_get(tmp_path: Path) -> None:
    explainer = compiled(Net()).observe("scan_*")
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    explainer.save(tmp_path / "m.lrp.pt2")
    x = sample(3, 5)
    plain = lrp.compile(Net(written_out=True).double().eval(), (x,), composite="attnlrp", observe="*anh*")(x)
    expected = torch.stack([plain.relevance[f"tanh_{step}" if step else "tanh"] for step in range(5)])

    found = explainer(x).relevance

    torch.testing.assert_close(found["scan_tanh"], expected, rtol=0, atol=EXACT)
    loaded, deployed = lrp.load(tmp_path / "m.lrp.pt2")(x).relevance, OnnxExplainer(tmp_path / "m.lrp.onnx")(x.numpy())
    for name, relevance in found.items():
        assert torch.equal(loaded[name], relevance)
        # One rounding more or less, of numbers of which a quotient is taken.
        assert np.abs(deployed.relevance[name] - relevance.numpy()).max() <= 1e-8


@pytest.mark.slow
def test_values_of_a_loop_in_a_loop_have_both_lengths() -> None:
    explainer = compiled(Net())
    inner = next(entry.node for entry in explainer.audit(sample(3, 5)).entries if entry.op == "aten.relu.default")

    observed = explainer.observe(inner)(sample(3, 5)).relevance[inner]

    assert observed.shape == (5, 2, 3, 6)
    books = {entry.node: entry.relevance_in for entry in explainer.audit(sample(3, 5)).entries}
    assert float(observed.sum()) == pytest.approx(books[inner], abs=EXACT)


@pytest.mark.slow
def test_several_targets_and_unit_form() -> None:
    model, x = Net(), sample(3, 5)
    together = compiled(model, target=[0, 2]).observe("scan_tanh")(x).relevance["scan_tanh"]
    single = compiled(model, target=2, observe="scan_tanh")
    unit = compiled(model, target=2).observe("scan_tanh", form="unit")(x)

    assert together.shape == (2, 5, 3, 6)
    torch.testing.assert_close(together[1], single(x).relevance["scan_tanh"], rtol=0, atol=EXACT)
    assert unit.coefficients["scan_tanh"].shape == (5, 3, 6)


@pytest.mark.slow
@pytest.mark.parametrize("composite", ["attnlrp", "dynamic-lrp"])
def test_relevance_of_weights_is_summed_over_the_steps(composite: str) -> None:
    wanted = ["x", "given.weight", "given.bias", "kept.weight", "kept.bias", "head.weight"]
    explainer = compiled(Started(), composite, wrt=wanted)

    for batch, time in ((3, 5), (1, 1)):
        x = sample(batch, time)
        plain = Started(written_out=True).double().eval()
        expected = lrp.compile(plain, (x,), composite=composite, wrt=wanted)(x).relevance
        found = explainer(x).relevance
        for name in wanted:
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"masks": [lrp.Mask("scan_tanh")]}, {"seeds": [lrp.Put("scan_tanh")]}])
def test_nothing_is_masked_or_put_inside(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a value of a loop's steps, which can be observed alone"):
        compiled(Net(), **options)


@pytest.mark.heavy
def test_machine_code_of_an_open_length_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(LrpError, match=r"it has loops \(scan\): fix their length by dynamic_shapes"):
        compiled(Net()).to_aoti(tmp_path / "m.pt2")
