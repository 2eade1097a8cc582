"""A model that does something else where an open size is 1 is not promised there, where torch.export knows of no 1."""

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.errors import InputError, LrpWarning

BATCH = torch.export.Dim("batch")


class Branching(nn.Module):
    """Scales where there is more than one row."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(2 * x if x.shape[0] > 1 else x)


class Plain(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x)


class AtLeastTwo(Branching):
    """Runs on one row in no way, and says so itself."""

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x - x[1:2])


def compiled(model: nn.Module) -> lrp.Explainer:
    return lrp.compile(model.eval(), (torch.randn(3, 4),), dynamic_shapes=({0: BATCH},))


def test_a_size_of_one_at_which_the_model_branches_is_refused() -> None:
    model = Branching()

    with pytest.warns(LrpWarning, match="Where 'batch' is 1 the model does something else than at larger sizes"):
        explainer = compiled(model)

    torch.testing.assert_close(explainer(torch.ones(2, 4)).output, model(torch.ones(2, 4)))
    with pytest.raises(InputError, match="compiled for at least 2 there"):
        explainer(torch.ones(1, 4))


def test_a_model_that_does_not_branch_is_promised_one_row() -> None:
    model = Plain()
    explainer = compiled(model)

    assert explainer.about.ranges == {}
    torch.testing.assert_close(explainer(torch.ones(1, 4)).output, model(torch.ones(1, 4)))


def test_a_model_that_takes_no_single_row_says_so_itself() -> None:
    explainer = compiled(AtLeastTwo())

    assert explainer(torch.ones(2, 4)).output.shape == (2, 3)


def test_one_size_of_two_is_told_from_the_other() -> None:
    class Frames(Branching):
        def forward(self, x: Tensor) -> Tensor:
            return self.dense(x.sum(1) if x.shape[1] > 1 else -x[:, 0])

    model, sizes = Frames().eval(), {0: BATCH, 1: torch.export.Dim("frames")}

    with pytest.warns(LrpWarning, match="Where 'x_dim_1' is 1"):
        explainer = lrp.compile(model, (torch.randn(3, 5, 4),), dynamic_shapes=(sizes,))

    assert explainer.about.ranges == {"x_dim_1": (2, None)}
    torch.testing.assert_close(explainer(torch.ones(1, 2, 4)).output, model(torch.ones(1, 2, 4)))
