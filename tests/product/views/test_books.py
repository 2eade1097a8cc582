"""The audit's views: folded by module, sorted, in a table; and a rule that is wrong is pointed at by name.

That the totals equal the seed on the seven networks is held by `test_balance.py`; here, that every fold of them does.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.small import small
from support.two_layers import X, with_weights_by_hand
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.tables import as_text
from lrp_compiler.rules import RULES, Op, Relevance
from lrp_compiler.views.audit import Audit

BALANCED = 1e-10
NETWORKS = [
    ("vit_b_16", "attnlrp"),
    ("bert", "attnlrp"),
    pytest.param("vgg16", "epsilon-plus", marks=pytest.mark.heavy),
    pytest.param("resnet50", "epsilon-plus", marks=pytest.mark.heavy),
    pytest.param("efficientnet_lite0", "epsilon-plus", marks=pytest.mark.heavy),
    pytest.param("llama", "attnlrp", marks=pytest.mark.heavy),
    pytest.param("gpt2", "attnlrp", marks=pytest.mark.heavy),
]


@pytest.fixture(scope="module")
def books() -> Audit:
    """Those of `test_text_form.py`: a net of small integers with ε = 1."""
    net = with_weights_by_hand()
    return lrp.compile(net, (torch.tensor(X),), composite=lrp.composites.epsilon(epsilon=1.0)).audit(torch.tensor(X))


def test_modules_have_the_sums_of_hand_arithmetic(books: Audit) -> None:
    folded = {entry.node: entry for entry in books.by_module().entries}

    # linear_1: 3 in; the stabiliser takes 1/4 of 3, the bias −1 · 3/4. linear: it takes 1/2 of 3/4 and 1/4 of 9/4.
    assert {name: (entry.relevance_in, entry.relevance_out) for name, entry in folded.items()} == {
        "classes": (3.0, 3.0),
        "(model)": (3.0, 3.0),
        "hidden": (3.0, 33 / 16),
    }
    assert folded["classes"].absorbed == {"stabiliser": 3 / 4, "bias": -3 / 4}
    assert folded["hidden"].absorbed["stabiliser"] == 15 / 16
    assert (folded["classes"].op, folded["classes"].rule) == ("1 node", "epsilon")
    (whole,) = books.by_module(0).entries
    assert (whole.relevance_in, whole.relevance_out) == (3.0, 33 / 16)
    assert (whole.op, whole.rule) == ("3 nodes", "epsilon, identity")


@pytest.mark.parametrize(("name", "composite"), NETWORKS)
def test_every_level_adds_up_to_the_seed(name: str, composite: str, explain: Callable[..., lrp.Explainer]) -> None:
    args, kwargs = small(name).fresh(batch=3, seed=5)
    nodes = explain(name, composite).audit(*args, target=torch.tensor([1, 4, 2]), **kwargs)
    scale = max(abs(entry.relevance_in) for entry in nodes.entries)

    for depth in (None, 0, 1, 2, 3):
        folded = nodes.by_module(depth)
        inputs = sum(folded.inputs.values())
        assert abs(folded.seed - inputs - sum(folded.absorbed.values())) <= BALANCED * nodes.magnitude
        flowed = sum(entry.relevance_in - entry.relevance_out for entry in folded.entries)
        assert abs(flowed - (folded.seed - inputs)) <= BALANCED * scale
        assert max(abs(entry.error) for entry in folded.entries) <= BALANCED * scale
        assert folded.absorbed == pytest.approx(nodes.absorbed)
        assert sum(int(entry.op.split()[0]) for entry in folded.entries) == len(nodes.entries)


def test_a_module_that_calls_itself_again_is_entered_once() -> None:
    """What a module's nodes hand one another does not leave it, however often it is called."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.inner(x))

    x = torch.randn(2, 3)
    folded = lrp.compile(Twice().eval(), (x,), composite="attnlrp").audit(x).by_module()

    (entry,) = folded.entries
    assert entry.relevance_in == pytest.approx(folded.seed)
    assert entry.relevance_out == pytest.approx(sum(folded.inputs.values()))


def test_a_negative_depth_and_an_unknown_order_are_refused(books: Audit) -> None:
    with pytest.raises(InputError, match="from 0, not -1"):
        books.by_module(-1)
    with pytest.raises(InputError, match="choose one of absorbed, error, relevance, order"):
        books.sorted("size")  # type: ignore[arg-type]


def test_entries_are_sorted_by_what_is_asked_for(books: Audit) -> None:
    names = {by: [entry.node for entry in books.sorted(by).entries] for by in ("absorbed", "relevance", "order")}

    # absorbed: 3/4 + 3/4, then 15/16, then nothing. What flows in is 3 everywhere.
    assert names["absorbed"] == ["linear_1", "linear", "relu"]
    assert names["order"] == names["relevance"] == ["linear_1", "relu", "linear"]


def test_the_table_has_a_column_for_each_cause_and_its_rows_add_up(books: Audit) -> None:
    lines = as_text(books.table(limit=1), width=120).splitlines()
    cells = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]] for line in lines if "│" in line
    }

    assert [cell.strip() for cell in lines[2].split("┃")[1:-1]] == [
        *("node", "module", "op", "rule", "in", "out", "stabiliser", "bias", "error")
    ]
    assert cells["linear_1"][-5:-1] == ["3", "3", "0.75", "-0.75"]
    assert cells["… 2 more"][-3:-1] == ["0.9375", "–"]
    assert cells["all"][-5:-1] == ["3", "2.0625", "1.688", "-0.75"]
    assert "classes" in as_text(books.table(depth=1), width=120)


# ── rules that are wrong ─────────────────────────────────────────────────────────────────────────────────────────────


@torch.library.custom_op("lrp_audit_tests::halve", mutates_args=())
def halve(x: Tensor) -> Tensor:
    return x / 2


@halve.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Halving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(halve(self.first(x).relu()))


def test_a_rule_of_ones_own_that_doubles_relevance_is_pointed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrp_compiler.rules import OPERATORS

    overload: Any = torch.ops.lrp_audit_tests.halve.default
    monkeypatch.delitem(OPERATORS, overload, raising=False)

    @lrp.rule(overload)
    def doubled(op: Op, relevance: Relevance) -> Relevance:
        # Right is total(R): the value is halved, what it was worth stays.
        return lrp.total(2 * op.total(relevance))

    x = torch.randn(2, 3)
    books = lrp.compile(Halving().eval(), (x,), target=0).audit(x)
    del OPERATORS[overload]

    assert [entry.node for entry in books.suspects()] == ["halve"]
    assert books.sorted("error").entries[0].node == "halve"
    suspect = books.suspects()[0]
    assert suspect.error == pytest.approx(-suspect.relevance_in)
    said = re.fullmatch(
        r"\[halve \(lrp_audit_tests.halve.default, user\): in (\S+), out (\S+), error (\S+)\]", str([suspect])
    )
    assert said
    assert [float(value) for value in said.groups()] == pytest.approx(
        [suspect.relevance_in, suspect.relevance_out, suspect.error], rel=1e-3
    )


def test_a_rule_that_reads_what_the_operation_has_not_is_told_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrp_compiler.rules import OPERATORS

    overload: Any = torch.ops.lrp_audit_tests.halve.default
    monkeypatch.delitem(OPERATORS, overload, raising=False)

    @lrp.rule(overload)
    def misspelt(op: Op, relevance: Relevance) -> Relevance:
        return lrp.total(op.tensor("input") * op.total(relevance))

    with pytest.raises(
        lrp.LrpError, match=r"'input' is neither operand nor option of \S+halve\.default, which has x, "
    ):
        lrp.compile(Halving().eval(), (torch.randn(2, 3),), target=0)
    del OPERATORS[overload]


def test_the_table_says_what_stands_first() -> None:
    x = torch.randn(2, 3)
    books = lrp.compile(torch.nn.Sequential(torch.nn.Linear(3, 2)).eval(), (x,), target=0).audit(x)

    assert "most absorbed first" in str(books)
    assert "from the output back to the inputs" in as_text(books.table(sort="order"))


@pytest.mark.parametrize(
    ("rule", "names"),
    [(("softmax", "taylor"), ["softmax"]), (("elementwise", "identity"), None)],
)
def test_a_built_in_rule_that_is_broken_is_pointed_at(
    rule: tuple[str, str],
    names: list[str] | None,
    explain: Callable[..., lrp.Explainer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (x,), _ = small("vit_b_16").fresh(batch=2, seed=5)
    explainer, target = explain("vit_b_16", "attnlrp"), torch.tensor([1, 4])
    assert explainer.audit(x, target=target).suspects() == []
    right = RULES[rule]

    def doubled(op: Op, description: Any, relevance: Relevance, **options: Any) -> Any:
        flow = right(op, description, relevance, **options)
        return {name: share and share.map(lambda tensor: 2 * tensor) for name, share in flow.items()}

    monkeypatch.setitem(RULES, rule, doubled)
    books = explainer.audit(x, target=target)

    wrong = {entry.node for entry in books.entries if entry.rule == rule[1] and abs(entry.relevance_out) > 1e-6}
    assert {entry.node for entry in books.suspects()} == wrong
    assert names is None or [entry.node for entry in books.suspects()] == names
    folded = books.by_module(3)
    assert folded.suspects()[0].module == "encoder.layers.encoder_layer_0"
    # The error is booked, so that all adds up even so.
    booked = sum(folded.inputs.values()) + sum(folded.absorbed.values()) + sum(e.error for e in folded.entries)
    assert booked == pytest.approx(folded.seed)


def difference_of(weight: float) -> nn.Linear:
    """`y = weight · (x₀ − x₁)`."""
    layer = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    layer.weight.data = torch.tensor([[weight, -weight]], dtype=torch.float64)
    return layer


@pytest.mark.sampled(4)
@pytest.mark.parametrize("rows", [1, 3])
def test_the_conditioning_is_that_of_a_difference_by_hand(rows: int) -> None:
    """R = (w, −w (1 − d)) of y = w d: Σ|R| / y = (2 − d) / d, whatever the weight, and rows cancel in neither sum."""
    d = 0.25
    x = torch.tensor([[1.0, 1 - d]] * rows, dtype=torch.float64) * torch.tensor([[1.0], [-1.0], [1.0]])[:rows]
    books = lrp.compile(difference_of(8.0).eval(), (x,), composite="epsilon").audit(x)

    assert books.explained == pytest.approx(8 * d * rows)
    assert books.conditioning == pytest.approx((2 - d) / d)
    assert books.by_module().conditioning == pytest.approx((2 - d) / d)
    assert books.remarks == []


def test_shares_that_cancel_are_remarked_upon_where_they_are_largest() -> None:
    """R of the middle is (1, 2⁻¹⁵ − 1) where 2⁻¹⁵ is explained; of the input it is 2⁻¹⁵ again."""

    class Cancels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spread, self.inner = nn.Linear(1, 2, bias=False).double(), difference_of(1.0)
            self.spread.weight.data = torch.tensor([[1.0], [1 - 2.0**-15]], dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(torch.relu(self.spread(x)))
            return y

    x = torch.ones(1, 1, dtype=torch.float64)
    books = lrp.compile(Cancels().eval(), (x,), composite=lrp.composites.epsilon(epsilon=0.0)).audit(x)

    assert books.conditioning == pytest.approx(2**16 - 1)
    (remark,) = books.remarks
    assert remark.startswith("Σ|R| reaches 7e+04 times what is explained, at relu")
    assert remark in " ".join(as_text(books.table(), 400).split())


def test_relevance_that_arrives_nowhere_is_remarked_upon() -> None:
    layer = nn.Linear(2, 1, dtype=torch.float64)
    x = torch.zeros(1, 2, dtype=torch.float64)
    books = lrp.compile(layer.eval(), (x,), composite="epsilon").audit(x)

    assert books.remarks == ["No relevance arrives at the inputs: most is taken at linear, by bias."]
