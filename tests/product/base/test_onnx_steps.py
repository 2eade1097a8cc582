"""A file that may never end is not opened, wherever its loop stands; all others are."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.artefacts import write_all
from support.hand_made import doubler, sealed

from lrp_compiler.base.errors import FormatError
from lrp_compiler.base.onnx_steps import refuse_repetition
from lrp_compiler.check.verify import verify
from lrp_compiler.runtime import OnnxExplainer

STEPS = 2**40


def body() -> onnx.GraphProto:
    def info(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [])

    nodes = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Mul", ["v", "v"], ["w"])]
    taken = [info("i", TensorProto.INT64), info("go", TensorProto.BOOL), info("v", TensorProto.FLOAT)]
    return helper.make_graph(nodes, "body", taken, [info("on", TensorProto.BOOL), info("w", TensorProto.FLOAT)])


def looping(inside: bool) -> bytes:
    """Relevance waits for a loop of 2⁴⁰ steps; `inside`: one that stands in a branch of an `If`."""
    model = onnx.load_from_string(doubler())
    del model.metadata_props[1:]
    graph = model.graph
    for name, value in (("steps", np.array(STEPS)), ("one", np.array(1, np.float32)), ("yes", np.array(True))):
        graph.initializer.append(numpy_helper.from_array(value, name))
    loop = helper.make_node("Loop", ["steps", "", "one"], ["s"], body=body())
    if inside:
        result = [helper.make_tensor_value_info("s", TensorProto.FLOAT, [])]
        other = helper.make_graph([helper.make_node("Identity", ["one"], ["s"])], "other", [], result)
        branch = helper.make_graph([loop], "branch", [], result)
        loop = helper.make_node("If", ["yes"], ["s"], then_branch=branch, else_branch=other)
    last = next(node for node in graph.node if "relevance.x" in node.output)
    last.output[0] = "waiting"
    graph.node.extend([loop, helper.make_node("Add", ["waiting", "s"], ["relevance.x"])])
    onnx.checker.check_model(model)
    return sealed(model.SerializeToString())


@pytest.mark.parametrize("inside", [False, True])
def test_what_may_never_end_is_not_opened(inside: bool, tmp_path: Path) -> None:
    content = looping(inside)
    (tmp_path / "m.lrp.onnx").write_bytes(content)
    for opened in (
        lambda: OnnxExplainer(content),
        lambda: OnnxExplainer(tmp_path / "m.lrp.onnx", check=False),
        lambda: verify(tmp_path / "m.lrp.onnx"),
    ):
        with pytest.raises(FormatError, match=r"it repeats a part of itself \(Loop\)") as raised:
            opened()
        assert "\n" not in str(raised.value)


def test_a_function_is_looked_into() -> None:
    model = onnx.load_from_string(doubler())
    opsets = [helper.make_opsetid("", 20)]
    inner = helper.make_node("Loop", ["n", "", "a"], ["b"], body=body())
    model.functions.append(helper.make_function("mine", "Again", ["n", "a"], ["b"], [inner], opsets))
    with pytest.raises(FormatError, match="Loop"):
        refuse_repetition(model.SerializeToString(), "it")


def test_what_is_no_model_and_what_we_write_passes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for size in (0, 1, 2, 7, 100, 5000):
        refuse_repetition(random.bytes(size), "noise")
    content = doubler()
    for length in range(0, len(content), 7):
        refuse_repetition(content[:length], "a part")
    (tmp_path / "empty.onnx").write_bytes(b"")
    refuse_repetition(tmp_path / "empty.onnx", "nothing")
    write_all(tmp_path)
    for path in tmp_path.glob("*.onnx"):
        refuse_repetition(path, path.name)


def test_a_graph_in_a_graph_without_end_is_refused() -> None:
    """Thirty thousand bytes of nothing but lengths."""
    content = b""
    for number in [7, *[1, 5, 6] * 3000][::-1]:
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        content = bytes([number << 3 | 2]) + length + bytes([size]) + content
    with pytest.raises(FormatError, match="a graph in a graph"):
        refuse_repetition(content, "it")
