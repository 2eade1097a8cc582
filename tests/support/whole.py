"""What must hold of every explainer, whatever the model: tried on one model in float64, its file in float32."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.passes.graph import Float64
from lrp_compiler.runtime import OnnxExplainer


class Between(nn.Module):
    """A function of its inputs between two dense layers; the first input passes the first of them."""

    def __init__(self, function: Callable[..., Tensor], features: int = 4, made: int | None = None) -> None:
        super().__init__()
        self.function = copy.deepcopy(function) if isinstance(function, nn.Module) else function
        self.stem, self.head = nn.Linear(features, features), nn.Linear(made or features, 3)
        generator = torch.Generator().manual_seed(features)
        with torch.no_grad():
            for parameter in (*self.stem.parameters(), *self.head.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.stem(x)
        return self.head(self.function(x) if y is None else self.function(x, y))


def in_precision(tree: Any, dtype: torch.dtype) -> Any:
    """Tensors or a model, their floats (complex ones too) in that precision."""
    if isinstance(tree, tuple):
        return tuple(in_precision(item, dtype) for item in tree)
    if isinstance(tree, Tensor):
        if tree.is_complex():
            return tree.to(torch.complex128 if dtype == torch.float64 else torch.complex64)
        return tree.to(dtype) if tree.is_floating_point() else tree
    model = copy.deepcopy(tree)
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    converted = in_precision(tensor.detach(), dtype)
                    tensors[name] = nn.Parameter(converted, False) if isinstance(tensor, nn.Parameter) else converted
    return model.eval()


def holds(
    model: nn.Module, args: tuple[Tensor, ...], other: tuple[Tensor, ...] | None = None, **options: Any
) -> lrp.Explainer:
    """Compile; the output is the model's, the books balance, the graph says what they say, and it survives a file.

    Args:
        model: in any precision.
        args: example inputs.
        other: inputs of other sizes to try it on; the examples by default.
        options: of `compile`; `composite` is "attnlrp" and `target` 0 by default.
    """
    options = {"composite": "attnlrp", "target": 0, **options}
    model, args, other = in_precision(model, torch.float64), *in_precision((args, other or args), torch.float64)
    explainer = lrp.compile(model, args, **options)
    explanation = explainer(*other)
    torch.testing.assert_close(explanation.output, model(*other), rtol=1e-9, atol=1e-9)

    books = explainer.audit(*other)
    moved = max(abs(entry.relevance_in) + sum(map(abs, entry.absorbed.values())) for entry in books.entries)
    assert abs(books.error) <= 1e-9 * moved
    assert max(abs(entry.error) for entry in books.entries) <= 1e-9 * moved
    for name, relevance in explanation.relevance.items():
        assert relevance.isfinite().all()
        assert abs(float(relevance.sum().real) - books.inputs[name]) <= 1e-9 * max(moved, float(relevance.abs().sum()))
    return explainer


def survives_files(explainer: lrp.Explainer, inputs: tuple[Tensor, ...], folder: Path) -> None:
    """Saved and loaded, it says the same."""
    explainer.save(folder / "m.lrp.pt2")
    again = lrp.load(folder / "m.lrp.pt2")(*inputs).relevance

    for name, relevance in explainer(*inputs).relevance.items():
        assert torch.equal(again[name], relevance)


def runs_in_onnxruntime(
    model: nn.Module,
    args: tuple[Tensor, ...],
    other: tuple[Tensor, ...] | None,
    folder: Path,
    **options: Any,
) -> None:
    """Its ONNX file in float32 is no further from float64 than three times what torch is."""
    options = {"composite": "attnlrp", "target": 0, **options}
    single, args, other = in_precision(model, torch.float32), *in_precision((args, other or args), torch.float32)
    explainer = lrp.compile(single, args, **options)
    explainer.to_onnx(folder / "m.lrp.onnx")
    exact = Float64(explainer.module).run(*other)[1:]
    with OnnxExplainer(folder / "m.lrp.onnx") as runtime:
        found = runtime(*[value.numpy() for value in other]).relevance
    for (name, own), value in zip(explainer(*other).relevance.items(), exact, strict=True):
        allowed = 3 * float((own.double() - value).abs().max()) + 1e-6 * float(value.abs().max())
        assert float((torch.as_tensor(found[name]).double() - value).abs().max()) <= allowed
