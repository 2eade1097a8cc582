"""LXT 2.1 on torchvision's vision transformer, in build/peers: it wants another transformers than the project has.

`relevance` runs this module in that environment, with the network and its images in a folder between them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.networks import torchvision_operators  # noqa: F401  # lxt imports torchvision


def relevance(model: nn.Module, x: Tensor, target: Tensor, conv: float, linear: float, rows: int) -> Tensor:
    """Gradient × input of the patched network, shaped like `x`; γ of convolutions and dense layers, or 0 for ε."""
    from benchmarks.base import environment, processes

    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), Path(folder) / "weights.pt")
        np.savez(Path(folder) / "images.npz", x=x.numpy(), target=target.numpy())
        python, asked = environment.python(), (folder, conv, linear, rows, torch.get_num_threads())
        command = processes.command("benchmarks.faithful.lxt_vit", *asked, python=python)
        done = subprocess.run(command, capture_output=True, text=True, env=processes.environment(python))
        if done.returncode:
            raise RuntimeError(f"LXT: {done.stderr.strip().splitlines()[-1]}")
        return torch.from_numpy(np.load(Path(folder) / "relevance.npy"))


def main(folder: Path, conv: float, linear: float, rows: int, threads: int) -> None:
    from lxt.efficient import monkey_patch, monkey_patch_zennit
    from torchvision.models import vision_transformer
    from zennit.composites import LayerMapComposite
    from zennit.rules import Gamma

    torch.set_num_threads(threads)
    gammas = [(kind, Gamma(gamma)) for kind, gamma in ((nn.Conv2d, conv), (nn.Linear, linear)) if gamma]
    if gammas:
        monkey_patch_zennit()
    monkey_patch(vision_transformer)
    from benchmarks.faithful.training import vit

    model = vit().eval().requires_grad_(False)
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    if gammas:
        LayerMapComposite(gammas).register(model)
    with np.load(folder / "images.npz") as images:
        batches = zip(*(torch.from_numpy(images[name]).split(rows) for name in ("x", "target")), strict=True)
        found = []
        for x, target in batches:
            x.requires_grad_()
            value = model(x).gather(1, target[:, None]).sum()
            (gradient,) = torch.autograd.grad(value, x)
            found.append((gradient * x).detach().numpy())
    np.save(folder / "relevance.npy", np.concatenate(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
