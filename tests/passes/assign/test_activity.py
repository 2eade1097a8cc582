"""Where relevance flows, and where it does not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

import lrp_compiler as lrp
from lrp_compiler.passes.assign.activity import mark_active
from lrp_compiler.passes.graph.assignment import assignment
from lrp_compiler.passes.graph.simplify import simplify

aten = torch.ops.aten
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


@pytest.mark.sampled(4)
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


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "look_up",
    [
        lambda x, ids: x[ids],
        lambda x, ids: x[:, ids],
        lambda x, ids: x[ids, ids],
        lambda x, ids: torch.nn.functional.embedding(ids, x),
        lambda x, ids: x.index_select(0, ids),
        lambda x, ids: x.gather(0, ids.unsqueeze(1)),
    ],
)
@pytest.mark.parametrize("explained", [None, [1]])
def test_an_index_of_values_that_come_from_an_input_carries_nothing(
    look_up: Callable, explained: list[int] | None, graph_of: Callable
) -> None:
    forward = simplify(graph_of(lambda ids, x: look_up(x * 2, ids % 2), torch.tensor([0, 1, 1]), X)).graph_module

    active = operands(forward, explained)

    assert active.pop("mul") == ("self",)
    assert not {name for names in active.values() for name in names} - {"self", "weight"}


def test_nor_does_one_of_values_that_are_counted(graph_of: Callable) -> None:
    """The degree of a node in a graph, looked up for every edge."""

    def function(x: Tensor, edges: Tensor) -> Tensor:
        degree = torch.zeros(2).index_add(0, edges[1], torch.ones(3))
        return torch.zeros(2, 4).index_add(0, edges[1], x[edges[0]] * degree[edges[1]].unsqueeze(1))

    edges = torch.tensor([[0, 1, 1], [1, 0, 1]])
    active = operands(simplify(graph_of(function, X, edges)).graph_module)

    assert active["index"] == ("self",)
    assert active["mul"] == ("self",)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dynamic", [False, True])
def test_an_index_looked_up_in_a_table_of_indices_stays_one(dynamic: bool, graph_of: Callable) -> None:
    def function(tokens: Tensor) -> Tensor:
        return torch.nn.functional.embedding(
            torch.tensor([2, 0, 1])[tokens] + torch.arange(tokens.shape[0])[:, None] * 0, TABLE
        )

    active = operands(simplify(graph_of(function, TOKENS, dynamic=dynamic)).graph_module)

    assert active["embedding"] == ("indices",)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "look_up", [lambda ids: TABLE[:, ids], lambda ids: TABLE[ids, ids], lambda ids: TABLE.take(ids)]
)
def test_a_table_may_be_looked_up_along_any_dim(look_up: Callable, graph_of: Callable) -> None:
    active = operands(simplify(graph_of(look_up, TOKENS)).graph_module)

    assert any(name.startswith("indices") for names in active.values() for name in names)


def test_a_mask_of_bytes_carries_nothing(graph_of: Callable) -> None:
    def function(x: Tensor, mask: Tensor) -> Tensor:
        return aten.index_put(x, [mask], x[0, :2] * 2)

    mask = torch.tensor([[1, 0, 1, 0]] * 2, dtype=torch.uint8)
    active = operands(simplify(graph_of(function, X, mask)).graph_module)

    assert not {name for names in active.values() for name in names} - {"self", "values"}


def test_a_mask_that_a_users_op_takes_carries_nothing(graph_of: Callable) -> None:
    """What its operands are called is all that is known of them."""
    torch.library.define("asks::keep", "(Tensor x, Tensor mask, Tensor pixels) -> Tensor")
    torch.library.impl("asks::keep", "CompositeExplicitAutograd", lambda x, mask, pixels: x * mask * pixels)
    torch.library.register_fake("asks::keep", lambda x, mask, pixels: torch.empty_like(x))
    lrp.rule(torch.ops.asks.keep.default)(lambda op, relevance: relevance)
    flags = torch.ones(2, 4, dtype=torch.uint8)

    active = operands(graph_of(lambda x, mask, pixels: torch.ops.asks.keep(x, mask, pixels), X, flags, flags))

    assert active == {"keep": ("x", "pixels")}


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
