"""Attention in blocks: the graph makes what it made, no value has queries and keys; what is no attention stays."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.functional import scaled_dot_product_attention

from lrp_compiler.passes.decompose import written_out
from lrp_compiler.passes.forward import unlift
from lrp_compiler.passes.forward.block_attention import block_attention, in_blocks, out_of_blocks
from lrp_compiler.passes.graph import everywhere, move_in_front, scans, simplify

HEADS, WIDTH, KEYS, BLOCK = 2, 4, 7, 3


class Written(nn.Module):
    """Attention by a function of query, key, value and what else it is given, whose weights it may use."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(1)
        self.bias = nn.Embedding(64, HEADS, dtype=torch.float64)
        self.bias.weight.data.normal_(generator=generator)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, more: Tensor | None = None) -> Any:
        return self.function(self, query, key, value) if more is None else self.function(self, query, key, value, more)


def causal(model: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True)


def plain(model: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v)


def grouped(model: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k[:, :1], v[:, :1], is_causal=True, enable_gqa=True)


def sliding(model: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows, columns = torch.arange(q.shape[-2]).unsqueeze(-1), torch.arange(k.shape[-2])
    return scaled_dot_product_attention(q, k, v, attn_mask=(columns <= rows) & (columns > rows - 3))


def padded(model: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    added = (1 - mask.to(q.dtype))[:, None, None, :] * torch.finfo(q.dtype).min
    return torch.softmax(q @ k.transpose(-1, -2) / 2 + added, -1) @ v


def positions(model: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A learnt bias of relative positions, as T5's."""
    apart = torch.arange(k.shape[-2])[None, :] - torch.arange(q.shape[-2])[:, None]
    near = apart.abs()
    buckets = torch.where(apart > 0, 8, 0) + torch.where(near < 4, near, torch.full_like(near, 7))
    bias = model.bias(buckets).permute([2, 0, 1]).unsqueeze(0)
    return torch.softmax((q @ k.transpose(-1, -2) + bias).float(), -1).to(q.dtype) @ v


def capped(model: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores behind a tanh, a product of matrices without heads, and rows of what is read three times."""
    flat = [tensor.flatten(0, 1) for tensor in (q, k, v)]
    scores = torch.bmm(flat[0], flat[1].transpose(1, 2))
    return torch.bmm(torch.softmax(5 * torch.tanh(scores / 5), 2), flat[2]).unflatten(0, (q.shape[0], HEADS))


def of_one(model: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ q.transpose(-1, -2), -1) @ q


FORMS = [causal, plain, grouped, sliding, positions, capped, of_one]


def graph(function: Callable[..., Any], *more: Tensor, rows: int = 5, max_rows: int = 100) -> fx.GraphModule:
    """Batch, queries and keys open; where the function has but one length, that."""
    batch, queries = torch.export.Dim("batch"), torch.export.Dim("queries", max=max_rows)
    keys = torch.export.Dim("keys", max=100)
    sizes: Any = [{0: batch, 2: queries}, {0: batch, 2: keys}, {0: batch, 2: keys}]
    sizes += [{0: batch, **({1: keys} if one.dim() == 2 else {1: queries, 2: keys})} for one in more]
    given = (*tensors(2, rows, KEYS), *more)
    program = torch.export.export(Written(function).eval(), given, dynamic_shapes=tuple(sizes))
    module = unlift(written_out(program))
    module = simplify(module).graph_module
    move_in_front(module)
    return module


def tensors(batch: int, rows: int, keys: int) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(rows)
    sizes = (rows, keys, keys)
    return tuple(torch.randn(batch, HEADS, size, WIDTH, generator=draw, dtype=torch.float64) for size in sizes)


def pairs(module: fx.GraphModule, rows: Any, keys: Any) -> list[str]:
    """Values that hold an element for each query and key, in the graph and in loops' bodies."""
    shapes = [
        (node.name, [str(size) for size in node.meta["val"].shape])
        for one in everywhere(module)
        for node in one.graph.nodes
        if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)
    ]
    return [name for name, shape in shapes if str(rows) in shape and str(keys) in shape]


@pytest.mark.slow
@pytest.mark.parametrize("function", FORMS)
def test_it_makes_what_it_made_and_no_value_has_queries_and_keys(function: Callable[..., Tensor]) -> None:
    module = graph(function)
    query, key, _ = module.graph.find_nodes(op="placeholder")
    rows, keys = query.meta["val"].shape[2], key.meta["val"].shape[2]
    result = block_attention(module, BLOCK)
    assert result.modified
    assert not result.declined
    assert len(scans(module)) == 1
    assert not pairs(module, rows, keys)
    for sizes in ((2, 5, KEYS), (3, 1, 4), (1, 3, 3), (2, 6, 9), (3, 10, 2)):
        given = tensors(*sizes)
        torch.testing.assert_close(module(*given)[0], function(Written(function), *given), rtol=1e-12, atol=1e-12)


def test_padding_is_the_same_in_all_steps() -> None:
    module = graph(padded, torch.ones(2, KEYS, dtype=torch.int64))
    assert block_attention(module, BLOCK).modified
    given = tensors(3, 8, KEYS)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0]])
    torch.testing.assert_close(module(*given, mask)[0], padded(None, *given, mask), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flags", "numbers"])
def test_a_mask_of_the_call_is_read_row_by_row_whole_rows_without_keys_too(kind: str) -> None:
    def masked(model: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask.unsqueeze(1))

    flags = torch.rand(2, 8, KEYS, generator=torch.Generator().manual_seed(0)) > 0.4
    flags[0, 1], flags[1, -1] = False, False
    mask = flags if kind == "flags" else torch.zeros(2, 8, KEYS, dtype=torch.float64).masked_fill(~flags, -torch.inf)
    module = graph(masked, mask, rows=8)
    assert block_attention(module, BLOCK).modified
    given = tensors(2, 8, KEYS)
    torch.testing.assert_close(module(*given, mask)[0], masked(None, *given, mask), rtol=1e-12, atol=1e-12)


def returning(model: Any, q: Tensor, k: Tensor, v: Tensor) -> Any:
    weights = torch.softmax(q @ k.transpose(-1, -2), -1)
    return weights @ v, weights


def over_queries(model: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2), -2) @ v


def running(model: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2), -1).cumsum(-2) @ v


def linear(model: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.relu(q @ k.transpose(-1, -2)) @ v


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "reason"),
    [(returning, "softmax is read elsewhere, too"), (over_queries, ""), (running, ""), (linear, "")],
)
def test_what_needs_all_rows_or_is_no_attention_is_let_be(function: Callable[..., Any], reason: str) -> None:
    module = graph(function)
    result = block_attention(module, BLOCK)
    assert not result.modified
    assert [why for _, why in result.declined] == ([reason] if reason else [])


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["softmax", "matmul*", "add*"])
def test_what_is_asked_for_stays_in_the_graph(pattern: str) -> None:
    def added(model: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-1, -2) + 1, -1) @ v

    module = graph(added)
    result = block_attention(module, BLOCK, [pattern])
    assert not result.modified
    assert "is asked for" in result.declined[0][1]


@pytest.mark.slow
def test_by_default_the_longest_sequence_decides() -> None:
    assert not block_attention(graph(plain)).modified
    assert "bytes" in block_attention(graph(plain)).declined[0][1]
    assert block_attention(graph(plain, max_rows=10_000_000)).modified
    assert not block_attention(graph(plain, max_rows=10_000_000), 0).modified
    few = block_attention(graph(plain, max_rows=8), 8)
    assert few.declined[0][1] == "it has 8 queries"


@pytest.mark.parametrize("rows", range(1, 10))
@pytest.mark.parametrize("dim", [-1, -2])
def test_blocks_are_full_and_come_back(rows: int, dim: int) -> None:
    tensor = torch.arange(2.0 * rows * 3).reshape(2, rows, 3)
    tensor = tensor if dim == -2 else tensor.transpose(1, 2)
    blocks = in_blocks(tensor, dim, BLOCK)
    assert blocks.shape[0] == -(-rows // BLOCK)
    assert blocks.shape[dim] == BLOCK
    if dim == -2:
        torch.testing.assert_close(out_of_blocks(blocks, tensor, dim), tensor, rtol=0, atol=0)
        last = blocks[-1, :, (rows - 1) % BLOCK :]
        torch.testing.assert_close(last, tensor[:, -1:].expand_as(last), rtol=0, atol=0)
