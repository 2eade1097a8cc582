"""Outputs of every structure: read by key or by position; what is no tensor passes, and is left out of ONNX."""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import lrp_compiler as lrp
from lrp_compiler.base.errors import CaptureError, FormatError, InputError
from lrp_compiler.base.sizes import size_of
from lrp_compiler.runtime import OnnxExplainer

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
LIMIT = lrp.composites.epsilon(0.0)  # without a stabiliser a linear map's relevance is gradient times input
BATCH = ({0: torch.export.Dim("batch")},)
Pair = namedtuple("Pair", "logits rows")


@dataclass
class Answer:
    logits: Tensor
    rows: int


class Unkeyed(dict):
    """Registered as some libraries do: without keys for paths."""


@dataclass
class Unknown:
    logits: Tensor


torch.export.register_dataclass(Answer, serialized_type_name="test_outputs.Answer")
pytree.register_pytree_node(
    Unkeyed,
    lambda value: (list(value.values()), list(value)),
    lambda values, context: Unkeyed(zip(context, values, strict=True)),
    serialized_type_name="test_outputs.Unkeyed",
)


class Model(nn.Module):
    def __init__(self, make: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.make = nn.Linear(4, 3), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.linear(x), x)


STRUCTURES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "none and size": lambda z, x: {"logits": z, "loss": None, "rows": x.shape[0]},
    "before": lambda z, x: (None, 7, z),
    "nested": lambda z, x: [{"a": [1.5, "text", True]}, (x.shape[0] * 2 + 1, z), x.shape[0] // 2],
    "shape": lambda z, x: (z, x.shape),
    "namedtuple": lambda z, x: Pair(z, x.shape[0]),
    "dataclass": lambda z, x: Answer(z, x.shape[0]),
    "without keys": lambda z, x: Unkeyed(other=x * 2, rows=x.shape[0], logits=z),
}


def flat(value: Any) -> list[Any]:
    return pytree.tree_flatten(value)[0]


def alike(got: Any, wanted: Any) -> bool:
    if isinstance(wanted, Tensor):
        return torch.allclose(got, wanted, atol=1e-6)
    return type(got) is type(wanted) and got == wanted


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("rows", [3, 2])
def test_outputs_come_back_as_the_model_returns_them(name: str, rows: int, tmp_path: Path) -> None:
    model, x = Model(STRUCTURES[name]).eval(), X[:rows]
    explainer = lrp.compile(model, (X,), composite=LIMIT, target=0, dynamic_shapes=BATCH)
    wanted = model(x)

    explanation = explainer(x)

    assert type(explanation.output) is type(wanted)
    assert all(map(alike, flat(explanation.output), flat(wanted)))
    # The first logit of each row is linear in x: relevance is gradient times input, and the bias.
    weight = model.linear.weight.detach()
    assert torch.allclose(explanation.relevance["x"], x * weight[0], atol=1e-5)

    explainer.save(tmp_path / "m.lrp.pt2")
    again = lrp.load(tmp_path / "m.lrp.pt2")(x)
    values = again.output.values() if isinstance(again.output, dict) else flat(again.output)
    assert all(map(alike, flat(list(values)), flat(wanted)))
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    run = OnnxExplainer(tmp_path / "m.lrp.onnx")
    tensors = [value for value in flat(wanted) if isinstance(value, Tensor)]
    assert len(run.outputs) == len(tensors)
    np.testing.assert_allclose(run(x.numpy()).relevance["x"], explanation.relevance["x"].numpy(), atol=1e-6)


def test_names_and_numbers_of_outputs_are_the_models_own() -> None:
    model = Model(lambda z, x: (None, z[:, 0], {"scores": z})).eval()
    for output in (1, "output.1"):
        explainer = lrp.compile(model, (X,), composite=LIMIT, target=lrp.Target(0, output=output))
        assert torch.allclose(explainer(X).relevance["x"], X * model.linear.weight[0].detach(), atol=1e-5)
    with pytest.raises(InputError, match=r"'output.1' \(1\), 'output.2.scores' \(2\)"):
        lrp.compile(model, (X,), target=lrp.Target(0, output=0))


def test_a_function_of_the_outputs_gets_them_whole() -> None:
    model = Model(lambda z, x: {"loss": None, "logits": z, "factor": 2}).eval()

    def scaled(outputs: dict[str, Any]) -> Tensor:
        assert outputs["loss"] is None
        second: Tensor = outputs["logits"][:, 1] * outputs["factor"]
        return second

    explainer = lrp.compile(model, (X,), composite=LIMIT, target=scaled)
    assert torch.allclose(explainer(X).relevance["x"], 2 * X * model.linear.weight[1].detach(), atol=1e-5)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("make", [lambda z, x: z.sum(), lambda z, x: {"loss": z.sum(), "logits": z}])
def test_a_single_number_is_explained_as_one_row(make: Callable[..., Any], tmp_path: Path) -> None:
    model = Model(make).eval()
    output = "loss" if isinstance(model(X), dict) else None
    explainer = lrp.compile(model, (X,), composite=LIMIT, target=lrp.Target(0, output=output))
    wanted = X * model.linear.weight.detach().sum(0)

    explanation = explainer(X)

    assert torch.allclose(explanation.relevance["x"], wanted, atol=1e-5)
    (case,) = explanation.explained()
    assert case.logit == pytest.approx((model(X)["loss"] if output else model(X)).item(), rel=1e-5)
    assert case.relevance["x"] == pytest.approx(float(wanted.sum()), rel=2e-6)
    assert abs(explainer.audit(X).error) < 1e-9
    explainer.to_onnx(tmp_path / "m.onnx")
    np.testing.assert_allclose(OnnxExplainer(tmp_path / "m.onnx")(X.numpy()).relevance["x"], wanted, atol=1e-5)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda z, x: (z, z.sum().item()), "read off a tensor"),
        (lambda z, x: (z, x.shape[0] ** 0.5), "no whole number of sizes"),
        (lambda z, x: Unknown(z), "torch.export.register_dataclass"),
        (lambda z, x: (z, torch.float32), "torch.dtype"),
    ],
)
def test_what_cannot_be_returned_is_refused_in_a_sentence(make: Callable[..., Any], words: str) -> None:
    with pytest.raises(CaptureError, match=words) as raised:
        lrp.compile(Model(make).eval(), (X,), dynamic_shapes=BATCH)
    assert "\n" not in str(raised.value)


def test_sizes_are_worked_out_from_text() -> None:
    assert size_of("2*batch + height//3 - 1", {"batch": 5, "height": 10}) == 12
    assert size_of("Max(1, Mod(batch, 3))", {"batch": 5}) == 2
    for text in ("__import__('os')", "batch.real", "x", "batch**9", "(", "1//0", "[1]", "'a'"):
        with pytest.raises(FormatError):
            size_of(text, {"batch": 5})
