"""Numbers that are no row of a table are refused in onnxruntime, too, which counts negative ones from the end."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.errors import InputError
from lrp_compiler.runtime import OnnxExplainer


class Words(nn.Module):
    """Two tables, of 11 and 7 rows."""

    def __init__(self, look_up: Callable[["Words", Tensor], Tensor]) -> None:
        super().__init__()
        self.long, self.short, self.classes = nn.Embedding(11, 4), nn.Embedding(7, 4), nn.Linear(4, 3)
        self.look_up = look_up

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.classes(self.look_up(self, ids).sum(1))
        return result


def opened(look_up: Callable[[Words, Tensor], Tensor], path: Path, dtype: torch.dtype = torch.int64) -> OnnxExplainer:
    ids = torch.ones(2, 5, dtype=dtype)
    sizes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", min=3, max=9)},)
    lrp.compile(Words(look_up).eval(), (ids,), dynamic_shapes=sizes).to_onnx(path)
    return OnnxExplainer(path)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("look_up", "rows"),
    [
        (lambda self, ids: self.long(ids), 11),
        (lambda self, ids: self.long(ids) + self.short(ids), 7),
        (lambda self, ids: self.long(ids.t().contiguous().long()).transpose(0, 1), 11),
        (lambda self, ids: self.long(ids.unsqueeze(1).flatten(0, 1).clone()), 11),
    ],
    ids=["one", "the smaller of two", "turned", "reshaped"],
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_what_no_row_is_is_refused(
    look_up: Callable[[Words, Tensor], Tensor], rows: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    explain = opened(look_up, tmp_path / "m.lrp.onnx", dtype)
    ids = np.array([[0, 1, 2]], str(dtype)[6:])

    assert explain.about.rows == {"ids": rows}
    explain(np.where(ids == 2, rows - 1, ids).astype(ids.dtype))
    for wrong in (-1, rows):
        with pytest.raises(InputError, match=f"holds {wrong}, but what it looks up has rows 0 to {rows - 1}"):
            explain(np.where(ids == 2, wrong, ids).astype(ids.dtype))


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "look_up",
    [
        lambda self, ids: self.long(ids.clamp(min=0)),
        lambda self, ids: self.long(ids + 1),
        lambda self, ids: self.long(ids[:, 1:]),
        lambda self, ids: self.long.weight[ids],
    ],
    ids=["bounded", "moved", "in part", "by index"],
)
def test_what_the_model_takes_is_taken(look_up: Callable[[Words, Tensor], Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    explain = opened(look_up, tmp_path / "m.lrp.onnx")
    torch.manual_seed(0)
    model, ids = Words(look_up).eval(), torch.tensor([[-1, 1, 2]])

    np.testing.assert_allclose(explain(ids.numpy()).output, model(ids).detach().numpy(), rtol=1e-5, atol=1e-6)
