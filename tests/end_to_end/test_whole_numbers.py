"""Inputs of whole numbers and flags: features where they are calculated with, indices where they look something up."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.errors import InputError, LrpWarning
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(12)

FLOATS = torch.tensor([[2.0, 0.3, 0.4, 1.2], [1.0, 0.5, 0.6, 3.0]])
WHOLE = torch.tensor([[2, 3, 4, 1], [1, 5, 6, 3]])


class Net(nn.Module):
    def __init__(self, features: Callable, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.linear, self.features = nn.Embedding(9, 4), nn.Linear(width, 3, bias=False), features

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.linear(self.features(self, *inputs))


def check(model: Net, inputs: tuple[Tensor, ...], expected: list[Tensor], folder: Path, **options: object) -> None:
    """Relevance as expected, balanced in float64, the same from onnxruntime and from a file."""
    explainer = lrp.compile(model.eval(), inputs, target=0, **options)  # type: ignore[arg-type]
    explainer.save(folder / "m.lrp.pt2")
    explainer.to_onnx(folder / "m.lrp.onnx")
    said = explainer(*inputs)
    loaded = lrp.load(folder / "m.lrp.pt2")(*inputs)
    by_onnx = OnnxExplainer(folder / "m.lrp.onnx")(*(tensor.numpy() for tensor in inputs))

    torch.testing.assert_close(said.output, model(*inputs).detach())
    # What is expected knows no stabiliser. Measured: up to 4e-5 of a value.
    for name, want in zip(said.relevance, expected, strict=True):
        torch.testing.assert_close(said.relevance[name], want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loaded.relevance[name], want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(by_onnx.relevance[name]), want, rtol=1e-4, atol=1e-5)
    books = explainer.audit(*inputs)
    assert abs(books.error) <= 1e-9 * max(1.0, books.magnitude)


def test_a_column_of_categories_gets_what_its_embedding_gets(tmp_path: Path) -> None:
    model = Net(lambda net, x: torch.cat([net.table(x[:, 0].long()), x[:, 1:]], 1), 7)
    weight = model.linear.weight[0].detach()
    looked_up = model.table.weight[FLOATS[:, 0].long()].detach()
    want = torch.cat([(looked_up * weight[:4]).sum(1, keepdim=True), FLOATS[:, 1:] * weight[4:]], 1)

    check(model, (FLOATS,), [want], tmp_path)


@pytest.mark.slow
def test_columns_moved_to_their_rows_of_one_table_stay_the_columns(tmp_path: Path) -> None:
    """Whatever is added to an index passes the relevance of what was looked up, in floats as in whole numbers."""
    offsets = torch.tensor([0, 3, 6])
    model = Net(lambda net, x: net.table(x.long() % 3 + offsets).sum(1), 4)
    ids = torch.tensor([[1, 2, 0], [0, 0, 0]])
    want = (model.table.weight[ids + offsets] * model.linear.weight[0]).sum(-1).detach()

    check(model, (ids,), [want], tmp_path)
    check(model, (ids.float(),), [want], tmp_path)


ONE_HOT = {
    "one_hot": lambda column: functional.one_hot(column.long(), 5).float(),
    "comparison": lambda column: (column.unsqueeze(1) == torch.arange(5, device=column.device)).float(),
    "the other way round": lambda column: (torch.arange(5.0) == column.unsqueeze(1)).to(torch.float32),
    "bins": lambda column: functional.one_hot(
        torch.bucketize(column.contiguous(), torch.tensor([0.5, 1.5, 2.5])), 5
    ).float(),
    "sorted places": lambda column: functional.one_hot(
        torch.searchsorted(torch.tensor([0.5, 1.5, 2.5]), column.float().contiguous()), 5
    ).float(),
}


@pytest.mark.parametrize("case", ONE_HOT)
def test_a_category_gets_what_its_flag_gets(case: str, tmp_path: Path) -> None:
    """A row of flags times a matrix is a row of the matrix: an embedding, written in another way."""
    model = Net(lambda net, x: torch.cat([ONE_HOT[case](x[:, 0]), x[:, 1:].float()], 1), 8)
    weight = model.linear.weight[0].detach()
    flags = weight[:5][FLOATS[:, 0].long()].unsqueeze(1)

    check(model, (FLOATS,), [torch.cat([flags, FLOATS[:, 1:] * weight[5:]], 1)], tmp_path)


@pytest.mark.parametrize("case", ["one_hot", "comparison"])
def test_ids_get_what_their_flags_get(case: str, tmp_path: Path) -> None:
    model = Net(lambda net, ids: ONE_HOT[case](ids.flatten()).reshape(-1, 20), 20)
    ids = torch.tensor([[2, 3, 4, 1], [1, 0, 0, 3]])
    places = torch.arange(4) * 5

    check(model, (ids,), [model.linear.weight[0].detach()[ids + places]], tmp_path)


NUMBERS = {
    "int8": lambda net, x: x.to(torch.int8).float() / 10,
    "a round trip": lambda net, x: (x * 10).long().float(),
    "a difference": lambda net, x: (x.long() - 3).float(),
}


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_that_are_calculated_with_are_features(dtype: torch.dtype, tmp_path: Path) -> None:
    model, x = Net(lambda net, x: x.float() / 10, 4), WHOLE.to(dtype)

    check(model, (x,), [x.float() / 10 * model.linear.weight[0].detach()], tmp_path)


@pytest.mark.parametrize(
    ("features", "width"),
    [
        (lambda net, x: x.sum(1, keepdim=True).float(), 1),
        (lambda net, x: x.cumsum(1).float(), 4),
        (lambda net, x: (x[:, :2] + x[:, 2:]).float(), 2),
        (lambda net, x: (-x).float(), 4),
        (lambda net, x: x.amax(1, keepdim=True).float(), 1),
        (lambda net, x: torch.where(x > 2, x, 0).float(), 4),
        (lambda net, x: (x - 0).reshape(2, 2, 2).mT.flatten(1).float(), 4),
        (lambda net, x: (x @ torch.arange(12).reshape(4, 3).to(x.dtype)).float(), 3),
    ],
)
def test_linear_arithmetic_of_whole_numbers_is_that_of_floats(features: Callable, width: int, tmp_path: Path) -> None:
    """Against gradient × input of the same calculation on floats."""
    model, x = Net(features, width), WHOLE.float().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)

    check(model, (WHOLE,), [WHOLE * gradient], tmp_path)


def test_an_index_beside_a_mask_of_whole_numbers_takes_everything(tmp_path: Path) -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    model = Net(lambda net, ids, mask: (net.table(ids) * mask[..., None]).sum(1), 4)
    want = (model.table.weight[WHOLE] * mask[..., None] * model.linear.weight[0]).sum(-1).detach()

    check(model, (WHOLE, mask), [want], tmp_path)


@pytest.mark.slow
def test_whole_numbers_beside_floats_take_part_when_they_are_named(tmp_path: Path) -> None:
    model = Net(lambda net, x, y: x + y, 4)
    weight = model.linear.weight[0].detach()

    check(model, (FLOATS, WHOLE), [FLOATS * weight], tmp_path)
    names = [entry.input for entry in lrp.compile(model, (FLOATS, WHOLE), wrt="inputs_1").about.relevance]
    assert names == ["inputs_1"]
    check(model, (FLOATS, WHOLE), [FLOATS * weight, WHOLE * weight], tmp_path, wrt=["inputs_0", "inputs_1"])


def test_a_mask_of_floats_is_named_and_can_be_held_fixed(tmp_path: Path) -> None:
    mask = torch.tensor([[1.0, 1, 0, 1], [0, 1, 1, 1]])
    model = Net(lambda net, x, mask: x * mask, 4).eval()
    want = FLOATS * mask * model.linear.weight[0].detach()

    with pytest.warns(LrpWarning, match=r"'inputs_1' holds nothing but 0 and 1.*fixed=\['inputs_1'\]"):
        lrp.compile(model, (FLOATS, mask), target=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LrpWarning)
        check(model, (FLOATS, mask), [want], tmp_path, fixed="inputs_1")


def test_what_is_held_fixed_must_be_an_input() -> None:
    with pytest.raises(InputError, match="fixed names 'mask', which is no input"):
        lrp.compile(nn.Linear(4, 3).eval(), (FLOATS,), fixed=["mask"])
    with pytest.raises(InputError, match="depends on none of the inputs"):
        lrp.compile(nn.Linear(4, 3).eval(), (FLOATS,), fixed=["input"])
