"""Files that are sound and odd: names that Python keeps for itself, names that are used twice, results left out."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from support.onnx_graphs import in_onnxruntime, model, node

import lrp_compiler as lrp
from lrp_compiler.errors import CaptureError, InputError, LrpWarning

W = {"w": np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)}
X = ["batch", 4]
FLOAT = onnx.TensorProto.FLOAT


def says_what_onnxruntime_says(proto: onnx.ModelProto, rows: int = 5) -> lrp.Explainer:
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))
    explainer = lrp.compile(proto)
    (expected,) = in_onnxruntime(proto, {proto.graph.input[0].name: x})
    torch.testing.assert_close(explainer(x).output, expected)
    return explainer


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["for", "None", "lambda", "self", "x.y", "x\0", "forward", "{}"])
def test_an_input_may_have_any_name(name: str) -> None:
    proto = model([helper.make_node("MatMul", [name, "w"], ["y"])], {name: X}, constants=W)

    assert list(says_what_onnxruntime_says(proto)(torch.ones(2, 4)).relevance) == [name]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["steps", "part", "results", "source", "inputs", "training", "forward"])
def test_weights_and_modules_may_be_called_like_what_a_module_has_itself(name: str) -> None:
    dense = helper.make_node("MatMul", ["x", name], ["y"], name=f"/{name}/steps/MatMul")

    says_what_onnxruntime_says(model([dense], {"x": X}, constants={name: W["w"]}))


def branch(nodes: Sequence[onnx.NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "branch", [], [helper.make_tensor_value_info(output, FLOAT, None)])


def chosen(then: onnx.GraphProto, output: str = "y", condition: str = "yes") -> onnx.NodeProto:
    other = branch([node("Neg", "x", "other")], "other")
    return helper.make_node("If", [condition], [output], then_branch=then, else_branch=other)


YES = {"yes": np.array(True), **W}


def two_branches_with_the_same_names() -> onnx.ModelProto:
    first = branch([node("Relu", "x", "a"), node("MatMul", "a w", "b")], "b")
    second = branch([node("Neg", "x", "a"), node("MatMul", "a w", "b")], "b")
    return model([chosen(first, "one"), chosen(second, "two"), node("Sub", "one two")], {"x": X}, constants=YES)


def a_branch_with_the_name_of_a_later_value() -> onnx.ModelProto:
    first = branch([node("Relu", "x", "a"), node("MatMul", "a w", "b")], "b")
    nodes = [chosen(first, "one"), node("Tanh", "x", "a"), node("MatMul", "a w", "two"), node("Sub", "one two")]
    return model(nodes, {"x": X}, constants=YES)


def a_branch_in_a_branch() -> onnx.ModelProto:
    inner = branch([node("Relu", "x", "inside"), node("MatMul", "inside w", "b")], "b")
    outer = branch(
        [node("Tanh", "x", "a"), node("MatMul", "a w", "c"), chosen(inner, "d"), node("Add", "c d", "e")], "e"
    )
    return model([chosen(outer)], {"x": X}, constants=YES)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "build", [two_branches_with_the_same_names, a_branch_with_the_name_of_a_later_value, a_branch_in_a_branch]
)
def test_branches_have_names_of_their_own(build: Callable[[], onnx.ModelProto]) -> None:
    says_what_onnxruntime_says(build())


def leaky(**default: float) -> onnx.FunctionProto:
    """`f(a)`: a LeakyRelu whose slope is the function's attribute."""
    body = node("LeakyRelu", "a", "b")
    body.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    known = [helper.make_attribute(name, value) for name, value in default.items()]
    names = [] if default else ["slope"]
    return helper.make_function("own", "f", ["a"], ["b"], [body], [helper.make_opsetid("", 20)], names, known)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("given", [{}, {"slope": 0.7}])
def test_an_attribute_that_a_call_leaves_out_is_the_functions_own(given: dict[str, float]) -> None:
    """onnx's inliner forgets it; the comparison was with what that had made of the file."""
    call = helper.make_node("f", ["x"], ["h"], domain="own", **given)
    proto = model([call, node("MatMul", "h w")], {"x": X}, constants=W, functions=[leaky(slope=0.4)], domains=["own"])

    explainer = says_what_onnxruntime_says(proto)

    slope = given.get("slope", 0.4)
    found = explainer(torch.full((1, 4), -1.0)).output
    torch.testing.assert_close(found, -slope * torch.from_numpy(W["w"]).sum(0, keepdim=True))


def test_a_function_of_another_opset_is_taken_where_its_operators_mean_the_same() -> None:
    inner = helper.make_function("own", "g", ["a"], ["b"], [node("Relu", "a", "b")], [helper.make_opsetid("", 15)])
    call = helper.make_node("g", ["a"], ["h"], domain="own")
    opsets = [helper.make_opsetid("", 14), helper.make_opsetid("own", 1)]
    outer = helper.make_function("own", "f", ["a", "w"], ["b"], [call, node("MatMul", "h w", "b")], opsets)
    proto = model(
        [helper.make_node("f", ["x", "w"], ["y"], domain="own")],
        {"x": X},
        constants=W,
        functions=[inner, outer],
        domains=["own"],
    )

    says_what_onnxruntime_says(proto)


def test_what_is_compared_is_the_file_as_it_is() -> None:
    """onnxruntime keeps to its own Relu, whatever a file says that one is."""
    function = helper.make_function("", "Relu", ["a"], ["y"], [node("Neg", "a")], [helper.make_opsetid("", 20)])

    with pytest.raises(CaptureError, match="differs from what onnxruntime makes of The model"):
        lrp.compile(model([node("Relu", "x", "h"), node("MatMul", "h w")], {"x": X}, constants=W, functions=[function]))


def test_results_left_out_of_any_number_of_them() -> None:
    """onnxruntime ends the process on such a file."""
    split = helper.make_node("Split", ["x"], ["a", "", "c", ""], axis=1, num_outputs=4)

    explainer = lrp.compile(model([split, node("Concat", "a c", axis=1)], {"x": X}))

    x = torch.randn(3, 4)
    torch.testing.assert_close(explainer(x).output, x[:, ::2])


def test_a_branch_on_an_open_size_holds_for_the_sizes_that_are_promised() -> None:
    """torch.export takes every open size for 2 or more, and any such condition for decided."""
    nodes = [node("Shape", "x", "s"), node("Gather", "s zero", "rows"), node("Greater", "rows one", "yes")]
    then = branch([node("MatMul", "x w", "b")], "b")
    numbers = {"zero": np.array(0, np.int64), "one": np.array(1, np.int64)}
    other = branch([node("Neg", "x", "n"), node("MatMul", "n w", "o")], "o")
    branching = helper.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=other)
    proto = model([*nodes, branching], {"x": X}, constants={**W, **numbers})

    with pytest.warns(LrpWarning, match="'batch' is 1"):
        explainer = says_what_onnxruntime_says(proto)

    with pytest.raises(InputError, match="at least 2"):
        explainer(torch.ones(1, 4))


def test_a_single_element_may_have_any_stride() -> None:
    held = torch.nn.Linear(4, 3)
    held.register_buffer("one", torch.tensor(2.0).expand(1))

    class Held(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = held

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.held(x) * self.held.one

    assert lrp.compile(Held().eval(), (torch.ones(2, 4),))(torch.ones(2, 4)).output.shape == (2, 3)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("way", ["align_corners", "half_pixel", "tf_crop_and_resize"])
@pytest.mark.parametrize("by", ["factors", "sizes"])
def test_a_batch_is_not_resized_with_its_maps(by: str, way: str) -> None:
    """Of one row it was not a number, and relevance went from row to row, of which each took a share of all."""
    region = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)
    nodes = [
        node("Shape", "x", "shape"),
        node("Slice", "shape zero two zero", "first"),
        node("Concat", "first hw", "sizes", axis=0),
    ]
    wanted = ["", "sizes"] if by == "sizes" else ["factors"]
    resize = helper.make_node(
        "Resize", ["x", "region", *wanted], ["u"], mode="linear", coordinate_transformation_mode=way
    )
    numbers = {name: np.array([value], np.int64) for name, value in (("zero", 0), ("two", 2))}
    constants = {"region": region, "hw": np.array([6, 2], np.int64), "factors": np.array([1, 1, 1.5, 0.5], np.float32)}
    proto = model([*nodes, resize, node("Flatten", "u")], {"x": ["batch", 2, 4, 4]}, constants={**constants, **numbers})

    explainer = lrp.compile(proto)

    for rows in (1, 3):
        x = torch.randn(rows, 2, 4, 4)
        torch.testing.assert_close(explainer(x).output, in_onnxruntime(proto, {"x": x})[0])
    assert "batch, batch" not in str(explainer.show())


@pytest.mark.slow
def test_reading_takes_time_in_proportion_to_the_nodes() -> None:
    def seconds(count: int) -> float:
        names = ["x", *(f"v{number}" for number in range(count - 1)), "y"]
        proto = model([node("Relu", a, b) for a, b in pairwise(names)], {"x": X})
        start = time.process_time()
        lrp.from_onnx(proto)
        return time.process_time() - start

    seconds(100)
    assert seconds(8000) < 10 * seconds(2000)


def test_values_of_the_inputs_choose_a_branch() -> None:
    """`y = (x log Σx) w` where Σx > 0, else `−x w`; the logarithm of what is negative does no harm to the other."""
    then = branch([node("Log", "sum", "l"), node("Mul", "x l", "scaled"), node("MatMul", "scaled w", "b")], "b")
    other = branch([node("Neg", "x", "n"), node("MatMul", "n w", "o")], "o")
    choice = helper.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=other)
    nodes = [node("ReduceSum", "x", "sum", keepdims=0), node("Greater", "sum zero", "yes"), choice]
    proto = model(nodes, {"x": X}, constants={**W, "zero": np.array(0, np.float32)})

    explainer = says_what_onnxruntime_says(proto)

    w = torch.from_numpy(W["w"])
    for sign in (1.0, -1.0):
        x = sign * (torch.rand(2, 4) + 0.5)
        found = explainer(x)
        factor = torch.log(x.sum()) if sign > 0 else torch.tensor(-1.0)
        torch.testing.assert_close(found.output, factor * x @ w)
        expected = factor * x * w[:, found.output.argmax(-1)].T
        if sign < 0:  # the logarithm takes part elsewhere
            torch.testing.assert_close(found.relevance["x"], expected)
        assert found.relevance["x"].isfinite().all()
        assert abs(explainer.audit(x).error) <= 1e-9


def test_a_branch_of_another_shape_is_refused() -> None:
    then = branch([node("MatMul", "x w", "b")], "b")
    other = branch([node("Neg", "x", "o")], "o")
    choice = helper.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=other)
    nodes = [node("ReduceSum", "x", "sum", keepdims=0), node("Greater", "sum zero", "yes"), choice]
    proto = model(nodes, {"x": X}, constants={**W, "zero": np.array(0, np.float32)})

    with pytest.raises(CaptureError, match="its branches return other shapes"):
        lrp.compile(proto)


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("CumSum", {"axis": []}),
        ("Unsqueeze", {"axes": [1]}),
        ("ReduceSum", {"axes": [1]}),
    ],
)
def test_what_values_of_inputs_decide_is_said_of_the_node(op: str, inputs: dict[str, list[int]]) -> None:
    whole = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, shape) for name, shape in inputs.items()]
    x, y = helper.make_tensor_value_info("x", FLOAT, [2, 6]), helper.make_tensor_value_info("y", FLOAT, None)
    graph = helper.make_graph([helper.make_node(op, ["x", *inputs], ["y"], name="here")], "g", [x, *whole], [y])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    with pytest.raises(CaptureError, match=rf"Node 'here' \({op}\) does what values of the inputs say.*hold the input"):
        lrp.compile(proto, composite="epsilon")
