"""Rules compiled, and run by torch and onnxruntime: what the table says, on a batch they were not compiled for.

One network applies every kind of map to its inputs side by side, so that one explainer tries a rule on all of them.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.unrolled import table
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.rules.composite import Composite, Entry
from lrp_compiler.runtime import OnnxExplainer

Map = Callable[[Tensor], Tensor]
EPSILON = 0.05
SHAPES = {"line": (2, 6), "image": (2, 5, 4), "volume": (2, 3, 2, 3)}


def resized(**options: Any) -> Map:
    return lambda x: functional.interpolate(x, **options)


class Maps(nn.Module):
    """Linear maps side by side; what they make is the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.up1 = nn.ConvTranspose1d(2, 2, 4, stride=3, padding=1, output_padding=2)
        self.conv = nn.Conv2d(2, 4, 3, stride=(2, 1), padding=1, dilation=(1, 2), groups=2)
        self.plain = nn.Conv2d(2, 3, (2, 3), stride=2, padding=1)
        self.up = nn.ConvTranspose2d(2, 4, 3, stride=(2, 1), padding=1, output_padding=(1, 0), groups=2)
        self.up3 = nn.ConvTranspose3d(2, 2, 2, stride=(1, 2, 1))
        self.dense = nn.Linear(6, 3)

    def maps(self) -> dict[str, tuple[str, Map]]:
        """The maps by name, with the input that each reads."""
        return {
            "up1": ("line", self.up1),
            "linear": ("line", resized(size=9, mode="linear")),
            "dense": ("line", self.dense),
            "conv": ("image", self.conv),
            "plain": ("image", self.plain),
            "up": ("image", self.up),
            "doubled": ("image", resized(scale_factor=2.0)),
            "nearest": ("image", resized(size=(7, 3))),
            "nearest-exact": ("image", resized(scale_factor=1.7, mode="nearest-exact")),
            "bilinear": ("image", resized(scale_factor=1.7, mode="bilinear")),
            "bicubic": ("image", resized(size=(7, 6), mode="bicubic")),
            "area": ("image", resized(size=(3, 2), mode="area")),
            "cumsum": ("image", lambda x: x.cumsum(2)),
            "average": ("image", lambda x: functional.avg_pool2d(x, 3, 2, 1, True, False)),
            "up3": ("volume", self.up3),
            "trilinear": ("volume", resized(size=(4, 3, 5), mode="trilinear", align_corners=True)),
        }

    def forward(self, line: Tensor, image: Tensor, volume: Tensor) -> Tensor:
        inputs = {"line": line, "image": image, "volume": volume}
        return torch.cat([function(inputs[name]).flatten(1) for name, function in self.maps().values()], 1)


WEIGHTED = ("up1", "conv", "plain", "up", "up3", "dense")
BY_EPSILON = ("dense",)
"""Dense layers keep the ε rule."""
RULES: dict[str, dict[str, Any]] = {
    "alpha-beta": {},
    "gamma": {},
    "z-box": {"low": [-6.0, -5.0], "high": [5.0, 6.0]},
}
WRITTEN = "gamma"
"""Writing a file takes longest, and this rule reads all that a map has: W, |W|, both transposes, its result."""


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("rule", RULES)
def test_compiled_rules_are_the_rules(rule: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, options = Maps().eval().requires_grad_(False), {"epsilon": EPSILON, **RULES[rule]}
    kinds = ("convolution", "interpolation", "sum", "average")
    limit = Entry("linear", "epsilon", {"epsilon": 0.0})
    batch = Dim("batch", min=1, max=64)
    parameters = [f"{name}.{kind}" for name in WEIGHTED for kind in ("weight", "bias")]
    explainer = lrp.compile(
        model,
        tuple(torch.randn(2, *shape) for shape in SHAPES.values()),
        composite=Composite("test", (*(Entry(kind, rule, options) for kind in kinds), limit)),
        seed="tensor",
        wrt=[*SHAPES, *parameters],
        dynamic_shapes=({0: batch},) * 3,
    )
    inputs = {name: torch.randn(3, *shape) for name, shape in SHAPES.items()}
    # In proportion to the value, as relevance mostly is: sums that happen to cancel would magnify their rounding.
    R = model(*inputs.values()) * torch.randn(model(*inputs.values()).shape)

    by_torch = explainer(*inputs.values(), seed=R).relevance
    results = [by_torch]
    if rule == WRITTEN:
        explainer.to_onnx(tmp_path / "net.onnx")
        arrays = [value.numpy() for value in inputs.values()]
        written = OnnxExplainer(tmp_path / "net.onnx")(*arrays, seed=R.numpy()).relevance
        results.append({name: torch.from_numpy(value) for name, value in written.items()})

    exact, by_map = expected(model, inputs, R, rule, options)
    for name, value in exact.items():
        for result in results:
            assert (result[name] - value).abs().max() <= 3e-6 * value.abs().max(), name
    for name in WEIGHTED:
        weights = by_torch[f"{name}.weight"]
        # Element by element they are tried out eagerly; here it counts that the batch and all of the map is summed.
        assert float(weights.sum()) == pytest.approx(by_map[name], abs=1e-5 * float(weights.abs().sum()))
    for name in parameters:
        difference = results[-1][name] - by_torch[name]
        assert difference.abs().max() <= 1e-5 * by_torch[name].abs().max(), name


def expected(
    model: Maps, inputs: dict[str, Tensor], R: Tensor, rule: str, options: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The rule's row of the table on every map unrolled into a matrix, in float64: by input, and summed by map."""
    relevance = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in inputs.items()}
    sums: dict[str, float] = {}
    start = 0
    for name, (source, function) in copy.deepcopy(model).double().maps().items():
        shape = SHAPES[source]
        count = torch.Size(shape).numel()
        b = function(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        W = (function(torch.eye(count, dtype=torch.float64).reshape(-1, *shape)).flatten(1) - b).t()
        row_rule, row_options = (
            ("epsilon", {"epsilon": 1e-6}) if name in BY_EPSILON else (rule, flattened(options, shape))
        )
        shares = []
        for x, r in zip(inputs[source].double(), R[:, start : start + len(b)].double(), strict=True):
            unrolled: Any = SimpleNamespace(matrix=(W, b), x=x.flatten(), implied=name == "average")
            shares.append(table(row_rule, unrolled, r, **row_options).relevance.reshape(shape))
        relevance[source] += torch.stack(shares)
        sums[name] = float(torch.stack(shares).sum())
        start += len(b)
    return relevance, sums


def flattened(options: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Bounds by channel as one vector for the whole input."""
    return {
        name: torch.tensor(value).double().reshape(-1, *[1] * (len(shape) - 1)).expand(shape).flatten()
        if isinstance(value, list)
        else value
        for name, value in options.items()
    }
