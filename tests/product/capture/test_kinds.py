"""What users hand over in place of a model: taken as it is meant, or told by its name."""

import copy
import pickle
from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional, FXFloatFunctional

import lrp_compiler as lrp
from lrp_compiler.base.errors import CaptureError, FormatError, InputError, LrpError

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        lambda model: nn.DataParallel(model).eval(),
        lambda model: torch.export.export(model, (X,)).module(),
        torch.fx.symbolic_trace,
    ],
    ids=["compiled", "parallel", "of a program", "traced by fx"],
)
def test_what_calculates_the_same_is_taken(wrap: Any) -> None:
    wanted = lrp.compile(net(), (X,), target=0)(X).relevance["input"]
    explainer = lrp.compile(wrap(net()), (X,), target=0)
    assert torch.equal(explainer(X).relevance["input"], wanted)


def test_arrays_of_numpy_are_example_inputs() -> None:
    wanted = lrp.compile(net(), (X,), target=0)(X).relevance["input"]
    assert torch.equal(lrp.compile(net(), (X.numpy(),), target=0)(X).relevance["input"], wanted)


@pytest.mark.parametrize("kind", [FloatFunctional, FXFloatFunctional])
def test_additions_that_are_yet_to_be_quantised_are_additions(kind: Any) -> None:
    class Skipping(nn.Module):
        def __init__(self, skip: Any) -> None:
            super().__init__()
            self.first, self.skip = net(), skip

        def forward(self, x: Tensor) -> Tensor:
            return self.skip.add(self.first(x), self.skip.mul(x[:, :3], x[:, 1:4]))

    class Plain(Skipping):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) + x[:, :3] * x[:, 1:4]

    wanted = lrp.compile(Plain(None).eval(), (X,), target=0)(X).relevance["x"]
    assert torch.equal(lrp.compile(Skipping(kind()).eval(), (X,), target=0)(X).relevance["x"], wanted)


def quantised() -> nn.Module:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.quantize_per_tensor(torch.ones(3, 4), 0.1, 0, torch.qint8))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight.dequantize().T

    return Packed().eval()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: torch.jit.script(net()), "TorchScript"),
        (lambda: torch.jit.trace(net(), (X,)), "TorchScript"),
        (lambda: net().state_dict(), "state dict.*load_state_dict"),
        (lambda: nn.Linear, "class Linear"),
        (lambda: lambda x: x, "plain function.*forward of a module"),
        (lambda: net().forward, "give the module itself"),
        (lambda: None, "None"),
        (lambda: [net()], "Module"),
        (quantised, "quantised.*floating point"),
        (lambda: copy.deepcopy(net()).to("meta"), "meta"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_is_no_model_is_told_by_its_name(model: Any, words: str) -> None:
    with pytest.raises(LrpError, match=words) as raised:
        lrp.compile(model(), (X,))
    assert "\n" not in str(raised.value)


class Batch(UserDict):
    """As tokenizers return them."""


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        (Batch(input=X), None, r"kwargs=dict\(batch\)"),
        ({"input": X}, None, r"kwargs=dict\(batch\)"),
        ((Batch(input=X),), None, r"kwargs=dict\(batch\)"),
        (X.numpy(), None, r"\(x,\)"),
        ("x", None, r"\(x,\)"),
        (3, None, r"\(x,\)"),
        ((X.to_sparse(),), None, "to_dense"),
        ((X.to("meta"),), None, "meta"),
        ((np.array(["a"]),), None, "dtype <U1"),
        ((), {3: X}, "by name"),
        ((), [X], "by name"),
        ((), {"y": X}, "unexpected keyword argument 'y'"),
        ((X, X), None, "positional arguments"),
        ((None,), None, "NoneType"),
    ],
)
def test_example_inputs_of_other_kinds_are_refused(args: Any, kwargs: Any, words: str) -> None:
    with pytest.raises(LrpError, match=words) as raised:
        lrp.compile(net(), args, kwargs)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("w.pt2", lambda path: torch.save(net().state_dict(), path), "state dict"),
        ("c.pth", lambda path: torch.save({"model": net().state_dict(), "epoch": 3}, path), "state dict"),
        ("m.pt", lambda path: torch.save(net(), path), "pickled model"),
        ("s.pt", lambda path: torch.jit.script(net()).save(path), "TorchScript"),
        ("p.pkl", lambda path: path.write_bytes(pickle.dumps(net())), "is a pickle"),
        ("m.onnx", lambda path: path.write_bytes(b"x"), "ONNX"),
        ("m.safetensors", lambda path: path.write_bytes(b"x"), "weights alone"),
        ("e.pt2", lambda path: path.write_bytes(b""), "not a .pt2 file"),
        ("folder", lambda path: path.mkdir(), "folder"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files_of_other_kinds_are_told_by_their_name(name: str, write: Any, words: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    with pytest.raises(FormatError, match=words) as raised:
        lrp.compile(tmp_path / name)
    assert "\n" not in str(raised.value)
    with pytest.raises((FormatError, FileNotFoundError)):
        lrp.load(tmp_path / name)


def test_a_pickle_is_not_run_to_be_told(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.write_text, (tmp_path / "run", "x"))

    torch.save(Trap(), tmp_path / "trap.pt")
    with pytest.raises(FormatError, match="pickled model"):
        lrp.compile(tmp_path / "trap.pt")
    assert not (tmp_path / "run").exists()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("inner", [True, False])
def test_regions_with_gradients_are_written_out(inner: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                y = self.net(x)
                if inner:
                    with torch.no_grad():
                        y = y * torch.tensor([1.0, 2.0, 3.0])
            return y

    model = Model().eval()
    explainer = lrp.compile(model, (X,), target=0, composite=lrp.composites.epsilon(0.0))
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.net(x)[:, 0].sum(), x)

    torch.testing.assert_close(explainer(X).output, model(X).detach())
    torch.testing.assert_close(explainer(X).relevance["x"], (X * gradient))  # ReLUs, no stabiliser
    program = torch.export.export(model, (X,))
    nodes = str(program.graph)
    assert torch.equal(lrp.compile(program, target=0)(X).output, explainer(X).output)
    assert str(program.graph) == nodes


def test_the_training_message_is_for_modules_that_can_follow_it() -> None:
    module = torch.export.export(nn.Sequential(nn.Dropout(), nn.Linear(4, 3)).train(), (X,)).module()
    with pytest.raises(CaptureError, match="exported in training mode"):
        lrp.compile(module, (X,))


def test_an_integer_is_no_path() -> None:
    with pytest.raises(InputError):
        lrp.load(3)
