"""What is meant by a target, a position and an option is taken as it is meant; for the rest there is one sentence."""

import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import CompositeError, InputError, LrpError
from lrp_compiler.runtime import OnnxExplainer, lean_options

pytestmark = pytest.mark.sampled(8)

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[1, 5, 2, 0, 3], [4, 4, 1, 6, 2]])
BATCH = ({0: torch.export.Dim("batch")},)


@cache
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


@cache
def tagger() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3)).eval()


def relevance(target: Any, model: nn.Module | None = None, x: Tensor = X) -> Tensor:
    (found,) = lrp.compile(model or net(), (x,), target=target)(x).relevance.values()
    return found


# ---- Targets ----


@pytest.mark.sampled(32)
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (np.int64(1), 1),
        (np.uint8(1), 1),
        (torch.tensor(1), 1),
        (np.array(1), 1),
        (-1, 2),
        (torch.tensor(-3), 0),
        ((-1, np.int64(0)), (2, 0)),
        (range(3), [0, 1, 2]),
        ([np.int64(0), (torch.tensor(1), -1)], [0, (1, 2)]),
    ],
    ids=str,
)
def test_numbers_of_any_library_are_classes(given: Any, meant: Any) -> None:
    assert torch.equal(relevance(given), relevance(meant))
    assert (
        lrp.compile(net(), (X,), target=given).metadata["target"]
        == lrp.compile(net(), (X,), target=meant).metadata["target"]
    )


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (True, "True"),
        (torch.tensor(True), "tensor"),
        (1.0, "whole number"),
        ("max", "did you mean 'argmax'"),
        (torch.tensor([1, 2]), "target='index'"),
        ({}, "{}"),
        (None, "None"),
        ((1, 2, 3), "pair"),
        ([], "empty"),
        (["argmax"], "'argmax'"),
        (10**30, "out of range: the model has 3 classes, 0 to 2"),
        (-4, "out of range"),
    ],
)
def test_other_targets_are_refused(target: Any, words: str) -> None:
    with pytest.raises(InputError) as raised:
        relevance(target)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@cache
def chooser() -> lrp.Explainer:
    return lrp.compile(net(), (X,), target="index", dynamic_shapes=BATCH)


@pytest.fixture(scope="module")
def chooser_in_onnx(tmp_path_factory: pytest.TempPathFactory) -> OnnxExplainer:
    path = tmp_path_factory.mktemp("arguments") / "m.onnx"
    chooser().to_onnx(path)
    return OnnxExplainer(path)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (-1, [2, 2]),
        (np.int64(1), [1, 1]),
        (torch.tensor(1), [1, 1]),
        ([0, -3], [0, 0]),
        (np.array([-1, 1], np.int16), [2, 1]),
        ([[0, 1], [2, -1]], [[0, 1], [2, 2]]),
    ],
    ids=str,
)
def test_classes_of_a_call_in_both_runtimes(given: Any, meant: list, chooser_in_onnx: OnnxExplainer) -> None:
    rows = [meant] if isinstance(meant[0], int) else meant
    fixed = [torch.stack([relevance(row[0])[0], relevance(row[1])[1]]) for row in rows]
    wanted = torch.stack(fixed) if isinstance(meant[0], list) else fixed[0]

    torch.testing.assert_close(chooser()(X, target=given).relevance["input"], wanted, atol=1e-6, rtol=1e-5)
    found = chooser_in_onnx(X.numpy(), target=given).relevance["input"]
    np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("seed", "target"), [("tensor", "argmax"), ("value", "index")])
def test_rows_of_a_call_that_follow_from_the_batch_are_counted(seed: str, target: str, tmp_path: Path) -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, 2 * x])

    x = torch.randn(2, 3)
    explainer = lrp.compile(
        Twice().eval(), (x,), seed=seed, target=target, dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    name = "seed" if seed == "tensor" else "target"
    for rows in (2, 3, 4):
        given = torch.ones(rows, 3) if seed == "tensor" else torch.ones(rows, dtype=torch.int64)
        with OnnxExplainer(tmp_path / "m.lrp.onnx") as runtime:
            for run, arrays in ((explainer, (x, given)), (runtime, (x.numpy(), given.numpy()))):
                if rows == 4:
                    assert run(arrays[0], **{name: arrays[1]}).relevance["x"].shape == (2, 3)
                else:
                    with pytest.raises(InputError, match=rf"dimension 0 must be 2\*batch, here 4, not {rows}"):
                        run(arrays[0], **{name: arrays[1]})


@pytest.mark.parametrize(
    "given",
    [
        True,
        1.0,
        "max",
        {},
        10**30,
        [0, 3],
        [0, -4],
        [0, 1, 2],
        np.zeros((0, 2), int),
        [0, "a"],
        [None, 1],
        np.bool_(True),
    ],
    ids=str,
)
def test_other_classes_of_a_call_are_refused(given: Any, chooser_in_onnx: OnnxExplainer) -> None:
    for call in (lambda: chooser()(X, target=given), lambda: chooser_in_onnx(X.numpy(), target=given)):
        with pytest.raises(InputError) as raised:
            call()
        assert "arget" in str(raised.value)
        assert "\n" not in str(raised.value)


# ---- Positions ----


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (np.int64(1), [1]),
        (torch.tensor(-2), [3]),
        ([1], [1]),
        (range(1, 4), [1, 2, 3]),
        (range(0, 5, 2), [0, 2, 4]),
        (slice(None, 2), [0, 1]),
    ],
    ids=str,
)
def test_positions_of_any_kind(given: Any, meant: list[int]) -> None:
    wanted = sum(relevance(lrp.Target(0, position=place), tagger(), IDS) for place in meant)
    torch.testing.assert_close(relevance(lrp.Target(0, position=given), tagger(), IDS), wanted)


@pytest.mark.sampled(32)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1, 2], "slice or a range"),
        (1.0, "whole number"),
        (True, "whole number"),
        ("first", "'last'"),
        (range(3, 1, -1), "forwards"),
        (slice(None, None, -1), "forwards"),
        (slice("a"), "whole number"),
        ({}, "whole number"),
        (5, "out of range"),
        (10**30, "out of range"),
    ],
    ids=str,
)
def test_other_positions_are_refused(given: Any, words: str) -> None:
    with pytest.raises(InputError) as raised:
        relevance(lrp.Target(0, position=given), tagger(), IDS)
    assert words in str(raised.value)


def test_positions_of_a_call_count_from_the_end_as_well() -> None:
    explainer = lrp.compile(tagger(), (IDS,), target=lrp.Target(0, position="index"))
    for given, meant in ((-1, [4, 4]), ([1, -5], [1, 0])):
        places = [relevance(lrp.Target(0, position=place), tagger(), IDS)[row] for row, place in enumerate(meant)]
        torch.testing.assert_close(explainer(IDS, position=given).relevance["input"], torch.stack(places))
    with pytest.raises(InputError, match="Position 5 is out of range: the model has 5 positions, 0 to 4"):
        explainer(IDS, position=5)


# ---- Inputs that bear the name of an option ----


class Named(nn.Module):
    def forward(self, x: Tensor, target: Tensor, seed: Tensor, position: Tensor) -> Tensor:
        return x * target + seed * position


def test_a_models_own_target_is_an_input(tmp_path: Path) -> None:
    inputs = {name: torch.rand(2, 3) + 1 for name in ("x", "target", "seed", "position")}
    explainer = lrp.compile(Named().eval(), kwargs=inputs, target=0, composite="attnlrp")
    explainer.to_onnx(tmp_path / "m.onnx")
    arrays = {name: value.numpy() for name, value in inputs.items()}

    for explanation in (explainer(**inputs), OnnxExplainer(tmp_path / "m.onnx")(**arrays)):
        halves = {"x": ("x", "target"), "target": ("x", "target"), "seed": ("seed", "position")}
        for name, (a, b) in halves.items():
            wanted = (inputs[a] * inputs[b])[:, 0] / 2
            np.testing.assert_allclose(explanation.relevance[name][:, 0], wanted, rtol=1e-5)
    assert abs(explainer.audit(**inputs).error) < 1e-9
    with pytest.raises(InputError, match="has an input 'target' itself"):
        lrp.compile(Named().eval(), kwargs=inputs, target="index")


# ---- Options ----


@pytest.mark.parametrize(
    "options",
    [
        {"memory_budget": "a"},
        {"memory_budget": None},
        {"memory_budget": True},
        {"memory_budget": float("nan")},
        {"wrt": 3},
        {"wrt": [3]},
        {"observe": 3},
        {"optimise": "no"},
        {"dump": 3},
        {"progress": 3},
        {"seed": torch.ones(3)},
        {"composite": [1]},
        {"composite": lrp.composites.attnlrp},
        {"composite": "epsilon_plus"},
        {"kwargs": 3},
        {"kwargs": [X]},
    ],
    ids=lambda options: " ".join(options),
)
def test_options_of_a_wrong_kind_are_refused(options: dict) -> None:
    with pytest.raises((InputError, CompositeError)) as raised:
        lrp.compile(net(), (X,), **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "meant"), [("epsilon_plus", "epsilon-plus"), ("EpsilonPlus", "epsilon-plus"), ("attn-lrp", "attnlrp")]
)
def test_composites_that_are_nearly_named(given: str, meant: str) -> None:
    with pytest.raises(CompositeError, match=f"did you mean '{meant}'"):
        lrp.compile(net(), (X,), composite=given)


@pytest.mark.parametrize("value", ["a", None, -1, float("nan"), [1.0], True])
def test_a_rules_option_of_a_wrong_kind_is_refused(value: Any) -> None:
    composite = lrp.Composite("mine", (lrp.Entry("linear", "epsilon", {"epsilon": value}),))
    with pytest.raises(CompositeError, match="a number from 0 up"):
        lrp.compile(net(), (X,), composite=composite)


@pytest.mark.parametrize("make", [np.float32, torch.tensor, float])
def test_a_rules_option_is_a_number_of_any_library(make: Any, tmp_path: Path) -> None:
    composite = lrp.Composite("mine", (lrp.Entry("linear", "epsilon", {"epsilon": make(0.25)}),))
    explainer = lrp.compile(net(), (X,), composite=composite)
    explainer.save(tmp_path / "m.pt2")
    assert lrp.load(tmp_path / "m.pt2").metadata["rules"][0]["options"] == {"epsilon": 0.25}


@pytest.mark.parametrize(
    "make",
    [
        lambda: lrp.Entry(3, "epsilon"),
        lambda: lrp.Entry("linear", None),
        lambda: lrp.Entry("linear", "epsilon", 3),
        lambda: lrp.Entry("linear", "epsilon", position="middle"),
        lambda: lrp.Composite(3),
        lambda: lrp.Composite("a", lrp.Entry("linear", "epsilon")),
        lambda: lrp.Composite("a", ("x",)),
        lambda: lrp.composites.epsilon_gamma_box("a", 1),
        lambda: lrp.composites.epsilon_gamma_box([], 1),
    ],
)
def test_composites_of_wrong_kinds_are_refused(make: Any) -> None:
    with pytest.raises(CompositeError):
        make()


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda op, relevance: 3, "returns a Relevance"),
        (lambda op: 3, r"function of \(op, relevance\)"),
        (lambda op, relevance: lrp.total(torch.zeros(3)), "shaped like its operand"),
        (lambda op, relevance: lrp.total(torch.zeros(2, 4).copy_(op.total(relevance)[:, :4])), "writes into a tensor"),
    ],
)
def test_a_users_rule_that_breaks_the_contract_is_refused(rule: Any, words: str) -> None:
    composite = lrp.Composite("mine", (lrp.Entry("*", rule, path="0"),))
    with pytest.raises(CompositeError, match=words):
        lrp.compile(net(), (X,), composite=composite)


# ---- Inputs of a call ----


def test_open_sizes_keep_to_the_bounds_that_were_declared(tmp_path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=6)},)
    explainer = lrp.compile(tagger(), (IDS,), dynamic_shapes=shapes)
    explainer.to_onnx(tmp_path / "m.onnx")
    explainer.save(tmp_path / "m.pt2")
    long = torch.zeros(2, 7, dtype=torch.int64)
    for call in (explainer, lrp.load(tmp_path / "m.pt2"), OnnxExplainer(tmp_path / "m.onnx")):
        call(long[:1, :6].numpy() if isinstance(call, OnnxExplainer) else long[:1, :6])
        with pytest.raises(InputError, match=r"size 7 in dimension 'sequence'.* at most 6"):
            call(long.numpy() if isinstance(call, OnnxExplainer) else long)


@pytest.mark.parametrize(
    "given",
    [
        X.to_sparse(),
        X.to("meta"),
        {"x": X},
        "abc",
        None,
        object(),
        [[1.0, 2.0], [3.0]],
        X.to(torch.cfloat),
        np.zeros((2, 4), "datetime64[s]"),
        np.zeros(2, [("a", "f4")]),
        np.array([["a"] * 4] * 2),
        np.array([[None] * 4] * 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_inputs_that_are_no_arrays_of_numbers_are_refused(given: Any, chooser_in_onnx: OnnxExplainer) -> None:
    for call in (lambda: chooser()(given, target=0), lambda: chooser_in_onnx(given, target=0)):
        with pytest.raises(InputError) as raised:
            call()
        assert "input" in str(raised.value)
        assert "\n" not in str(raised.value)


def test_arrays_of_the_other_byte_order_and_nested_lists_are_read() -> None:
    wanted = chooser()(X, target=0).relevance["input"]
    for given in (X.numpy().astype(">f4"), X.tolist()):
        assert torch.equal(chooser()(given, target=0).relevance["input"], wanted)


def test_a_mask_of_the_wrong_kind_is_told_how_to_convert_it() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * mask

    for dtype, other, words in ((torch.bool, torch.int64, "mask != 0"), (torch.int64, torch.bool, "convert a mask")):
        explainer = lrp.compile(Masked().eval(), (X, torch.ones(2, 4, dtype=dtype)))
        with pytest.raises(InputError, match=words):
            explainer(X, torch.ones(2, 4, dtype=other))


# ---- Files ----


def test_an_explainer_in_onnx_is_pickled_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chooser().to_onnx(tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    explainer = OnnxExplainer("m.onnx")
    data = pickle.dumps(explainer)
    monkeypatch.chdir(tmp_path.parent)
    again = pickle.loads(data)
    wanted = explainer(X.numpy(), target=1).relevance["input"]
    np.testing.assert_array_equal(again(X.numpy(), target=1).relevance["input"], wanted)
    with pytest.raises(LrpError, match="session options"):
        pickle.dumps(OnnxExplainer(tmp_path / "m.onnx", session_options=lean_options()))
    explainer.close()
    with pytest.raises(LrpError, match="closed"):
        pickle.dumps(explainer)


@pytest.mark.parametrize("options", [{"providers": 3}, {"session_options": 3}, {"foo": 3}])
def test_an_explainer_is_opened_with_options_of_the_right_kind(options: dict, tmp_path: Path) -> None:
    chooser().to_onnx(tmp_path / "m.onnx")
    with pytest.raises(InputError, match=next(iter(options))):
        OnnxExplainer(tmp_path / "m.onnx", **options)


def test_what_onnxruntime_lacks_in_float64_is_said_before_a_file_is_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval().double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    with pytest.raises(LrpError, match=r"no Conv in float64: compile model.float\(\)"):
        lrp.compile(model, (x,)).to_onnx(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []

    explainer = lrp.compile(net().double(), (X.double(),), target=0)
    net().float()
    explainer.to_onnx(tmp_path / "m.onnx")
    found = OnnxExplainer(tmp_path / "m.onnx")(X.double().numpy()).relevance["input"]
    np.testing.assert_allclose(found, explainer(X.double()).relevance["input"], rtol=1e-12)


def test_complex_inputs_do_not_reach_onnx(tmp_path: Path) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.abs()

    explainer = lrp.compile(Model().eval(), (X.to(torch.cfloat),))
    with pytest.raises(LrpError, match="complex"):
        explainer.to_onnx(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
