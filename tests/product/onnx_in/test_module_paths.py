"""Nodes belong to the modules that their names speak of, so that composites by path and `observe` work."""

import numpy as np
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
    torch.testing.assert_close(relevance["body"], torch.relu(x), rtol=1e-4, atol=1e-5)


def test_weights_are_parameters_under_their_names() -> None:
    proto = model(
        [node("MatMul", "x body.0.weight", "a"), node("MatMul", "a onnx::MatMul_12")],
        {"x": ["batch", 4]},
        constants={"body.0.weight": W, "onnx::MatMul_12": W},
    )

    names = [name for name, _ in lrp.from_onnx(proto).named_parameters()]

    assert sorted(names) == ["body.0.weight", "onnx__MatMul_12"]
