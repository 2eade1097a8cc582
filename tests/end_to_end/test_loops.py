"""Recurrences of any length: a loop's explanation is that of the same recurrence written out step by step.

Under composites whose ε is 0 the two are one function, to the rounding of float64. (With an ε the first step differs:
it starts from a constant, which written out is part of a layer, with one stabiliser instead of two.)
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.export import Dim

import lrp_compiler as lrp
from lrp_compiler.base.errors import CompositeError, InputError
from lrp_compiler.runtime import OnnxExplainer

OPEN = {"x": {0: Dim("batch"), 1: Dim("time")}}
EXACT = 1e-12
"""Of float64's 2⁻⁵³ over some twenty steps."""
FLOAT32 = 2e-6
"""Largest difference of two runtimes in float32, of the largest relevance: some ten roundings of 6e-8 in a row."""


def written_out(step: Callable[..., Any], state: Any, xs: Any) -> Any:
    """What `scan` does, in Python: torch.export unrolls it."""
    slices = (xs,) if isinstance(xs, Tensor) else xs
    results = []
    for time in range(slices[0].shape[0]):
        now = [one[time] for one in slices]
        state, result = step(state, now[0] if isinstance(xs, Tensor) else now)
        results.append(result)
    return state, torch.stack(results)


class Recurrence(nn.Module):
    """Has its loop written as torch's scan, or out."""

    loop: Any = staticmethod(scan)

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.width = width
        self.given, self.kept, self.head = nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, 3)

    def zeros(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], self.width)


class ElmanWithSkip(Recurrence):
    def forward(self, x: Tensor) -> Tensor:
        def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.tanh(self.given(x) + self.kept(h)) + 0.5 * h
            return h, h.clone()

        return self.head(self.loop(step, self.zeros(x), x.transpose(0, 1))[0])


class TwoStates(Recurrence):
    def forward(self, x: Tensor) -> Tensor:
        def step(state: Any, x: Tensor) -> Any:
            p, q = state
            p = torch.relu(self.given(x) + q)
            q = torch.tanh(self.kept(p) + 0.3 * q)
            return (p.clone(), q.clone()), p + q

        (p, q), results = self.loop(step, (self.zeros(x), self.zeros(x)), x.transpose(0, 1))
        return self.head(results.mean(0) + p * 0.5 + q)


class MatrixState(Recurrence):
    """Linear attention with a decay."""

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.given(x).transpose(0, 1), torch.sigmoid(self.given(x)).transpose(0, 1)

        def step(state: Tensor, now: Any) -> tuple[Tensor, Tensor]:
            k, v, q = now
            state = state * torch.sigmoid(self.kept.weight[:, :1]) + k.unsqueeze(-1) * v.unsqueeze(-2)
            return state, (q.unsqueeze(-2) @ state).squeeze(-2)

        start = x.new_zeros(x.shape[0], self.width, 4)
        read = self.loop(step, start, (k, x.transpose(0, 1), q))[1]
        return read[-1][:, :3]


class LookBack(Recurrence):
    """Of two steps, through a norm."""

    def forward(self, x: Tensor) -> Tensor:
        def step(state: Any, x: Tensor) -> Any:
            before, earlier = state
            now = nn.functional.layer_norm(nn.functional.gelu(self.given(x) + self.kept(before) - earlier), (6,))
            return (now, before.clone()), now.clone()

        return self.head(self.loop(step, (self.zeros(x), self.zeros(x)), x.transpose(0, 1))[1].amax(0))


class EndsEarly(Recurrence):
    """Whole steps are masked."""

    def forward(self, x: Tensor) -> Tensor:
        def step(h: Tensor, now: Any) -> tuple[Tensor, Tensor]:
            x, live = now
            h = torch.where(live, torch.tanh(self.given(x) + self.kept(h)), h)
            return h, h.clone()

        live = x.abs().sum(-1, keepdim=True) < 4
        return self.head(self.loop(step, self.zeros(x), (x.transpose(0, 1), live.transpose(0, 1)))[0])


class TimeAndDepth(Recurrence):
    """A loop in a loop."""

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.stack([self.kept.weight, self.kept.weight.T, 0.5 * self.kept.weight])

        def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            def layer(z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
                z = torch.tanh(z @ weight) + 0.1 * z
                return z, z[:, :1].clone()

            h = self.loop(layer, self.given(x) + h, weights)[0]
            return h.clone(), h.clone()

        return self.head(self.loop(step, self.zeros(x), x.transpose(0, 1))[0])


class FromContext(Recurrence):
    """The first state, and what stays the same in all steps, come from the input, too."""

    def forward(self, x: Tensor) -> Tensor:
        context = x.mean(1)

        def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.tanh(self.given(x * context) + self.kept(h))
            return h, h.clone()

        last, results = self.loop(step, self.given(context), x.transpose(0, 1))
        return self.head(last) + results.sum(0)[:, :3]


RECURRENCES: Sequence[type[Recurrence]] = (
    ElmanWithSkip,
    TwoStates,
    MatrixState,
    LookBack,
    EndsEarly,
    TimeAndDepth,
    FromContext,
)


class Layer(nn.Module):
    """One of torch's recurrent layers, and all that it returns is read."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = getattr(nn, kind)(4, 6, batch_first=True, **options)
        width = options.get("proj_size", 0) or 6
        self.head = nn.Linear(width * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        y, states = self.layer(x)
        last = torch.cat([*states], -1) if isinstance(states, tuple) else states
        return self.head(y.mean(1)) + last.sum(0)[:, :3]


LAYERS = [
    ("LSTM", {}),
    ("LSTM", {"num_layers": 2, "bidirectional": True}),
    ("LSTM", {"proj_size": 3, "bias": False}),
    ("GRU", {"num_layers": 2}),
    ("RNN", {"nonlinearity": "relu", "bidirectional": True}),
    ("RNN", {}),
]


def compiled(model: nn.Module, time: int = 4, shapes: Any = OPEN, **options: Any) -> lrp.Explainer:
    dtype = next(model.parameters()).dtype
    return lrp.compile(
        model.eval(), (sample(2, time, dtype),), **{"composite": "attnlrp", "dynamic_shapes": shapes, **options}
    )


def sample(batch: int, time: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, time, 4, dtype=dtype, generator=torch.Generator().manual_seed(batch * time))


def relevance(explainer: Any, x: Tensor, name: str = "x") -> Tensor:
    return torch.as_tensor(explainer(x).relevance[name])


def assert_like_written_out(model: nn.Module, plain: nn.Module, **options: Any) -> None:
    """At another length than the example's, and at a single step; and the books are closed."""
    explainer = compiled(model.double(), **options)
    for batch, time in ((3, 5), (1, 1)):
        x = sample(batch, time)
        expected = lrp.compile(plain.double().eval(), (x,), **{"composite": "attnlrp", **options})(x)
        found = explainer(x)
        with torch.no_grad():  # torch's scan in a scan has no gradient
            said = model(x)
        torch.testing.assert_close(torch.as_tensor(found.output), said, rtol=0, atol=EXACT)
        torch.testing.assert_close(found.relevance["x"], expected.relevance["x"], rtol=0, atol=EXACT)
    books = explainer.audit(sample(3, 5))
    absorbed = sum(sum(entry.absorbed.values()) for entry in books.entries)
    assert books.seed - absorbed - sum(books.inputs.values()) == pytest.approx(0, abs=1e-9 * books.explained)
    assert "scan" in {entry.op for entry in books.entries}
    assert all("built-in" not in entry.op for entry in books.entries)


def pair(kind: type[Recurrence]) -> tuple[Recurrence, Recurrence]:
    model, plain = kind(), kind()
    plain.loop = written_out
    return model, plain


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", RECURRENCES)
def test_a_loop_is_explained_as_its_steps_are(kind: type[Recurrence]) -> None:
    assert_like_written_out(*pair(kind))


@pytest.mark.slow
@pytest.mark.sampled(12)
@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_a_recurrent_layer_of_open_length_is_explained_as_one_of_known_length(kind: str, options: Any) -> None:
    assert_like_written_out(Layer(kind, **options), Layer(kind, **options))


# Where it is written out, a first state that is a constant is part of a layer: rules that look at signs see that.
@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("composite", "kind"),
    [
        ("dynamic-lrp", ElmanWithSkip),
        ("cp-lrp", ElmanWithSkip),
        *((composite, FromContext) for composite in ("attnlrp-gamma", "dynamic-lrp", "cp-lrp", "epsilon-plus")),
    ],
)
def test_under_other_composites(composite: str, kind: type[Recurrence]) -> None:
    assert_like_written_out(*pair(kind), composite=composite)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("composite", ["epsilon", "epsilon-plus", "epsilon-alpha2-beta1"])
def test_with_a_stabiliser_the_books_are_closed(composite: str) -> None:
    books = compiled(ElmanWithSkip().double(), composite=composite).audit(sample(3, 7))

    absorbed = sum(sum(entry.absorbed.values()) for entry in books.entries)
    assert books.seed - absorbed - sum(books.inputs.values()) == pytest.approx(0, abs=1e-9 * books.explained)


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", RECURRENCES)
def test_files_take_the_sentence_that_comes(kind: type[Recurrence], tmp_path: Path) -> None:
    explainer = compiled(kind().float())
    explainer.save(tmp_path / "m.lrp.pt2")
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    loaded, deployed = lrp.load(tmp_path / "m.lrp.pt2"), OnnxExplainer(tmp_path / "m.lrp.onnx")

    for batch, time in ((3, 17), (1, 1)):
        x = sample(batch, time, torch.float32)
        expected = relevance(explainer, x)
        assert torch.equal(relevance(loaded, x), expected)
        given = deployed(x.numpy()).relevance["x"]
        assert np.abs(given - expected.numpy()).max() <= FLOAT32 * float(expected.abs().max())
    x = sample(2, 3, torch.float32)
    assert loaded.audit(x) == explainer.audit(x)
    assert loaded.show() == explainer.show()


@pytest.mark.slow
def test_a_deployed_layer_takes_hundreds_of_steps(tmp_path: Path) -> None:
    explainer = compiled(Layer("LSTM", bidirectional=True).float())
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    x = sample(2, 300, torch.float32)

    given, expected = OnnxExplainer(tmp_path / "m.lrp.onnx")(x.numpy()), explainer(x)

    difference = np.abs(given.relevance["x"] - expected.relevance["x"].numpy()).max()
    # Rounding adds up over the steps, as a random walk does: √300 ≈ 17.
    assert difference <= 17 * FLOAT32 * float(expected.relevance["x"].abs().max())


@pytest.mark.slow
def test_several_targets_at_once() -> None:
    model, x = ElmanWithSkip().double(), sample(3, 5)

    together = relevance(compiled(model, target=[0, (1, 2)]), x)

    for place, target in enumerate((0, (1, 2))):
        torch.testing.assert_close(together[place], relevance(compiled(model, target=target), x), rtol=0, atol=EXACT)


@pytest.mark.slow
def test_options_change_nothing_in_relevance() -> None:
    model, x = TwoStates().double(), sample(3, 5)
    expected = relevance(compiled(model), x)

    for options in ({"optimise": False}, {"memory_budget": 0.25}, {"memory_budget": 1}):
        torch.testing.assert_close(relevance(compiled(model, **options), x), expected, rtol=0, atol=EXACT)


@pytest.mark.slow
def test_a_graph_does_not_grow_with_the_length() -> None:
    lengths = [len(compiled(Layer("GRU"), time).module.graph.nodes) for time in (3, 30)]

    assert lengths[0] == lengths[1]


def test_relevance_of_a_decaying_sum_by_hand() -> None:
    """h_t = a·h_{t−1} + x_t: of the last state, x_t holds a^{T−1−t}·x_t."""

    class Decay(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
                h = self.rate * h + x
                return h, h.clone()

            return scan(step, torch.zeros_like(x[:, 0]), x.transpose(0, 1))[0]

    x = sample(2, 4)

    found = relevance(compiled(Decay(), target=1), x)

    expected = torch.zeros_like(x)
    expected[..., 1] = x[..., 1] * 0.5 ** torch.arange(3, -1, -1, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)


@pytest.mark.slow
def test_an_onnx_file_with_a_recurrent_layer_keeps_its_length_open(tmp_path: Path) -> None:
    model = Layer("LSTM").eval()
    torch.onnx.export(
        model,
        (sample(2, 4, torch.float32),),
        tmp_path / "m.onnx",
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "batch", 1: "time"}},
        opset_version=17,
    )
    explainer = lrp.compile(tmp_path / "m.onnx", composite="attnlrp")

    x = sample(3, 9, torch.float32)
    expected = relevance(lrp.compile(model, (x,), composite="attnlrp"), x)
    torch.testing.assert_close(relevance(explainer, x), expected, rtol=0, atol=FLOAT32 * float(expected.abs().max()))


@pytest.mark.slow
def test_what_has_no_rule_yet_is_refused_in_a_sentence() -> None:
    with pytest.raises(CompositeError, match="no rule for differences"):
        compiled(ElmanWithSkip(), composite="reference")
    with pytest.raises(InputError, match="inside loops"):
        compiled(ElmanWithSkip(), observe=["given"])


class FirstState(Recurrence):
    """Starts from a constant that is not 0: a parameter, or ones."""

    learned = True

    def forward(self, x: Tensor) -> Tensor:
        def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.tanh(self.given(x) + self.kept(h))
            return h, h.clone()

        start = self.given.bias.expand(x.shape[0], 6).clone() if self.learned else x.new_ones(x.shape[0], 6)
        return self.head(self.loop(step, start, x.transpose(0, 1))[0])


@pytest.mark.slow
@pytest.mark.sampled(2)
@pytest.mark.parametrize("learned", [False, True])
def test_what_a_constant_first_state_gets_is_booked(learned: bool) -> None:
    model, plain = pair(FirstState)
    model.learned = plain.learned = learned

    assert_like_written_out(model, plain)
    books = compiled(model).audit(sample(3, 5))
    assert list(books.inputs) == ["x"]
    assert books.absorbed["constant"]


@pytest.mark.heavy
def test_several_targets_where_a_state_is_read_by_nothing() -> None:
    model, x = TwoStates().double(), sample(3, 5)

    together = relevance(compiled(model, target=[0, 2]), x)

    torch.testing.assert_close(together[1], relevance(compiled(model, target=2), x), rtol=0, atol=EXACT)


@pytest.mark.slow
def test_the_books_of_a_step_that_makes_constants_are_kept_in_float64() -> None:
    class Made(Recurrence):
        def forward(self, x: Tensor) -> Tensor:
            def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
                h = torch.tanh(self.given(x) + torch.ones(x.shape[0], 6) @ self.kept.weight + h)
                return h, h.clone()

            return self.head(self.loop(step, self.zeros(x), x.transpose(0, 1))[0])

    books = compiled(Made().float()).audit(sample(3, 5, torch.float32))

    absorbed = sum(sum(entry.absorbed.values()) for entry in books.entries)
    assert books.seed - absorbed - sum(books.inputs.values()) == pytest.approx(0, abs=1e-9 * books.explained)


@pytest.mark.slow
def test_an_answer_of_a_recurrent_language_model() -> None:
    """The logits that come out of a loop vary with the input, so an index of them carries none."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer, self.head = nn.Embedding(9, 4), nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 9)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(self.layer(self.table(input_ids))[0])

    model, ids = Model().double().eval(), torch.tensor([[1, 5, 2, 8, 3, 3, 7]])
    explainer = lrp.compile(
        model, (ids[:, :5],), composite="attnlrp", target=lrp.Answer(), dynamic_shapes={"input_ids": {1: Dim("time")}}
    )
    single = lrp.compile(model, (ids,), composite="attnlrp", target=lrp.Target("index", position=2))

    weights = torch.zeros(1, 7, dtype=torch.float64)
    weights[0, 3] = 1
    found = torch.as_tensor(explainer(ids, weights=weights).relevance["input_ids"])
    expected = torch.as_tensor(single(ids, target=ids[:, 3]).relevance["input_ids"])
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)


class Exchanged(Recurrence):
    """Each state becomes the other, and both are read with the same weight: their relevance is one tensor."""

    def forward(self, x: Tensor) -> Tensor:
        def step(state: Any, x: Tensor) -> Any:
            a, b = state
            h = torch.tanh(self.given(x) + self.kept(a))
            return (b.clone(), h + b), h.clone()

        (a, b), _ = self.loop(step, (self.zeros(x), self.zeros(x)), x.transpose(0, 1))
        return self.head(a + b)


@pytest.mark.slow
def test_states_whose_relevance_is_one_tensor() -> None:
    assert_like_written_out(*pair(Exchanged))
