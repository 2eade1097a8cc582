"""Relevance reduced in the graph is what numpy makes of the whole relevance: in torch, in a `.pt2` and in ONNX."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.sealed import save_sealed
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler import concepts
from lrp_compiler.artefact.reducing import reduced
from lrp_compiler.base.errors import InputError, LrpWarning
from lrp_compiler.base.reductions import check_reductions
from lrp_compiler.check.verify import verify
from lrp_compiler.cli import main
from lrp_compiler.explainer import Explainer
from lrp_compiler.runtime import OnnxExplainer

Array = np.ndarray
Named = dict[str, Array]


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.c(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))
        return result


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden, self.classes = nn.Embedding(17, 8), nn.Linear(8, 6), nn.Linear(6, 5)

    def forward(self, words: Tensor) -> Tensor:
        result: Tensor = self.classes(torch.relu(self.hidden(self.table(words)).mean(1)))
        return result


BATCH = torch.export.Dim("batch")
SIDE = {name: torch.export.Dim(name, min=4, max=99) for name in ("height", "width")}
PIXELS = torch.randn(3, 3, 9, 13, generator=torch.Generator().manual_seed(1))
"""Another batch and other sizes than the compiler sees, no multiples of a patch."""


@pytest.fixture(scope="module")
def image() -> Explainer:
    torch.manual_seed(0)
    sizes = ({0: BATCH, 2: SIDE["height"], 3: SIDE["width"]},)
    return lrp.compile(Image().eval(), (torch.randn(2, 3, 10, 12),), composite="epsilon-plus", dynamic_shapes=sizes)


@pytest.fixture(scope="module")
def words() -> Explainer:
    torch.manual_seed(0)
    sizes = ({0: BATCH, 1: torch.export.Dim("sequence", max=30)},)
    return lrp.compile(Words().eval(), (torch.randint(0, 17, (2, 4)),), target="index", dynamic_shapes=sizes)


def in_torch(explainer: Explainer, folder: Path) -> Any:
    return explainer


def from_file(explainer: Explainer, folder: Path) -> Any:
    explainer.save(folder / "m.lrp.pt2")
    return lrp.load(folder / "m.lrp.pt2")


def in_onnxruntime(explainer: Explainer, folder: Path) -> Any:
    explainer.to_onnx(folder / "m.lrp.onnx")
    return OnnxExplainer(folder / "m.lrp.onnx")


RUNTIMES = (in_torch, from_file, in_onnxruntime)


def numbers(arrays: Any) -> Named:
    return {name: np.asarray(array) for name, array in arrays.items()}


def patches(R: Array, size: int) -> Array:
    """Patch by patch; those at the end are what is left."""
    rows, columns = (range(0, side, size) for side in R.shape[-2:])
    found = [[R[..., y : y + size, x : x + size].sum((-2, -1)) for x in columns] for y in rows]
    return np.moveaxis(np.array(found), (0, 1), (-2, -1))


def largest(R: Array, count: int) -> tuple[Array, Array]:
    flat = R.reshape(len(R), -1)
    places = np.argsort(-np.abs(flat), 1, kind="stable")[:, :count]
    return places, np.take_along_axis(flat, places, 1)


def top_of_signs(R: Array) -> Named:
    up, down = largest(R.sum(1).clip(min=0), 5), largest(R.sum(1).clip(max=0), 5)
    return {
        "x.positive.positions": up[0],
        "x.positive.values": up[1],
        "x.negative.positions": down[0],
        "x.negative.values": down[1],
    }


CASES: dict[str, tuple[list[str], Callable[[Array], Named]]] = {
    "small": (["channels", "patch:4", "float16"], lambda R: {"x": patches(R.sum(1), 4).astype(np.float16)}),
    "signs and top": (["channels", "signs", "top:5"], top_of_signs),
    "as it is": (["sums"], lambda R: {"x": R}),
    "heads": (["heads"], lambda R: {"x": R.sum((2, 3))}),
    "features": (["features"], lambda R: {"x": R.sum(-1)}),
    "parts of patches": (
        ["signs", "patch:5"],
        lambda R: {"x.positive": patches(R.clip(min=0), 5), "x.negative": patches(R.clip(max=0), 5)},
    ),
    "patches by sign": (
        ["patch:5", "signs"],
        lambda R: {"x.positive": patches(R, 5).clip(min=0), "x.negative": patches(R, 5).clip(max=0)},
    ),
    "one patch": (["patch:100"], lambda R: {"x": R.sum((2, 3), keepdims=True)}),
}
IN_TORCH_ALONE = ("as it is", "heads", "features", "parts of patches", "patches by sign", "one patch")


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("case", "runtime"),
    [(case, runtime) for case in CASES for runtime in RUNTIMES if case not in IN_TORCH_ALONE or runtime is in_torch],
)
def test_it_is_what_numpy_makes_of_the_whole(case: str, runtime: Callable, image: Explainer, tmp_path: Path) -> None:
    names, by_hand = CASES[case]
    whole = image(PIXELS)
    R = whole.relevance["x"].double().numpy()
    given = PIXELS.numpy() if runtime is in_onnxruntime else PIXELS
    found = runtime(Explainer(reduced(image.artefact, check_reductions(names))), tmp_path)(given)

    relevance, wanted = numbers(found.relevance), by_hand(R)
    assert list(relevance) == list(wanted)
    for name, array in relevance.items():
        assert array.shape == wanted[name].shape
        if array.dtype.kind == "i":
            np.testing.assert_array_equal(array, wanted[name])
        else:
            assert (array.dtype == np.float16) == ("float16" in names)
            room = 1e-3 if array.dtype == np.float16 else 1e-5
            np.testing.assert_allclose(array, wanted[name], rtol=room, atol=room * np.abs(R).max())
    sums = numbers(found.sums)
    np.testing.assert_allclose(sums["x"], R.sum((1, 2, 3)), rtol=1e-5, atol=1e-6)
    logits = whole.output.max(1).values.numpy()
    np.testing.assert_allclose(sums["absorbed"], logits - R.sum((1, 2, 3)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose([one.sum for one in found.explained()], R.sum((1, 2, 3)), rtol=1e-5, atol=1e-6)
    assert f"reduced by {', '.join(names)}" in repr(found)


@pytest.mark.slow
def test_words_are_put_together_and_fewer_than_asked_for_are_filled_up(words: Explainer, tmp_path: Path) -> None:
    ids = torch.randint(0, 17, (3, 7), generator=torch.Generator().manual_seed(2))
    target = torch.tensor([0, 4, 2])
    whole = words(ids, target=target)
    R = whole.relevance["words"].double().numpy()
    pairs = Explainer(reduced(words.artefact, ("patch:3",)))(ids, target=target)
    wanted = np.stack([R[:, :3].sum(1), R[:, 3:6].sum(1), R[:, 6]], 1)
    np.testing.assert_allclose(pairs.relevance["words"], wanted, rtol=1e-5, atol=1e-6)
    words.to_onnx(tmp_path / "top.lrp.onnx", reduce="top:9")
    with OnnxExplainer(tmp_path / "top.lrp.onnx") as explainer:
        found = explainer(ids.numpy(), target=target.numpy())
    places, values = largest(R, 7)
    filled = np.full((3, 2), -1)
    np.testing.assert_array_equal(found.relevance["words.positions"], np.concatenate([places, filled], 1))
    np.testing.assert_allclose(found.relevance["words.values"][:, :7], values, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.relevance["words.values"][:, 7:], np.zeros((3, 2)))
    logits = whole.output[torch.arange(3), target].numpy()
    np.testing.assert_allclose(found.sums["absorbed"], logits - R.sum(1), rtol=1e-5, atol=1e-7)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({"target": [0, (2, 1)]}, {}),
        ({"target": 1, "seed": "one"}, {}),
        ({"target": "argmax", "seed": "tensor"}, {"seed": torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])}),
    ],
)
def test_what_was_absorbed_is_what_the_seed_lacks(options: dict[str, Any], call: dict[str, Any]) -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(2, 4)
    explainer = lrp.compile(net, (x,), **options, reduce="sums")
    found, z = explainer(x, **call), net(x).detach()
    seeds = {
        "value": torch.stack([z[:, 0], z[:, 2] - z[:, 1]]),
        "one": torch.ones(2),
        "tensor": call.get("seed", torch.zeros(2, 3)).sum(1),
    }
    books = explainer.audit(x, **call)
    wanted = seeds[explainer.about.seed]
    np.testing.assert_allclose(found.sums["input"] + found.sums["absorbed"], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.sums["absorbed"].sum(), sum(books.absorbed.values()), rtol=3e-6, atol=1e-7)
    np.testing.assert_allclose(found.relevance["input"].sum(-1), found.sums["input"], rtol=1e-5, atol=1e-6)


def test_what_was_absorbed_is_known_where_no_output_is_explained() -> None:
    """A logit in front of a softmax, and a function of the outputs: the graph need not calculate these otherwise."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(2, 4)
    z = net(x).detach()
    with pytest.warns(LrpWarning, match="what is explained is the logit"):
        before = lrp.compile(nn.Sequential(net, nn.Softmax(-1)).eval(), (x,), reduce="sums")(x)
    np.testing.assert_allclose(before.sums["input"] + before.sums["absorbed"], z.max(1).values, rtol=1e-5)
    squares = lrp.compile(net, (x,), target=lambda y: (y**2).sum(1), reduce="sums")(x)
    np.testing.assert_allclose(squares.sums["input"] + squares.sums["absorbed"], (z**2).sum(1), rtol=1e-5)


def test_conditions_come_in_front_of_sums_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Image().eval(), torch.randn(2, 3, 5, 5)
    explainer = lrp.compile(net, (x,), masks="a", observe="a", reduce="channels")
    masks = torch.rand(4, 1, 4)
    found = explainer(x, masks={"a": masks})
    assert found.sums["x"].shape == (4, 2)
    assert found.relevance["a"].shape == (4, 2, 5, 5)
    np.testing.assert_allclose(found.relevance["x"].sum((2, 3)), found.sums["x"], rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="The relevance of 'a' is reduced"):
        concepts.channels(explainer, x, "a")


class Attention(nn.Module):
    """Two heads over words: their maps have two dims more than the words."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.query, self.key = nn.Embedding(17, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.soft, self.classes = nn.Softmax(-1), nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        x = self.table(words)
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.query(x), self.key(x), x))
        mixed = self.soft(q @ k.transpose(-1, -2)) @ v
        result: Tensor = self.classes(mixed.transpose(1, 2).flatten(2).mean(1))
        return result


def test_heads_are_those_of_what_has_them() -> None:
    torch.manual_seed(0)
    net, words = Attention().eval(), torch.randint(0, 17, (2, 5))
    whole = lrp.compile(net, (words,), composite="attnlrp", observe="soft")(words).relevance
    found = lrp.compile(net, (words,), composite="attnlrp", observe="soft", reduce="heads")(words).relevance
    assert found["soft"].shape == (2, 2)
    np.testing.assert_allclose(found["soft"], whole["soft"].sum((2, 3)), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found["words"], whole["words"])


def test_what_is_observed_later_is_reduced_as_well(image: Explainer) -> None:
    explainer = Explainer(reduced(image.artefact, ("channels",))).observe("a")
    whole = image.observe("a")(PIXELS).relevance
    for name, R in explainer(PIXELS).relevance.items():
        np.testing.assert_allclose(R, whole[name].sum(1), rtol=1e-5, atol=1e-6)
    assert explainer.about.reduce == ("channels",)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("chanels", r"There is no reduction 'chanels' \(did you mean 'channels'\?\): choose among channels"),
        (["patch"], "The reduction 'patch' takes a number, such as patch:16, not 'patch'."),
        (["patch:0"], "takes a number"),
        (["channels:2"], "takes no number"),
        ([4], "There is no reduction 4"),
        (["float16", "channels"], "float16 is the last reduction"),
        (["top:3", "channels"], "What follows 'top:3' has no dims to be summed over"),
        (["channels", "channels", "channels"], "needs 2 dims behind the batch, and no relevance that is returned has"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(names: Any, sentence: str, image: Explainer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        image.to_onnx(tmp_path / "m.lrp.onnx", reduce=names)
    assert not list(tmp_path.iterdir())


def test_what_has_no_rows_or_is_reduced_is_refused(image: Explainer, tmp_path: Path) -> None:
    small = Explainer(reduced(image.artefact, ("channels",)))
    with pytest.raises(InputError, match=r"reduced already \(channels\)"):
        small.to_onnx(tmp_path / "m.lrp.onnx", reduce="heads")
    net = nn.Sequential(nn.Linear(4, 3)).eval()
    for rows in (2, 3):  # as many as the weight has, too
        with pytest.raises(InputError, match=r"Relevance of '0.weight' has no rows"):
            lrp.compile(net, (torch.randn(rows, 4),), wrt="0.weight", reduce="sums")


def test_a_file_keeps_its_own_books(words: Explainer, tmp_path: Path) -> None:
    """Without its model: relevance that is doubled on its way out no longer adds up."""
    path = tmp_path / "m.lrp.onnx"
    words.to_onnx(path, reduce=["patch:2", "float16"])
    sound = verify(path)
    assert {check.name: check.passed for check in sound.checks}["books"] is True
    assert sound.passed, sound.to_dict()
    model = onnx.load(path)
    last = next(node for node in model.graph.node if "relevance.words" in node.output)
    last.output[0] = "half"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2, np.float16), "two"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["half", "two"], ["relevance.words"]))
    save_sealed(model, path)
    assert {check.name: check.passed for check in verify(path).checks}["books"] is False


@pytest.mark.heavy
@pytest.mark.parametrize("names", ["channels,patch:4,float16", "signs,top:3", "sums"])
@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_a_reduced_file_is_verified_against_its_model(names: str, ending: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Image().eval(), torch.randn(2, 3, 6, 6)
    sizes = ({0: BATCH, 2: SIDE["height"], 3: SIDE["width"]},)
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=sizes), tmp_path / "model.pt2")
    command = ["compile", str(tmp_path / "model.pt2"), "-o", str(tmp_path / f"m.lrp.{ending}"), "--reduce", names]
    assert main([*command, "--target", "index", "--composite", "epsilon-plus"]) == 0
    found = verify(tmp_path / f"m.lrp.{ending}", tmp_path / "model.pt2")
    assert all(check.passed for check in found.checks), found.to_dict()


@pytest.mark.slow
def test_the_command_line_reduces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net, x = Image().eval(), torch.randn(2, 3, 6, 6)
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=({0: BATCH},)), "model.pt2")
    np.save("x.npy", x.numpy())
    assert (
        main(["compile", "model.pt2", "-o", "m.lrp.pt2", "--target", "0,1", "--reduce", "channels,patch:4,float16"])
        == 0
    )
    assert main(["run", "m.lrp.pt2", "--input", "x.npy", "-o", "r.npz"]) == 0
    with np.load("r.npz") as found:
        assert {name: found[name].shape for name in found} == {
            "output": (2, 3),
            "relevance.x": (2, 2, 2, 2),
            "sum.x": (2, 2),
            "absorbed": (2, 2),
        }
