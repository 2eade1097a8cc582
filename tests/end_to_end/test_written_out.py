"""Recurrences that Python writes out step by step, their length open: explained as at one length, at every length."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import lrp_compiler as lrp
from lrp_compiler.base.errors import CaptureError
from lrp_compiler.runtime import OnnxExplainer

EXACT = 1e-13
"""Share of the largest value: float64's 2⁻⁵³ over some twenty steps."""
FLOAT32 = 2e-6
"""Largest difference of two runtimes in float32, of the largest relevance: some ten roundings of 6e-8 in a row."""


class Net(nn.Module):
    """What the recurrences below are made of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.given, self.kept, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def zeros(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], 6)

    def step(self, h: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.given(x) + self.kept(h)) + 0.5 * h


class LastState(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.zeros(x)
        for time in range(x.shape[1]):
            h = self.step(h, x[:, time])
        return self.head(h)


class AllStates(Net):
    def forward(self, x: Tensor) -> Tensor:
        h, states = self.zeros(x), []
        for time in range(x.shape[1]):
            h = self.step(h, x[:, time])
            states.append(h)
        return self.head(torch.stack(states, 1).amax(1) + h)


class CutToOneStep(Net):
    """`x[:, t : t + 1]`, and the steps' results are put in a row."""

    def forward(self, x: Tensor) -> Tensor:
        h, states = self.zeros(x).unsqueeze(1), []
        for time in range(x.shape[1]):
            h = self.step(h, x[:, time : time + 1])
            states += [h]
        return self.head(torch.cat(states, dim=1).mean(1))


class Unbound(Net):
    def forward(self, x: Tensor) -> Tensor:
        h, total = self.zeros(x), self.zeros(x)
        for now in x.unbind(1):
            h = self.step(h, now)
            total = total + torch.relu(h)
        return self.head(total)


class Backwards(Net):
    """From the end, and the results are turned round again."""

    def forward(self, x: Tensor) -> Tensor:
        h, states = self.zeros(x), []
        for time in range(x.shape[1] - 1, -1, -1):
            h = self.step(h, x[:, time])
            states.insert(0, h)
        return self.head((torch.stack(states) * x.transpose(0, 1).mean(-1, keepdim=True)).sum(0))


class TwoWays(Net):
    def forward(self, x: Tensor) -> Tensor:
        h, there = self.zeros(x), []
        for time in range(x.shape[1]):
            h = self.step(h, x[:, time])
            there.append(h)
        h, back = self.zeros(x), []
        for time in reversed(range(x.shape[1])):
            h = torch.sigmoid(self.step(h, x[:, time]))
            back.append(h)
        both = torch.stack(there, 1) * torch.stack(back[::-1], 1)
        return self.head(both.mean(1))


class WritesIntoPlace(Net):
    """As RWKV's reference code does."""

    def forward(self, x: Tensor) -> Tensor:
        h, out = self.zeros(x), x.new_zeros(x.shape[0], x.shape[1], 6)
        for time in range(x.shape[1]):
            h = self.step(h, x[:, time])
            out[:, time] = torch.relu(h)
        return self.head(out.mean(1) + out[:, -1])


class OneAfterTheOther(Net):
    """A second layer steps over what the first one's steps made."""

    def forward(self, x: Tensor) -> Tensor:
        h, states = self.zeros(x), []
        for time in range(x.shape[1]):
            h = self.step(h, x[:, time])
            states.append(h)
        g = self.zeros(x)
        for state in states:
            g = torch.tanh(state + self.kept(g))
        return self.head(g)


class LayersInEachStep(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = [self.zeros(x) for _ in range(3)]
        for time in range(x.shape[1]):
            below = self.given(x[:, time])
            for layer in range(3):
                h[layer] = below = torch.tanh(below + self.kept(h[layer]))
        return self.head(h[0] + h[2])


class LookBack(Net):
    """Of two steps."""

    def forward(self, x: Tensor) -> Tensor:
        earlier, h = self.zeros(x), self.zeros(x)
        for time in range(x.shape[1]):
            earlier, h = h, self.step(h, x[:, time]) - 0.3 * earlier
        return self.head(h)


class FirstStepApart(Net):
    """The state comes from the first element."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.given(x[:, 0])
        states = [h]
        for time in range(1, x.shape[1]):
            h = self.step(h, x[:, time])
            states.append(h)
        return self.head(torch.stack(states, 1).mean(1))


class Differences(Net):
    """A step reads two elements of the sequence."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.zeros(x)
        for time in range(1, x.shape[1]):
            h = self.step(h, x[:, time] - x[:, time - 1])
        return self.head(h)


class Cells(Net):
    """torch's own cells, and modules of its own inside the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.norm = nn.LSTMCell(4, 6), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        state = self.zeros(x), self.zeros(x)
        for time in range(x.size(1)):
            h, c = self.cell(x[:, time], state)
            state = self.norm(h), c
        return self.head(state[0])


class MatrixState(Net):
    """Attention without softmax, with a decay."""

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.given(x), torch.sigmoid(self.given(x))
        state, read = x.new_zeros(x.shape[0], 6, 4), []
        for time in range(x.shape[1]):
            state = state * torch.sigmoid(self.kept.weight[:, :1]) + k[:, time, :, None] * x[:, time, None]
            read.append((q[:, time].unsqueeze(-2) @ state).squeeze(-2))
        return torch.stack(read, 1)[:, -1, :3]


class MaskedSteps(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.zeros(x)
        live = x.abs().sum(-1, keepdim=True) < 4
        for time in range(x.shape[1]):
            h = torch.where(live[:, time], self.step(h, x[:, time]), h)
        return self.head(h)


class GatedFromOutside(Net):
    """What gates a step is worked out in front, for all of them."""

    def forward(self, x: Tensor) -> Tensor:
        kept, given, h = torch.sigmoid(self.given(x)), self.given(x.flip(2)), self.zeros(x)
        for time in range(x.shape[1]):
            h = kept[:, time] * h + (1 - kept[:, time]) * given[:, time]
        return self.head(h)


class MadeInForward(Net):
    """Constants that are no buffers: tensors that the forward itself makes, in steps, in front of them and behind."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor([0.5, -0.25, 1.0, 2.0])

    def forward(self, x: Tensor) -> Tensor:
        h, x = self.zeros(x), x * self.scale.to(x.dtype)
        for time in range(x.shape[1]):
            h = self.step(h, x[:, time]) * torch.tensor([1.0, 0.5, 0.25, 1.0, -1.0, 2.0], dtype=x.dtype)
        return self.head(h) * torch.tensor([1.0, 3.0, -2.0], dtype=x.dtype)


NETS = [
    MadeInForward,
    GatedFromOutside,
    LastState,
    AllStates,
    CutToOneStep,
    Unbound,
    Backwards,
    TwoWays,
    WritesIntoPlace,
    OneAfterTheOther,
    LayersInEachStep,
    LookBack,
    FirstStepApart,
    Differences,
    Cells,
    MatrixState,
    MaskedSteps,
]


def sample(batch: int, time: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, time, 4, dtype=dtype, generator=torch.Generator().manual_seed(batch * time))


def compiled(model: nn.Module, shapes: Any, time: int = 4, **options: Any) -> lrp.Explainer:
    dtype = next(model.parameters()).dtype
    return lrp.compile(
        model.eval(),
        (sample(2, time, dtype),),
        dynamic_shapes=shapes,
        **{"composite": "attnlrp", "target": 0, **options},
    )


LEAST = {FirstStepApart: 3, Differences: 3}
"""Steps from which on torch.export takes them; of two it says that a loop of one step would be another program."""
OTHER_AT_ONE = (LayersInEachStep, TwoWays)
"""Of a single step the states are constants: part of a layer, which has one stabiliser less, or of a function."""


def opened(net: type[Net]) -> dict[str, Any]:
    return {"x": {0: Dim("batch"), 1: Dim("time", min=LEAST.get(net, 1))}}


def assert_equal(found: Any, expected: Any, room: float = EXACT) -> None:
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=room * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.sampled(17)
@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp"])
@pytest.mark.parametrize("net", NETS)
def test_it_is_explained_as_at_that_length(net: type[Net], composite: str) -> None:
    model = net().double()
    explainer = compiled(model, opened(net), composite=composite)
    for batch, time in ((3, 11), (1, 3), (1, 2), (2, 1)):
        if time < LEAST.get(net, 1 + (net in OTHER_AT_ONE)):
            continue
        x = sample(batch, time)
        expected = lrp.compile(model, (x,), composite=composite, target=0)(x)
        found = explainer(x)
        assert_equal(found.output, model(x))
        assert_equal(found.relevance["x"], expected.relevance["x"])
    other = compiled(model, opened(net), time=8, composite=composite)
    assert len(other.module.graph.nodes) == len(explainer.module.graph.nodes)


@pytest.mark.slow
@pytest.mark.sampled(16)
@pytest.mark.parametrize("net", NETS)
def test_its_file_takes_other_lengths(net: type[Net], tmp_path: Path) -> None:
    model = net().float()
    explainer = compiled(model, opened(net), composite=lrp.composites.epsilon(0.1))  # no sum is near 0
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    with OnnxExplainer(tmp_path / "m.lrp.onnx") as file:
        for batch, time in ((3, 17), (1, 5)):
            x = sample(batch, time, torch.float32)
            expected = explainer(x).relevance["x"]
            assert_equal(file(x.numpy()).relevance["x"], expected, FLOAT32)


class GrowingWindow(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.zeros(x)
        for time in range(x.shape[1]):
            h = self.step(h, x[:, : time + 1].mean(1))
        return self.head(h)


class StepsAreNumbered(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.zeros(x)
        for time in range(x.shape[1]):
            h = self.step(h, x[:, time]) / (time + 1)
        return self.head(h)


class OtherWhenLong(Net):
    """A switch that neither of the two captured lengths reaches."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.zeros(x)
        for time in range(x.shape[1]):
            h = self.step(h, x[:, time])
        return self.head(h) * (2 if x.shape[1] > 12 else 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "said"),
    [
        (GrowingWindow, "takes a number that is another one at every step"),
        (StepsAreNumbered, "takes a number that is another one at every step"),
        (OtherWhenLong, "is not the model's at length"),
    ],
)
def test_what_is_no_loop_is_said_to_be_none_and_why(net: type[Net], said: str) -> None:
    with pytest.raises(CaptureError, match=rf"fixes time at 4.*{said}"):
        compiled(net(), opened(net))


@pytest.mark.parametrize("net", [GrowingWindow, StepsAreNumbered])
def test_at_one_length_it_stays_written_out(net: type[Net]) -> None:
    model = net().double()

    explanation = compiled(model, {"x": {0: Dim("batch")}})(sample(3, 4))

    assert_equal(explanation.output, model(sample(3, 4)))


@pytest.mark.slow
def test_rules_by_path_reach_the_modules_inside() -> None:
    attnlrp = lrp.composites.attnlrp()
    composite = lrp.Composite("mine", (lrp.Entry("linear", "zero", path="kept"), *attnlrp.entries))
    model = LastState().double()
    x = sample(2, 9)
    expected = compiled(model, None, time=9, composite=composite)(x).relevance["x"]

    found = compiled(model, opened(LastState), composite=composite)(x).relevance["x"]

    assert_equal(found, expected)
    plain = compiled(model, opened(LastState))(x).relevance["x"]
    assert (found - plain).abs().max() > 0.01 * plain.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize(("least", "most"), [(1, 5), (9, 30)])
def test_a_length_within_bounds(least: int, most: int) -> None:
    model = LastState().double()
    shapes = {"x": {0: Dim("batch"), 1: Dim("time", min=least, max=most)}}

    explainer = compiled(model, shapes, time=max(4, least))

    x = sample(2, most)
    assert_equal(explainer(x).relevance["x"], lrp.compile(model, (x,), composite="attnlrp", target=0)(x).relevance["x"])
