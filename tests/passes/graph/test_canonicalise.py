"""One spelling for everything."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.testing import FileCheck

from lrp_compiler.passes.forward.unlift import unlift
from lrp_compiler.passes.graph.canonicalise import canonicalise
from lrp_compiler.passes.graph.simplify import simplify

X = torch.randn(2, 3, 4)
EXPAND, RELU = torch.ops.aten.expand.default, torch.ops.aten.relu.default


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "no_op",
    [
        lambda x: x.clone(),
        lambda x: x.contiguous(),
        lambda x: x.detach(),
        lambda x: x.to(torch.float32),
        lambda x: x[:],
        lambda x: x[:, 0:3],
        lambda x: x * 1,
        lambda x: x / 1,
        lambda x: x + 0,
        lambda x: x - 0,
        lambda x: x.view(2, 3, 4),
        lambda x: x.expand(2, 3, 4),
        lambda x: x.permute(0, 1, 2),
        lambda x: nn.functional.pad(x, (0, 0)),
    ],
)
def test_what_changes_nothing_goes(no_op: Callable, graph_of: Callable, targets: Callable) -> None:
    before = graph_of(lambda x: no_op(x.relu()).tanh(), X)

    after = canonicalise(before).graph_module

    assert targets(after) == ["relu", "tanh"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x * 2,
        lambda x: x + 1,
        lambda x: x[:, 1:],
        lambda x: x[:, ::2],
        lambda x: x.to(torch.float64),
        lambda x: x.permute(1, 0, 2),
        lambda x: x.flip(0),
        lambda x: x.expand(5, 2, 3, 4),
        lambda x: torch.add(x, torch.ones(1), alpha=0),
        lambda x: x + torch.zeros(2, 1, 1, 1),
    ],
)
def test_what_changes_something_stays(change: Callable, graph_of: Callable) -> None:
    before = graph_of(lambda x: change(x.relu()), X)
    (expected,) = before(X)

    (result,) = canonicalise(before).graph_module(X)

    assert result.dtype == expected.dtype
    assert torch.equal(result, expected)


def test_reshapes_get_one_name(graph_of: Callable) -> None:
    before = graph_of(lambda x: x.view(6, 4).unflatten(0, (2, 3)).reshape(2, 12), X)
    FileCheck().check("aten.view").run(before.code)

    after = canonicalise(before).graph_module

    FileCheck().check_not("aten.view").check("aten.reshape").run(after.code)


def test_a_number_less_integers_is_cast_first(graph_of: Callable, targets: Callable) -> None:
    before = graph_of(lambda i: 1.5 - i, torch.tensor([1, 2, 3]))

    after = canonicalise(before).graph_module

    assert targets(after) == ["_to_copy", "rsub"]
    assert torch.equal(after(torch.tensor([1, 2, 3]))[0], torch.tensor([0.5, -0.5, -1.5]))


@pytest.mark.parametrize(
    "rank",
    [
        lambda x: x.topk(2, 1)[0],
        lambda x: x.sort(-1, descending=True)[0],
        lambda x: x.mode(0)[0],
        lambda x: x.cummax(1)[0],
    ],
)
def test_values_that_come_with_indices_are_gathered(rank: Callable, graph_of: Callable, targets: Callable) -> None:
    before = graph_of(rank, X)

    after = canonicalise(before).graph_module

    assert "gather" in targets(after)
    assert torch.equal(after(X)[0], rank(X))


@pytest.mark.parametrize(
    ("extreme", "op"), [(lambda x: x.max(1)[0], "amax"), (lambda x: x.min(2, keepdim=True)[0], "amin")]
)
def test_an_extreme_of_a_dim_is_had_without_its_place(
    extreme: Callable, op: str, graph_of: Callable, targets: Callable
) -> None:
    before = graph_of(extreme, X)

    after = canonicalise(before).graph_module

    assert op in targets(after)
    assert torch.equal(after(X)[0], extreme(X))


def test_a_pool_whose_indices_are_used_gives_its_values_by_itself(graph_of: Callable, targets: Callable) -> None:
    def pooled(x: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.max_pool2d(x, 2, return_indices=True)

    before = graph_of(pooled, X)

    after = canonicalise(before).graph_module

    assert {"max_pool2d", "max_pool2d_with_indices"} <= set(targets(after))
    for ours, theirs in zip(after(X), pooled(X), strict=True):
        assert torch.equal(ours, theirs)


def test_batch_norm_is_a_single_op_again(graph_of: Callable) -> None:
    norm, x = nn.BatchNorm1d(3).double().eval(), torch.randn(2, 3, 4, dtype=torch.float64)
    before = graph_of(norm, x)
    FileCheck().check("_native_batch_norm_legit_no_training").check("getitem").run(before.code)

    after = canonicalise(before).graph_module

    FileCheck().check_not("getitem").check_count("aten.batch_norm", 1).run(after.code)
    torch.testing.assert_close(after(x)[0], norm(x))


def test_checks_of_the_exporter_go(graph_of: Callable) -> None:
    def cast(x: Tensor) -> Tensor:
        return x.to(torch.float64)

    after = canonicalise(graph_of(cast, X)).graph_module

    FileCheck().check_not("_assert_tensor_metadata").check("float64").run(after.code)


def test_it_says_whether_it_changed_anything(graph_of: Callable) -> None:
    assert canonicalise(graph_of(lambda x: x.clone().relu(), X)).modified
    assert not canonicalise(graph_of(lambda x: x.relu(), X)).modified


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "move",
    [
        lambda x: nn.functional.pad(x, (1, -1)),
        lambda x: nn.functional.pad(x, (0, 0, -2, 2)),
        lambda x: nn.functional.pad(x, (1, -1, -1, 1), value=2.0),
        lambda x: x.permute(1, 0),
        lambda x: x.mT,
        lambda x: x[[3, 2, 1, 0]],
        lambda x: x.flip(0),
        lambda x: x.roll(1, 1),
    ],
)
def test_what_moves_elements_stays_though_the_shape_does(move: Callable, graph_of: Callable) -> None:
    x = torch.randn(4, 4)

    module = canonicalise(graph_of(move, x)).graph_module

    torch.testing.assert_close(module(x)[0], move(x))


WHY: dict[str, tuple[Callable, list[str]]] = {
    "an input": (lambda x: x.clone(), ["it returns an input as it came"]),
    "a shape": (lambda x: x.relu().view(-1), []),
    "a dtype": (lambda x: x.relu().to(torch.float64) * 2, []),
}


@pytest.mark.parametrize("name", WHY)
def test_it_says_why_what_may_do_nothing_stays(name: str, graph_of: Callable) -> None:
    function, reasons = WHY[name]
    before = graph_of(function, torch.randn(6, 3), dynamic=True)

    for rewrite in (canonicalise, simplify):
        result = rewrite(before)
        assert [reason for _, reason in result.declined] == reasons
        assert {node for node, _ in result.declined} <= {node.name for node in result.graph_module.graph.nodes}


def test_what_does_nothing_at_some_sizes_stays_and_it_says_so() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return x.relu().expand(2, 3), y.relu()

    program = torch.export.export(Two(), (torch.randn(2, 3), torch.randn(4, 3)), dynamic_shapes=({}, {0: Dim("rows")}))
    module = unlift(program)
    expand, relu = (module.graph.find_nodes(op="call_function", target=t)[0] for t in (EXPAND, RELU))
    relu.meta["val"] = module.graph.find_nodes(op="placeholder")[1].meta["val"]

    result = canonicalise(module)

    assert result.declined == ((expand.name, "its shape may be another one than its operand's, or not"),)
