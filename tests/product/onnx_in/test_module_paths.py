"""Nodes belong to the modules that their names speak of, so that composites by path and `observe` work."""

import numpy as np
import onnx
import pytest
import torch
from support.onnx_graphs import model, node

import lrp_compiler as lrp
from lrp_compiler.onnx_in.module_paths import CLASSES, SCOPES, levels

W = np.eye(4, dtype=np.float32)

NAMES = {
    "/layer1/layer1.0/conv1/Conv": ["layer1", "layer1.0", "layer1.0.conv1"],
    "/encoder/layer.3/attention/self/MatMul_1": [
        "encoder",
        "encoder.layer.3",
        "encoder.layer.3.attention",
        "encoder.layer.3.attention.self",
    ],
    "/features/features.0/features.0.1/Relu": ["features", "features.0", "features.0.1"],
    "model/dense/MatMul": ["model", "model.dense"],
    "/Relu": [],
    "Conv_12": ["Conv_12"],
    "": ["MatMul_7"],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_which_modules_are_around(name: str) -> None:
    assert [level.path for level in levels(node("MatMul", "x w", name=name), 7, set())] == NAMES[name]


def test_the_metadata_of_dynamo_say_it_with_classes() -> None:
    one = node("Conv", "x w", name="node_Conv_3")
    one.metadata_props.add(key=SCOPES, value="['', 'conv', 'conv.0', 'conv2d']")
    one.metadata_props.add(
        key=CLASSES, value="['a.Net', 'torch.nn.Sequential', 'torch.nn.modules.conv.Conv2d', 'aten']"
    )

    assert levels(one, 3, set()) == (("conv", "Sequential"), ("conv.0", "Conv2d"))


def test_a_node_without_a_name_goes_by_its_weight() -> None:
    assert [level.path for level in levels(node("Conv", "x a.b.weight"), 0, {"a.b.weight"})] == ["a.b"]


def stacked() -> lrp.Explainer:
    proto = model(
        [
            node("MatMul", "x body.0.weight", "a", "/body/body.0/MatMul"),
            node("Relu", "a", "b", "/body/body.1/Relu"),
            node("MatMul", "b head.weight", name="/head/MatMul"),
        ],
        {"x": ["batch", 4]},
        constants={"body.0.weight": W, "head.weight": np.ones((4, 3), np.float32)},
    )
    mine = lrp.Composite("mine", (lrp.Entry("linear", "z-plus", path="body"), *lrp.composites.epsilon().entries))
    return lrp.compile(proto, composite=mine, wrt=["x", "body.0.weight"], observe=["body", "head"])


def test_composites_observe_and_wrt_go_by_these_paths() -> None:
    explainer = stacked()
    x = torch.randn(3, 4)

    relevance = explainer(x).relevance

    assert {name: list(value.shape) for name, value in relevance.items()} == {
        "x": [3, 4],
        "body.0.weight": [4, 4],
        "body": [3, 4],
        "head": [3, 3],
    }
    torch.testing.assert_close(relevance["body"], torch.relu(x), rtol=1e-5, atol=3e-6)


def test_weights_are_parameters_under_their_names() -> None:
    proto = model(
        [node("MatMul", "x body.0.weight", "a"), node("MatMul", "a onnx::MatMul_12")],
        {"x": ["batch", 4]},
        constants={"body.0.weight": W, "onnx::MatMul_12": W},
    )

    names = [name for name, _ in lrp.from_onnx(proto).named_parameters()]

    assert sorted(names) == ["body.0.weight", "onnx__MatMul_12"]


RANDOM = np.random.default_rng(0)
QUANTISED = {
    **{f"{name}.weight": RANDOM.uniform(-100, 100, (8, 8)).astype(np.int8) for name in ("a", "b")},
    **{f"head.{name}": RANDOM.normal(size=(8, 8)).astype(np.float32) for name in ("weight",)},
    **{"s": np.float32(0.05), "t": np.float32(0.02), "z": np.uint8(128), "w": np.int8(0)},
}


def within(path: str, one: onnx.NodeProto) -> onnx.NodeProto:
    """As dynamo writes a node of the module `body.PATH`; of "" one of the model itself."""
    parts = ["", *(["body", f"body.{path}"] if path else []), one.op_type.lower()]
    one.metadata_props.add(key=SCOPES, value=str(parts))
    return one


STATIC = [
    node("QuantizeLinear", "x s z", "xq", "x_QuantizeLinear"),
    node("DequantizeLinear", "xq s z", "xd", "x_DequantizeLinear"),
    node("DequantizeLinear", "a.weight t w", "aw", "a.weight_DequantizeLinear"),
    within("a", node("MatMul", "xd aw", "h", "node_MatMul_1")),
    within("act", node("Relu", "h", "r", "node_relu")),
    node("QuantizeLinear", "r s z", "rq", "relu_QuantizeLinear"),
    node("DequantizeLinear", "rq s z", "rd", "relu_DequantizeLinear"),
    node("DequantizeLinear", "b.weight t w", "bw", "b.weight_DequantizeLinear"),
    within("b", node("MatMul", "rd bw", "g", "node_MatMul_2")),
    node("QuantizeLinear", "g s z", "gq", "g_QuantizeLinear"),
    node("DequantizeLinear", "gq s z", "gd", "g_DequantizeLinear"),
    within("", node("Tanh", "gd", "t1", "node_tanh")),
    node("MatMul", "t1 head.weight", name="head/MatMul"),
]


def dynamic(value: str, weight: str, out: str) -> list[onnx.NodeProto]:
    """A layer as onnxruntime's quantiser writes it, whose nodes say nothing of modules."""
    return [
        node("DynamicQuantizeLinear", value, f"{value}_q {value}_s {value}_z", f"{value}_QuantizeLinear"),
        node("MatMulInteger", f"{value}_q {weight} {value}_z", f"{out}_i", f"node_{out}_quant"),
        node("Cast", f"{out}_i", f"{out}_f", f"{out}_cast", to=1),
        node("Mul", f"{value}_s t", f"{out}_s", f"{out}_scales_mul"),
        node("Mul", f"{out}_f {out}_s", out, f"{out}_output_scale_mul"),
    ]


DYNAMIC = [
    *dynamic("x", "body.a.weight_quantized", "h"),
    within("act", node("Relu", "h", "r", "node_relu")),
    *dynamic("r", "body.b.weight_quantized", "g"),
    within("", node("Tanh", "g", "t1", "node_tanh")),
    node("MatMul", "t1 head.weight", name="head/MatMul"),
]
FILES = {
    "static": (STATIC, {}),
    "dynamic": (DYNAMIC, {f"body.{name}.weight_quantized": QUANTISED[f"{name}.weight"] for name in ("a", "b")}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_what_a_tool_put_between_two_layers_is_no_module_and_its_border_is_crossed_once(kind: str) -> None:
    """The layers are a chain without biases: all that enters `body` at its end leaves it at its beginning."""
    nodes, more = FILES[kind]
    proto = model(nodes, {"x": ["batch", 8]}, constants={**QUANTISED, **more})
    x = torch.randn(3, 8)

    audit = lrp.compile(proto, composite="epsilon").audit(x)

    modules = {entry.node: entry for entry in audit.by_module(1).entries}
    assert set(modules) <= {"(model)", "body", "head"}
    head, body = modules["head"], modules["body"]
    assert head.relevance_in == pytest.approx(audit.seed, rel=1e-9)
    assert body.relevance_in == pytest.approx(head.relevance_out, rel=1e-6)
    assert body.relevance_out == pytest.approx(sum(audit.inputs.values()), rel=1e-6)


def test_without_names_of_modules_a_quantiser_belongs_to_what_it_quantises() -> None:
    nodes = [
        node("MatMul", "x head.weight", "h", "MatMul_0"),
        node("QuantizeLinear", "h s z", "q", "Quant_1"),
        node("DequantizeLinear", "q s z", "d", "Dequant_2"),
        node("Tanh", "d", name="Tanh_3"),
    ]
    explainer = lrp.compile(model(nodes, {"x": ["batch", 8]}, constants=QUANTISED), composite="epsilon")

    assert {entry.module for entry in explainer.audit(torch.randn(2, 8)).entries} == {"head", "Tanh_3"}
