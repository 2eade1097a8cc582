"""Masks, seeds and coefficients on a net whose numbers are worked out by hand, in torch and in onnxruntime."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.branches import LOGIT, PAST, Branches, X, through

import lrp_compiler as lrp
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(6)

Relevance = Callable[..., dict[str, np.ndarray]]
BATCH = {0: torch.export.Dim("batch")}
UNITS = [([1, 1, 1], [1, 1]), ([1, 0, 0], [1, 1]), ([0, 1, 0], [1, 1]), ([1, 0, 0], [0, 1]), ([1, 1, 0], [0, 1])]
UNITS += [([0, 0, 1], [1, 0]), ([1, 1, 1], [1, 0]), ([0, 0, 0], [1, 1])]


def compiled(**options: Any) -> lrp.Explainer:
    return lrp.compile(Branches().eval(), (X,), composite="attnlrp", dynamic_shapes=(BATCH,), **options)


@pytest.fixture(scope="module", params=["torch", "loaded", "onnxruntime"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`running(**options)`: an explainer with these options, in the runtime that is asked for."""
    opened: dict[str, Any] = {}

    def run(**options: Any) -> Any:
        key = repr(options)
        if key not in opened:
            explainer, folder = compiled(**options), tmp_path_factory.mktemp("files")
            if request.param == "torch":
                opened[key] = explainer
            elif request.param == "loaded":
                explainer.save(folder / "m.lrp.pt2")
                opened[key] = lrp.load(folder / "m.lrp.pt2")
            else:
                explainer.to_onnx(folder / "m.lrp.onnx")
                opened[key] = OnnxExplainer(folder / "m.lrp.onnx")
        return opened[key]

    return run


def at(explainer: Any, x: torch.Tensor = X, **given: Any) -> Any:
    """The explanation of x, what is given being lists."""
    of = np.asarray if isinstance(explainer, OnnxExplainer) else torch.tensor
    values = {key: {path: of(value) for path, value in one.items()} for key, one in given.items()}
    return explainer(x.numpy() if isinstance(explainer, OnnxExplainer) else x, **values)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-6, atol=1e-6)


def plus(one: list[float], other: list[float]) -> list[float]:
    return [a + b for a, b in zip(one, other, strict=True)]


@pytest.mark.sampled(24)
@pytest.mark.parametrize(("hidden", "second"), UNITS)
def test_masks_of_two_layers_are_an_and_and_units_of_one_an_or(
    running: Callable[..., Any], hidden: list[int], second: list[int]
) -> None:
    explainer = running(masks=["hidden", "second"])

    found = at(explainer, masks={"hidden": hidden, "second": second})

    close(found.relevance["x"], [plus(through(hidden, second), PAST)] * 2)
    close(found.output, [[LOGIT]] * 2)


def test_rows_have_masks_of_their_own_and_what_is_not_given_is_ones(running: Callable[..., Any]) -> None:
    explainer = running(masks=["hidden", "second"])

    rows = at(explainer, masks={"second": [[1.0, 0.0], [0.0, 1.0]]}).relevance["x"]
    none = at(explainer).relevance["x"]

    close(rows, [plus(through([1, 1, 1], [1, 0]), PAST), plus(through([1, 1, 1], [0, 1]), PAST)])
    close(none, [plus(through([1, 1, 1], [1, 1]), PAST)] * 2)


@pytest.mark.sampled(24)
@pytest.mark.parametrize(("hidden", "second"), UNITS)
def test_what_goes_past_a_masked_layer_is_dropped_on_request(
    running: Callable[..., Any], hidden: list[int], second: list[int]
) -> None:
    explainer = running(masks=[lrp.Mask("hidden", exclude_parallel=True), lrp.Mask("second", exclude_parallel=True)])

    found = at(explainer, masks={"hidden": hidden, "second": second}).relevance["x"]
    plain = at(explainer).relevance["x"]

    close(found, [through(hidden, second)] * 2)
    close(plain, [plus(through([1, 1, 1], [1, 1]), PAST)] * 2)


def test_what_weights_have_got_before_a_masked_layer_goes_past_nothing() -> None:
    names = ["last.weight", "second.weight", "hidden.weight"]
    explainer = compiled(masks=lrp.Mask("hidden", exclude_parallel=True), wrt=names)
    x = torch.cat([X, X[:1]])  # three rows: no size of a weight's first dim

    found = explainer(x, masks={"hidden": torch.tensor([1, 0, 0])}).relevance

    close(found["last.weight"], [[3 * 6.0, 3 * 5.0]])
    close(found["second.weight"], [[3 * 6.0, 0, 0], [3 * 3.0, 3 * 2.0, 0]])
    close(found["hidden.weight"], [[3 * 3.0, 3 * 6.0], [0, 0], [0, 0]])


def test_several_conditions_at_once(running: Callable[..., Any]) -> None:
    explainer = running(masks=["hidden", "second"])
    first, second = ([[[float(unit) for unit in units[layer]]] for units in UNITS] for layer in (0, 1))

    found = at(explainer, masks={"hidden": first, "second": second})

    assert tuple(found.relevance["x"].shape) == (len(UNITS), 2, 2)
    close(found.relevance["x"], [[plus(through(*units), PAST)] * 2 for units in UNITS])
    assert len(found.explained()) == 2 * len(UNITS)


def test_several_conditions_of_a_count_that_is_compiled_in(running: Callable[..., Any]) -> None:
    explainer = running(
        target=lrp.Target("index", count=2), masks=["hidden", lrp.Mask("second", exclude_parallel=True)]
    )
    targets = np.zeros((2, 2), np.int64)
    hidden, second = [[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]], [[[0.0, 1.0]], [[1.0, 1.0]]]
    of = np.asarray if isinstance(explainer, OnnxExplainer) else torch.tensor
    x = X.numpy() if isinstance(explainer, OnnxExplainer) else X

    found = explainer(x, target=of(targets), masks={"hidden": of(hidden), "second": of(second)}).relevance["x"]

    close(found, [[through([1, 0, 0], [0, 1])] * 2, [through([0, 1, 0], [1, 1])] * 2])


def test_relevance_is_put_on_a_unit_instead_of_the_logit(running: Callable[..., Any]) -> None:
    explainer = running(target=None, seeds=["second", lrp.Put("hidden", form="unit")])

    total = at(explainer, seeds={"second": [0.0, 10.0]}).relevance["x"]
    unit = at(explainer, seeds={"hidden": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]}).relevance["x"]
    both = at(explainer, seeds={"second": [0.0, 10.0], "hidden": [1.0, 0.0, 0.0]}).relevance["x"]

    close(total, [[6 / 3 + 4, 6 * 2 / 3]] * 2)  # of 10, hidden₀ gets 6 and hidden₁ 4
    close(unit, [[1.0, 2.0], [2.0, 0.0]])  # the activations 3 and 2 themselves
    close(both, [[6 / 3 + 4 + 1.0, 6 * 2 / 3 + 2.0]] * 2)


def test_what_is_put_on_a_unit_is_added_to_what_comes_from_the_target(running: Callable[..., Any]) -> None:
    explainer = running(seeds=lrp.Put("hidden"), masks="hidden")
    plain = plus(through([1, 1, 1], [1, 1]), PAST)

    close(at(explainer).relevance["x"], [plain] * 2)
    close(at(explainer, seeds={"hidden": [3.0, 0.0, 0.0]}).relevance["x"], [plus(plain, [1.0, 2.0])] * 2)
    masked = at(explainer, seeds={"hidden": [3.0, 0.0, 0.0]}, masks={"hidden": [0, 1, 1]}).relevance["x"]
    close(masked, [plus(through([0, 1, 1], [1, 1]), PAST)] * 2)


def test_a_coefficient_times_its_value_is_the_relevance(running: Callable[..., Any]) -> None:
    explainer = running(observe=["hidden", "second"], form="both")

    found = at(explainer)

    close(found.coefficients["second"], [[2.0, 1.0]] * 2)  # the weights of the last layer
    close(found.coefficients["hidden"], [[3.0, 1.0, 0.0]] * 2)  # 2 · [1, 0, 1] + [1, 1, 0], where the ReLU is open
    close(found.relevance["hidden"], [[9.0, 2.0, 0.0]] * 2)
    alone = at(running(observe=["hidden", "second"], form="unit"))
    assert set(alone.relevance) == {"x"}
    close(alone.coefficients["hidden"], found.coefficients["hidden"])


def test_values_are_observed_before_they_are_masked(running: Callable[..., Any]) -> None:
    found = at(running(observe="hidden", masks=["hidden", "second"]), masks={"hidden": [0, 0, 0], "second": [0, 1]})

    close(found.relevance["hidden"], [[3.0, 2.0, 0.0]] * 2)
    close(found.relevance["x"], [PAST] * 2)


def test_the_books_say_what_masks_keep_back_and_what_seeds_add() -> None:
    options = {"hidden": {}, "second": {"exclude_parallel": True}}
    explainer = compiled(masks=[lrp.Mask(path, **more) for path, more in options.items()], seeds="hidden")

    books = explainer.audit(X, masks={"hidden": [1, 0, 0], "second": [0, 1]}, seeds={"hidden": [0.0, 4.0, 0.0]})

    entries = {entry.node: entry.absorbed.get("masked", 0.0) for entry in books.entries}
    # Of the 13 of each row second keeps back 6 and drops 2 on their way past it, hidden 2 and the 4 that are put there.
    assert books.seed == pytest.approx(2 * (13 + 4))
    assert sorted(value for value in entries.values() if value) == pytest.approx([2 * 2, 2 * 6, 2 * 6])
    assert books.absorbed["masked"] == pytest.approx(2 * (6 + 2 + 6))
    assert books.inputs["x"] == pytest.approx(2 * sum(through([1, 0, 0], [0, 1])))
    assert books.error == pytest.approx(0, abs=1e-9)
    assert all(abs(entry.error) < 1e-9 for entry in books.entries)


def test_plain_onnxruntime_runs_the_file_without_masks(tmp_path: Path) -> None:
    import onnxruntime

    compiled(masks=["hidden"], seeds="second").to_onnx(tmp_path / "m.lrp.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(tmp_path / "m.lrp.onnx", options)

    (plain,) = session.run(["relevance.x"], {"x": X.numpy()})
    (masked,) = session.run(["relevance.x"], {"x": X.numpy(), "mask.hidden": np.float32([[1, 0, 0], [0, 1, 0]])})

    assert [value.name for value in session.get_inputs()] == ["x"]
    close(plain, [plus(through([1, 1, 1], [1, 1]), PAST)] * 2)
    close(masked, [plus(through([1, 0, 0], [1, 1]), PAST), plus(through([0, 1, 0], [1, 1]), PAST)])


def pairs(explainer: lrp.Explainer) -> Iterator[str]:
    yield from (latent.name for latent in explainer.about.latents)


def test_an_explainer_that_observes_more_keeps_its_masks_and_seeds(tmp_path: Path) -> None:
    plain = compiled(masks=[lrp.Mask("hidden", exclude_parallel=True)], seeds="second")
    plain.save(tmp_path / "m.lrp.pt2")

    for explainer in (plain.observe("hidden"), lrp.load(tmp_path / "m.lrp.pt2").observe("hidden", form="both")):
        assert list(pairs(explainer)) == ["mask.hidden", "past.hidden", "seed.second"]
        found = at(explainer, masks={"hidden": [1, 0, 0]}).relevance
        close(found["x"], [through([1, 0, 0], [1, 1])] * 2)
        close(found["hidden"], [[9.0, 2.0, 0.0]] * 2)


def test_an_explainer_that_is_moved_as_it_was_compiled_keeps_its_masks() -> None:
    moved = compiled(masks=["hidden"], observe="second").to("cpu")

    found = at(moved, masks={"hidden": [1, 0, 0]}).relevance

    close(found["x"], [plus(through([1, 0, 0], [1, 1]), PAST)] * 2)
    close(at(moved.observe("hidden")).relevance["hidden"], [[9.0, 2.0, 0.0]] * 2)


def test_parts_in_files_of_their_own_take_masks(tmp_path: Path) -> None:
    from lrp_compiler.runtime import open_split

    compiled(masks=["hidden"]).save_split(tmp_path / "f.onnx", tmp_path / "r.onnx")
    forward, relevance = open_split(tmp_path / "f.onnx", tmp_path / "r.onnx")
    kept = [value.name for value in relevance.get_inputs() if value.name.startswith("kept.")]
    values = dict(zip(kept, forward.run(kept, {"x": X.numpy()}), strict=True))

    (plain,) = relevance.run(["relevance.x"], values)
    (masked,) = relevance.run(["relevance.x"], {**values, "mask.hidden": np.float32([[1, 0, 0]])})

    close(plain, [plus(through([1, 1, 1], [1, 1]), PAST)] * 2)
    close(masked, [plus(through([1, 0, 0], [1, 1]), PAST)] * 2)
