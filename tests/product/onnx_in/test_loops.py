"""Scan and Loop of an open length: loops in the explainer, too, which say what the recurrence written out says.

Outputs are onnxruntime's. Relevance under `attnlrp` with ε = 0 is, for tanh and linear maps, gradient × input of the
recurrence with tanh(z) held as z · (tanh(z) / z): autograd's, of a few lines of torch that share
nothing with the graph.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.onnx_graphs import in_onnxruntime, model, node
from torch import Tensor

import lrp_compiler as lrp
from lrp_compiler.errors import CaptureError
from lrp_compiler.passes.graph import scans
from lrp_compiler.runtime import OnnxExplainer

DOUBLE, INT, BOOL = TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL
LENGTHS = (1, 2, 5, 23)
EXACT = 1e-12
"""Of float64's 2⁻⁵³ over some twenty steps, of numbers around 1."""
RANDOM = np.random.default_rng(0)
W, U = RANDOM.standard_normal((4, 6)) * 0.5, RANDOM.standard_normal((6, 6)) * 0.4
CONSTANTS = {
    "w": W,
    "u": U,
    "wu": np.concatenate([W, U]),
    "half": np.float64(0.5),
    "true": np.bool_(True),
    "zero": np.int64(0),
    "one": np.int64(1),
    "first": np.array([0]),
    "second": np.array([1]),
    "hidden": np.array([6]),
    "none": np.array([0]),
}


def value(name: str, shape: Sequence[int | str] | None = None, dtype: int = DOUBLE) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def cell(x: str, before: str, now: str) -> list[onnx.NodeProto]:
    """`now = tanh(x · w + before · u)`."""
    return [
        node("MatMul", f"{x} w", f"{now}_x"),
        node("MatMul", f"{before} u", f"{now}_h"),
        node("Add", f"{now}_x {now}_h", f"{now}_z"),
        node("Tanh", f"{now}_z", now),
    ]


READ = node("Gather", "x i", "x_i", axis=1)
STEP = [READ, *cell("x_i", "h", "h_next")]
STATE = [value("h", ["batch", 6])]


def body(
    nodes: Sequence[onnx.NodeProto],
    states: Sequence[onnx.ValueInfoProto],
    results: Sequence[str],
    condition: str = "go",
    dtypes: dict[str, int] | None = None,
) -> onnx.GraphProto:
    """Of a Loop; without a condition of its own the one that it gets is handed on."""
    own = [node("Identity", "going", "go")] if condition == "go" else []
    given = [value("i", [], INT), value("going", [], BOOL), *states]
    returned = [value(condition, [], BOOL), *(value(one, None, (dtypes or {}).get(one, DOUBLE)) for one in results)]
    return helper.make_graph([*nodes, *own], "step", given, returned)


def proto(nodes: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    """With `n` the length of x, and `h0` zeros."""
    zeros = numpy_helper.from_array(np.zeros(1))
    start = [
        node("Shape", "x", "sizes"),
        node("Gather", "sizes one", "n", axis=0),
        node("Gather", "sizes first", "rows", axis=0),
        node("Concat", "rows hidden", "shape", axis=0),
        node("ConstantOfShape", "shape", "h0", value=zeros),
    ]
    read = {name for one in nodes for name in (*one.input, *_read_inside(one))}
    needed = start if read & {"n", "h0"} else []
    read |= {name for one in needed for name in one.input}
    held = {name: array for name, array in CONSTANTS.items() if name in read}
    return model([*needed, *nodes], {"x": ["batch", "time", 4]}, ("y",), held, dtypes={"x": DOUBLE, "y": DOUBLE})


def _read_inside(one: onnx.NodeProto) -> set[str]:
    graphs = [attribute.g for attribute in one.attribute if attribute.HasField("g")]
    return {name for graph in graphs for inner in graph.node for name in (*inner.input, *_read_inside(inner))}


def held(z: Tensor) -> Tensor:
    return z * (torch.tanh(z) / z).detach()


def after(x: Tensor, h: Tensor) -> Tensor:
    return held(x @ torch.tensor(W) + h @ torch.tensor(U))


def states(x: Tensor) -> list[Tensor]:
    """The plain recurrence, step by step."""
    found = [x.new_zeros(x.shape[0], 6)]
    for step in x.unbind(1):
        found.append(after(step, found[-1]))
    return found[1:]


def last(x: Tensor) -> Tensor:
    return states(x)[-1]


def mean(x: Tensor) -> Tensor:
    return torch.stack(states(x)).mean(0)


def both(x: Tensor) -> Tensor:
    return last(x) + mean(x)


def backwards(x: Tensor) -> Tensor:
    return last(x.flip(1))


def scanned() -> onnx.ModelProto:
    """From the last step to the first, along the second axis; two inputs, two states, outputs turned and moved."""
    step = helper.make_graph(
        [*cell("x_i", "h", "h_next"), node("Mul", "h_next half", "r"), node("Add", "count v", "more")],
        "step",
        [*STATE, value("count", ["batch", 4]), value("x_i", ["batch", 4]), value("v", ["batch", 4])],
        [value("h_next", ["batch", 6]), value("more", ["batch", 4]), value("r", ["batch", 6])],
    )
    options = {"scan_input_axes": [1, 1], "scan_input_directions": [1, 0], "scan_output_axes": [-1]}
    return proto(
        [
            node("ReduceSum", "x second", "total", keepdims=0),
            node(
                "Scan", "h0 total x x", "h sum rs", body=step, num_scan_inputs=2, scan_output_directions=[1], **options
            ),
            node("Gather", "rs zero", "r_last", axis=2),
            node("Slice", "w none second first", "v"),
            node("Identity", "v", "v_1"),
            node("MatMul", "sum w", "s"),
            node("Add", "h r_last", "a"),
            node("Add", "a s"),
        ]
    )


def of_scanned(x: Tensor) -> Tensor:
    found = states(x.flip(1))
    return found[-1] + 0.5 * found[-1] + 2 * x.sum(1) @ torch.tensor(W)


def looped(nodes: Sequence[onnx.NodeProto] = STEP, *behind: onnx.NodeProto, trips: str = "n") -> onnx.ModelProto:
    step = body([*nodes], STATE, ["h_next", "h_next"])
    reduced = behind or [node("ReduceMean", "hs first", "m", keepdims=0), node("Add", "h_last m")]
    return proto([node("Loop", f"{trips} true h0", "h_last hs", body=step), *reduced])


def joined() -> onnx.ModelProto:
    """As TensorFlow writes a cell: one matrix for what is read and for the state."""
    cell = [node("Concat", "x_i h", "x_h", axis=1), node("MatMul", "x_h wu", "z"), node("Tanh", "z", "h_next")]
    return looped([READ, *cell])


def turned() -> onnx.ModelProto:
    read = [node("Sub", "n one", "end"), node("Sub", "end i", "place"), node("Gather", "x place", "x_i", axis=1)]
    return looped([*read, *STEP[1:]], node("Identity", "h_last", "y"))


def sliced() -> onnx.ModelProto:
    read = [
        node("Unsqueeze", "i first", "start"),
        node("Add", "start second", "end"),
        node("Slice", "x start end second", "x_1"),
        node("Squeeze", "x_1 second", "x_i"),
    ]
    return looped([*read, *STEP[1:]])


def counted() -> onnx.ModelProto:
    """`while t < n`, with t a state; the number of the step is not read."""
    read = [node("Gather", "x t", "x_i", axis=1), node("Add", "t one", "t_next"), node("Less", "t_next n", "again")]
    step = body([*read, *STEP[1:]], [*STATE, value("t", [], INT)], ["h_next", "t_next"], "again", {"t_next": INT})
    return proto(
        [
            node("Less", "zero n", "starts"),
            node("Loop", "_ starts h0 zero", "h_last t_last", body=step),
            node("Cast", "t_last", "f", to=DOUBLE),
            node("Cast", "n", "g", to=DOUBLE),
            node("Sub", "f g", "nothing"),
            node("Add", "h_last nothing"),
        ]
    )


def in_a_sequence() -> onnx.ModelProto:
    """As torch.jit.script writes a list that grows."""
    put = [*STEP, node("SequenceInsert", "list h_next", "longer")]
    given = helper.make_tensor_sequence_value_info("list", DOUBLE, None)
    step = body(put, [*STATE, given], ["h_next"])
    step.output.append(helper.make_tensor_sequence_value_info("longer", DOUBLE, None))
    return proto(
        [
            node("SequenceEmpty", "", "empty", dtype=DOUBLE),
            node("Loop", "n true h0 empty", "h_last list_last", body=step),
            node("ConcatFromSequence", "list_last", "hs", axis=1, new_axis=1),
            node("ReduceMean", "hs second", "m", keepdims=0),
            node("Add", "h_last m"),
        ]
    )


def in_a_tensor() -> onnx.ModelProto:
    """What grows step by step."""
    put = [*STEP, node("Unsqueeze", "h_next second", "h_1"), node("Concat", "all h_1", "more", axis=1)]
    step = body(put, [*STATE, value("all", ["batch", "so_far", 6])], ["h_next", "more"])
    return proto(
        [
            node("Concat", "rows none hidden", "nothing", axis=0),
            node("ConstantOfShape", "nothing", "empty", value=numpy_helper.from_array(np.zeros(1))),
            node("Loop", "n true h0 empty", "h_last hs", body=step),
            node("ReduceMean", "hs second", "m", keepdims=0),
            node("Add", "h_last m"),
        ]
    )


def without_states() -> onnx.ModelProto:
    step = body([READ, node("MatMul", "x_i w", "z"), node("Tanh", "z", "t")], [], ["t"])
    return proto([node("Loop", "n true", "ts", body=step), node("ReduceMean", "ts first", keepdims=0)])


def of_each(x: Tensor) -> Tensor:
    return held(x @ torch.tensor(W)).mean(1)


def exchanged() -> onnx.ModelProto:
    """Each state becomes the other."""
    step = body([*STEP, node("Add", "h_next other", "sum")], [*STATE, value("other", ["batch", 6])], ["other", "sum"])
    return proto([node("Loop", "n true h0 h0", "a b", body=step), node("Add", "a b")])


def of_exchanged(x: Tensor) -> Tensor:
    a = b = x.new_zeros(x.shape[0], 6)
    for step in x.unbind(1):
        a, b = b, after(step, a) + b
    return a + b


def within_a_loop() -> onnx.ModelProto:
    """A Scan of the same open length in every step of a Loop."""
    inner = helper.make_graph(
        [node("Mul", "s half", "s_half"), node("Add", "s_half v", "s_next")],
        "inner",
        [value("s", ["batch", 6]), value("v", ["batch", 6])],
        [value("s_next", ["batch", 6])],
    )
    scan = node("Scan", "h_next v_all", "s_last", body=inner, num_scan_inputs=1, scan_input_axes=[1])
    step = body([*STEP, node("MatMul", "x w", "v_all"), scan], STATE, ["s_last"])
    return proto([node("Loop", "n true h0", "y", body=step)])


def of_both(x: Tensor) -> Tensor:
    h = x.new_zeros(x.shape[0], 6)
    for step in x.unbind(1):
        h = after(step, h)
        for other in x.unbind(1):
            h = 0.5 * h + other @ torch.tensor(W)
    return h


def of_a_size() -> onnx.ModelProto:
    """A step reads how many there are, and which one it is."""
    numbers = [
        node("Cast", "n", "f", to=DOUBLE),
        node("Cast", "i", "j", to=DOUBLE),
        node("Add", "j f", "k"),
        node("Div", "h_all k", "h_next"),
    ]
    return looped([READ, *cell("x_i", "h", "h_all"), *numbers], node("Identity", "h_last", "y"))


def by_size(x: Tensor) -> Tensor:
    h = x.new_zeros(x.shape[0], 6)
    for number, step in enumerate(x.unbind(1)):
        h = after(step, h) / (number + x.shape[1])
    return h


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], Callable[[Tensor], Tensor]]] = {
    "a Scan": (scanned, of_scanned),
    "a Loop": (looped, both),
    "one matrix": (joined, both),
    "from the end": (turned, backwards),
    "by Slice": (sliced, both),
    "while": (counted, last),
    "a sequence": (in_a_sequence, both),
    "a tensor that grows": (in_a_tensor, both),
    "no states": (without_states, of_each),
    "exchanged states": (exchanged, of_exchanged),
    "a loop in a loop": (within_a_loop, of_both),
    "sizes": (of_a_size, by_size),
}


def sample(batch: int, time: int) -> Tensor:
    return torch.randn(batch, time, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(batch * time))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_loop_of_an_open_length_is_explained_as_the_recurrence_is(case: str, tmp_path: Path) -> None:
    made, recurrence = CASES[case]
    file = made()
    explainer = lrp.compile(file, composite="attnlrp", target=1)
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    assert scans(explainer.module)

    with OnnxExplainer(tmp_path / "m.lrp.onnx") as deployed:
        for batch, time in zip((3, 1, 2, 3), LENGTHS, strict=True):
            x = sample(batch, time)
            found = explainer(x)
            given = x.clone().requires_grad_()
            recurrence(given)[:, 1].sum().backward()
            expected = x * given.grad
            (wanted,) = in_onnxruntime(file, {"x": x})
            torch.testing.assert_close(torch.as_tensor(found.output), wanted, rtol=0, atol=EXACT)
            room = EXACT * max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(found.relevance["x"], expected, rtol=0, atol=room)
            relevance = torch.as_tensor(deployed(x.numpy()).relevance["x"])
            torch.testing.assert_close(relevance, expected, rtol=0, atol=room)


@pytest.mark.slow
def test_what_a_step_reads_by_its_number_is_read_step_by_step() -> None:
    """Read inside, all of x would be a state of the relevance's loop."""
    for made in (looped, turned, counted, sliced):
        for loop in scans(lrp.compile(made(), composite="attnlrp", target=1).module):
            kept = loop.target.parts(loop.args)  # type: ignore[union-attr]
            assert all(len(one.meta["val"].shape) < 3 for one in (*kept[0], *kept[2]))


def test_a_known_length_is_written_out() -> None:
    x = sample(2, 5)

    assert not scans(
        lrp.compile(looped(), (x,), composite="attnlrp", dynamic_shapes={"x": {0: torch.export.Dim("b")}}).module
    )


def growing() -> onnx.ModelProto:
    """What has been read so far."""
    read = [
        node("Add", "i one", "j"),
        node("Unsqueeze", "j first", "end"),
        node("Slice", "x none end second", "so_far"),
    ]
    return looped([*read, node("ReduceSum", "so_far second", "x_i", keepdims=0), *STEP[1:]])


def ending() -> onnx.ModelProto:
    step = body(
        [*STEP, node("ReduceSum", "h_next", "s", keepdims=0), node("Less", "s half", "again")],
        STATE,
        ["h_next"],
        "again",
    )
    return proto([node("Loop", "n true h0", "y", body=step)])


def changing() -> onnx.ModelProto:
    step = body([READ, node("MatMul", "x_i w", "z"), node("Add", "z h", "h_next")], [value("h")], ["h_next"])
    return proto(
        [
            node("Unsqueeze", "first zero", "one_row"),
            node("Cast", "one_row", "row", to=DOUBLE),
            node("Loop", "n true row", "y", body=step),
        ]
    )


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (growing, "makes a size, or a course, of the number of its step"),
        (ending, "A Loop ends by the values of the inputs"),
        (changing, "makes its state 0 of shape .* one of shape"),
    ],
)
def test_what_no_loop_can_be_made_of_is_said_in_a_sentence(made: Callable[[], onnx.ModelProto], sentence: str) -> None:
    with pytest.raises(CaptureError, match=sentence):
        lrp.compile(made(), composite="attnlrp")


def layer(kind: str, lengths: bool, **options: object) -> onnx.ModelProto:
    """An operator of a layer, of an open length, and all that it returns is read."""
    gates, directions = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 2 if options.get("direction") == "bidirectional" else 1
    shapes = {"w": (directions, gates * 5, 4), "r": (directions, gates * 5, 5), "b": (directions, gates * 10)}
    random = np.random.default_rng(1)
    constants = {name: (random.standard_normal(shape) * 0.5).astype(np.float32) for name, shape in shapes.items()}
    inputs = {"x": ["time", "batch", 4], "h0": [directions, "batch", 5]} | ({"l": ["batch"]} if lengths else {})
    states = "y_all h_last c_last" if kind == "LSTM" else "y_all h_last"
    nodes = [
        node(kind, f"x w r b {'l' if lengths else '_'} h0", states, hidden_size=5, **options),
        node("ReduceMean", "y_all first", "m", keepdims=0),
        node("Add", "m h_last", "both"),
        node("ReduceSum", "both first", keepdims=0),
    ]
    constants["first"] = np.array([0])
    return model(nodes, inputs, ("y",), constants, dtypes={"l": TensorProto.INT32})


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTM", {"direction": "reverse"}),
        ("LSTM", {"direction": "bidirectional"}),
        ("LSTM", {"clip": 0.5, "input_forget": 1}),
        ("GRU", {"direction": "bidirectional"}),
        ("GRU", {"linear_before_reset": 1, "direction": "reverse"}),
        ("RNN", {"direction": "reverse", "activations": ["Relu"]}),
        ("RNN", {}),
    ],
)
def test_a_recurrent_layer_of_an_open_length_is_explained_as_one_of_a_known_length(
    kind: str, options: dict[str, object], lengths: bool
) -> None:
    file = layer(kind, lengths, **options)
    explainer = lrp.compile(file, composite="attnlrp", target=1)
    assert scans(explainer.module)

    for time in (1, 2, 5):
        feeds = {"x": sample(3, time).float().transpose(0, 1).contiguous()}
        feeds["h0"] = torch.randn(2 if options.get("direction") == "bidirectional" else 1, 3, 5)
        if lengths:
            feeds["l"] = torch.tensor([time, max(1, time // 2), max(1, time - 1)], dtype=torch.int32)
        fixed = lrp.compile(
            file, tuple(feeds.values()), composite="attnlrp", target=1, dynamic_shapes={k: {} for k in feeds}
        )
        assert not scans(fixed.module)
        found, expected = explainer(**feeds), fixed(**feeds)
        # float32, and sums of some ten products of numbers around 1.
        torch.testing.assert_close(torch.as_tensor(found.output), in_onnxruntime(file, feeds)[0], rtol=0, atol=2e-6)
        for name in ("x", "h0"):
            room = 2e-6 * float(expected.relevance[name].abs().max())
            torch.testing.assert_close(found.relevance[name], expected.relevance[name], rtol=0, atol=room)
