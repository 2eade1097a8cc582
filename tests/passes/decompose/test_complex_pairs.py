"""Complex numbers as pairs of real ones."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lrp_compiler.passes.decompose.complex_pairs import pair_complex
from lrp_compiler.passes.graph.simplify import simplify

X = torch.randn(2, 3, 8, dtype=torch.float64)
TURN = torch.polar(torch.ones(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64))


def rotary(x: Tensor) -> Tensor:
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * TURN
    return torch.view_as_real(turned).flatten(-2)


def rotary_from_angles(x: Tensor) -> Tensor:
    angles = torch.outer(torch.arange(3.0), 1.0 / torch.arange(1.0, 5.0)).double()
    turn = torch.polar(torch.ones_like(angles), angles)[None]
    return torch.view_as_real(torch.view_as_complex(x.reshape(2, 3, 4, 2)) * turn).reshape(2, 3, 8)


def arithmetic(x: Tensor) -> Tensor:
    a, b = torch.view_as_complex(x.unflatten(-1, (-1, 2))).chunk(2, -1)
    return torch.view_as_real((a + 2 * b - a.conj() / (b + 3)) * x[..., :2] + x[..., 2:4])


def shapes(x: Tensor) -> Tensor:
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    z = torch.cat([z.transpose(-1, -2), z[:, :, :3].permute(0, -1, 1)], -2)
    z = z.unsqueeze(-1).expand(2, 7, 3, 2).reshape(2, -1).unflatten(-1, (-1, 6)).select(-1, 2).flip(-1).roll(1, -1)
    return torch.view_as_real(z.sum(0, keepdim=True))


def parts(x: Tensor) -> Tensor:
    z = torch.complex(x[..., :4], x[..., 4:])
    return z.real + 2 * z.imag + z.abs()


TRANSFORMS = {
    "rfft": lambda x: torch.view_as_real(torch.fft.rfft(x)),
    "rfft, odd, scaled": lambda x: torch.view_as_real(torch.fft.rfft(x[..., :7], norm="ortho")),
    "irfft": lambda x: torch.fft.irfft(torch.fft.rfft(x) * 2),
    "irfft, odd": lambda x: torch.fft.irfft(torch.fft.rfft(x[..., :7]), n=7),
    "rfft2": lambda x: torch.view_as_real(torch.fft.rfft2(x)),
    "irfft2": lambda x: torch.fft.irfft2(torch.fft.rfft2(x, norm="forward"), s=(3, 8), norm="forward"),
    "fft": lambda x: torch.fft.fft(x, dim=1).real,
    "fft of both": lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real,
    "ifft": lambda x: torch.fft.ifft(torch.complex(x, x.flip(-1))).imag,
}


@pytest.mark.parametrize(
    "function",
    [rotary, rotary_from_angles, arithmetic, shapes, parts, *(pytest.param(f, id=n) for n, f in TRANSFORMS.items())],
)
def test_pairs_compute_the_same(function: Callable, graph_of: Callable) -> None:
    before = simplify(graph_of(function, X)).graph_module

    result = pair_complex(before)

    assert result.modified
    values = [node.meta.get("val") for node in result.graph_module.graph.nodes]
    assert not [value for value in values if isinstance(value, Tensor) and value.is_complex()]
    torch.testing.assert_close(result.graph_module(X)[0], function(X), rtol=1e-12, atol=1e-12)


def test_what_has_no_pairs_stays(graph_of: Callable) -> None:
    before = simplify(graph_of(lambda x: torch.linalg.eigvals(x[:, :, :3]).abs(), X)).graph_module

    assert not pair_complex(before).modified


def test_relevance_goes_through_a_rotation() -> None:
    import lrp_compiler as lrp

    class Turned(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return rotary(x).sum(1)

    explainer = lrp.compile(Turned().eval(), (X,), composite="attnlrp", target=3)

    leaf = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rotary(leaf).sum(1)[:, 3].sum(), leaf)
    torch.testing.assert_close(explainer(X).relevance["x"], X * gradient)
