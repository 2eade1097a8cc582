"""What moves into a loop: a step's part of an operation is that part of its result; what pays moves, the rest stays."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._higher_order_ops.scan import scan

from lrp_compiler.passes.assign import move_into_loops
from lrp_compiler.passes.assign.activity import mark_active
from lrp_compiler.passes.assign.into_loops import MOVES, Read, _of_a_step, _reads
from lrp_compiler.passes.decompose import written_out
from lrp_compiler.passes.forward import unlift
from lrp_compiler.passes.graph import assignment, call, outputs, scan_of, scans, simplify

aten = torch.ops.aten
TIME = 3


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


STEPS = drawn(2, TIME, 4)
CASES: list[tuple[Any, tuple[Any, ...], int]] = [
    (aten.add.Tensor, (STEPS, drawn(TIME, 1)), -2),
    (aten.add.Tensor, (STEPS, drawn(1, 4)), -2),
    (aten.add.Tensor, (STEPS, drawn(4)), -2),
    (aten.mul.Tensor, (drawn(2, 1, 1, 4), drawn(2, TIME, 5, 1)), -3),
    (aten.tanh.default, (STEPS,), -2),
    (aten.where.ScalarOther, (STEPS > 0, STEPS, 0.0), -2),
    (aten._to_copy.default, (STEPS > 0,), -2),
    (aten.expand.default, (drawn(TIME, 1), [2, TIME, 4]), -2),
    (aten.full.default, ([2, TIME, 4], 0.5), -2),
    (aten.permute.default, (STEPS, [1, 2, 0]), -3),
    (aten.permute.default, (STEPS, [1, 0, 2]), -3),
    (aten.transpose.int, (STEPS, 0, 1), -3),
    (aten.transpose.int, (STEPS, 0, -1), -2),
    (aten.transpose.int, (STEPS, 1, 2), -1),
    (aten.reshape.default, (drawn(2, TIME, 6), [2, TIME, 2, 3]), -3),
    (aten.reshape.default, (drawn(2, 3, TIME, 4), [6, TIME, 4]), -2),
    (aten.reshape.default, (drawn(2, TIME, 2, 3), [2, TIME, 6]), -2),
    (aten.select.int, (drawn(2, TIME, 4), 0, 1), -2),
    (aten.select.int, (drawn(2, TIME, 4), -1, 1), -1),
    (aten.slice.Tensor, (STEPS, 2, 1, 3), -2),
    (aten.slice.Tensor, (STEPS, 0, 1), -2),
    (aten.squeeze.dim, (drawn(2, 1, TIME, 4), 1), -2),
    (aten.squeeze.dim, (drawn(2, TIME, 1), -1), -1),
    (aten.squeeze.dim, (STEPS, 0), -2),
    (aten.unsqueeze.default, (STEPS, 0), -2),
    (aten.unsqueeze.default, (STEPS, 2), -3),
    (aten.unsqueeze.default, (STEPS, -1), -3),
]


def traced(target: Any, args: tuple[Any, ...]) -> fx.Node:
    """A node that calls the op, its tensors as placeholders."""
    graph = fx.Graph()
    places = []
    for number, argument in enumerate(args):
        if isinstance(argument, Tensor):
            place = graph.placeholder(f"operand_{number}")
            place.meta["val"] = argument
            places.append(place)
        else:
            places.append(argument)
    return call(graph, target, *places)


@pytest.mark.parametrize(
    ("target", "args", "dim"), CASES, ids=lambda case: "" if isinstance(case, tuple) else str(case)
)
def test_a_step_makes_its_part_of_the_result(target: Any, args: tuple[Any, ...], dim: int) -> None:
    node = traced(target, args)
    reads = _reads(Read(node, dim, by_step=True))
    assert reads is not None
    where = {read.node: read for read in reads}
    called, given, options = _of_a_step(Read(node, dim, by_step=True), reads)
    for time in range(TIME):

        def part(argument: Any, time: int = time) -> Any:
            read = where[argument]
            value = argument.meta["val"]
            if read.by_step:
                return value.select(read.dim, time)
            return value if read.dim is None else value.squeeze(read.dim)

        operands, named = fx.map_arg((given, options), part)
        torch.testing.assert_close(called(*operands, **named), node.meta["val"].select(dim, time), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("target", "args", "dim"),
    [
        (aten.cumsum.default, (STEPS, 1), -2),
        (aten.flip.default, (STEPS, [1]), -2),
        (aten.slice.Tensor, (STEPS, 1, 0, 2), -2),
        (aten.reshape.default, (drawn(4, TIME, 2), [2, TIME, 4]), -2),
        (aten.matmul.default, (STEPS, drawn(4, 4)), -2),
        (aten.softmax.int, (STEPS, -1), -2),
    ],
)
def test_what_no_step_does_alone_stays(target: Any, args: tuple[Any, ...], dim: int) -> None:
    assert _reads(Read(traced(target, args), dim, by_step=True)) is None


def test_every_change_of_shape_is_tried() -> None:
    assert {target for target, *_ in CASES} >= set(MOVES)


class Net(torch.nn.Module):
    """`h = tanh(h + read)`, of what `read` works out for all steps: `[time, batch, 4, 5]`."""

    def __init__(self, read: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.read = read

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        def step(h: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.tanh(h + now)
            return h, h.clone()

        made, beside = self.read(x, y)
        last, every = scan(step, x.new_zeros(x.shape[1], 4, 5), made.contiguous())
        return last + every.mean(0) + beside


X, Y = drawn(7, 3, 4), drawn(7, 3, 5)


def analysed(read: Callable[[Tensor, Tensor], Any]) -> fx.GraphModule:
    dims = {0: torch.export.Dim("time"), 1: torch.export.Dim("batch")}
    with torch.no_grad():
        program = torch.export.export(Net(read).eval(), (X, Y), dynamic_shapes={"x": dims, "y": dims})
    module = simplify(unlift(written_out(program))).graph_module
    mark_active(module, ["x", "y"])
    return module


READS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "an outer product": lambda x, y: (torch.sigmoid(x[..., None] * y[:, :, None]), 0),
    "of what is the same in all steps": lambda x, y: (torch.exp(x.mean(0))[None, :, :, None] * y[:, :, None], 0),
    "sums of both": lambda x, y: ((x[..., None] + y[:, :, None]) * 2 - x[..., None], 0),
    "a constant besides": lambda x, y: (torch.where(x[..., None] > 0, y[:, :, None], 1.0), 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("read", READS)
def test_what_is_broadcast_is_worked_out_in_the_step(read: str) -> None:
    module = analysed(READS[read])
    before = [module(x, y)[0] for x, y in ((X, Y), (X[:1, :2], Y[:1, :2]))]

    result = move_into_loops(module)

    assert result.modified
    (loop,) = scans(module)
    steps = scan_of(loop).parts(loop.args)[1]
    assert steps
    assert all(any(size == 1 for size in operand.meta["val"].shape) for operand in steps)
    for (x, y), expected in zip(((X, Y), (X[:1, :2], Y[:1, :2])), before, strict=True):
        torch.testing.assert_close(module(x, y)[0], expected, rtol=0, atol=1e-14)
    module.graph.lint()


@pytest.mark.slow
def test_what_carries_relevance_is_said() -> None:
    module = analysed(READS["of what is the same in all steps"])

    move_into_loops(module)

    (loop,) = scans(module)
    given = [found for user in loop.users if (found := assignment(user)) is not None]
    assert given
    for found in given:
        operands = {found.operand(name) for name in found.active}
        assert len(operands) == 2
        assert all(operand.op == "placeholder" or assignment(operand) is not None for operand in operands)
    body = scan_of(loop).body
    for node in body.graph.nodes:
        inner = assignment(node)
        if inner is not None:
            assert {inner.operand(name).graph for name in inner.active} == {body.graph}
    assert assignment(outputs(body)[0]) is not None


@pytest.mark.slow
def test_what_somebody_else_reads_stays() -> None:
    module = analysed(lambda x, y: ((made := x[..., None] * y[:, :, None]), made.mean(0)))

    assert not move_into_loops(module).modified


@pytest.mark.slow
def test_what_is_asked_for_stays() -> None:
    module = analysed(READS["an outer product"])
    (name,) = (node.name for node in module.graph.nodes if node.target is aten.sigmoid.default)

    assert not move_into_loops(module, [name]).modified


def test_what_is_as_large_stays() -> None:
    module = analysed(lambda x, y: (torch.tanh(torch.cat([x] * 5, -1)).reshape(x.shape[0], x.shape[1], 4, 5), 0))

    assert not move_into_loops(module).modified


@pytest.mark.slow
def test_something_has_to_be_read_step_by_step() -> None:
    module = analysed(lambda x, y: (x.mean(0)[None, :, :, None].expand(x.shape[0], -1, -1, 5), 0))

    result = move_into_loops(module)

    assert not result.modified
    assert "nothing would be left" in result.declined[0][1]
