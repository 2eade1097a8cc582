"""The text form of explainers: what is printed is what is computed, and a person can follow relevance in it.

The golden texts are kept for people to read. They are never trusted: each is computed line by line from the text alone,
and compared with numbers written by hand, or with gradients.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.promise_graphs import GRAPHS, Graph, compiled, promise_tree
from support.reads_graphs import read, returned, values
from support.two_layers import ABSORBED, BY_HAND, WEIGHTS, X, with_weights_by_hand
from torch import Tensor

import lrp_compiler as lrp

GOLDEN = Path(__file__).with_name("golden")


def golden(name: str, text: str) -> str:
    """The text that is kept, which is the one that is printed."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text + "\n", encoding="utf-8")
    kept = path.read_text(encoding="utf-8").rstrip("\n")
    assert text == kept, f"{path}: look at what changed; UPDATE_GOLDEN=1 keeps it"
    return kept


# ── by hand ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def by_hand() -> lrp.Explainer:
    net = with_weights_by_hand()
    composite = lrp.composites.epsilon(epsilon=1.0)
    shapes = {"x": {0: torch.export.Dim("batch")}}
    return lrp.compile(net, (torch.randn(2, 3),), composite=composite, dynamic_shapes=shapes)


def test_a_printed_graph_gives_the_numbers_of_hand_arithmetic(by_hand: lrp.Explainer) -> None:
    text = golden("net", str(by_hand.show()))
    given = {name: torch.tensor(value) for name, value in {**WEIGHTS, "x": X}.items()}

    known = values(text, given)

    assert {name: known[name].tolist() for name in BY_HAND} == {
        name: [pytest.approx(row) for row in value] for name, value in BY_HAND.items()
    }
    assert returned(text) == {"output": "linear_1", "relevance.x": "mul_3"}


def test_the_explainer_and_its_books_agree_with_hand_arithmetic(by_hand: lrp.Explainer) -> None:
    x = torch.tensor(X)

    assert by_hand(x).relevance["x"].tolist() == [pytest.approx(BY_HAND["mul_3"][0])]
    books = by_hand.audit(x)
    assert {cause: share for cause, share in books.absorbed.items() if share} == pytest.approx(ABSORBED)
    assert books.seed == 3


def test_a_line_says_form_rule_forward_node_module_and_promises(by_hand: lrp.Explainer) -> None:
    rows = {row.name: row for row in by_hand.show()}

    assert (rows["matmul"].form, rows["matmul"].of) == ("unit", "relu")
    assert (rows["matmul"].rule, rows["matmul"].explains, rows["matmul"].module) == ("epsilon", "linear_1", "classes")
    assert rows["matmul"].promises == "classes_weight: constant"
    assert rows["matmul"].type == "f32[batch, 4]"
    assert (rows["mul_3"].form, rows["mul_3"].of, rows["mul_3"].promises) == ("total", "x", "x: kept")
    assert rows["linear"].rule == "epsilon(epsilon=1.0)"
    assert rows["linear"].promises == ""  # what the ReLU makes of it is enough
    assert rows["relu"].promises == "kept for relu"
    assert (rows["hidden_weight"].promises, rows["hidden_bias"].promises) == ("constant for linear", "")


# ── by gradients: what the ε rule becomes as ε → 0 ───────────────────────────────────────────────────────────────────

CASES = [(function, layers, 1.0) for function, layers in GRAPHS] + [(promise_tree, 5, 0.0)]


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize(("function", "layers", "budget"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_every_line_that_is_said_to_be_relevance_is_gradient_times_value(
    function: Callable[..., Tensor], layers: int, budget: float
) -> None:
    # Rule by rule: the optimised graph has fewer lines that are the relevance of a value.
    explainer = compiled(function, layers, budget, optimise=False)
    name = function.__name__ + ("" if budget else "_rebuilt")
    text = golden(name, str(explainer.show()))
    torch.manual_seed(7)
    model, x = Graph(function, layers).double().eval(), torch.randn(3, 6, dtype=torch.float64)
    given = {name.replace(".", "_"): value.detach() for name, value in model.named_parameters()} | {"x": x}
    # Constants that are no parameters (a mask) are the model's whatever its weights.
    given = {name: getattr(explainer.module, name) for name in constants(text)} | given

    known = values(text, given)
    leaves = gradients(text, given)

    assert torch.equal(known[returned(text)["output"]], model(x))
    checked = 0
    for line in read(text):
        for value in line.of:
            expected = leaves[value] * known[value]
            relevance = known[line.name] * (known[value] if line.form == "unit" else 1)
            torch.testing.assert_close(relevance, expected, rtol=1e-7, atol=1e-9)
            checked += 1
    assert checked >= 2 * layers


def constants(text: str) -> list[str]:
    return [line.name for line in read(text) if line.operation == "constant"]


def gradients(text: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of the explained logits by every value of the printed forward graph."""
    lines = [line for line in read(text) if line.name in forward_names(text)]
    known = dict(given) | {"x": given["x"].clone().requires_grad_()}
    header = "node\n"
    for line in lines:
        if line.operation not in ("input", "constant"):
            known[line.name] = values(f"{header}{line.name} = {line.operation}", known)[line.name]
            if known[line.name].requires_grad:
                known[line.name].retain_grad()
    known[returned(text)["output"]].amax(-1).sum().backward()
    return {
        name: torch.zeros_like(value) if value.grad is None else value.grad
        for name, value in known.items()
        if value.requires_grad
    }


def forward_names(text: str) -> set[str]:
    """What the printed output is computed from."""
    lines = {line.name: line.operation for line in read(text)}
    needed, stack = set(), [returned(text)["output"], "x"]
    while stack:
        name = stack.pop()
        needed.add(name)
        stack += [other for other in lines if other not in needed and other in words(lines[name])]
    return needed


def words(operation: str) -> set[str]:
    return set("".join(letter if letter.isalnum() or letter == "_" else " " for letter in operation).split())
