"""What the plan rebuilds is spliced into the relevance graph; the numbers stay those of gradient × input."""

import pytest
import torch
from support.assigned import Emitted, captured, emitted
from torch import Tensor, fx, nn

import lrp_compiler as lrp
from lrp_compiler.passes.graph import REBUILT, WAIT, is_tensor, origin
from lrp_compiler.passes.promises.ledger import Ledger
from lrp_compiler.passes.promises.planner import Decision
from lrp_compiler.passes.promises.resolve import asked_values, resolve_promises
from lrp_compiler.passes.relevance import Seed

pytestmark = pytest.mark.sampled(4)

aten = torch.ops.aten


class Dense(nn.Module):
    """x → a → relu → b → relu → c: each ReLU asks for its own result, in the limit ε → 0 nobody for a layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


class Reshaping(Dense):
    """Twice as many rows of half the width between the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(3, 5), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu().reshape(x.shape[0] * 2, 3)
        return self.c(self.b(h).relu().reshape(-1, 10))


def emit(model: nn.Module, seed: Seed | None = None) -> Emitted:
    """The model's relevance graph."""
    return emitted(captured(model.double(), torch.zeros(2, 4, dtype=torch.float64)), "attnlrp", seed)


def resolved(done: Emitted, kept: set[str], rebuilt: dict[str, int]) -> fx.GraphModule:
    """Resolved by a decision that is written by hand: rebuilt value → the segment that it is rebuilt with."""
    ledger = Ledger.of(done.forward)
    index = {node.name: place for node, place in ledger.index.items()}
    decision = Decision(
        {index[name] for name in kept},
        {index[name] for name in rebuilt},
        segment={index[name]: segment for name, segment in rebuilt.items()},
    )
    return resolve_promises(done.relevance, ledger, decision)


def gradient_times_input(model: nn.Module, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    return gradient * x


def promised(module: fx.GraphModule) -> list[str]:
    """Names of what is handed over, weights apart."""
    names = [node.meta["promise"] for node in module.graph.find_nodes(op="placeholder")]
    return [name for name in names if not name.endswith(("weight", "bias"))]


def made_by(module: fx.GraphModule, rule: str) -> list[str]:
    """The calls that were made by this rule."""
    found = [node for node in module.graph.nodes if node.op == "call_function" and origin(node) is not None]
    return [node.target._opname for node in found if origin(node).rule == rule]


def named(module: fx.GraphModule, name: str) -> fx.Node:
    return next(node for node in module.graph.nodes if node.name == name)


X = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

# ---- What is asked ----


def test_what_is_asked_is_what_the_relevance_graph_still_reads() -> None:
    done = emit(Dense())

    asked = asked_values(done.relevance, Ledger.of(done.forward), done.promises)

    assert {value.name: [asker.name for asker in askers] for value, askers in asked.items()} == {
        "a_weight": ["linear"],
        "b_weight": ["linear_1"],
        "c_weight": ["linear_2"],
        "x": ["x"],
        "relu": ["relu"],
        "relu_1": ["relu_1"],
    }
    order = [node.name for node in done.forward.graph.nodes]
    assert [value.name for value in asked] == sorted((value.name for value in asked), key=order.index)


def test_a_promise_that_clean_up_made_void_is_not_asked() -> None:
    done = emit(Dense())
    (sign, *_) = done.relevance.graph.find_nodes(op="call_function", target=aten.sign.default)
    value = sign.args[0]
    sign.replace_all_uses_with(named(done.relevance, "matmul"))

    done.relevance.graph.erase_node(sign)

    asked = asked_values(done.relevance, Ledger.of(done.forward), done.promises)
    assert value.meta["promise"] not in {node.name for node in asked}
    assert len(asked) == 5


def test_a_size_that_is_read_off_a_value_does_not_ask_for_it() -> None:
    done = emit(Dense())
    x, relu = named(done.relevance, "x"), named(done.relevance, "relu")
    (size,) = done.relevance.graph.find_nodes(op="call_function", target=aten.sym_size.int)
    size.args = (relu, 0)
    for reader in [user for user in relu.users if user is not size]:
        reader.replace_input_with(relu, named(done.relevance, "matmul_1"))
    assert size not in x.users

    asked = asked_values(done.relevance, Ledger.of(done.forward), done.promises)

    assert "relu" not in {node.name for node in asked}


# ---- Resolved ----


def test_what_is_kept_is_handed_over() -> None:
    model = Dense()
    done = emit(model)

    module = resolved(done, {"relu", "relu_1"}, {})

    assert promised(module) == ["x", "relu", "relu_1"]
    assert made_by(module, REBUILT) == []
    assert [node.target for node in module.graph.nodes if node.op == "call_function"] == [
        node.target for node in done.relevance.graph.nodes if node.op == "call_function"
    ]
    found = done.relevance_of(module, X)["x"]
    torch.testing.assert_close(found, gradient_times_input(model, X), rtol=1e-12, atol=1e-14)


def test_what_is_rebuilt_is_calculated_where_it_is_asked_for() -> None:
    model = Dense()
    done = emit(model)

    module = resolved(done, {"linear", "linear_1"}, {"relu": 0, "relu_1": 0})

    assert promised(module) == ["x", "linear", "linear_1"]
    assert made_by(module, REBUILT) == ["relu", "relu"]
    assert made_by(module, WAIT) == []
    for name in ("relu", "relu_1"):
        again = named(module, name)
        assert (origin(again).phase, origin(again).value, origin(again).module) == ("relevance", name, "")
        assert again.next.target is aten.sign.default  # not before it is asked for
    found = done.relevance_of(module, X)["x"]
    torch.testing.assert_close(found, gradient_times_input(model, X), rtol=1e-12, atol=1e-14)


def test_a_chain_is_rebuilt_from_what_is_at_hand_once_relevance_has_arrived() -> None:
    """Its smallest operand, the bias, waits for the relevance that arrived last."""
    model = Dense()
    done = emit(model)

    module = resolved(done, {"relu_1"}, {"linear": 1, "relu": 1})

    assert promised(module) == ["x", "relu_1"]
    assert made_by(module, REBUILT) == ["linear", "relu"]
    assert made_by(module, WAIT) == ["reshape", "slice", "ne", "_to_copy", "mul", "add"]
    x, weight, bias = named(module, "linear").args
    assert (x.name, weight.name) == ("x", "a_weight")
    assert (bias.target, bias.args[0].name) == (aten.add.Tensor, "a_bias")
    (arrived,) = module.graph.find_nodes(op="call_function", target=aten.reshape.default)
    assert arrived.args[0].name == "matmul_1"  # relevance of relu, in whose place relu is asked for
    found = done.relevance_of(module, X)["x"]
    torch.testing.assert_close(found, gradient_times_input(model, X), rtol=1e-12, atol=1e-14)


def test_a_segment_waits_once() -> None:
    model = Dense()
    done = emit(model)

    module = resolved(done, set(), dict.fromkeys(("linear", "relu", "linear_1", "relu_1"), 1))

    assert promised(module) == ["x"]
    assert made_by(module, REBUILT) == ["linear", "relu", "linear", "relu"]
    assert made_by(module, WAIT).count("add") == 1  # what is computed from what waits waits, too
    found = done.relevance_of(module, X)["x"]
    torch.testing.assert_close(found, gradient_times_input(model, X), rtol=1e-12, atol=1e-14)


def test_each_segment_waits_for_itself() -> None:
    """An operand that is as large as the value may wait as well, where there is none that is smaller."""
    model = Dense()
    done = emit(model)

    module = resolved(done, {"linear_1"}, {"linear": 1, "relu": 1, "relu_1": 2})

    waiting = [node for node in module.graph.nodes if origin(node) is not None and origin(node).rule == WAIT]
    assert [node.args[0].name for node in waiting if node.target is aten.add.Tensor] == ["linear_1", "a_bias"]
    found = done.relevance_of(module, X)["x"]
    torch.testing.assert_close(found, gradient_times_input(model, X), rtol=1e-12, atol=1e-14)


def test_a_value_that_two_ask_for_is_rebuilt_once() -> None:
    class Branching(Dense):
        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).tanh()
            return h[:, :3] * h[:, 3:]  # each half asks for the other

    model = Branching()
    done = emit(model)

    rebuilt = [node.name for node in done.forward.graph.nodes if node.name.startswith(("tanh", "slice"))]
    module = resolved(done, {"linear"}, dict.fromkeys(rebuilt, 0))

    assert sorted(made_by(module, REBUILT)) == ["slice", "slice", "tanh"]
    before, after = (done.relevance_of(graph, X)["x"] for graph in (done.relevance, module))
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_waiting_adds_zero_whatever_relevance_arrives(odd: float) -> None:
    """A row whose relevance is NaN does not spoil what is rebuilt for the others."""
    done = emit(Dense(), Seed(0, "tensor"))
    module = resolved(done, set(), dict.fromkeys(("linear", "relu", "linear_1", "relu_1"), 1))
    seed = torch.ones(5, 3, dtype=torch.float64)
    (expected, spoilt) = (seed.clone(), seed.clone())
    spoilt[0] = odd

    first, second = (done.relevance_of(module, X, seed=given)["x"] for given in (expected, spoilt))

    assert torch.equal(first[1:], second[1:])
    assert first.isfinite().all()
    assert not second[0].isfinite().all()


# ---- Sizes ----


@pytest.mark.parametrize(
    ("kept", "rebuilt"),
    [
        ({"relu", "relu_1"}, {}),
        ({"linear", "linear_1"}, {"relu": 0, "relu_1": 0}),
        (set(), {"linear": 1, "relu": 1, "reshape": 1, "linear_1": 1, "relu_1": 1}),
    ],
    ids=["kept", "rebuilt", "all rebuilt"],
)
def test_sizes_of_any_batch_are_read_off_or_calculated_again(kept: set[str], rebuilt: dict[str, int]) -> None:
    model = Reshaping()
    done = emit(model)
    sizes = [node.name for node in done.forward.graph.nodes if not is_tensor(node) and node.op == "call_function"]

    module = resolved(done, kept, rebuilt | {name: 0 for name in sizes if rebuilt})

    assert all(node.meta["promise"] not in sizes for node in module.graph.find_nodes(op="placeholder"))
    found = done.relevance_of(module, X)["x"]
    torch.testing.assert_close(found, gradient_times_input(model, X), rtol=1e-12, atol=1e-14)


def test_run_time_inputs_of_the_seed_stay_the_last_ones() -> None:
    done = emit(Dense(), Seed("index"))

    module = resolved(done, {"linear", "linear_1"}, {"relu": 0, "relu_1": 0})

    *others, last = module.graph.find_nodes(op="placeholder")
    assert (last.name, last.meta["seed"]) == ("target", "target")
    assert all("promise" in node.meta for node in others)


def test_constants_of_the_relevance_graph_come_along() -> None:
    model = Dense()
    done = emit(model)
    done.relevance.register_buffer("factor", torch.tensor([2.0, 3.0, 4.0, 5.0], dtype=torch.float64))
    (product,) = done.relevance.graph.output_node().args[0].values()
    with done.relevance.graph.inserting_after(product):
        factor = done.relevance.graph.get_attr("factor")
        factor.meta["val"] = done.relevance.factor
    with done.relevance.graph.inserting_after(factor):
        scaled = done.relevance.graph.call_function(aten.mul.Tensor, (product, factor))
    scaled.meta["val"] = product.meta["val"]
    done.relevance.graph.output_node().args = ({"x": scaled},)

    module = resolved(done, {"linear", "linear_1"}, {"relu": 0, "relu_1": 0})

    found = done.relevance_of(module, X)["x"]
    expected = gradient_times_input(model, X) * done.relevance.factor
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


class Spectrogram(nn.Module):
    """Frames of a signal of any length, their power on a log scale averaged: how many there are is calculated."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(8))
        self.classes = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        power = torch.stft(x, 8, 4, window=self.window, return_complex=True).abs() ** 2
        return self.classes((power + 1e-3).log().mean(-1))


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1.0, 0.25])
def test_a_size_that_the_forward_graph_calculates_is_read_off_what_it_is_calculated_from(budget: float) -> None:
    sizes = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=16)}}
    model, x = Spectrogram().double().eval(), torch.randn(3, 44, dtype=torch.float64)

    open_sized = lrp.compile(
        model, (x[:2, :32],), composite="epsilon", target=1, memory_budget=budget, dynamic_shapes=sizes
    )

    fixed = lrp.compile(model, (x,), composite="epsilon", target=1)
    torch.testing.assert_close(open_sized(x).relevance["x"], fixed(x).relevance["x"], rtol=1e-9, atol=1e-12)
