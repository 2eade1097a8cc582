"""`torch.cond`: each outcome is explained as the model that always goes this way, which knows nothing of branches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

import lrp_compiler as lrp
from lrp_compiler.base.errors import CaptureError, InputError
from lrp_compiler.runtime import OnnxExplainer

ROWS = 3
TOLERANCES = {"epsilon": {"rtol": 1e-9, "atol": 1e-12}, "attnlrp": {"rtol": 1e-5, "atol": 1e-6}}
"""In front of the branch relevance of both ways meets: unlike forms in total form, divided by what 1e-6 stabilises."""


class Branches(nn.Module):
    """A layer, and behind it whatever `chooses` makes of it."""

    def __init__(self, chooses: Callable[["Branches", Tensor], Tensor]) -> None:
        super().__init__()
        self.hidden, self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)
        self.register_buffer("factor", torch.tensor([1.0, -2.0, 0.5, 3.0]))
        self.chooses = chooses

    def forward(self, x: Tensor) -> Tensor:
        return self.chooses(self, torch.tanh(self.hidden(x)))


def left(model: Any, h: Tensor) -> Tensor:
    y: Tensor = model.left(torch.relu(h) * model.factor) + torch.tensor([1.0, 2.0, 3.0])
    return y


def right(model: Any, h: Tensor) -> Tensor:
    y: Tensor = model.right(torch.sigmoid(h))
    return y


def by_sum(model: Any, h: Tensor) -> Tensor:
    y: Tensor = torch.cond(h.sum() > 0, lambda h: left(model, h), lambda h: right(model, h), (h,))
    return y


def nested(model: Any, h: Tensor) -> Tensor:
    """Left where the sum is positive and the first element is, right elsewhere."""

    def inner(h: Tensor) -> Tensor:
        y: Tensor = torch.cond(h[0, 0] > 0, lambda h: left(model, h), lambda h: right(model, h), (h,))
        return y

    y: Tensor = torch.cond(h.sum() > 0, inner, lambda h: right(model, h), (h,))
    return y


def of_one_element(model: Any, h: Tensor) -> Tensor:
    """The condition is `[1]`; the branches return two tensors."""

    def both(branch: Callable[[Any, Tensor], Tensor]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        return lambda h: (branch(model, h), h * 2)

    first, second = torch.cond(h.sum().reshape(1) > 0, both(left), both(right), (h,))
    y: Tensor = first + second[:, :3]
    return y


def logarithm(model: Any, h: Tensor) -> Tensor:
    """What is a number where the sum is positive alone."""
    return right(model, h * torch.log(h.sum()))


def guarded(model: Any, h: Tensor) -> Tensor:
    y: Tensor = torch.cond(h.sum() > 0, lambda h: logarithm(model, h), lambda h: left(model, h), (h,))
    return y


def hostile(model: Any, h: Tensor) -> Tensor:
    """Where the sum is positive, the other branch makes NaN of whatever it is given."""

    def wrong(h: Tensor) -> Tensor:
        return right(model, torch.log(-torch.relu(h) - 1e-9))

    y: Tensor = torch.cond(h.sum() > 0, lambda h: left(model, h), wrong, (h,))
    return y


WAYS: dict[str, tuple[Any, Any, Any]] = {
    "by the sum": (by_sum, left, right),
    "nested": (nested, left, right),
    "two results": (of_one_element, *(lambda own, h, way=way: way(own, h) + (h * 2)[:, :3] for way in (left, right))),
    "guarded": (guarded, logarithm, left),
}
"""Name → what branches, and what it comes to where the sum and the first element are positive, and where not."""


def model_of(chooses: Callable[[Any, Tensor], Tensor]) -> Branches:
    torch.manual_seed(3)
    model = Branches(chooses).double().eval()
    for module in (model.hidden, model.left, model.right):
        nn.init.normal_(module.weight)
    return model


def explained(model: nn.Module, x: Tensor, composite: str) -> lrp.Explainer:
    return lrp.compile(model, (x,), composite=composite, target=1, dynamic_shapes={"x": {0: torch.export.Dim("batch")}})


def inputs(model: Branches, positive: bool) -> Tensor:
    """Where the hidden layer's sum, and its first element, are positive or not."""
    for seed in range(100):
        x = torch.randn(ROWS, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        h = torch.tanh(model.hidden(x))
        if bool(h.sum() > 0) is positive and bool(h[0, 0] > 0) is positive:
            return x
    raise AssertionError


@pytest.mark.slow
@pytest.mark.sampled(12)
@pytest.mark.parametrize("composite", TOLERANCES)
@pytest.mark.parametrize("way", WAYS)
def test_each_way_is_explained_as_the_model_that_always_goes_it(way: str, composite: str) -> None:
    branching, *always = WAYS[way]
    model = model_of(branching)
    explainer = explained(model, torch.randn(2, 4, dtype=torch.float64), composite)

    for positive, straight in zip((True, False), map(model_of, always), strict=True):
        x = inputs(model, positive)
        found, expected = explainer(x), explained(straight, x, composite)(x)
        torch.testing.assert_close(found.output, model(x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.relevance["x"], expected.relevance["x"], **TOLERANCES[composite])
        assert abs(explainer.audit(x).error) <= 1e-12


@pytest.mark.slow
def test_what_the_other_branch_cannot_calculate_does_no_harm() -> None:
    model = model_of(hostile)
    x = inputs(model, True)
    found = explained(model, torch.randn(2, 4, dtype=torch.float64), "epsilon")(x)

    expected = explained(model_of(left), x, "epsilon")(x).relevance["x"]
    torch.testing.assert_close(found.relevance["x"], expected, **TOLERANCES["epsilon"])


@pytest.mark.slow
def test_files_branch_as_the_model_does(tmp_path: Path) -> None:
    model = model_of(nested).float()
    explainer = explained(model, torch.randn(2, 4), "epsilon")
    explainer.save(tmp_path / "m.lrp.pt2")
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    loaded = lrp.load(tmp_path / "m.lrp.pt2")

    with OnnxExplainer(tmp_path / "m.lrp.onnx") as portable:
        for positive in (True, False):
            x = inputs(model_of(nested), positive).float()
            expected = explainer(x).relevance["x"]
            assert torch.equal(loaded(x).relevance["x"], expected)
            torch.testing.assert_close(torch.from_numpy(portable(x.numpy()).relevance["x"]), expected)


class LoopsInBranches(nn.Module):
    """Where the sum is positive a recurrence, whose steps are a loop or written out; elsewhere a mean."""

    def __init__(self, written_out: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read, self.hold, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.written_out = written_out

    def recurrence(self, x: Tensor) -> Tensor:
        state, steps = x.new_zeros(x.shape[0], 6), x.transpose(0, 1)
        if not self.written_out:
            last, states = scan(self.step, state, steps)
            y: Tensor = last + states.mean(0)
            return y
        written = []
        for step in steps:
            state, _ = self.step(state, step)
            written.append(state)
        return state + torch.stack(written).mean(0)

    def step(self, state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.tanh(self.read(x) + self.hold(state))
        return state, state.clone()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.cond(x.sum() > 0, self.recurrence, lambda x: self.read(x).mean(1), (x,))
        return torch.as_tensor(self.head(y))


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1.0, 0.5])
def test_a_loop_inside_a_branch_is_as_its_steps_written_out(tmp_path: Path, budget: float) -> None:
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time", max=64)}
    looped, options = LoopsInBranches(False).double().eval(), {"composite": "attnlrp", "target": 1}
    example = torch.randn(2, 6, 4, dtype=torch.float64)
    explainer = lrp.compile(looped, (example,), dynamic_shapes=(sizes,), memory_budget=budget, **options)
    explainer.save(tmp_path / "m.lrp.pt2")
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    loaded, portable = lrp.load(tmp_path / "m.lrp.pt2"), OnnxExplainer(tmp_path / "m.lrp.onnx")

    for length in (2, 9):
        x = torch.randn(3, length, 4, dtype=torch.float64)
        straight = lrp.compile(LoopsInBranches(True).double().eval(), (x,), **options)
        for one in (x, -x):
            expected = straight(one)
            for run, given in ((explainer, one), (loaded, one), (portable, one.numpy())):
                found = run(given)
                torch.testing.assert_close(torch.as_tensor(found.output), expected.output, rtol=1e-12, atol=1e-12)
                torch.testing.assert_close(
                    torch.as_tensor(found.relevance["x"]), expected.relevance["x"], rtol=1e-12, atol=1e-12
                )


def test_a_branch_on_an_open_size_is_refused() -> None:
    model = model_of(lambda own, h: torch.cond(h.shape[0] > 4, lambda h: left(own, h), lambda h: right(own, h), (h,)))
    with pytest.raises(CaptureError, match="branches over a size that is open"):
        explained(model, torch.randn(2, 4, dtype=torch.float64), "epsilon")


def test_a_loop_is_refused_by_its_name() -> None:
    from torch._higher_order_ops import while_loop

    def looped(own: Any, h: Tensor) -> Tensor:
        def body(n: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            return n + 1, torch.tanh(h)

        _, last = while_loop(lambda n, h: n < 3, body, (torch.zeros((), dtype=torch.int64), h))
        y: Tensor = own.left(last)
        return y

    with pytest.raises(CaptureError, match=r"for \(while_loop at while_loop\): write a loop as torch.s scan"):
        lrp.compile(model_of(looped), (torch.randn(2, 4, dtype=torch.float64),), target=1)


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("option", ["observe", "masks", "seeds"])
def test_modules_inside_a_branch_go_by_their_nodes(option: str) -> None:
    model, x = model_of(by_sum), torch.randn(2, 4, dtype=torch.float64)
    with pytest.raises(InputError, match=r"names no module and no node .*inside the branches of torch.cond, none does"):
        lrp.compile(model, (x,), composite="epsilon", **{option: "left"})
    with pytest.raises(InputError, match=r"near it: [^.]*\.$"):
        lrp.compile(model, (x,), composite="epsilon", **{option: "nowhere"})
    lrp.compile(model, (x,), composite="epsilon", **{option: "linear_2"})
