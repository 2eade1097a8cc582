"""Casts between a transposition and a product of matrices, which end the process that loads them in onnxruntime."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp

pytestmark = pytest.mark.sampled(12)

LOAD_AND_RUN = """
import sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
names = [value.name for value in session.get_outputs()]
results = session.run(names, {session.get_inputs()[0].name: np.load(sys.argv[2])})
np.savez(sys.argv[3], **dict(zip(names, results)))
"""
CASES: dict[str, Callable[..., Tensor]] = {
    "one matrix": lambda self, x: (x.transpose(0, 1).to(self.dtype) @ self.matrix).sum(0),
    "a matrix for each": lambda self, x: (x.transpose(0, 1).to(self.dtype) @ self.several).sum(0),
    "on the right": lambda self, x: (self.matrix.T @ x.permute(1, 2, 0).to(self.dtype)).sum(0).T,
    "cast first": lambda self, x: (x.to(self.dtype).transpose(0, 1) @ self.matrix).sum(0),
    "read twice": lambda self, x: (x.transpose(0, 1).to(self.dtype) @ self.matrix + x.transpose(0, 1)[..., :1]).sum(0),
    "recurrent": lambda self, x: self.rnn(x.to(self.dtype))[0][:, -1],
}
HALF, FLOAT = torch.float16, torch.float32
DTYPES = [(HALF, HALF), (HALF, FLOAT), (FLOAT, HALF), (torch.uint8, FLOAT), (torch.uint8, HALF), (torch.int64, FLOAT)]
ROUNDING = {HALF: 4e-3, FLOAT: 1e-5}


class Maps(nn.Module):
    """What is done with an input and matrices: no step adds a constant."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(3)
        self.matrix = nn.Parameter(torch.rand(6, 4, generator=drawn))
        self.several = nn.Parameter(torch.rand(5, 6, 4, generator=drawn))
        self.rnn = nn.RNN(6, 4, nonlinearity="relu", bias=False, batch_first=True)
        for weight in self.rnn.parameters():
            nn.init.uniform_(weight, -0.3, 0.6, generator=drawn)
        self.function, self.dtype = CASES[name], dtype
        self.to(torch.float16).to(dtype).eval()  # the same values in all of them

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@pytest.mark.sampled(48)
@pytest.mark.parametrize("dtypes", DTYPES, ids=lambda dtypes: " to ".join(str(dtype)[6:] for dtype in dtypes))
@pytest.mark.parametrize("name", CASES)
def test_it_loads_and_explains(name: str, dtypes: tuple[torch.dtype, torch.dtype], tmp_path: Path) -> None:
    """Where no step adds a constant, relevance is gradient times input."""
    taken, dtype = dtypes
    x = (torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0)) * 8).to(taken)
    lrp.compile(Maps(name, dtype), (x,), target=1, wrt="x").to_onnx(tmp_path / "m.lrp.onnx")
    np.save(tmp_path / "x.npy", x.numpy())

    command = [sys.executable, "-c", LOAD_AND_RUN, "m.lrp.onnx", "x.npy", "r.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "r.npz")
    exact = x.double().requires_grad_()
    output = Maps(name, torch.float64)(exact)
    (gradient,) = torch.autograd.grad(output[:, 1].sum(), exact)
    for key, wanted in (("output", output), ("relevance.x", exact * gradient)):
        scale = float(wanted.detach().abs().max())
        np.testing.assert_allclose(found[key], wanted.detach().numpy(), rtol=0, atol=ROUNDING[dtype] * scale)
