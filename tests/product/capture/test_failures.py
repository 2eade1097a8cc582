"""Why torch.export did not take a model: where, and what to do."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

import lrp_compiler as lrp
from lrp_compiler.base.errors import CaptureError
from lrp_compiler.capture.shape_hints import shape_hint

pytestmark = pytest.mark.sampled(4)

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.conv, self.out, self.function = nn.Linear(4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


# ---- Control flow ----


def branching(model: Model, x: Tensor) -> Tensor:
    if x.sum() > 0:
        x = x + 1
    if x.mean() > 2:
        x = x * 2
    return model.linear(x)


def test_every_branch_over_values_is_named() -> None:
    """torch.export stops at the first; its draft goes on."""
    with pytest.raises(CaptureError) as raised:
        lrp.compile(Model(branching).eval(), (X,))
    places = re.findall(r"test_failures\.py:(\d+)", str(raised.value))
    first = branching.__code__.co_firstlineno
    assert [int(place) - first for place in places] == [1, 3]
    assert "torch.where" in str(raised.value)


def test_what_dynamo_alone_can_trace_is_traced_by_it() -> None:
    def through_numpy(model: Model, x: Tensor) -> Tensor:
        return model.linear(torch.from_numpy(x.numpy() * 2))

    model = Model(through_numpy).eval()
    with pytest.raises(RuntimeError), torch.no_grad():
        torch.export.export(model, (X,))
    explainer = lrp.compile(model, (X,), target=0, composite=lrp.composites.epsilon(0.0))
    torch.testing.assert_close(explainer(X).output, model.linear(X * 2).detach())
    torch.testing.assert_close(explainer(X).relevance["x"], 2 * X * model.linear.weight[0].detach())


# ---- Sizes ----


def pooled(model: Model, x: Tensor) -> Tensor:
    for _ in range(4):
        x = F.max_pool2d(x, 2)
    return model.out(model.conv(F.pad(x, (1, 1, 1, 1))).mean((2, 3)))


def halves(model: Model, x: Tensor) -> Tensor:
    return model.out(model.conv(torch.cat([x[:, :, ::2], x[:, :, 1::2]], 3)).mean((2, 3)))


def unshuffled(model: Model, x: Tensor) -> Tensor:
    return model.out(model.conv(F.pixel_unshuffle(x, 2)[:, :3]).mean((2, 3)))


def bounded(model: Model, x: Tensor) -> Tensor:
    assert x.shape[2] <= 40
    return model.out(model.conv(x).mean((2, 3)))


def mirrored(model: Model, x: Tensor) -> Tensor:
    return model.out(model.conv(x + x.transpose(2, 3)).mean((2, 3)))


@pytest.mark.slow
@pytest.mark.sampled(16)
@pytest.mark.parametrize(
    ("function", "options"),
    [
        (pooled, {}),
        (pooled, {"min": 16, "max": 512}),
        (halves, {}),
        (halves, {"min": 20}),
        (unshuffled, {}),
        (bounded, {}),
        (bounded, {"min": 8, "max": 300}),
    ],
)
def test_the_sizes_that_are_proposed_are_taken(function: Any, options: dict) -> None:
    """What torch suggests itself is often refused in the next attempt."""
    model, x = Model(function).eval(), torch.randn(2, 3, 32, 32)
    with pytest.raises(CaptureError) as raised:
        lrp.compile(model, (x,), dynamic_shapes=({2: Dim("h", **options), 3: Dim("w", **options)},))
    assert "\n" not in str(raised.value)
    proposal = r"dimension (\d) of x takes .*?write ((?:\d+ \* )?torch\.export\.Dim\([^)]*\))"
    proposed = dict(re.findall(proposal, str(raised.value)))
    shapes = {dim: Dim(name, **options) for dim, name in ((2, "h"), (3, "w"))}
    shapes |= {int(dim): eval(text) for dim, text in proposed.items()}
    assert proposed
    if max(dim.min for dim in shapes.values()) > 32:
        x = torch.randn(2, 3, 64, 64)
    explainer = lrp.compile(model, (x,), dynamic_shapes=(shapes,))
    assert explainer(x).output.shape == (2, 3)


@pytest.mark.sampled(16)
@pytest.mark.parametrize(
    ("function", "x", "shapes", "words"),
    [
        (mirrored, torch.randn(2, 3, 32, 32), {2: Dim("h"), 3: Dim("w")}, "always equal, so use one Dim for both"),
        (lambda m, x: m.linear(x.reshape(2, 4)), X, {0: Dim("b")}, "fixes b at 2"),
        (lambda m, x: m.linear(x), X[:1], {0: Dim("b")}, "b is 1 in the example.* an example of 2 or more there.$"),
        (
            lambda m, x: m.linear(x),
            X[:1],
            {0: Dim.DYNAMIC},
            r"\[0\] is 1 in the example.* of 2 or more there.$",
        ),
        (lambda m, x: m.conv(x).chunk(2, 2)[0].mean((2, 3)), torch.randn(2, 3, 32, 32), {2: Dim("h")}, "fixes h at 32"),
        (lambda m, x: m.linear(x), X, {0: "b"}, "dynamic_shapes"),
    ],
)
def test_other_shapes_that_do_not_fit(function: Any, x: Tensor, shapes: Any, words: str) -> None:
    with pytest.raises(CaptureError, match=words) as raised:
        lrp.compile(Model(function).eval(), (x,), dynamic_shapes=(shapes,))
    assert "\n" not in str(raised.value)


def test_guards_are_worked_out_and_not_run() -> None:
    guard = "- Not all values of h = L['x'].size()[2] in the specified range satisfy the generated guard "
    assert "min=9" in shape_hint(f"Constraints violated (h)!\n  {guard}L['x'].size()[2] > 8.")
    # What is no arithmetic is not taken into account.
    said = shape_hint(f"Constraints violated (h)!\n  {guard}L['x'].size()[2] > 8.\n  {guard}__import__('os').abort().")
    assert "min=9" in said


# ---- Sizes that are 1 in the example by chance ----

BY_CHANCE: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "all but the last": (lambda x: x[:, :-1], 2),
    "differences": (lambda x: x.diff(dim=1), 2),
    "windows": (lambda x: x.unfold(1, 2, 1).flatten(2), 2),
    "the first half": (lambda x: x[:, : x.shape[1] // 2], 3),
    "the first quarter": (lambda x: x[:, : x.shape[1] // 4], 5),
    "halves": (lambda x: x[:, : x.shape[1] // 2].reshape(2, -1, 4, 2).flatten(2), 4),
}


class Adds(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x).sum((1, 2))[:, None]


@pytest.mark.sampled(16)
@pytest.mark.parametrize("kind", BY_CHANCE)
@pytest.mark.parametrize("declared", ["named", "any"])
def test_an_example_that_is_too_small_is_said_and_a_larger_one_taken(kind: str, declared: str) -> None:
    function, size = BY_CHANCE[kind]
    dim = Dim("n") if declared == "named" else Dim.DYNAMIC
    model, x = Adds(function).eval(), torch.randn(2, size, 4)
    try:
        lrp.compile(model, (x,), target=0, dynamic_shapes=({1: dim},))
        assert declared == "any"  # what is left to torch may be bounded by it
        return
    except CaptureError as error:
        said = str(error)
    assert "leave it out" not in said
    (larger,) = {int(number) for number in re.findall(r"not with (?:one of )?(\d+): take a larger one", said)}

    written = re.search(r"write ((?:\d+ \* )?torch\.export\.Dim\([^)]*\))", said)
    dim = eval(written[1]) if written else dim
    explainer = lrp.compile(model, (torch.randn(2, larger, 4),), target=0, dynamic_shapes=({1: dim},))

    fresh = torch.randn(2, 4 * larger, 4)
    torch.testing.assert_close(explainer(fresh).output, model(fresh))


def test_a_size_that_no_example_opens_is_left_out() -> None:
    def reshaped(x: Tensor) -> Tensor:
        return x.reshape(2, 2, 4)

    with pytest.raises(CaptureError, match="fixes n at 2, so leave it out"):
        lrp.compile(Adds(reshaped).eval(), (torch.randn(2, 2, 4),), target=0, dynamic_shapes=({1: Dim("n")},))


def test_where_no_larger_example_can_be_made_both_ways_out_are_said() -> None:
    """Two sizes that are fixed together, at different numbers."""
    model = Adds(lambda x: x[:, :-1, : x.shape[2] // 4])
    with pytest.raises(CaptureError, match="take a larger one, or leave it out") as raised:
        lrp.compile(model.eval(), (torch.randn(3, 2, 5),), target=0, dynamic_shapes=({1: Dim("n"), 2: Dim("m")},))
    assert "\n" not in str(raised.value)
