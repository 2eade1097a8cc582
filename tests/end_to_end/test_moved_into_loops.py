"""Products in front of a loop, which are broadcast, are worked out in its steps: explained as if written out.

Each recurrence is compared with the same one of known length, whose steps Python writes out, so that there is no loop
that anything could move into; and, where a composite has an ε, with the loop that is left as it is.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.export import Dim

import lrp_compiler as lrp
from lrp_compiler.passes.graph import scan_of, scans
from lrp_compiler.runtime import OnnxExplainer

EXACT = 1e-12
"""Of float64's 2⁻⁵³ over some twenty steps, of values up to about 10."""
ROUNDING = 1e-6
"""The least that float32 is taken to be off by itself, of the largest relevance: some ten roundings in a row."""
STATES = 5


def written_out(step: Callable[..., Any], state: Tensor, xs: tuple[Tensor, ...]) -> Any:
    results = []
    for time in range(xs[0].shape[0]):
        state, result = step(state, [one[time] for one in xs])
        results.append(result)
    return state, torch.stack(results)


def gated(state: Tensor, now: Any) -> tuple[Tensor, Tensor]:
    """What all of the recurrences below do at each step: `h = a ⊙ h + b`, read by c."""
    keep, add, read = now
    state = keep * state + add
    return state, (state * read).sum(-1)


class Recurrence(nn.Module):
    """`keep`, `add` and `read` are worked out for all steps; how, is what they differ in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.loop: Any = scan
        self.given, self.step, self.entry = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, STATES)
        self.readout, self.head = nn.Linear(4, STATES), nn.Linear(6, 3)
        self.decay = nn.Parameter(torch.rand(6, STATES))

    def forward(self, x: Tensor) -> Tensor:
        parts = tuple(part.contiguous() for part in self.parts(x))  # of views torch.export guards the strides
        # A first state that is a constant would be part of a layer where the steps are written out.
        start = self.given(x.mean(1)).unsqueeze(-1).expand(x.shape[0], 6, STATES).contiguous()
        last, read = self.loop(gated, start, parts)
        return self.head(read.mean(0) + last.mean(-1))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each `[time, batch, channels or 1, states]`."""
        raise NotImplementedError


class SelectiveScan(Recurrence):
    """As transformers writes Mamba's: time is the third dim until the loop."""

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dt = nn.functional.softplus(self.step(x)).transpose(1, 2)
        decay = torch.exp(-self.decay[None, :, None, :] * dt[:, :, :, None])
        add = dt[:, :, :, None] * self.entry(x)[:, None, :, :] * self.given(x).transpose(1, 2)[:, :, :, None]
        return decay.permute(2, 0, 1, 3), add.permute(2, 0, 1, 3), self.readout(x).transpose(0, 1)[:, :, None]


class OuterProduct(Recurrence):
    """As gated linear attention does, heads split off by a reshape and put together again."""

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        time, batch = x.shape[1], x.shape[0]
        key = self.given(x).reshape(batch, time, 2, 3).sigmoid()
        value = self.entry(x).unsqueeze(2).expand(batch, time, 2, STATES)
        add = (key.unsqueeze(-1) * value.unsqueeze(-2)).reshape(batch, time, 6, STATES).transpose(0, 1)
        keep = torch.sigmoid(self.step(x)).transpose(0, 1).unsqueeze(-1).expand(time, batch, 6, STATES)
        return keep, add, self.readout(x).transpose(0, 1).unsqueeze(2)


class OfContext(Recurrence):
    """What is the same in all steps carries relevance, too."""

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        context = torch.tanh(self.given(x.mean(1)))[:, None, :, None]
        keep = torch.sigmoid(context * self.entry(x)[:, :, None])
        add = context * self.step(x)[..., None] * self.decay
        return keep.transpose(0, 1), add.transpose(0, 1), self.readout(x).transpose(0, 1).unsqueeze(2)


class Normalised(Recurrence):
    """The product behind a norm moves into the loop, its statistic does not; and a function in steps of its own."""

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        given = self.given(x)
        normed = given * torch.rsqrt(given.pow(2).mean(-1, keepdim=True) + 1e-6)
        steps = self.step(x).unsqueeze(-1) * self.decay
        add = 0.5 * steps * (1 + torch.erf(steps / 2**0.5)) + normed.unsqueeze(-1) * given.unsqueeze(-1)
        keep = torch.sigmoid(normed.unsqueeze(-1) * self.decay)
        return keep.transpose(0, 1), add.transpose(0, 1), self.readout(x).transpose(0, 1).unsqueeze(2)


class MaskedBackwards(Recurrence):
    """From the last step to the first, some of which add nothing."""

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        live = (x.abs().sum(-1) < 4)[..., None, None]
        add = torch.where(live, self.given(x).sigmoid().unsqueeze(-1) * self.entry(x).unsqueeze(2), 0.0)
        keep = torch.exp(-nn.functional.softplus(self.step(x))[..., None] * self.decay).masked_fill(~live, 1.0)
        return keep.transpose(0, 1).flip(0), add.transpose(0, 1).flip(0), self.readout(x).transpose(0, 1).unsqueeze(2)


KINDS = (SelectiveScan, OuterProduct, OfContext, Normalised, MaskedBackwards)


def sample(batch: int, time: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, time, 4, dtype=dtype, generator=torch.Generator().manual_seed(batch * time))


def compiled(model: nn.Module, time: int = 4, **options: Any) -> lrp.Explainer:
    dtype = next(model.parameters()).dtype
    shapes = {"x": {0: Dim("batch"), 1: Dim("time")}}
    given = {"composite": "attnlrp", "dynamic_shapes": shapes, **options}
    return lrp.compile(model.eval(), (sample(2, time, dtype),), **given)


def relevance(explainer: Any, x: Any, name: str = "x") -> Tensor:
    return torch.as_tensor(explainer(x).relevance[name])


def read_at_a_step(explainer: lrp.Explainer) -> int:
    """Elements that the forward loop reads at each step, of one row."""
    forward = explainer.artefact.forward
    (loop,) = scans(forward)
    body = scan_of(loop)
    places = body.parts(body.placeholders)[1]
    return sum(
        int(np.prod([size for size in place.meta["val"].shape[1:] if isinstance(size, int)])) for place in places
    )


@pytest.mark.slow
@pytest.mark.sampled(5)
@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp", "dynamic-lrp"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_explained_as_its_steps_are(kind: type[Recurrence], composite: str) -> None:
    model, plain = kind().double(), kind().double()
    plain.loop = written_out
    explainer = compiled(model, composite=composite)

    for batch, time in ((3, 5), (1, 1)):
        x = sample(batch, time)
        expected = lrp.compile(plain.eval(), (x,), composite=composite)(x)
        found = explainer(x)
        torch.testing.assert_close(torch.as_tensor(found.output), model(x), rtol=0, atol=EXACT)
        torch.testing.assert_close(found.relevance["x"], expected.relevance["x"], rtol=0, atol=EXACT)
    books = explainer.audit(sample(3, 5))
    absorbed = sum(sum(entry.absorbed.values()) for entry in books.entries)
    assert books.seed - absorbed - sum(books.inputs.values()) == pytest.approx(0, abs=1e-9 * books.explained)


@pytest.mark.slow
@pytest.mark.sampled(5)
@pytest.mark.parametrize("composite", ["epsilon", "epsilon-plus", "attnlrp-gamma"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_explained_as_where_nothing_moves(kind: type[Recurrence], composite: str) -> None:
    model, x = kind().double(), sample(3, 6)

    found = compiled(model, composite=composite)
    plain = compiled(model, composite=composite, optimise=False)

    assert read_at_a_step(found) < read_at_a_step(plain)
    torch.testing.assert_close(relevance(found, x), relevance(plain, x), rtol=1e-9, atol=EXACT)


@pytest.mark.slow
@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", KINDS)
def test_in_a_file(kind: type[Recurrence], tmp_path: Path) -> None:
    model = kind()
    exact, explainer = compiled(copy.deepcopy(model).double()), compiled(model.float())
    explainer.save(tmp_path / "m.lrp.pt2")
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    loaded, deployed = lrp.load(tmp_path / "m.lrp.pt2"), OnnxExplainer(tmp_path / "m.lrp.onnx")

    for batch, time in ((3, 17), (1, 1)):
        x = sample(batch, time, torch.float32)
        expected = relevance(explainer, x)
        assert torch.equal(relevance(loaded, x), expected)
        given = torch.from_numpy(deployed(x.numpy()).relevance["x"])
        truth = relevance(exact, x.double())
        own = max(float((expected - truth).abs().max()), ROUNDING * float(truth.abs().max()))
        assert float((given - truth).abs().max()) <= 3 * own
    x = sample(2, 3, torch.float32)
    assert loaded.audit(x) == explainer.audit(x)


@pytest.mark.slow
def test_relevance_of_weights_that_a_step_reads() -> None:
    model, plain, x = SelectiveScan().double(), SelectiveScan().double(), sample(3, 5)
    plain.loop = written_out
    names = ["decay", "entry.weight", "x"]

    found = compiled(model, wrt=names)(x).relevance
    expected = lrp.compile(plain.eval(), (x,), composite="attnlrp", wrt=names)(x).relevance

    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=EXACT)


@pytest.mark.slow
def test_several_targets() -> None:
    model, x = OfContext().double(), sample(3, 5)

    together = relevance(compiled(model, target=[0, (1, 2)]), x)

    for place, target in enumerate((0, (1, 2))):
        torch.testing.assert_close(together[place], relevance(compiled(model, target=target), x), rtol=0, atol=EXACT)


@pytest.mark.slow
@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision(dtype: torch.dtype) -> None:
    model, x = SelectiveScan().to(dtype), sample(3, 6, dtype)

    found, plain = relevance(compiled(model), x), relevance(compiled(model, optimise=False), x)

    # A few roundings of the two, in sums of another order.
    torch.testing.assert_close(found, plain, rtol=0, atol=4 * torch.finfo(dtype).eps * float(plain.abs().max()))


@pytest.mark.slow
def test_what_is_asked_for_stays_in_front() -> None:
    explainer = compiled(SelectiveScan().double(), observe=["exp"])
    x = sample(3, 6)

    shares = explainer(x).relevance["exp"]
    assert shares.shape == (3, 6, 6, STATES)
    assert read_at_a_step(explainer) > read_at_a_step(compiled(SelectiveScan().double()))


@pytest.mark.slow
def test_what_has_moved_can_be_observed_step_by_step() -> None:
    model, x = SelectiveScan().double(), sample(3, 6)
    explainer = compiled(model)
    before = compiled(model, observe=["exp"])(x).relevance["exp"]

    (name,) = (entry.node for entry in explainer.audit(x).entries if entry.op == "aten.exp.default")
    inside = explainer.observe(name)(x).relevance[name]

    torch.testing.assert_close(inside, before.permute(2, 0, 1, 3), rtol=0, atol=EXACT)
