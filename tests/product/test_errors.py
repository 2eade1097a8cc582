"""What goes wrong is said in one sentence that a user can act on, with a type that a program can act on."""

import re
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import CaptureError, CompositeError, InputError, LrpError, UnsupportedOpError


def sentence(raised: pytest.ExceptionInfo[LrpError]) -> str:
    """The message, once it was seen to be a single sentence on a line of its own."""
    message = str(raised.value)
    assert "\n" not in message, message
    assert message.endswith("."), message
    assert message[0].isupper() or message.startswith(("torch.export", "wrt")), message
    # A full stop before a capital ends a sentence; those of names such as torch.export do not.
    assert len(re.findall(r"[.!?] +[A-Z]", message)) == 0, message
    return message


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def explainer(**options: Any) -> lrp.Explainer:
    return lrp.compile(net(), (torch.randn(2, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},), **options)


# ---- Operations without a rule ----


class Mixer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class Whitener(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x @ x.transpose(-1, -2) + torch.eye(3)) @ x


class Unsupported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Mixer(), Mixer()])
        self.whitener = Whitener()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[1](self.blocks[0](x).relu())
        return self.head(self.whitener(x).mean(1))


@pytest.fixture(scope="module")
def unsupported() -> UnsupportedOpError:
    with pytest.raises(UnsupportedOpError) as raised:
        lrp.compile(Unsupported().eval(), (torch.randn(2, 3, 4),))
    return raised.value


def test_every_node_without_a_rule_is_listed(unsupported: UnsupportedOpError) -> None:
    listed = [(node.op, node.module_path) for node in unsupported.nodes]

    assert listed == [
        ("aten.special_bessel_j0.default", "blocks.0"),
        ("aten.special_bessel_j0.default", "blocks.1"),
        ("aten.linalg_inv.default", "whitener"),
    ]


def test_each_such_node_comes_with_its_source_line(unsupported: UnsupportedOpError) -> None:
    bessel, inverse = unsupported.nodes[0], unsupported.nodes[2]

    assert re.search(r"test_errors\.py:\d+: return torch\.special\.bessel_j0\(x\)", bessel.source)
    assert re.search(r"test_errors\.py:\d+: return torch\.linalg\.inv", inverse.source)


def test_the_message_says_how_to_register_a_rule(unsupported: UnsupportedOpError) -> None:
    message = str(unsupported)

    assert "3 nodes have no relevance rule" in message
    for node in unsupported.nodes:
        assert node.node in message
        assert node.module_path in message
        assert node.source in message
    assert message.count("@lrp.rule(torch.ops.aten.special_bessel_j0.default)") == 1


def test_a_rule_registered_as_the_message_says_makes_the_model_compile() -> None:
    # The op is used nowhere else: rules stay registered for the whole process.
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.i0e(x)

    x = torch.randn(2, 3)
    with pytest.raises(UnsupportedOpError) as raised:
        lrp.compile(Model().eval(), (x,))
    _, pasted = str(raised.value).split("Register a rule for each op, then compile again:\n")
    exec(textwrap.dedent(pasted), {"torch": torch, "lrp": lrp})

    explanation = lrp.compile(Model().eval(), (x,), target=0)(x)

    torch.testing.assert_close(explanation.relevance["x"][:, 0], explanation.output[:, 0])


def test_an_operation_off_the_path_of_relevance_needs_no_rule() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 2, torch.special.bessel_j0(x)

    x = torch.randn(2, 3)

    assert lrp.compile(Model().eval(), (x,), target=0)(x).relevance["x"].shape == (2, 3)


# ---- Models ----


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(CaptureError) as raised:
        lrp.compile(net().train(), (torch.randn(2, 4),))

    assert "training mode" in sentence(raised)
    assert "eval()" in sentence(raised)


def test_a_single_submodule_in_training_mode_is_refused_and_named() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout())
    model.eval()[1].train()

    with pytest.raises(CaptureError) as raised:
        lrp.compile(model, (torch.randn(2, 4),))

    assert "training mode (1)" in sentence(raised)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(4)], ids=["dropout", "batch norm"])
@pytest.mark.parametrize("decomposed", [False, True])
def test_a_program_exported_in_training_mode_is_refused(layer: nn.Module, decomposed: bool) -> None:
    model = nn.Sequential(layer, nn.Linear(4, 3)).train()
    program = torch.export.export(model, (torch.randn(2, 4),))
    if decomposed:
        program = program.run_decompositions({})

    with pytest.raises(CaptureError) as raised:
        lrp.compile(program)

    assert "training mode" in sentence(raised)


def test_control_flow_over_values_is_refused() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                return x
            return -x

    with pytest.raises(CaptureError) as raised:
        lrp.compile(Model().eval(), (torch.randn(2, 4),))

    assert "depends on the values of a tensor" in sentence(raised)
    assert "torch.where" in sentence(raised)
    assert "test_errors.py" in sentence(raised)


def test_the_graph_of_a_failed_export_is_not_dumped(capfd: pytest.CaptureFixture[str]) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[: int(x.sum())] if x.max() > 0 else x

    with pytest.raises(CaptureError):
        lrp.compile(Model().eval(), (torch.randn(2, 4),))

    captured = capfd.readouterr()
    assert captured.out == ""
    assert "class GraphModule" not in captured.err


def test_a_bare_tensor_is_no_sequence_of_inputs() -> None:
    with pytest.raises(InputError) as raised:
        lrp.compile(net(), torch.zeros(2, 3))

    assert "(x,)" in sentence(raised)


def test_missing_example_inputs_are_asked_for() -> None:
    with pytest.raises(InputError) as raised:
        lrp.compile(net())

    assert "example inputs" in sentence(raised)


def test_example_inputs_that_the_model_cannot_take_are_refused() -> None:
    with pytest.raises(LrpError) as raised:
        lrp.compile(net(), (torch.randn(2, 5),))

    assert isinstance(raised.value, CaptureError | InputError)
    sentence(raised)


def test_example_inputs_beside_a_program_are_refused() -> None:
    program = torch.export.export(net(), (torch.randn(2, 4),))

    with pytest.raises(InputError) as raised:
        lrp.compile(program, (torch.randn(2, 4),))

    assert "brings its own inputs" in sentence(raised)


def test_a_model_without_a_float_output_is_refused() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.argmax(-1)

    with pytest.raises(InputError) as raised:
        lrp.compile(Model().eval(), (torch.randn(2, 4),))

    assert "no float tensor" in sentence(raised)


def test_an_output_of_rank_four_needs_a_position() -> None:
    with pytest.raises(InputError) as raised:
        lrp.compile(nn.Conv2d(3, 2, 1).eval(), (torch.randn(2, 3, 4, 4),))

    assert "[2, 2, 4, 4]" in sentence(raised)
    assert "position=(0, 0)" in sentence(raised)


def test_an_output_that_depends_on_no_input_is_refused() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answer = nn.Parameter(torch.randn(2, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.answer * 2

    with pytest.raises(InputError) as raised:
        lrp.compile(Model().eval(), (torch.randn(2, 4),))

    assert "depends on none of the inputs" in sentence(raised)


# ---- Options ----


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"composite": "epsilon-minus"}, CompositeError, ["'epsilon-minus'", "epsilon-plus", "attnlrp"]),
        ({"target": "largest"}, InputError, ["'largest'", "argmax", "index"]),
        ({"target": True}, InputError, ["True", "argmax"]),
        ({"target": 3}, InputError, ["3", "out of range", "0 to 2"]),
        ({"target": -4}, InputError, ["-4", "out of range", "0 to 2"]),
        ({"seed": "two"}, InputError, ["'two'", "value", "one", "tensor"]),
        ({"wrt": ["y"]}, InputError, ["'y'", "input"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_an_unknown_option_is_refused_with_the_choices(options: dict, error: type[LrpError], words: list[str]) -> None:
    with pytest.raises(error) as raised:
        explainer(**options)

    assert [word for word in words if word not in sentence(raised)] == []


def test_a_composite_that_does_not_fit_is_refused() -> None:
    composite = lrp.Composite("mine", (lrp.Entry("activation", "z-plus"),))

    with pytest.raises(CompositeError) as raised:
        explainer(composite=composite)

    assert "'mine'" in sentence(raised)
    assert "'activation'" in sentence(raised)


def test_a_rule_with_an_option_that_it_does_not_have_is_refused() -> None:
    composite = lrp.Composite("mine", (lrp.Entry("linear", "epsilon", {"gamma": 0.25}),))

    with pytest.raises(CompositeError) as raised:
        explainer(composite=composite)

    assert "gamma" in sentence(raised)


# ---- Calls ----

called = cache(explainer)

X = torch.randn(2, 4)
WITH_NAN = torch.tensor([[1.0, 2.0, float("nan"), 4.0]])


@pytest.mark.parametrize(
    ("options", "call", "words"),
    [
        ({}, lambda run: run(torch.randn(2, 5)), ["[2, 5]", "[batch, 4]", "dimension 1"]),
        ({}, lambda run: run(torch.randn(4)), ["[4]", "batch dimension is missing"]),
        ({}, lambda run: run(X.double()), ["float64", "float32"]),
        ({}, lambda run: run(X.long()), ["int64", "float32"]),
        ({}, lambda run: run(WITH_NAN, check_nan=True), ["NaN"]),
        ({}, lambda run: run(torch.zeros(0, 4)), ["empty"]),
        ({}, lambda run: run(), ["missing"]),
        ({}, lambda run: run(X, X), ["1 input", "2 were given"]),
        ({}, lambda run: run(y=X), ["'y'"]),
        ({}, lambda run: run(X, target=1), ["target", "argmax", "index"]),
        ({}, lambda run: run(X, seed=torch.ones(2, 3)), ["seed", "tensor"]),
        ({"target": "index"}, lambda run: run(X), ["target", "missing"]),
        ({"target": "index"}, lambda run: run(X, target=torch.tensor([0, 3])), ["3", "out of range", "0 to 2"]),
        ({"target": "index"}, lambda run: run(X, target=torch.tensor([0, -4])), ["-4", "out of range"]),
        ({"target": "index"}, lambda run: run(X, target=torch.tensor([0, 1, 2])), ["target", "3", "2"]),
        ({"target": "index"}, lambda run: run(X, target=torch.tensor([0.0, 1.0])), ["target", "float32", "int64"]),
        ({"seed": "tensor"}, lambda run: run(X), ["seed", "missing"]),
        ({"seed": "tensor"}, lambda run: run(X, seed=torch.ones(2, 4)), ["seed", "[2, 4]"]),
    ],
)
def test_a_call_that_does_not_fit_is_refused(options: dict, call: Callable, words: list[str]) -> None:
    run = called(**options)

    with pytest.raises(InputError) as raised:
        call(run)

    assert [word for word in words if word not in sentence(raised)] == []


def test_nan_passes_unless_it_is_refused() -> None:
    output = explainer()(WITH_NAN).output

    assert output.isnan().any()


def test_the_audit_refuses_what_the_call_refuses() -> None:
    with pytest.raises(InputError) as raised:
        explainer().audit(torch.randn(2, 5))

    assert "[batch, 4]" in sentence(raised)


def test_every_error_can_be_caught_as_one() -> None:
    with pytest.raises(LrpError):
        explainer(composite="none")
