"""Relevance is accounted for: what is put on the logit arrives at the inputs or is absorbed by a stated cause."""

import copy
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pytest
import torch
from support import zennit_oracle
from support.module_form import module_form
from support.small import COMPOSITE, CONVOLUTIONAL, small
from support.zoo import SEVEN, Example, logits_of, zero_biases
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.views.audit import Audit

pytestmark = pytest.mark.sampled(12)

COMPOSITES = ["epsilon", "epsilon-plus", "attnlrp"]
FLOAT32_ROUNDING = 1e-4
# Of Σ|R| over the inputs, which in some networks is a thousandth of the logit: the books are kept in float64.
BALANCED = 1e-10


def sums(relevance: Tensor) -> Tensor:
    return relevance.double().flatten(1).sum(1)


def compiled(example: Example, composite: str, target: str = "index") -> lrp.Explainer:
    return lrp.compile(
        example.model,
        example.args,
        example.kwargs,
        composite=composite,
        target=target,
        dynamic_shapes=example.dynamic_shapes,
    )


def without_biases(example: Example) -> Example:
    model = zero_biases(copy.deepcopy(example.model))
    return Example(model, example.args, example.kwargs, example.dynamic_shapes, example.fresh)


# z⁺ passes nothing on where a neuron has no positive contribution. Narrow random networks have many such neurons: after
# a linear bottleneck or at the end of a residual branch, where no ReLU hides them. That share is booked as "empty".
ALL_ARRIVES = [
    ("vgg16", "epsilon"),
    ("vgg16", "epsilon-plus"),
    ("resnet50", "epsilon"),
    ("efficientnet_lite0", "epsilon"),
]
SOME_IS_EMPTY = [("resnet50", "epsilon-plus"), ("efficientnet_lite0", "epsilon-plus")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "composite"), ALL_ARRIVES)
def test_without_biases_the_inputs_get_the_whole_logit(name: str, composite: str) -> None:
    example = without_biases(small(name))
    explainer = compiled(example, composite, target="argmax")
    (x,), _ = example.fresh(batch=3, seed=5)

    explanation = explainer(x)

    with torch.no_grad():
        logits = example.model(x).amax(-1).double()
    # But for the shares of the stabilisers.
    torch.testing.assert_close(sums(explanation.relevance["x"]), logits, rtol=2e-4, atol=0)


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "composite"), SOME_IS_EMPTY)
def test_without_biases_inputs_and_empty_parts_get_the_whole_logit(name: str, composite: str) -> None:
    example = without_biases(small(name))
    explainer = compiled(example, composite, target="argmax")
    (x,), _ = example.fresh(batch=1, seed=5)

    relevance, absorbed = explainer(x).relevance["x"], explainer.audit(x).absorbed

    with torch.no_grad():
        logit = example.model(x).amax(-1).double()
    # But for the shares of the stabilisers.
    torch.testing.assert_close(sums(relevance) + absorbed["empty"], logit, rtol=2e-4, atol=0)
    assert all(share == 0 for cause, share in absorbed.items() if cause not in ("empty", "stabiliser"))


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "composite"), SOME_IS_EMPTY[1:])
def test_zennit_loses_what_is_booked_as_empty(name: str, composite: str) -> None:
    example = without_biases(small(name, torch.float64))
    (x,), _ = example.fresh(batch=1, seed=5)
    with torch.no_grad():
        logit, target = example.model(x).max(-1)

    theirs = zennit_oracle.relevance(module_form(example.model), x, target, composite)
    absorbed = compiled(example, composite).audit(x, target=target).absorbed

    assert absorbed["empty"] > 0.5 * float(logit)
    assert float(logit - theirs.sum()) == pytest.approx(absorbed["empty"] + absorbed["stabiliser"], rel=1e-9)


def every_day(wanted: Callable[[str, str], bool]) -> pytest.MarkDecorator:
    """Every network under every composite; those that are not wanted every day are heavy."""
    pairs = [(name, composite) for name in SEVEN for composite in COMPOSITES]
    cases = [pytest.param(*pair, marks=() if wanted(*pair) else pytest.mark.heavy) for pair in pairs]
    return pytest.mark.parametrize(("name", "composite"), cases)


# Where no operation is addressed by it, a composite's other name brings nothing new.
BOTH = every_day(lambda name, composite: composite == "attnlrp" or name in (*CONVOLUTIONAL, "bert"))
TARGET = torch.tensor([1, 4, 2])


class Run(NamedTuple):
    """One explanation with its audit; `logits` are the model's own, of the targets."""

    relevance: dict[str, Tensor]
    audit: Audit
    logits: Tensor

    @property
    def magnitude(self) -> float:
        """Σ|R| over the inputs."""
        return sum(float(tensor.double().abs().sum()) for tensor in self.relevance.values())


@pytest.fixture(scope="module")
def audited(explain: Callable[..., lrp.Explainer]) -> Callable[[str, str], Run]:
    """`audited(name, composite)`: run once, looked at by several tests."""

    @cache
    def run(name: str, composite: str) -> Run:
        example, explainer = small(name), explain(name, composite)
        args, kwargs = example.fresh(batch=3, seed=5)
        with torch.no_grad():
            logits = logits_of(example.model(*args, **kwargs)).double()
        logits = logits[:, -1] if logits.dim() == 3 else logits
        return Run(
            explainer(*args, target=TARGET, **kwargs).relevance,
            explainer.audit(*args, target=TARGET, **kwargs),
            logits.gather(1, TARGET.unsqueeze(1)),
        )

    return run


@pytest.mark.slow
@pytest.mark.sampled(48)
@BOTH
def test_the_audit_accounts_for_the_logit(name: str, composite: str, audited: Callable[[str, str], Run]) -> None:
    run = audited(name, composite)

    accounted = sum(run.audit.inputs.values()) + sum(run.audit.absorbed.values())

    assert abs(run.audit.seed - accounted) <= BALANCED * run.magnitude
    assert run.audit.seed == pytest.approx(
        float(run.logits.sum()), abs=FLOAT32_ROUNDING * float(run.logits.abs().sum())
    )


@pytest.mark.slow
@BOTH
def test_the_audit_balances_at_every_node(name: str, composite: str, audited: Callable[[str, str], Run]) -> None:
    entries = audited(name, composite).audit.entries

    # A node's own terms can cancel, so rounding is measured against the most that passed any node.
    scale = max(abs(entry.relevance_in) + sum(map(abs, entry.absorbed.values())) for entry in entries)
    wrong = [
        (entry.node, entry.op, entry.relevance_in, entry.relevance_out, entry.absorbed)
        for entry in entries
        if abs(entry.relevance_in - entry.relevance_out - sum(entry.absorbed.values())) > BALANCED * scale
    ]
    assert wrong == []


# The explainer and its audit read the same graph, whatever rules are in it.
@pytest.mark.slow
@every_day(lambda name, composite: composite == COMPOSITE[name])
def test_the_audit_reports_what_the_explainer_returns(
    name: str, composite: str, explain: Callable[..., lrp.Explainer]
) -> None:
    example, explainer = small(name, torch.float64), explain(name, composite, torch.float64)
    args, kwargs = example.fresh(batch=3, seed=5)

    relevance = explainer(*args, target=TARGET, **kwargs).relevance
    audit = explainer.audit(*args, target=TARGET, **kwargs)

    # A Llama in float64 casts to float32 and back in every normalisation; the audit does not.
    rounding = FLOAT32_ROUNDING if name == "llama" else BALANCED
    magnitude = sum(float(tensor.abs().sum()) for tensor in relevance.values())
    expected = {key: float(tensor.sum()) for key, tensor in relevance.items()}
    assert audit.inputs == pytest.approx(expected, abs=rounding * magnitude)
    assert audit.magnitude == pytest.approx(magnitude, rel=rounding)


# Without a batch norm to fold, the two have the same weights, so nothing but the books' own precision is compared.
@pytest.mark.heavy
@pytest.mark.parametrize("name", ["vgg16", "bert"])
def test_the_books_of_a_float32_model_are_those_of_its_float64_copy(
    name: str, audited: Callable[[str, str], Run], explain: Callable[..., lrp.Explainer]
) -> None:
    single = audited(name, COMPOSITE[name]).audit
    args, kwargs = small(name).fresh(batch=3, seed=5)
    args = tuple(value.double() if value.is_floating_point() else value for value in args)

    double = explain(name, COMPOSITE[name], torch.float64).audit(*args, target=TARGET, **kwargs)

    assert [entry.op for entry in single.entries] == [entry.op for entry in double.entries]
    assert single.seed == pytest.approx(double.seed, rel=1e-12)
    assert single.inputs == pytest.approx(double.inputs, rel=1e-9)
    assert single.absorbed == pytest.approx(double.absorbed, rel=1e-9)


# One small network for each cause, so that a share that is booked wrongly has nowhere to hide. Inputs and weights are
# chosen so that the closed form of what is absorbed is short: R of the result is the result itself.


class Padded(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 2), value=3.0).sum(1, keepdim=True)


class Masked(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.masked_fill(torch.tensor([True, False, False]), 5.0).sum(1, keepdim=True)


class Concatenated(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = torch.nn.Parameter(torch.tensor([[2.0, 4.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1), x], 1).sum(1, keepdim=True)


class Chosen(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(torch.tensor([True, False, True]), x, torch.tensor(7.0)).sum(1, keepdim=True)


class Shifted(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + torch.tensor([1.0])).sum(1, keepdim=True)


@pytest.mark.sampled(48)
@pytest.mark.parametrize(
    ("model", "absorbed_per_row"),
    [(Padded(), 6.0), (Masked(), 5.0), (Concatenated(), 6.0), (Chosen(), 7.0), (Shifted(), 3.0)],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
@pytest.mark.parametrize("composite", COMPOSITES)
def test_what_a_constant_absorbs_is_its_share_of_the_sum(
    model: torch.nn.Module, absorbed_per_row: float, composite: str
) -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 5.0, 0.5]])
    explainer = lrp.compile(model.eval(), (x,), composite=composite, target=0)

    audit = explainer.audit(x)

    assert sum(audit.absorbed.values()) == pytest.approx(2 * absorbed_per_row, rel=1e-5)
    assert audit.error == pytest.approx(0, abs=1e-12)


IMAGES = {"width": 1, "image_size": 224, "classes": 1000}
TOKENS = {"width": 1, "length": 128}
PUBLISHED = {
    "vgg16": IMAGES,
    "resnet50": IMAGES,
    "efficientnet_lite0": IMAGES,
    "vit_b_16": IMAGES,
    "bert": TOKENS,
    "gpt2": TOKENS,
    # At published width it would not fit into the memory of a common machine.
    "llama": TOKENS | {"width": 4},
}


@pytest.mark.heavy
@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize(
    ("name", "options"), [*((name, {"width": 8}) for name in SEVEN), *PUBLISHED.items()], ids=lambda value: str(value)
)
def test_the_audit_accounts_for_the_logit_at_full_depth(name: str, options: dict[str, int], composite: str) -> None:
    example = SEVEN[name].build(**options)
    explainer = compiled(example, composite)
    args, kwargs = example.fresh(batch=1, seed=5)
    target = torch.tensor([4])

    explanation = explainer(*args, target=target, **kwargs)
    audit = explainer.audit(*args, target=target, **kwargs)

    magnitude = sum(float(r.double().abs().sum()) for r in explanation.relevance.values())
    assert abs(audit.error) <= BALANCED * magnitude


class Narrow(nn.Module):
    """A map of few products between two layers: by its signs it is explained from W⁺ and W⁻ themselves."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.narrow, self.head = (
            nn.Linear(4, 6),
            nn.LayerNorm(6),
            nn.Conv1d(1, 2, 3),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.narrow(self.norm(self.first(x)).unsqueeze(1)).flatten(1))


@pytest.mark.parametrize("form", ["direct", "half-sums"])
@pytest.mark.parametrize("rule", ["z-plus", "alpha-beta", "gamma"])
def test_rules_without_a_stabiliser_lose_nothing_behind_those_by_signs(rule: str, form: str) -> None:
    exactly = {"epsilon": 0.0}
    composite = lrp.Composite(
        "by signs, and in the limit",
        (
            lrp.Entry("convolution", rule, {"form": form}),
            lrp.Entry("normalization", "epsilon", exactly),
            lrp.Entry("linear", "epsilon", exactly),
        ),
    )
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))

    audit = lrp.compile(Narrow().eval(), (x,), composite=composite, target=0).audit(x)

    lost = {entry.node: entry.absorbed.get("stabiliser", 0.0) for entry in audit.entries}
    assert lost.pop("conv1d") != 0
    assert not any(lost.values())
    assert abs(audit.error) < 1e-12
