"""Attention in blocks of queries explains what attention as a whole does: in torch, in float32 in onnxruntime, by every
composite, at lengths that no block divides, behind padding, for rows that see nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.language_models import VOCABULARY, dims, language_model, texts
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import lrp_compiler as lrp
from lrp_compiler.errors import InputError
from lrp_compiler.passes.graph import everywhere, is_tensor, scans
from lrp_compiler.runtime import OnnxExplainer

BLOCK = 4
LENGTHS = (3, 4, 9, 14)


class Attends(nn.Module):
    """Two heads of attention between layers that the rules tell apart, its mask an input."""

    def __init__(self, attend: Callable[..., Tensor], dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.attend = attend
        generator = torch.Generator().manual_seed(0)
        self.into, self.out = nn.Linear(6, 24), nn.Linear(8, 3)
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)
        self.to(dtype)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.into(x).chunk(3, -1))
        attended = self.attend(q, k, v, mask.unsqueeze(1)).transpose(1, 2).flatten(2)
        return self.out(torch.relu(attended)).mean(1)


def of_torch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, attn_mask=mask)


def by_hand(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    added = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, torch.finfo(q.dtype).min)
    return torch.softmax(q @ k.transpose(-1, -2) / 2 + added, -1) @ v


def drawn(batch: int, length: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Inputs, and a mask that leaves some rows nothing."""
    draw = torch.Generator().manual_seed(length)
    mask = torch.rand(batch, length, length, generator=draw) > 0.3
    mask[0, -1], mask[-1, 1], mask[-1, :, 0] = False, False, False
    return torch.randn(batch, length, 6, generator=draw).to(dtype), mask


def compiled(model: nn.Module, *, block: int, **options: Any) -> lrp.Explainer:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=64)
    sizes = ({0: batch, 1: length}, {0: batch, 1: length, 2: length})
    example = drawn(2, 7, next(model.parameters()).dtype)
    return lrp.compile(model.eval(), example, dynamic_shapes=sizes, attention_block=block, **options)


def largest_difference(found: Any, wanted: Any) -> float:
    return float(abs(found - wanted).max() / abs(wanted).max())


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("attend", [of_torch, by_hand])
@pytest.mark.parametrize("composite", ["attnlrp", "epsilon", "cp-lrp", "attnlrp-gamma", "dynamic-lrp"])
def test_relevance_is_that_of_attention_as_a_whole(composite: str, attend: Callable[..., Tensor]) -> None:
    model = Attends(attend)
    whole, blocked = (compiled(model, block=block, composite=composite) for block in (0, BLOCK))
    assert scans(blocked.forward)
    assert not scans(whole.forward)
    for length in LENGTHS:
        given = drawn(3, length)
        wanted, found = whole(*given), blocked(*given)
        torch.testing.assert_close(found.output, wanted.output, rtol=1e-9, atol=1e-12)
        assert wanted.relevance["x"].isfinite().all()
        assert largest_difference(found.relevance["x"], wanted.relevance["x"]) < 1e-9


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["llama", "gemma3", "t5"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_answers_of_language_models(name: str, side: str) -> None:
    """Causal masks, sliding windows, grouped heads, biases of positions."""
    given = texts(name, side)
    options: dict[str, Any] = {"kwargs": given, "dynamic_shapes": dims(name, given), "composite": "attnlrp"}
    whole, blocked = (
        lrp.compile(language_model(name), **options, target=lrp.Answer(), attention_block=block) for block in (0, BLOCK)
    )
    assert len(scans(blocked.forward)) >= 1
    for length in (5, 8, 13):
        given = texts(name, side, length, length)
        ids = given.get("decoder_input_ids", given["input_ids"])
        weights = torch.rand(ids.shape, generator=torch.Generator().manual_seed(length), dtype=torch.float64)
        wanted, found = whole(**given, weights=weights), blocked(**given, weights=weights)
        for key in wanted.relevance:
            assert largest_difference(found.relevance[key], wanted.relevance[key]) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("block", [0, BLOCK])
def test_no_value_on_the_way_there_or_back_is_sequence_by_sequence(block: int) -> None:
    given = texts("gemma3", "left")
    options: dict[str, Any] = {"kwargs": given, "dynamic_shapes": dims("gemma3", given), "composite": "attnlrp"}
    explainer = lrp.compile(language_model("gemma3"), **options, attention_block=block)
    graphs = list(everywhere(explainer.module))
    assert (len(graphs) > 1) == bool(block)
    length = graphs[0].graph.find_nodes(op="placeholder")[0].meta["val"].shape[1]
    shapes = [node.meta["val"].shape for graph in graphs for node in graph.graph.nodes if is_tensor(node)]
    square = [shape for shape in shapes if [str(size) for size in shape].count(str(length)) > 1]
    assert bool(square) == (block == 0)


@pytest.mark.slow
def test_several_targets_at_once() -> None:
    model = Attends(of_torch)
    whole, blocked = (compiled(model, block=block, composite="attnlrp", target=[0, 2]) for block in (0, BLOCK))
    given = drawn(2, 9)
    assert largest_difference(blocked(*given).relevance["x"], whole(*given).relevance["x"]) < 1e-9


@pytest.mark.slow
def test_a_budget_an_input_that_is_fixed_and_weights() -> None:
    """What is rebuilt in front of the loop, and of what the loop's weights get."""
    model = Attends(of_torch)
    given = drawn(2, 9)
    for options in ({"memory_budget": 0.25}, {"wrt": ["into.weight", "x"]}, {"optimise": False}):
        whole, blocked = (compiled(model, block=block, composite="attnlrp", **options) for block in (0, BLOCK))
        wanted, found = whole(*given), blocked(*given)
        for name in wanted.relevance:
            assert largest_difference(found.relevance[name], wanted.relevance[name]) < 1e-9


def test_queries_alone_carry_relevance() -> None:
    """Keys and values are no input's: nothing is summed over the blocks."""

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            draw = torch.Generator().manual_seed(0)
            self.memory = nn.Parameter(torch.randn(2, 1, 12, 4, generator=draw, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return scaled_dot_product_attention(x.unsqueeze(1), self.memory[:1], self.memory[1:]).mean((1, 2))

    x = torch.randn(2, 9, 4, dtype=torch.float64)
    sizes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=64)},)
    whole, blocked = (
        lrp.compile(Reads().eval(), (x,), dynamic_shapes=sizes, composite="attnlrp", target=1, attention_block=block)
        for block in (0, BLOCK)
    )
    assert scans(blocked.forward)
    assert largest_difference(blocked(x).relevance["x"], whole(x).relevance["x"]) < 1e-9


@pytest.mark.slow
def test_the_books_close() -> None:
    blocked = compiled(Attends(of_torch), block=BLOCK, composite="attnlrp")
    audit = blocked.audit(*drawn(2, 9))
    assert abs(audit.error) < 1e-12


@pytest.mark.slow
@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_calculated_again_as_it_was(dtype: torch.dtype) -> None:
    model = Attends(by_hand, dtype)
    whole, blocked = (compiled(model, block=block, composite="attnlrp") for block in (0, BLOCK))
    exact = compiled(Attends(by_hand, torch.float32), block=0, composite="attnlrp")
    given = drawn(3, 9, dtype)
    wanted = exact(given[0].float(), given[1]).relevance["x"]
    off = [largest_difference(each(*given).relevance["x"].float(), wanted) for each in (whole, blocked)]
    assert off[1] <= 3 * off[0]


@pytest.mark.slow
def test_files_hold_the_loop(tmp_path: Path) -> None:
    """`.pt2` and ONNX, at sizes that the compiler never saw."""
    explainers = {}
    for dtype in (torch.float64, torch.float32):
        model = Attends(of_torch, dtype)
        explainers[dtype] = [compiled(model, block=block, composite="attnlrp") for block in (0, BLOCK)]
    blocked = explainers[torch.float32][1]
    blocked.save(tmp_path / "blocked.lrp.pt2")
    blocked.to_onnx(tmp_path / "blocked.lrp.onnx")
    loaded = lrp.load(tmp_path / "blocked.lrp.pt2")
    with OnnxExplainer(tmp_path / "blocked.lrp.onnx") as runtime:
        for batch, length in ((1, 3), (3, 4), (2, 30)):
            x, mask = drawn(batch, length)
            exact = explainers[torch.float64][0](x, mask).relevance["x"].numpy()
            plain = explainers[torch.float32][0](x.float(), mask).relevance["x"].numpy()
            limit = 3 * max(np.abs(plain - exact).max(), 1e-7 * np.abs(exact).max())
            for found in (
                loaded(x.float(), mask).relevance["x"].numpy(),
                runtime(x.float().numpy(), mask.numpy()).relevance["x"],
            ):
                assert np.abs(found - exact).max() <= limit


@pytest.mark.slow
def test_what_is_observed_or_masked_stays_whole() -> None:
    model = Attends(of_torch)
    observing = compiled(model, block=BLOCK, composite="attnlrp", observe="*softmax*")
    masking = compiled(model, block=BLOCK, composite="attnlrp", masks=lrp.Mask("*softmax*"))
    plain = compiled(model, block=0, composite="attnlrp")
    given = drawn(2, 9)
    for explainer in (observing, masking):
        assert not scans(explainer.forward)
        assert largest_difference(explainer(*given).relevance["x"], plain(*given).relevance["x"]) < 1e-9


@pytest.mark.slow
def test_a_model_from_transformers_is_put_in_blocks_by_the_length_that_it_may_have() -> None:
    model = language_model("llama")
    given = texts("llama", "left")
    batch = torch.export.Dim("batch")
    for most, loops in ((512, 0), (16_384, 1)):
        sizes = {0: batch, 1: torch.export.Dim("sequence", max=most)}
        explainer = lrp.compile(model, kwargs=given, dynamic_shapes=dict.fromkeys(given, sizes), composite="attnlrp")
        assert len(scans(explainer.forward)) == loops
    assert int(given["input_ids"].max()) < VOCABULARY


@pytest.mark.parametrize("block", [-1, 2.5, "all", True])
def test_what_is_no_number_of_queries_is_refused(block: Any) -> None:
    with pytest.raises(InputError, match="attention_block"):
        compiled(Attends(of_torch), block=block)


@pytest.mark.heavy
def test_scores_may_come_a_longer_way_than_pythons_stack_is_deep() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2)
        for _ in range(300):
            scores = torch.tanh(scores) * 1.001
        return torch.softmax(scores.masked_fill(~mask, -30.0), -1) @ v

    given = drawn(2, 9)
    here, whole = (compiled(Attends(attend), block=block, composite="attnlrp") for block in (BLOCK, 0))

    assert scans(here.module)
    assert largest_difference(here(*given).relevance["x"], whole(*given).relevance["x"]) < 1e-9


@pytest.mark.slow
def test_what_is_observed_later_comes_block_by_block() -> None:
    given = drawn(2, 9)
    whole = compiled(Attends(of_torch), block=0, composite="attnlrp").observe("*softmax*")(*given).relevance
    blocked = compiled(Attends(of_torch), block=BLOCK, composite="attnlrp").observe("*softmax*")(*given).relevance
    (wanted,), (found,) = ([value for name, value in each.items() if "softmax" in name] for each in (whole, blocked))

    assert found.shape == (3, 2, 2, BLOCK, 9)
    rows = found.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :9]
    assert largest_difference(rows, wanted) < 1e-9
