"""`observe`: the relevance of intermediate values, in torch and in onnxruntime, by module or by node."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from support.called_twice import ARGS, NET, Net
from support.small import small
from support.two_layers import BY_HAND, with_weights_by_hand
from support.two_layers import Net as Dense
from support.two_layers import X as BY_HAND_X
from torch import Tensor, nn

import lrp_compiler as lrp
from benchmarks.networks.architectures import ARCHITECTURES
from lrp_compiler.base.errors import InputError
from lrp_compiler.cli import main
from lrp_compiler.passes.graph.tools import called
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(4)

ROUNDING = 1e-5
"""Of Σ|R|: the books are kept in float64, the explainer calculates in float32."""


def test_what_is_observed_are_the_numbers_of_hand_arithmetic() -> None:
    net = with_weights_by_hand()
    x = torch.tensor(BY_HAND_X)
    explainer = lrp.compile(net, (x,), composite=lrp.composites.epsilon(epsilon=1.0), observe="hidden")

    found = explainer(x).relevance

    expected = torch.tensor(BY_HAND["mul_tensor"])
    assert list(found) == ["x", "hidden"]
    torch.testing.assert_close(found["hidden"], expected)


def test_observing_does_not_change_the_relevance_of_the_inputs() -> None:
    plain = lrp.compile(NET, ARGS, composite="attnlrp", target=1)
    expected = plain(*ARGS).relevance

    compiled = lrp.compile(NET, ARGS, composite="attnlrp", target=1, observe=["block", "block.**", "mean"])
    for explainer in (compiled, plain.observe("block", "block.**", "mean")):
        found = explainer(*ARGS).relevance
        assert list(found) == [
            *("ids", "scale", "block", "block@1"),
            *("block.norm", "block.dense", "block.norm@1", "block.dense@1", "mean"),
        ]
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0)
    assert list(plain(*ARGS).relevance) == ["ids", "scale"]


def test_observing_is_asking_for_the_module_in_wrt() -> None:
    asked = lrp.compile(NET, ARGS, composite="attnlrp", target=1, wrt=["block", "ids"])(*ARGS).relevance
    seen = lrp.compile(NET, ARGS, composite="attnlrp", target=1, wrt=["ids"], observe="block")(*ARGS).relevance

    assert set(asked) == set(seen)
    for name, value in asked.items():
        torch.testing.assert_close(seen[name], value, rtol=0, atol=0)


def test_one_value_may_be_observed_under_two_names(tmp_path: Path) -> None:
    """The last layer's value leaves the layer and the stack."""

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x).relu()

    x = torch.randn(2, 3)
    explainer = lrp.compile(Stack().eval(), (x,), observe=["layers", "layers.*"])
    found = explainer(x).relevance
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    explainer.save(tmp_path / "m.lrp.pt2")

    assert list(found) == ["x", "layers", "layers.0", "layers.1"]
    torch.testing.assert_close(found["layers"], found["layers.1"], rtol=0, atol=0)
    with OnnxExplainer(tmp_path / "m.lrp.onnx") as runtime:
        ours = runtime(x.numpy()).relevance
    loaded = lrp.load(tmp_path / "m.lrp.pt2")(x).relevance
    for name, value in found.items():
        torch.testing.assert_close(torch.from_numpy(ours[name]), value)
        torch.testing.assert_close(loaded[name], value)


class Attention(nn.Module):
    """Two heads over five places."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.out = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.maps(x).reshape(-1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        weights = (queries @ keys.transpose(-1, -2)).softmax(-1)
        return self.out((weights @ values).transpose(1, 2).reshape(-1, 5, 8).sum(1))


def test_heads_are_seen_at_a_node_of_attention() -> None:
    x = torch.randn(2, 5, 8)
    explainer = lrp.compile(Attention().eval(), (x,), composite="attnlrp", target=1)

    relevance = explainer.observe("softmax*")(x).relevance["softmax"]

    books = {entry.node: entry for entry in explainer.audit(x).entries}
    assert relevance.shape == (2, 2, 5, 5)
    assert float(relevance.sum()) == pytest.approx(books["softmax"].relevance_in, rel=1e-6)


@pytest.mark.slow
def test_patterns_and_names_travel_in_files_and_can_be_added_to_a_loaded_explainer(tmp_path: Path) -> None:
    model, args = Net().eval(), (ARGS[0], ARGS[1].float())
    dims = {0: torch.export.Dim("batch")}
    plain = lrp.compile(model, args, composite="attnlrp", wrt=["out.weight", "ids"], dynamic_shapes=(dims, dims))
    plain.save(tmp_path / "plain.lrp.pt2")
    observing = plain.observe("block")
    observing.save(tmp_path / "observing.lrp.pt2")
    expected = observing(*args).relevance

    for loaded in (
        lrp.load(tmp_path / "observing.lrp.pt2"),
        lrp.load(tmp_path / "plain.lrp.pt2").observe("block"),
    ):
        found = loaded(*args).relevance
        assert list(found) == ["out.weight", "ids", "block", "block@1"]
        assert float(found["out.weight"].abs().sum()) > 0
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("blok", "names no module and no node of this model; near it: block"),
        ("block.*.dense", "near it: block.dense"),
        ("arange*", "near it"),
    ],
)
def test_a_pattern_that_names_nothing_is_refused(pattern: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        lrp.compile(NET, ARGS, composite="attnlrp", observe=[pattern])


def test_what_relevance_does_not_reach_is_refused() -> None:
    # CP-LRP holds the patterns of attention fixed.
    with pytest.raises(InputError, match="takes no relevance"):
        lrp.compile(Attention().eval(), (torch.randn(2, 5, 8),), composite="cp-lrp", observe="softmax")


def test_a_module_with_the_name_of_an_input_is_refused() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.x(x).relu()

    with pytest.raises(InputError, match="which is an input"):
        lrp.compile(Named().eval(), (torch.randn(2, 3),), observe="x")


def test_the_command_line_observes(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Dense().eval(), (torch.randn(2, 3),)), tmp_path / "m.pt2")
    options = ["-o", str(tmp_path / "m.lrp.onnx"), "--observe", "hidden", "--observe", "relu"]

    assert main(["compile", str(tmp_path / "m.pt2"), *options]) == 0

    with OnnxExplainer(tmp_path / "m.lrp.onnx") as runtime:
        assert list(runtime(torch.randn(2, 3).numpy()).relevance) == ["x", "hidden", "relu"]


BLOCKS = pytest.mark.parametrize(("name", "pattern"), [("vit_b_16", "encoder.layers.*"), ("llama", "model.layers.*")])


@pytest.mark.slow
@BLOCKS
def test_a_block_gets_what_the_books_say(
    name: str, pattern: str, explain: Callable[..., lrp.Explainer], tmp_path: Path
) -> None:
    args, kwargs = small(name).fresh(batch=3, seed=5)
    explainer = explain(name, "attnlrp")
    inputs = dict(zip([spec.name for spec in explainer.inputs], args, strict=False))

    holds(explainer.observe(pattern), {**inputs, **kwargs, "target": torch.tensor([1, 4, 2])}, 1, tmp_path)


@pytest.mark.heavy
@BLOCKS
def test_every_block_gets_what_the_books_say(name: str, pattern: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    model = architecture.build(width=16)
    options = {"composite": architecture.composite, "dynamic_shapes": architecture.dynamic_shapes}
    explainer = lrp.compile(model, kwargs=architecture.inputs(2), observe=pattern, **options)

    holds(explainer, architecture.inputs(3, which=-1, seed=9), {"vit_b_16": 12, "llama": 16}[name], tmp_path)


def holds(explainer: lrp.Explainer, inputs: dict[str, Tensor], count: int, folder: Path) -> None:
    """On inputs of another batch size (and length): torch, onnxruntime, and the books by node and by module."""
    explainer.to_onnx(folder / "m.lrp.onnx")

    found = explainer(**inputs).relevance
    with OnnxExplainer(folder / "m.lrp.onnx") as runtime:
        ours = runtime(**{key: value.numpy() for key, value in inputs.items()}).relevance
    nodes = explainer.audit(**inputs)
    books = {entry.node: entry.relevance_in for entry in nodes.entries}
    modules = {entry.node: entry for entry in nodes.by_module(3).entries}

    leaves = {entry["input"]: entry["node"] for entry in explainer.metadata["relevance"]}
    blocks = [value for value in found if value not in inputs]
    assert len(blocks) == count
    rounding = {block: ROUNDING * float(found[block].double().abs().sum()) for block in blocks}
    for block in blocks:
        expected = pytest.approx(books[leaves[block]], abs=rounding[block])
        assert float(found[block].double().sum()) == expected
        assert float(ours[block].astype("float64").sum()) == expected
        assert modules[block].relevance_in == expected
    for before, block in pairwise(blocks):
        # What a block does not hand to the one before it, it absorbed.
        handed = float(found[block].double().sum()) - sum(modules[block].absorbed.values())
        assert handed == pytest.approx(float(found[before].double().sum()), abs=2 * rounding[before])


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("encoder.layer.3", "encoder.layer.*", True),
        ("encoder.layer.3.dense", "encoder.layer.*", False),
        ("encoder.layer.3.dense", "encoder.layer.**", True),
        ("encoder.layer.3.dense", "**.dense", True),
        ("encoder.layer", "encoder.layer.*", False),
    ],
)
def test_a_pattern_names_what_it_matches_whole(path: str, pattern: str, expected: bool) -> None:
    assert called(path, pattern) is expected
