"""Every compilation compares what was captured with the model, on the example inputs."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.errors import CaptureError, LrpError, LrpWarning

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Remembers(nn.Module):
    """Another factor in every call: what torch.export sees is not what the next call gives."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.linear = 0, nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) * (1 + self.calls)


class Switches(nn.Linear):
    """Something else while it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if torch.compiler.is_exporting() else 1)


class Net(nn.Module):
    def __init__(self, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 6), second, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))))


class Counts(nn.Module):
    """A buffer that every call writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) * self.calls


class Overflows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 1e30) ** 2


def test_what_differs_is_refused_and_the_module_is_named() -> None:
    with pytest.raises(CaptureError, match=r"not what the model calculates.*of the largest value, first in second\."):
        lrp.compile(Net(Switches(6, 6)).eval(), (X,))


def test_what_is_kept_from_call_to_call_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"not what the model calculates.*from call to call"):
        lrp.compile(Net(Remembers()).eval(), (X,))


def test_buffers_that_a_call_writes_to_stay_as_they_are() -> None:
    model = Counts().eval()

    explainer = lrp.compile(model, (X,))

    assert model.calls == 0
    torch.testing.assert_close(explainer(X).output, model(X))


def test_infinite_outputs_are_the_same_as_the_models() -> None:
    explainer = lrp.compile(Overflows().eval(), (X,))

    assert torch.equal(explainer(X).output, Overflows()(X))


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounding_is_no_difference(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(20) for layer in (nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU())]

    lrp.compile(nn.Sequential(*layers, nn.Linear(6, 3)).to(dtype).eval(), (X.to(dtype),))


def test_a_file_is_compared_with_its_own_program(tmp_path: Path) -> None:
    program = torch.export.export(Counts().eval(), (X,))
    torch.export.save(program, tmp_path / "model.pt2")

    explainer = lrp.compile(tmp_path / "model.pt2")

    torch.testing.assert_close(explainer(X).output, program.module()(X))


def test_a_model_that_fails_says_so_by_itself() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no such luck")

    with pytest.raises(LrpError, match=r"The model itself fails on the example inputs.*no such luck.*test_same_output"):
        lrp.compile(Fails().eval(), (X,))


class Chaotic(nn.Module):
    """The logistic map, twenty times, behind a batch norm that is folded: what was rounded is doubled each time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.norm.running_mean, self.norm.running_var = torch.rand(6), 1 + torch.rand(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).sigmoid()
        for _ in range(20):
            x = 4 * x * (1 - x)
        return x


@pytest.mark.sampled(4)
@pytest.mark.parametrize("exported", [False, True])
def test_a_model_that_makes_much_of_rounding_is_explained_and_said_to_do_so(exported: bool) -> None:
    model = Chaotic().eval()
    given = (torch.export.export(model, (X,)),) if exported else (model, (X,))

    with pytest.warns(LrpWarning, match=r"rounding alone.*double"):
        lrp.compile(*given, target=0)


def test_another_output_of_such_a_model_is_held_to_it_all_the_same() -> None:
    class Both(Chaotic):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            calm = self.first(x) * (1e6 if torch.compiler.is_exporting() else 1)
            return super().forward(x), calm

    with pytest.raises(CaptureError, match="outputs differ"):
        lrp.compile(Both().eval(), (X,), target=lrp.Target(0, output=0))


def test_a_model_that_rounds_as_others_do_is_not() -> None:
    class Calm(Chaotic):
        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.first(x))

    with warnings.catch_warnings():
        warnings.simplefilter("error", LrpWarning)
        lrp.compile(Calm().eval(), (X,), target=0)
