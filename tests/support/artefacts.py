"""A small explainer in every format that the project writes."""

from functools import cache
from pathlib import Path

import torch
from torch import nn

import lrp_compiler as lrp

FORMATS = (
    "m.lrp.pt2",
    "m.lrp.onnx",
    "small.lrp.onnx",
    "forward.onnx",
    "relevance.onnx",
    "forward.pt2",
    "relevance.pt2",
)


@cache
def tiny(seed: int = 0) -> lrp.Explainer:
    """Of a dense network with a dynamic batch; the class is chosen at run time."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 3)).eval()
    return lrp.compile(net, (torch.randn(2, 4),), target="index", dynamic_shapes=({0: torch.export.Dim("batch")},))


def write_all(folder: Path, seed: int = 0) -> None:
    """All of `FORMATS`; the weights of `small.lrp.onnx` lie beside it."""
    explainer = tiny(seed)
    explainer.save(folder / "m.lrp.pt2")
    explainer.to_onnx(folder / "m.lrp.onnx")
    explainer.to_onnx(folder / "small.lrp.onnx", profile="small")
    for ending in ("onnx", "pt2"):
        explainer.save_split(folder / f"forward.{ending}", folder / f"relevance.{ending}")
