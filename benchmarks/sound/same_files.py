"""Whether two states of the project write the same ONNX files: ten networks × three composites, byte for byte.

    python -m benchmarks.sound.same_files --write before.json      (in a checkout of the one state)
    python -m benchmarks.sound.same_files --against before.json    (in the other)

Networks have random weights, drawn from a fixed seed. What a file says of itself (versions, hashes) does not count; of
files that differ nodes, initialisers and the largest difference of the relevance in onnxruntime are named.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.runtime import OnnxExplainer

IMAGES = ("resnet18", "vgg11_bn", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "swin_t")
ON_IMAGES = ("epsilon", "epsilon-plus", "attnlrp-gamma")
ON_TEXT = ("epsilon", "attnlrp", "cp-lrp")


class Recurrent(nn.Module):
    """A bidirectional LSTM over six steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 16, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.head(self.lstm(x)[0][:, -1])
        return logits


def networks() -> dict[str, tuple[Callable[[], nn.Module], tuple[torch.Tensor, ...], tuple[str, ...]]]:
    """Name → how it is made, inputs, composites."""
    import torchvision

    images = {
        name: (lambda name=name: getattr(torchvision.models, name)(), (torch.randn(2, 3, 64, 64),), ON_IMAGES)
        for name in IMAGES
    }
    vit = (
        lambda: torchvision.models.VisionTransformer(32, 8, 4, 4, 64, 128),
        (torch.randn(2, 3, 32, 32),),
        ("epsilon", "attnlrp", "attnlrp-gamma"),
    )

    def encoder() -> nn.Module:
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        return nn.Sequential(nn.Embedding(50, 64), nn.TransformerEncoder(layer, 3), nn.Flatten(), nn.Linear(64 * 8, 5))

    def perceptron() -> nn.Module:
        return nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.GELU(), nn.LayerNorm(30), nn.Linear(30, 4))

    return images | {
        "vit": vit,
        "encoder": (encoder, (torch.randint(0, 50, (2, 8)),), ON_TEXT),
        "lstm": (Recurrent, (torch.randn(2, 6, 12),), ON_TEXT),
        "perceptron": (perceptron, (torch.randn(2, 20),), ("epsilon", "epsilon-plus", "attnlrp")),
    }


def digest(model: onnx.ModelProto) -> dict[str, Any]:
    """SHA-256 of the file without what it says of itself; of its nodes, and of its weights."""
    del model.metadata_props[:]
    model.producer_version = ""
    weights = hashlib.sha256(b"".join(one.SerializeToString() for one in model.graph.initializer)).hexdigest()
    nodes = hashlib.sha256(b"".join(one.SerializeToString() for one in model.graph.node)).hexdigest()
    whole = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    return {"file": whole, "nodes": nodes, "weights": weights, "count": len(model.graph.node)}


def measured() -> dict[str, dict[str, Any]]:
    """Network and composite → digests, and the relevance of a fixed input."""
    found = {}
    for name, (build, inputs, composites) in networks().items():
        torch.manual_seed(0)
        model = build().eval()
        for composite in composites:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "m.lrp.onnx"
                lrp.compile(model, inputs, composite=composite).to_onnx(path)
                found[f"{name}, {composite}"] = digest(onnx.load(path))
                with OnnxExplainer(path) as explainer:
                    relevance = next(iter(explainer(*[one.numpy() for one in inputs]).relevance.values()))
                found[f"{name}, {composite}"]["relevance"] = relevance.astype(float).ravel()[:2000].tolist()
            print(f"{name}, {composite}", file=sys.stderr)
    return found


def main() -> None:
    """Write digests, or compare with those that were written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the digests")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with digests that were written")
    options = parser.parse_args()
    torch.manual_seed(1)
    found = measured()
    if options.write:
        options.write.write_text(json.dumps(found))
    if options.against:
        before = json.loads(options.against.read_text())
        same = [name for name in found if found[name]["file"] == before[name]["file"]]
        print(f"{len(same)} of {len(found)} files are the same, byte for byte.")
        for name in found.keys() - set(same):
            one, other = found[name], before[name]
            parts = [part for part in ("nodes", "weights") if one[part] != other[part]] or ["names and shapes alone"]
            scale = np.abs(other["relevance"]).max() or 1.0
            off = np.abs(np.subtract(one["relevance"], other["relevance"])).max() / scale
            print(f"{name}: {', '.join(parts)} differ; {other['count']} → {one['count']} nodes; relevance {off:.0e}")


if __name__ == "__main__":
    main()
