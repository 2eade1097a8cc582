"""What is explained: classes, pairs, several at once, positions, functions; and what is put on it."""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(12)

BATCH = torch.export.Dim("batch")


def label(value: Any) -> str:
    """A test's name, without addresses."""
    return re.sub(r"<function (\S+) at 0x\w+>", r"\1", str(value))


class Net(nn.Module):
    """Every kind of layer that batches its relevance in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.out = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.stem(x).relu(), 2)
        x = x + self.depthwise(x).relu()
        return self.out(nn.functional.avg_pool2d(x, 2).flatten(2).mean(-1))


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu")
        self.out = nn.Linear(8, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.out(self.block(self.embed(input_ids), src_key_padding_mask=attention_mask == 0))


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.down(x).relu()
        return {"features": h, "map": self.out(h)}


def eager(model: nn.Module) -> nn.Module:
    """In float64, on the path that torch.export sees."""
    return model.double().eval()


torch.manual_seed(0)
NET, TAGGER, SEGMENTER = eager(Net()), eager(Tagger()), eager(Segmenter())
SINGLE, SINGLE_TAGGER = copy.deepcopy(NET).float(), copy.deepcopy(TAGGER).float()
X = torch.randn(2, 3, 16, 16, dtype=torch.float64)
FRESH = torch.randn(3, 3, 16, 16, dtype=torch.float64)
IDS = torch.randint(11, (2, 7))
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])


def explain(target: Any, *args: Any, model: nn.Module = NET, **options: Any) -> dict[str, Tensor]:
    args = args or (X,)
    return lrp.compile(model, args, composite="attnlrp", target=target, **options)(*args).relevance


def runs_in_onnxruntime(explainer: lrp.Explainer, folder: Path, *args: Tensor, **given: Any) -> None:
    """In float32, as onnxruntime has no convolution of doubles."""
    explainer.to_onnx(folder / "m.lrp.onnx")
    theirs = explainer(*args, **given).relevance
    with OnnxExplainer(folder / "m.lrp.onnx") as runtime:
        arrays = {name: value.numpy() for name, value in given.items()}
        ours = runtime(*(arg.numpy() for arg in args), **arrays).relevance
        cut = runtime(*(arg.numpy() for arg in args), batch_size=2, **arrays).relevance if not given else ours
    for name, relevance in theirs.items():
        for found in (ours, cut):
            assert np.abs(found[name] - relevance.numpy()).max() <= 1e-5 * relevance.abs().max()


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


# ---- Classes ----


def test_a_pair_is_the_difference_of_its_classes() -> None:
    close(explain((1, 3))["x"], explain(1)["x"] - explain(3)["x"])


@pytest.mark.slow
@pytest.mark.parametrize("composite", ["epsilon-plus", "epsilon-alpha2-beta1-flat", "attnlrp-gamma", "dynamic-lrp"])
def test_several_targets_are_each_one_explained(composite: str, tmp_path: Path) -> None:
    targets = [0, (1, 3), 4]
    options: dict[str, Any] = {"composite": composite, "dynamic_shapes": ({0: BATCH},)}
    together = lrp.compile(NET, (X,), target=targets, **options)

    relevance = together(FRESH).relevance["x"]

    assert relevance.shape == (3, *FRESH.shape)
    for row, target in zip(relevance, targets, strict=True):
        close(row, lrp.compile(NET, (FRESH,), composite=composite, target=target)(FRESH).relevance["x"])
    single = lrp.compile(SINGLE, (X.float(),), target=targets, **options)
    runs_in_onnxruntime(single, tmp_path, FRESH.float())


def test_several_targets_share_one_forward() -> None:
    explainer = lrp.compile(NET, (X,), target=[0, 1, 2])
    convolutions = [node for node in explainer.module.graph.nodes if "conv2d" in str(node.target)]
    assert len(convolutions) == 2


@pytest.mark.slow
def test_several_targets_given_at_run_time(tmp_path: Path) -> None:
    targets = torch.tensor([[0, 1], [3, 3], [4, 2]])
    counted = lrp.compile(NET, (X,), target=lrp.Target("index", count=3))
    single = lrp.compile(NET, (X,), target="index")
    expected = torch.stack([single(X, target=row).relevance["x"] for row in targets])

    close(counted(X, target=targets).relevance["x"], expected)
    close(single(X, target=targets).relevance["x"], expected)
    for target in (lrp.Target("index", count=3), "index"):
        runs_in_onnxruntime(lrp.compile(SINGLE, (X.float(),), target=target), tmp_path, X.float(), target=targets)


@pytest.mark.heavy
def test_several_targets_of_a_transformer_with_dynamic_shapes(tmp_path: Path) -> None:
    dims = {0: BATCH, 1: torch.export.Dim("sequence")}
    args = (IDS, MASK)
    options: dict[str, Any] = {"composite": "attnlrp", "dynamic_shapes": (dims, dims)}
    together = lrp.compile(TAGGER, args, target=[0, (2, 5)], **options)
    ids, mask = torch.randint(11, (3, 5)), torch.ones(3, 5, dtype=torch.int64)

    relevance = together(ids, mask).relevance["input_ids"]

    for row, target in zip(relevance, [0, (2, 5)], strict=True):
        close(
            row, lrp.compile(TAGGER, (ids, mask), composite="attnlrp", target=target)(ids, mask).relevance["input_ids"]
        )
    single = lrp.compile(SINGLE_TAGGER, args, target=[0, (2, 5)], **options)
    runs_in_onnxruntime(single, tmp_path, ids, mask)


# ---- Positions ----


def at(position: Any, **options: Any) -> Tensor:
    return explain(lrp.Target(3, position=position), IDS, MASK, model=TAGGER, **options)["input_ids"]


def by_function(function: Any, *args: Tensor, model: nn.Module) -> Tensor:
    """The same by a wrapper module, whose output is the explained number."""

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *given: Tensor) -> Tensor:
            return function(self.model(*given)).unsqueeze(-1)

    explainer = lrp.compile(Wrapper().eval(), args, composite="attnlrp", target=0)
    return next(iter(explainer(*args).relevance.values()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("position", "pick"),
    [
        (None, lambda out: out[:, -1, 3]),
        ("last", lambda out: out[:, -1, 3]),
        (2, lambda out: out[:, 2, 3]),
        (-3, lambda out: out[:, -3, 3]),
        (slice(1, 4), lambda out: out[:, 1:4, 3].sum(1)),
        ("sum", lambda out: out[..., 3].sum(1)),
        ("last-unpadded", lambda out: torch.stack([out[0, 6, 3], out[1, 3, 3]])),
    ],
    ids=label,
)
def test_a_position_of_a_sequence(position: Any, pick: Any) -> None:
    close(at(position), by_function(pick, IDS, MASK, model=TAGGER))


@pytest.mark.slow
def test_a_position_given_at_run_time(tmp_path: Path) -> None:
    explainer = lrp.compile(TAGGER, (IDS, MASK), composite="attnlrp", target=lrp.Target("index", position="index"))
    where, target = torch.tensor([5, 2]), torch.tensor([3, 3])

    relevance = explainer(IDS, MASK, target=target, position=where).relevance["input_ids"]

    close(relevance, torch.stack([at(5)[0], at(2)[1]]))
    books = explainer.audit(IDS, MASK, target=target, position=where)
    assert abs(books.error) <= 1e-9 * books.magnitude
    single = lrp.compile(SINGLE_TAGGER, (IDS, MASK), target=lrp.Target("index", position="index"))
    runs_in_onnxruntime(single, tmp_path, IDS, MASK, target=target, position=where)
    explainer.save(tmp_path / "m.lrp.pt2")
    loaded = lrp.load(tmp_path / "m.lrp.pt2")
    close(loaded(IDS, MASK, target=target, position=where).relevance["input_ids"], relevance)
    assert loaded.audit(IDS, MASK, target=target, position=where).error == pytest.approx(books.error, abs=1e-12)
    with pytest.raises(InputError, match="position is missing"):
        explainer(IDS, MASK, target=target)


@pytest.mark.parametrize(
    ("position", "pick"),
    [
        ((4, 7), lambda out: out["map"][:, 2, 4, 7]),
        ((slice(2, 5), 7), lambda out: out["map"][:, 2, 2:5, 7].sum(1)),
        ("sum", lambda out: out["map"][:, 2].sum((1, 2))),
    ],
    ids=label,
)
def test_pixels_and_regions_of_a_map(position: Any, pick: Any, tmp_path: Path) -> None:
    explainer = lrp.compile(SEGMENTER, (X,), composite="attnlrp", target=lrp.Target(2, output="map", position=position))

    relevance = explainer(X).relevance["x"]

    close(relevance, by_function(pick, X, model=SEGMENTER))
    explainer.save(tmp_path / "m.lrp.pt2")
    books, loaded = explainer.audit(X), lrp.load(tmp_path / "m.lrp.pt2").audit(X)
    assert abs(books.error) <= 1e-9 * books.magnitude
    assert loaded.seed == pytest.approx(books.seed)


# ---- Functions of the outputs ----


def test_a_function_of_the_outputs_is_traced_with_the_model() -> None:
    def margin(out: dict[str, Tensor]) -> Tensor:
        scores = out["map"].mean((2, 3))
        return scores[:, 2] - 0.5 * scores[:, 1]

    close(explain(margin, model=SEGMENTER)["x"], by_function(margin, X, model=SEGMENTER))


def test_a_function_may_pick_the_largest() -> None:
    def lead(out: dict[str, Tensor]) -> Tensor:
        scores = out["map"].mean((2, 3))
        return scores.max(-1).values - scores.topk(2).values[:, 1]

    close(explain(lead, model=SEGMENTER)["x"], by_function(lead, X, model=SEGMENTER))


def test_a_loaded_explainer_of_a_function_runs_and_is_audited(tmp_path: Path) -> None:
    explainer = lrp.compile(NET, (X,), target=lambda out: out[:, 0] - 2 * out[:, 1])
    explainer.save(tmp_path / "m.lrp.pt2")
    loaded = lrp.load(tmp_path / "m.lrp.pt2")

    close(loaded(X).relevance["x"], explainer(X).relevance["x"])
    assert abs(explainer.audit(X).error) < 1e-9
    assert loaded.audit(X).to_dict() == explainer.audit(X).to_dict()


def test_a_function_that_returns_something_else_is_refused() -> None:
    with pytest.raises(InputError, match=r"must return a tensor of shape \[batch\]"):
        explain(lambda out: out["map"], model=SEGMENTER)
    with pytest.raises(InputError, match="failed on the model's outputs"):
        explain(lambda out: out["logits"], model=SEGMENTER)


# ---- What makes no sense ----


@pytest.mark.sampled(48)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lrp.Target([]), "empty"),
        (lambda: lrp.Target(["argmax", 3]), "argmax"),
        (lambda: lrp.Target((1, 2, 3)), r"\(1, 2, 3\)"),
        (lambda: lrp.Target(1.5), "1.5"),
        (lambda: lrp.Target(1, position="middle"), "middle"),
        (lambda: lrp.Target(3, count=2), "count"),
        (lambda: explain([0, 5]), "5 is out of range"),
        (lambda: explain((0, -9)), "-9 is out of range"),
        (lambda: explain(lrp.Target(0, position=1)), "no position"),
        (lambda: explain(lrp.Target(0, output="scores")), "'scores'"),
        (lambda: explain(lrp.Target(0, output="map"), model=SEGMENTER), "position"),
        (lambda: explain(lrp.Target(0, output="map", position=3), model=SEGMENTER), "2 parts"),
        (lambda: explain(lrp.Target(0, output="map", position=(3, 99)), model=SEGMENTER), "99 is out of range"),
        (lambda: explain(lrp.Target(0, position=9), IDS, MASK, model=TAGGER), "9 is out of range"),
    ],
)
def test_a_target_that_makes_no_sense_is_refused(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_a_mask_must_be_there_for_the_last_unpadded_position() -> None:
    class Unmasked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu()

    with pytest.raises(InputError, match="attention_mask"):
        explain(lrp.Target(0, position="last-unpadded"), torch.randn(2, 3, 4), model=Unmasked().eval())
