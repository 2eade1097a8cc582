"""What a user would meet next, end to end: every network here compiles, its books balance, and its file agrees."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.passes.graph import Float64
from lrp_compiler.views.audit import Audit

pytestmark = pytest.mark.sampled(12)

IMAGE, TOKENS = (4, 6, 6), (5, 8)
PLACES = torch.tensor([0, 2, 2, 1, 4])


class Net(nn.Module):
    """A function between two layers, the result classified; the layers keep zeros and symmetries away."""

    def __init__(self, shape: tuple[int, ...], function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(len(shape))
        self.shape = shape
        # A copy: the networks of this page are tried in two precisions.
        self.function = function = copy.deepcopy(function)
        if isinstance(function, nn.Module):
            function.eval()
        self.stem = nn.Conv2d(shape[0], shape[0], 1) if len(shape) == 3 else nn.Linear(shape[-1], shape[-1])
        with torch.no_grad():
            width = function(torch.zeros(2, *shape)).flatten(1).shape[1]
        self.head = nn.Linear(width, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.stem(x)).flatten(1))


def written_in_place(x: Tensor) -> Tensor:
    y = x * 1.5
    y[:, 1:] = y[:, :-1] + x[:, 1:]
    y[:, 0, 2:4] = x[:, 1, :2]
    y[x > 1] = 0.25
    y[:, torch.tensor([3, 1])] = x[:, 2:4]
    return y


def written_into_empty(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[..., :3] = x[..., :3]
    y[..., 3:] = x[..., 3:] * torch.sigmoid(x[..., :1])
    return torch.cat([y, x.new_empty(x.shape).copy_(x * 2)], -1)


def graph_convolution(x: Tensor) -> Tensor:
    messages = x[:, [0, 1, 1, 3, 4]] * 0.5
    return torch.zeros_like(x).index_add(1, PLACES, messages) + x


def graph_mean(x: Tensor) -> Tensor:
    index = PLACES[None, :, None].expand(x.shape)
    return torch.zeros_like(x).scatter_reduce(1, index, x, "mean", include_self=False).relu()


def graph_extremes(x: Tensor) -> Tensor:
    """The neighbours' largest, smallest and multiplied features; edges from the values themselves."""
    edges = x.argsort(1)
    sent = x.gather(1, edges)
    parts = [
        (x * 0.5 - 0.1).scatter_reduce(1, edges % 3, sent, kind, include_self=include)
        for kind in ("amax", "amin", "prod")
        for include in (True, False)
    ]
    return torch.cat(parts, -1)


def points_and_neighbours(x: Tensor) -> Tensor:
    nearest = torch.cdist(x, x).topk(3, largest=False)[1]
    rows = torch.arange(x.shape[0])[:, None, None]
    return (x[rows, nearest] - x.unsqueeze(2)).amax(2)


def masked_elements(x: Tensor) -> Tensor:
    mask = x > 0.2
    y = x.masked_scatter(mask, x.flatten(1).flip(1)) + x.masked_select(mask).mean()
    y[mask] = x[mask] * 2
    return y.index_fill(1, torch.tensor([-1]), 0.5)


def standardised(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)


def sorted_tops(x: Tensor) -> Tensor:
    return torch.cat([x.topk(2, -1)[0], x.sort(1, descending=True)[0][..., :2], x.median(-1, keepdim=True)[0]], -1)


def extremes(x: Tensor) -> Tensor:
    pooled = torch.stack([x.amax(1), x.min(1)[0], torch.maximum(x[:, 0], x[:, 1]), x[:, 2].clamp(0.2, 1.0)], 1)
    return torch.cat([pooled, x.max(-1, keepdim=True)[0].expand(-1, -1, 8)], 1)


def pooled_with_indices(x: Tensor) -> Tensor:
    values, indices = functional.max_pool2d(x, 2, return_indices=True)
    restored = functional.max_unpool2d(values, indices, 2)
    return torch.cat([restored.flatten(1), functional.adaptive_max_pool2d(x, 4).flatten(1)], 1)


def bordered(x: Tensor) -> Tensor:
    for mode in ("reflect", "replicate", "circular"):
        x = functional.pad(x, (1, 2, 0, 1), mode=mode)
    return x


def windows(x: Tensor) -> Tensor:
    columns = functional.unfold(x, 3, padding=1, stride=2)
    return functional.fold(columns, (6, 6), 3, padding=1, stride=2)


def shuffled(x: Tensor) -> Tensor:
    x = functional.pixel_unshuffle(functional.pixel_shuffle(x, 2).roll(1, -1), 2)
    return functional.channel_shuffle(x, 2).movedim(1, -1).swapaxes(1, 2).tile(1, 2, 1, 1)


def einsums(x: Tensor) -> Tensor:
    scores = torch.einsum("bid,bjd->bij", x, x * 0.3).softmax(-1)
    return torch.einsum("bij,bjd,de->bie", scores, x, torch.linspace(-1, 1, 24, dtype=x.dtype).reshape(8, 3))


def activations(x: Tensor) -> Tensor:
    kinds = (functional.selu, functional.celu, functional.softsign, functional.softshrink, functional.hardshrink)
    kinds += (functional.tanhshrink, functional.logsigmoid, functional.glu, torch.expm1, torch.sinh, torch.tan)
    kinds += (lambda t: functional.threshold(t, 0.1, -0.5), lambda t: 2**t, functional.rrelu)
    return torch.cat([kind(0.3 * x) for kind in kinds], -1)


def normalised(x: Tensor) -> Tensor:
    parts = (functional.normalize(x, dim=-1), x / x.norm(p=1, dim=-1, keepdim=True), functional.log_softmax(x, -1))
    return torch.cat([*parts, x.logsumexp(-1, keepdim=True), x.var(-1, keepdim=True)], -1)


def distances(x: Tensor) -> Tensor:
    others = torch.linspace(-2, 2, 16, dtype=x.dtype).reshape(2, 8)
    return torch.cat([torch.cdist(x, others), functional.cosine_similarity(x, others[0], -1).unsqueeze(-1)], -1)


def spectrum(x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x) * torch.linspace(1, 0, 5, dtype=x.dtype)) + torch.fft.fft2(x).real * 0.1


def products(x: Tensor) -> Tensor:
    running = [x.cumprod(1), x.cumsum(1), x.logcumsumexp(1)]
    return torch.cat(
        [*running, x.prod(1, keepdim=True), x.sort(stable=True, dim=1)[0], x.nanmedian(1, keepdim=True)[0]], 1
    )


def sampled(x: Tensor) -> Tensor:
    grid = torch.linspace(-0.9, 0.9, 18, dtype=x.dtype).reshape(1, 3, 3, 2).expand(x.shape[0], -1, -1, -1)
    return functional.grid_sample(x, grid, align_corners=False)


def triangles(x: Tensor) -> Tensor:
    return x.tril() + x.triu(1) * 2 + x.diagonal(0, 1, 2).unsqueeze(-1) + torch.where(x > 0, x, 0.5)


def attention(x: Tensor) -> Tensor:
    heads = x.view(x.shape[0], 5, 2, 4).transpose(1, 2)
    attended = functional.scaled_dot_product_attention(heads, heads * 0.5, heads, is_causal=True)
    return attended.transpose(1, 2).contiguous().view(x.shape[0], 5, 8)


def experts(x: Tensor) -> Tensor:
    """Each token to one of three, in pieces whose sizes the values say; and its numbers in one row, piece by piece."""
    rows = x.flatten(0, 1)
    chosen = rows[:, :3].argmax(-1)
    order = chosen.argsort(stable=True)
    sizes = [(chosen == at).sum().item() for at in range(3)]
    pieces = rows[order].split(sizes)
    answers = torch.cat([piece.tanh() * (at + 1) for at, piece in enumerate(pieces)])
    in_a_row = torch.cat([piece.flatten() * 0.5 for piece in pieces]).reshape(rows.shape)
    return torch.zeros_like(rows).index_add(0, order, answers * in_a_row.sigmoid()).reshape(x.shape)


def attention_over_edges(x: Tensor) -> Tensor:
    """Softmax over each place's edges; those from a place to itself are left out, so many as there are."""
    sent, at = torch.tensor([0, 1, 2, 3, 4, 2]), torch.tensor([1, 1, 4, 0, 4, 4])
    kept = x.mean((0, 2))[at] != x.mean((0, 2))[sent]
    sent, at = torch.cat([sent[kept], torch.arange(5)]), torch.cat([at[kept], torch.arange(5)])
    scores = functional.leaky_relu(x[..., 0][:, sent] + x[..., 1][:, at])
    index = at.expand(len(x), -1)
    largest = torch.zeros_like(x[..., 0]).scatter_reduce(1, index, scores, "amax", include_self=False)
    weights = (scores - largest[:, at]).exp()
    sums = torch.zeros_like(x[..., 0]).scatter_add(1, index, weights)
    return torch.zeros_like(x).index_add(1, at, x[:, sent] * (weights / sums[:, at]).unsqueeze(-1))


def largest_over_edges(x: Tensor) -> Tensor:
    """Values and places chosen by two masks that hold at the same edges, which a program does not say."""
    sent, at = torch.tensor([0, 1, 2, 3, 4, 2]), torch.tensor([1, 1, 4, 0, 4, 4])
    middle = x.mean((0, 2))
    scores = (x[0, :, 0][sent] * x[0, :, 1][at])[middle[sent] != middle[at]]
    index = at[middle[at] != middle[sent]]
    return x * torch.zeros_like(middle).scatter_reduce(0, index, scores, "amax", include_self=False)[:, None]


NETS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "writes in place": (TOKENS, written_in_place),
    "writes into empty memory": (TOKENS, written_into_empty),
    "graph layer by index_add": (TOKENS, graph_convolution),
    "graph layer by scatter mean": (TOKENS, graph_mean),
    "graph layer by extremes and products": (TOKENS, graph_extremes),
    "neighbours of points": (TOKENS, points_and_neighbours),
    "masked elements": (TOKENS, masked_elements),
    "z-score": (TOKENS, standardised),
    "top-k, sort, median": (TOKENS, sorted_tops),
    "extremes": (TOKENS, extremes),
    "max pool with indices, unpooled": (IMAGE, pooled_with_indices),
    "borders that mirror": (IMAGE, bordered),
    "unfold and fold": (IMAGE, windows),
    "shuffles": (IMAGE, shuffled),
    "einsum": (TOKENS, einsums),
    "activations": (TOKENS, activations),
    "norms": (TOKENS, normalised),
    "distances": (TOKENS, distances),
    "Fourier": (TOKENS, spectrum),
    "products": (TOKENS, products),
    "grid sample": (IMAGE, sampled),
    "triangles": (TOKENS, triangles),
    "group norm": (IMAGE, nn.GroupNorm(2, 4)),
    "instance norm": (IMAGE, nn.InstanceNorm2d(4, affine=True)),
    "local response norm": (IMAGE, nn.LocalResponseNorm(3)),
    "PReLU": (IMAGE, nn.PReLU(4)),
    "weight norm": (TOKENS, nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))),
    "transformer encoder": (TOKENS, nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)),
    "attention and a view": (TOKENS, attention),
    "experts": (TOKENS, experts),
    "attention over edges": (TOKENS, attention_over_edges),
    "largest over edges": (TOKENS, largest_over_edges),
    "LP pool": (IMAGE, nn.LPPool2d(2, 2)),
}


def sample(shape: tuple[int, ...], batch: int, seed: int) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


@cache
def explainer(name: str) -> lrp.Explainer:
    """In the limit ε → 0, of class 1, for any batch size."""
    x = sample(NETS[name][0], 2, seed=0)
    shapes: Any = {"x": {0: torch.export.Dim("batch")}}
    return lrp.compile(Net(*NETS[name]).eval(), (x,), composite="attnlrp", target=1, dynamic_shapes=shapes)


def assert_balanced(audit: Audit) -> None:
    moved = max(abs(entry.relevance_in) + sum(map(abs, entry.absorbed.values())) for entry in audit.entries)
    assert abs(audit.error) <= 1e-9 * moved
    assert max(abs(entry.error) for entry in audit.entries) <= 1e-9 * moved
    assert audit.magnitude > 0


@pytest.mark.sampled(48)
@pytest.mark.parametrize("name", NETS)
def test_every_node_is_covered_and_the_books_balance(name: str) -> None:
    assert_balanced(explainer(name).audit(sample(NETS[name][0], 3, seed=1)))


@pytest.mark.sampled(48)
@pytest.mark.parametrize("name", NETS)
def test_the_books_of_another_composite_balance_in_float64(name: str) -> None:
    x = sample(NETS[name][0], 3, seed=1).double()
    model = Net(*NETS[name]).double().eval()

    assert_balanced(lrp.compile(model, (x,), composite="epsilon-plus", target=1).audit(x))


@pytest.mark.sampled(48)
@pytest.mark.parametrize("name", NETS)
def test_onnxruntime_agrees_at_another_batch_size(name: str, tmp_path: Path) -> None:
    explainer(name).to_onnx(tmp_path / "m.onnx")
    x = sample(NETS[name][0], 9, seed=2)

    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (relevance,) = session.run(["relevance.x"], {"x": x.numpy()})

    _, exact = Float64(explainer(name).module).run(x)
    own = explainer(name)(x).relevance["x"]
    scale = exact.flatten(1).abs().amax(1)
    ours, torchs = (
        (item.double() - exact).flatten(1).abs().amax(1) / scale for item in (torch.as_tensor(relevance), own)
    )
    assert float(ours.median()) <= max(3 * float(torchs.median()), 1e-6)


class Running(nn.Module):
    """The products of the first elements, for any number of them."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumprod(1).sum(1, keepdim=True) * torch.ones(3, dtype=x.dtype)


def test_a_running_product_takes_no_more_operations_for_more_elements() -> None:
    sizes = [
        len(lrp.compile(Running().eval(), (torch.rand(2, length) + 0.5,), target=0).module.graph.nodes)
        for length in (5, 500)
    ]

    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("is_open", [False, True])
def test_onnxruntime_multiplies_as_far_as_it_goes(is_open: bool, tmp_path: Path) -> None:
    shapes = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2)}} if is_open else None
    x = torch.rand(3, 37) + 0.5
    example = x[:2, :5] if is_open else x
    explainer = lrp.compile(Running().eval(), (example,), composite="attnlrp", target=0, dynamic_shapes=shapes)
    explainer.to_onnx(tmp_path / "m.onnx")

    (relevance,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(["relevance.x"], {"x": x.numpy()})

    products, counts = x.double().cumprod(1), torch.arange(1, 38)
    expected = (products / counts).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(torch.as_tensor(relevance).double(), expected, rtol=3e-6, atol=0)


class Experts(nn.Module):
    """Three networks without biases, each for the rows whose first, second or third number is the largest."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 4, bias=False)) for _ in range(3)]
        self.layers, self.head = nn.ModuleList(layers), nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        chosen = x[:, :3].argmax(-1)
        order = chosen.argsort(stable=True)
        pieces = x[order].split([(chosen == at).sum().item() for at in range(3)])
        answers = torch.cat([layer(piece) for layer, piece in zip(self.layers, pieces, strict=True)])
        return self.head(torch.zeros_like(x).index_add(0, order, answers))


@pytest.mark.parametrize("chosen", [[0, 1, 2, 0, 1, 2, 0], [0] * 7, [2] * 7, [1, 2, 1, 2, 1, 2, 1]])
def test_pieces_of_any_size_and_none_are_explained_as_the_gradient_says(chosen: list[int], tmp_path: Path) -> None:
    """Piecewise linear and without biases: in the limit of ε the relevance is gradient × input."""
    model, example = Experts().double().eval(), sample((4,), 7, seed=1).double()
    explainer = lrp.compile(model, (example,), composite=lrp.composites.epsilon(1e-12), target=1)
    explainer.to_onnx(tmp_path / "m.onnx")
    x = sample((4,), 7, seed=2).double()
    x[torch.arange(7), torch.tensor(chosen)] = 5.0
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    expected = (gradient * x).detach()

    found = explainer(x.detach()).relevance["x"]

    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
    with lrp.OnnxExplainer(tmp_path / "m.onnx") as onnx:
        relevance = onnx(x.detach().numpy()).relevance["x"]
    torch.testing.assert_close(torch.as_tensor(relevance), expected, rtol=1e-8, atol=1e-9)
