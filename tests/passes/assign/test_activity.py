"""Where relevance flows, and where it does not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from lrp_compiler.passes.assign.activity import mark_active
from lrp_compiler.passes.graph.assignment import assignment
from lrp_compiler.passes.graph.simplify import simplify

X, TOKENS = torch.randn(2, 4), torch.tensor([[1, 2, 0], [2, 2, 1]])
TABLE = torch.randn(3, 5)


def operands(forward: fx.GraphModule, inputs: list[int] | None = None) -> dict[str, tuple[str, ...]]:
    """Node → active operands, after marking the inputs at these positions (default: all)."""
    names = [node.meta["input"] for node in forward.graph.find_nodes(op="placeholder")]
    mark_active(forward, names if inputs is None else [names[index] for index in inputs])
    return {node.name: given.active for node in forward.graph.nodes if (given := assignment(node))}


def test_relevance_flows_through_floats(graph_of: Callable) -> None:
    forward = simplify(graph_of(lambda x: (x * 2).relu() + torch.ones(4), X)).graph_module

    assert operands(forward) == {"mul": ("self",), "relu": ("self",), "add": ("self",)}


def test_a_mask_computed_from_an_input_is_a_constant(graph_of: Callable) -> None:
    def function(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, torch.zeros(4)) + (x > 1).to(x.dtype)

    forward = simplify(graph_of(function, X)).graph_module

    assert operands(forward) == {"where": ("self",), "add": ("self",)}


def test_token_ids_carry_relevance_to_the_embedding_they_index(graph_of: Callable) -> None:
    def function(tokens: Tensor, mask: Tensor) -> Tensor:
        looked_up = torch.nn.functional.embedding(tokens[:, 1:].flip(1), TABLE)
        return looked_up * mask[:, 1:, None].float()

    active = operands(simplify(graph_of(function, TOKENS, torch.ones_like(TOKENS))).graph_module)

    assert active["flip"] == ("self",)
    assert active["embedding"] == ("indices",)
    assert active["mul"] == ("self",)
    assert not any("copy" in name or name.startswith("to") for name in active)


@pytest.mark.parametrize(
    "calculate",
    [
        lambda ids: ids + 1,
        lambda ids: (ids - 1) % 3,
        lambda ids: ids.clamp(0, 2),
        lambda ids: ids * torch.tensor([1, 0, 1]),
        lambda ids: ids // 2,
        lambda ids: ids.to(torch.int32) + 1,
    ],
)
def test_an_index_stays_one_whatever_constants_do_to_it(calculate: Callable, graph_of: Callable) -> None:
    def function(tokens: Tensor) -> Tensor:
        return torch.nn.functional.embedding(calculate(tokens), TABLE)

    active = operands(simplify(graph_of(function, TOKENS)).graph_module)

    assert active["embedding"] == ("indices",)
    assert len(active) > 1


def test_positions_counted_from_a_mask_carry_nothing(graph_of: Callable) -> None:
    def function(tokens: Tensor, mask: Tensor) -> Tensor:
        positions = mask.cumsum(-1) * mask
        return torch.nn.functional.embedding(tokens, TABLE) + torch.nn.functional.embedding(positions - 1, TABLE)

    active = operands(simplify(graph_of(function, TOKENS, torch.ones_like(TOKENS))).graph_module)

    assert active == {"embedding": ("indices",), "add": ("self",)}


def test_an_index_made_of_two_carries_nothing(graph_of: Callable) -> None:
    def function(tokens: Tensor, others: Tensor) -> Tensor:
        return torch.nn.functional.embedding((tokens + others) % 3, TABLE)

    assert operands(simplify(graph_of(function, TOKENS, TOKENS + 1)).graph_module) == {}


def test_pixels_carry_relevance_into_the_cast(graph_of: Callable) -> None:
    pixels = torch.randint(0, 255, (2, 3), dtype=torch.uint8)

    active = operands(simplify(graph_of(lambda x: x.float() / 255, pixels)).graph_module)

    assert len(active) == 2
    assert active["div"] == ("self",)


def test_inputs_that_are_not_explained_are_constants(graph_of: Callable) -> None:
    forward = simplify(graph_of(lambda a, b: a * b + b, X, X + 1)).graph_module

    assert operands(forward, [0]) == {"mul": ("self",), "add": ("self",)}
    assert operands(forward, [1]) == {"mul": ("other",), "add": ("self", "other")}
    assert operands(forward) == {"mul": ("self", "other"), "add": ("self", "other")}


def test_a_frozen_operand_carries_nothing(graph_of: Callable) -> None:
    forward = simplify(graph_of(lambda x: x * x.mean(1, keepdim=True), X)).graph_module
    nodes = {node.name: node for node in forward.graph.nodes}

    mark_active(forward, [nodes["mean"].args[0].meta["input"]], {(nodes["mul"], nodes["mean"])})

    assert assignment(nodes["mul"]).active == ("self",)


def test_members_of_a_list_are_named_by_their_place(graph_of: Callable) -> None:
    forward = simplify(graph_of(lambda x: torch.cat([torch.ones(2, 4), x, x * 2], 1), X)).graph_module

    assert operands(forward)["cat"] == ("tensors.1", "tensors.2")
