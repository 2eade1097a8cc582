"""Under a budget a loop keeps its states at checkpoints alone; relevance is what it is with all of them at hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.export import Dim

import lrp_compiler as lrp
from lrp_compiler.passes.graph import scans
from lrp_compiler.runtime import OnnxExplainer

EXACT = 1e-12
"""Of float64's 2⁻⁵³ over some twenty steps."""
BOUNDED = {"x": {0: Dim("batch"), 1: Dim("time", max=16)}}
"""Blocks of 4 steps."""
UNBOUNDED = {"x": {0: Dim("batch"), 1: Dim("time")}}
"""Blocks of 32."""


class Layer(nn.Module):
    """A recurrent layer of torch's: all steps' outputs and the last state are read."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = getattr(nn, kind)(4, 6, batch_first=True, **options)
        self.head = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        y, states = self.layer(x)
        last = states[0] if isinstance(states, tuple) else states
        return self.head(torch.cat([y.mean(1), last[-1]], -1))


class ByHand(nn.Module):
    """Two states, one of which no step's input reaches; Python writes the steps out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.given, self.kept, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, weight = x.new_zeros(x.shape[0], 6), x.new_ones(x.shape[0], 1)
        for time in range(x.shape[1]):
            weight = 0.9 * weight
            h = torch.tanh(self.given(x[:, time]) + self.kept(h)) + weight * h
        return torch.as_tensor(self.head(h))


NETWORKS = {
    "gru": lambda: Layer("GRU", num_layers=2),
    "lstm": lambda: Layer("LSTM", bidirectional=True),
    "projected": lambda: Layer("LSTM", proj_size=3),
    "by hand": ByHand,
}


def network(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    model = NETWORKS[name]()
    model(torch.zeros(1, 2, 4))
    return model.to(dtype).eval()


def sample(batch: int, time: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, time, 4, dtype=dtype, generator=torch.Generator().manual_seed(batch * time))


def compiled(model: nn.Module, shapes: Any = BOUNDED, time: int = 6, **options: Any) -> lrp.Explainer:
    x = sample(2, time, next(model.parameters()).dtype)
    options = {"composite": "attnlrp", "memory_budget": 0.5, "dynamic_shapes": shapes, **options}
    return lrp.compile(model, (x,), **options)


def relevance(explainer: Any, x: Tensor, name: str = "x") -> Tensor:
    return torch.as_tensor(explainer(x).relevance[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_that_of_the_steps_written_out(name: str) -> None:
    """At a length that fills no block, several, and the last one in part."""
    model = network(name)
    explainer = compiled(model)
    assert explainer.plan.loops_again

    for batch, time in ((1, 1), (3, 4), (2, 13), (1, 16)):
        x = sample(batch, time)
        plain = lrp.compile(model, (x,), composite="attnlrp")  # no length is open: no loop
        torch.testing.assert_close(torch.as_tensor(explainer(x).output), model(x), rtol=0, atol=EXACT)
        torch.testing.assert_close(relevance(explainer, x), relevance(plain, x), rtol=0, atol=EXACT)


def test_a_product_over_the_steps_by_hand() -> None:
    """h_t = h_{t−1}·x_t, half to each factor: x_t holds 2^{t−T−1} of the last state, and its rule reads h_{t−1}."""

    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.ones_like(x[:, 0])
            for time in range(x.shape[1]):
                h = h * x[:, time]
            return h

    x = sample(2, 11)
    explainer = lrp.compile(
        Product().eval(),
        (x[:, :6],),
        composite="attnlrp",
        target=1,
        seed="value",
        memory_budget=0.5,
        dynamic_shapes=BOUNDED,
    )

    expected = torch.zeros_like(x)
    expected[..., 1] = x[..., 1].prod(1, keepdim=True) * 0.5 ** torch.arange(11, 0, -1, dtype=torch.float64)
    assert explainer.plan.loops_again == 1
    torch.testing.assert_close(relevance(explainer, x), expected, rtol=1e-12, atol=0)


OPTIONS: Sequence[dict[str, Any]] = (
    {"composite": "epsilon"},
    {"target": [0, (1, 2)]},
    {"wrt": ["x", "head.weight"]},
    {"observe": ["layer"]},
    {"optimise": False},
)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
def test_whatever_is_asked_for_is_as_without_a_budget(options: dict[str, Any]) -> None:
    model, x = network("gru"), sample(3, 13)

    found, whole = compiled(model, **options), compiled(model, memory_budget=1.0, **options)

    assert (found.plan.loops_again, whole.plan.loops_again) == (2, 0)
    given, expected = found(x).relevance, whole(x).relevance
    assert given.keys() == expected.keys()
    for name in given:
        torch.testing.assert_close(given[name], expected[name], rtol=0, atol=EXACT)


@pytest.mark.slow
def test_half_precision_is_widened_as_before() -> None:
    model, x = network("gru", torch.bfloat16), sample(3, 13, torch.bfloat16)

    assert torch.equal(relevance(compiled(model), x), relevance(compiled(model, memory_budget=1.0), x))


@pytest.mark.slow
def test_files_explain_any_length(tmp_path: Path) -> None:
    model = network("lstm", torch.float32)
    explainer = compiled(model, UNBOUNDED)
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    explainer.save(tmp_path / "m.lrp.pt2")
    loaded, deployed = lrp.load(tmp_path / "m.lrp.pt2"), OnnxExplainer(tmp_path / "m.lrp.onnx")

    assert loaded.plan == explainer.plan
    assert loaded.show() == explainer.show()
    for name in ("m.lrp.pt2", "m.lrp.onnx"):
        assert lrp.verify(tmp_path / name).passed
    for batch, time in ((1, 1), (2, 32), (3, 33), (1, 100)):
        x = sample(batch, time, torch.float32)
        expected = relevance(compiled(model, UNBOUNDED, memory_budget=1.0), x)
        assert torch.equal(relevance(loaded, x), expected)
        # √100 roundings of 6e-8, and then some.
        assert np.abs(relevance(deployed, x.numpy()) - expected).max() <= 2e-6 * float(expected.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_program_that_torch_traces_again_becomes_a_file_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fails(*_: object) -> None:
        raise NotImplementedError

    model = network(name, torch.float32)
    explainer = compiled(model, UNBOUNDED)
    monkeypatch.setattr("lrp_compiler.export.onnx.decomposed", fails)
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    deployed = OnnxExplainer(tmp_path / "m.lrp.onnx")

    for batch, time in ((1, 1), (3, 33), (2, 64)):
        x = sample(batch, time, torch.float32)
        expected = relevance(explainer, x)
        assert np.abs(relevance(deployed, x.numpy()) - expected).max() <= 2e-6 * float(expected.abs().max())


def test_of_the_states_those_in_front_of_each_block_are_kept() -> None:
    plan = compiled(network("by hand"), UNBOUNDED).plan

    kept = {promise.value: promise.nbytes for promise in plan.of("kept") if "checkpoints" in promise.value}
    # Of 1,024 steps 32, for two rows in float64: six numbers, and one.
    assert sorted(kept.values()) == [32 * 2 * 1 * 8, 32 * 2 * 6 * 8]
    assert plan.steps == 1024
    assert "1 loop goes through its steps again (sizes are those of 1,024 steps)" in plan.summary()
    whole = compiled(network("by hand"), UNBOUNDED, memory_budget=1.0).plan
    # Without: of each step both states and what is made of them.
    assert plan.promised_bytes >= 1024 * 2 * (1 + 6) * 8
    assert whole.steps == 0
    assert plan.held_bytes <= 0.5 * plan.promised_bytes
    assert plan.reached


@pytest.mark.slow
@pytest.mark.parametrize(("most", "steps", "block"), [(300, 6, 18), (16, 16, 4)])
def test_blocks_are_the_root_of_the_most_steps_there_may_be(most: int, steps: int, block: int) -> None:
    """⌈√most⌉, also where the example is as long."""
    explainer = compiled(network("by hand"), {"x": {0: Dim("batch"), 1: Dim("time", max=most)}}, steps)

    (forward, back) = scans(explainer.module)
    assert explainer.plan.steps == most
    for node in (forward, back):
        for loop in scans(node.target.body):
            assert loop.args[loop.target.states].meta["val"].shape[0] == block


@pytest.mark.slow
def test_values_that_are_asked_for_are_kept_of_all_steps() -> None:
    model, x = network("by hand"), sample(3, 13)

    found, whole = (compiled(model, observe=["scan_tanh"], memory_budget=budget) for budget in (0.5, 1.0))

    assert found.plan.loops_again == 1
    for name, expected in whole(x).relevance.items():
        torch.testing.assert_close(found(x).relevance[name], expected, rtol=0, atol=EXACT)


def test_a_loop_of_few_steps_is_let_be(tmp_path: Path) -> None:
    class Few(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return scan(lambda h, x: (h * x, x.clone()), torch.ones_like(x[:, 0]), x.transpose(0, 1))[0]

    explainer = lrp.compile(
        Few().eval(), (sample(2, 6),), dynamic_shapes={"x": {0: Dim("batch")}}, memory_budget=0.5, dump=tmp_path
    )

    (said,) = tmp_path.glob("*checkpoint_loops*")
    assert "it has 6 steps" in said.read_text()
    assert explainer.plan.loops_again == 0


@pytest.mark.slow
def test_without_a_budget_or_a_loop_nothing_changes(tmp_path: Path) -> None:
    compiled(network("by hand"), memory_budget=1.0, dump=tmp_path / "whole")
    dense = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    lrp.compile(dense, (torch.ones(2, 4),), memory_budget=0.5, dump=tmp_path / "dense")

    for folder in ("whole", "dense"):
        assert not [*(tmp_path / folder).glob("*checkpoint_loops*")]
