"""What the graph of each stage may hold: one fault after the other, and the graphs that compilations make."""

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import lrp_compiler as lrp
from lrp_compiler.passes import stages, watch
from lrp_compiler.passes.graph import Assignment, Origin, Scan, assign, assignment, set_origin
from lrp_compiler.passes.stages import Stage, StageError, check, problems
from lrp_compiler.rules import RECURRENT_GATE

aten = torch.ops.aten

STAGES = {stage.name: stage for stage in vars(stages).values() if isinstance(stage, Stage)}


def right() -> fx.GraphModule:
    """`relu(linear(x, weight))`, with all that any stage asks for."""
    root, graph = nn.Module(), fx.Graph()
    root.register_buffer("weight", torch.ones(4, 3))
    x, weight = graph.placeholder("x"), graph.get_attr("weight")
    linear = graph.create_node("call_function", aten.linear.default, (x, weight), name="linear")
    relu = graph.create_node("call_function", aten.relu.default, (linear,), name="relu")
    graph.output((relu,))
    for node, shape in ((x, (2, 3)), (weight, (4, 3)), (linear, (2, 4)), (relu, (2, 4))):
        node.meta["val"] = torch.empty(shape)
    x.meta |= {"input": "x", "promise": "x"}
    for node, rule, kind, operand in ((linear, "epsilon", "linear", "input"), (relu, "identity", "activation", "self")):
        set_origin(node, Origin("relevance", node.name, "", rule))
        given = Assignment.of(node, (operand,))
        given.kind, given.rule = kind, rule
        assign(node, given)
    return fx.GraphModule(root, graph)


def node_of(module: fx.GraphModule, name: str) -> fx.Node:
    return next(node for node in module.graph.nodes if node.name == name)


def inserted(module: fx.GraphModule, target: Any, *args: Any, method: bool = False) -> fx.Node:
    """A call between the map and the ReLU, which then reads it; right in all but what it calls."""
    linear, relu = node_of(module, "linear"), node_of(module, "relu")
    with module.graph.inserting_before(relu):
        new = (module.graph.call_method if method else module.graph.call_function)(target, (linear, *args))
    new.meta["val"] = linear.meta["val"]
    set_origin(new, Origin("relevance", "linear", "", "epsilon"))
    assign(relu, None)
    relu.args = (new,)
    return new


def changed(name: str, change: Callable[[fx.Node], Any]) -> Callable[[fx.GraphModule], fx.Node]:
    """The node of that name, with one change."""

    def make(module: fx.GraphModule) -> fx.Node:
        node = node_of(module, name)
        change(node)
        return node

    return make


def given(name: str, **values: Any) -> Callable[[fx.GraphModule], fx.Node]:
    """The node's assignment with other values."""
    return changed(name, lambda node: vars(assignment(node)).update(values))


def known_as(**values: Any) -> Callable[[fx.GraphModule], fx.Node]:
    """The map's origin with other values."""
    origin = {"phase": "relevance", "value": "linear", "module": "", "rule": "epsilon"} | values
    return changed("linear", lambda node: set_origin(node, Origin(**origin)))


def without_origin(module: fx.GraphModule) -> fx.Node:
    return changed("linear", lambda node: set_origin(node, None))(module)


def of_another_graph(module: fx.GraphModule) -> fx.Node:
    return given("linear", arguments={"input": node_of(right(), "x"), "weight": node_of(module, "weight")})(module)


Fault = tuple[Callable[[fx.GraphModule], fx.Node], str]
FAULTS: dict[str, dict[str, Fault]] = {
    "_known_kind": {
        "a method": (lambda g: inserted(g, "relu", method=True), "graphs hold inputs, constants and calls alone"),
        "no shape": (changed("linear", lambda node: node.meta.pop("val")), "nobody knows its value's shape"),
    },
    "_functional": {"in place": (lambda g: inserted(g, aten.add_.Scalar, 1), "it changes its operands")},
    "_forward_only": {
        "backward": (
            lambda g: inserted(g, aten.threshold_backward.default, node_of(g, "linear"), 0),
            "no runtime has backward ops",
        )
    },
    "_called_by_its_name": {
        "another argument": (
            changed("x", lambda node: setattr(node, "target", "weight")),
            "something else in the code may bear the name of its argument",
        )
    },
    "_named_input": {"no name": (changed("x", lambda node: node.meta.pop("input")), "the input has no name")},
    "_one_spelling": {
        "view": (lambda g: inserted(g, aten.view.default, [2, 4]), "reshapes have one spelling"),
        "unsafe view": (lambda g: inserted(g, aten._unsafe_view.default, [2, 4]), "reshapes have one spelling"),
        "check": (lambda g: inserted(g, aten._assert_tensor_metadata.default), "a check has no relevance"),
        "clone": (lambda g: inserted(g, aten.clone.default), "it does nothing"),
        "detach": (lambda g: inserted(g, aten.detach.default), "it does nothing"),
    },
    "_assigned": {
        "rule of another family": (given("linear", rule="taylor"), "its rule 'taylor' is none of its operator"),
        "no operator": (given("linear", active=("weight", "input")), "its rule 'epsilon' is none of its operator"),
        "kind": (given("linear", kind="convolution"), "it is of kind 'linear', not 'convolution'"),
        "lost operand": (of_another_graph, "its operand 'input' is no node of this graph"),
    },
    "_promised": {
        "input": (changed("x", lambda node: node.meta.pop("promise")), "an input is a promise or belongs to the seed")
    },
    "_explains_something": {
        "no origin": (without_origin, "nobody knows what it explains"),
        "of the forward": (known_as(phase="forward"), "nobody knows what it explains"),
        "explains nothing": (known_as(value=""), "nobody knows what it explains"),
    },
    "_of_one_half": {"no origin": (without_origin, "it belongs to no half")},
    "_known_form": {
        "form": (known_as(form="half", of=("linear",)), "relevance has no form 'half'"),
        "of nothing": (known_as(form="unit", of=()), "it is the relevance of nothing"),
    },
    "_of_torch": {"own op": (lambda g: inserted(g, RECURRENT_GATE, node_of(g, "linear")), "own ops are lowered")},
}
"""Question → what it finds, in graphs that are right but for that."""

EVERY = [
    pytest.param(stage, fault, question in stage.questions, id=f"{name}-{question.__name__.strip('_')}-{label}")
    for name, stage in STAGES.items()
    for question in (*stage.questions, *stage.outside)
    for label, fault in FAULTS[question.__name__].items()
]
"""Stage, fault, and whether it is one in the body of a loop, too."""


def in_a_loop(body: fx.GraphModule) -> fx.GraphModule:
    """The graph as the body of a loop over five steps, in a graph that is right."""
    graph = fx.Graph()
    xs = graph.placeholder("xs")
    loop = graph.create_node("call_function", Scan(body, 0, 1), (xs,), name="loop")
    steps = graph.create_node("call_function", operator.getitem, (loop, 0), name="steps")
    graph.output((steps,))
    for node, value in ((xs, (5, 2, 3)), (steps, (5, 2, 4))):
        node.meta["val"] = torch.empty(value)
    loop.meta["val"] = (steps.meta["val"],)
    xs.meta |= {"input": "xs", "promise": "xs"}
    for node in (loop, steps):
        set_origin(node, Origin("relevance", node.name, "", "identity"))
    return fx.GraphModule(nn.Module(), graph)


def test_there_are_six_stages() -> None:
    assert sorted(STAGES) == ["assigned", "final", "forward", "joint", "relevance", "unlifted"]


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_graph_without_faults_passes(stage: Stage) -> None:
    check("a pass", right(), stage)

    assert list(problems(right(), stage)) == []
    assert list(problems(in_a_loop(right()), stage)) == []


@pytest.mark.parametrize(("stage", "fault", "in_bodies"), EVERY)
def test_a_fault_in_a_body_is_one_in_its_graph(stage: Stage, fault: Fault, in_bodies: bool) -> None:
    make, reason = fault
    body = right()
    node = make(body)
    loop = in_a_loop(in_a_loop(body))

    if not in_bodies:  # what a body says of its operands, and which half it belongs to, its loop says
        check("the_pass", loop, stage)
        return
    with pytest.raises(StageError) as error:
        check("the_pass", loop, stage)

    message = str(error.value)
    assert message.startswith(f"the_pass left {node.name} ({node.op} {node.target}) in the body of a loop, in a graph")
    assert reason in message


@pytest.mark.parametrize(("stage", "fault", "in_bodies"), EVERY)
def test_a_fault_is_reported_with_the_pass_and_the_node(stage: Stage, fault: Fault, in_bodies: bool) -> None:
    make, reason = fault
    module = right()
    node = make(module)

    with pytest.raises(StageError) as error:
        check("the_pass", module, stage)

    message = str(error.value)
    assert message.startswith(f"the_pass left {node.name} ({node.op} {node.target}) in a graph of stage")
    assert f"{stage.name!r}" in message
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("_one_spelling", "unlifted"),
        ("_assigned", "forward"),
        ("_explains_something", "joint"),
        ("_promised", "joint"),
        ("_of_torch", "joint"),
        ("_of_one_half", "assigned"),
        ("_named_input", "relevance"),
    ],
)
def test_what_a_stage_does_not_ask_for_is_no_fault_in_it(name: str, stage: str) -> None:
    for make, reason in FAULTS[name].values():
        module = right()
        make(module)

        found = [problem for _, problem in problems(module, STAGES[stage])]

        assert not [problem for problem in found if reason in problem]


def test_every_fault_is_found_in_the_order_of_the_graph() -> None:
    module = right()
    changed("x", lambda node: node.meta.pop("input"))(module)
    new = inserted(module, aten.view.default, [2, 4])
    new.meta.pop("val")

    found = [(node.name, problem) for node, problem in problems(module, stages.FORWARD)]

    assert found == [
        ("x", "the input has no name"),
        (new.name, "nobody knows its value's shape"),
        (new.name, "reshapes have one spelling"),
    ]


def test_a_copy_that_is_returned_or_explained_stays() -> None:
    """It makes an output of an input that is returned as it came; a value that is explained may have no reader."""
    returned, unread = right(), right()
    for module in (returned, unread):
        x = node_of(module, "x")
        with module.graph.inserting_before(module.graph.output_node()):
            copy = module.graph.create_node("call_function", aten.clone.default, (x,), name="copy")
        copy.meta["val"] = x.meta["val"]
    returned.graph.output_node().args = ((node_of(returned, "relu"), node_of(returned, "copy")),)

    assert list(problems(returned, stages.FORWARD)) == []
    assert list(problems(unread, stages.FORWARD)) == []


def test_sizes_explain_nothing(graph_of: Callable) -> None:
    """A size of a dynamic batch is read for many values at once."""
    module = graph_of(lambda x: x.reshape(x.shape[0] * 2, 3), torch.randn(4, 6), dynamic=True)

    found = {node.name: problem for node, problem in problems(module, stages.RELEVANCE)}

    assert len([node for node in module.graph.nodes if isinstance(node.meta.get("val"), torch.SymInt)]) == 2
    (x,) = module.graph.find_nodes(op="placeholder")
    assert list(found) == [x.name, "view"]


def test_a_node_that_no_relevance_passes_needs_no_rule() -> None:
    module = right()
    assign(node_of(module, "relu"), None)
    vars(assignment(node_of(module, "linear"))).update(rule="", kind="")

    check("a pass", module, stages.ASSIGNED)


# ---- What compilations make ----


class Convolutional(nn.Module):
    """A batch norm to fold, a write into a view, a region that is one function, two readers of a value."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.out = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.stem(x)).relu()
        h = nn.functional.max_pool2d(h + h * torch.sigmoid(h), 2)
        h = h.clone()
        h[:, 0] = 0.5
        return self.out(h.mean((2, 3)))


class Sequential(nn.Module):
    """Token ids, a recurrent layer (whose gates are an op of the project's own), attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.recurrent, self.out = nn.Embedding(9, 4), nn.GRU(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        h, _ = self.recurrent(self.embed(ids))
        h = nn.functional.scaled_dot_product_attention(h, h, h)
        return self.out(h[:, -1])


EXAMPLES: dict[str, tuple[type[nn.Module], Tensor]] = {
    "convolutional": (Convolutional, torch.randn(2, 3, 6, 6)),
    "sequential": (Sequential, torch.randint(9, (2, 2))),
}


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("convolutional", {"composite": "epsilon-plus"}),
        ("convolutional", {"composite": "dynamic-lrp", "memory_budget": 0.0}),
        ("sequential", {"composite": "attnlrp", "target": "index"}),
    ],
)
def test_the_graphs_of_a_compilation_are_what_their_stages_promise(
    name: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, example = EXAMPLES[name]
    checked: list[str] = []

    def checking(by: str, module: fx.GraphModule, stage: Stage) -> None:
        check(by, module, stage)
        checked.append(stage.name)

    monkeypatch.setattr(watch, "check", checking)

    lrp.compile(make().eval(), (example,), dump=tmp_path, dynamic_shapes=({0: torch.export.Dim("batch")},), **options)

    assert set(checked) == set(STAGES)
    assert len(checked) == len(list(tmp_path.iterdir()))


@pytest.mark.slow
def test_several_targets_of_a_selection_with_a_dynamic_batch_are_what_their_stages_promise(tmp_path: Path) -> None:
    class Largest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.amax(2)

    shapes = ({0: torch.export.Dim("batch")},)

    lrp.compile(Largest().eval(), (torch.randn(2, 3, 4),), target=[0, 1], dynamic_shapes=shapes, dump=tmp_path)
