"""A classifier that returns probabilities: its logits are explained."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import lrp_compiler as lrp
from lrp_compiler.base.run import number
from lrp_compiler.errors import LrpWarning
from lrp_compiler.passes.forward.probabilities import kind_of, logits_behind
from lrp_compiler.passes.graph import call
from lrp_compiler.runtime import OnnxExplainer

pytestmark = pytest.mark.sampled(4)

aten = torch.ops.aten
X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))

ENDS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "softmax": (lambda z: z.softmax(-1), lambda z: z),
    "temperature": (lambda z: (z / 1.5).softmax(1), lambda z: z / 1.5),
    "log after softmax": (lambda z: z.softmax(-1).log(), lambda z: z),
    "log-softmax": (lambda z: functional.log_softmax(z, 1), lambda z: z),
    "exp of log-softmax": (lambda z: functional.log_softmax(z, 1).exp(), lambda z: z),
    "sigmoid": (torch.sigmoid, lambda z: z),
    "logarithm of a sigmoid": (functional.logsigmoid, lambda z: z),
    "one of the classes": (lambda z: z.softmax(1)[:, 2], lambda z: z[:, 2]),
    "squeezed": (lambda z: z[:, :1].sigmoid().squeeze(-1), lambda z: z[:, 0]),
    "clipped": (lambda z: z.softmax(1).clamp(1e-6, 1 - 1e-6), lambda z: z),
    "of another dtype": (lambda z: functional.softmax(z, 1, dtype=torch.float64), lambda z: z),
    "a sequence": (lambda z: z.unsqueeze(1).softmax(-1), lambda z: z.unsqueeze(1)),
    "a map": (lambda z: z[:, :, None, None].softmax(1), lambda z: z[:, :, None, None]),
    "twice": (lambda z: z.softmax(1).softmax(1), lambda z: z),
}


class Net(nn.Module):
    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.classes, self.end = nn.Linear(6, 5), nn.Linear(5, 3), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.classes(torch.relu(self.hidden(x))))


def compiled(end: Callable[[Tensor], Tensor], **options: object) -> lrp.Explainer:
    return lrp.compile(Net(end).eval(), (X,), **options)  # type: ignore[arg-type]


@pytest.mark.sampled(16)
@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("composite", ["cp-lrp", "epsilon"])
def test_the_logit_in_front_is_explained_and_it_is_said(name: str, composite: str) -> None:
    """Against gradient × input of the logit, which ε-LRP is in a net with one ReLU and no stabiliser but for biases."""
    end, logits = ENDS[name]
    target = lrp.Target("argmax", position=(0, 0) if name == "a map" else None)

    with pytest.warns(LrpWarning, match=r"probability.*logit in front of it.*probability=True"):
        explainer = compiled(end, target=target, composite=composite)

    x = X.clone().requires_grad_()
    z = logits(Net(lambda z: z)(x)).reshape(len(x), -1)
    (gradient,) = torch.autograd.grad(z.max(1).values.sum(), x)
    said = explainer(X)
    torch.testing.assert_close(said.output, end(Net(lambda z: z)(X)))
    torch.testing.assert_close(said.relevance["x"], X * gradient)
    books = explainer.audit(X)
    assert abs(books.seed - z.max(1).values.sum().item()) < 1e-5
    assert abs(books.error) < 1e-9


def test_logits_are_explained_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LrpWarning)
        explainer = compiled(lambda z: z)

    assert explainer(X).explained()[0].logit is not None


@pytest.mark.parametrize(
    "end", [lambda z: z.softmax(0), torch.tanh, lambda z: z.softmax(1) + z], ids=["rows", "f", "sum"]
)
def test_what_is_no_probability_of_a_class_is_explained_as_it_is(end: Callable[[Tensor], Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LrpWarning)
        explainer = compiled(end, target=1)

    books = explainer.audit(X)
    assert abs(books.seed - end(Net(lambda z: z)(X))[:, 1].sum().item()) < 1e-5


def test_the_probability_itself_can_be_asked_for() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LrpWarning)
        explainer = compiled(lambda z: z.softmax(1), target=lrp.Target(1, probability=True))

    assert abs(explainer.audit(X).seed - Net(lambda z: z.softmax(1))(X)[:, 1].sum().item()) < 1e-5


def test_files_and_captions_say_what_the_number_is(tmp_path: Path) -> None:
    with pytest.warns(LrpWarning):
        explainer = compiled(lambda z: z.softmax(1), target=1)
    explainer.save(tmp_path / "m.lrp.pt2")
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    p = explainer(X).output[0, 1].item()

    for said in (explainer(X), lrp.load(tmp_path / "m.lrp.pt2")(X), OnnxExplainer(tmp_path / "m.lrp.onnx")(X.numpy())):
        (case, *_) = said.explained()
        assert case.logit is None
        assert case.caption.startswith(f"probability {p:.3g}, Σ relevance ")
        assert "logit" not in said._repr_html_()


@pytest.mark.parametrize(
    ("end", "kind", "kinds"),
    [
        (lambda z: z.softmax(1), "probability", "probabilities"),
        (lambda z: z.sigmoid(), "probability", "probabilities"),
        (lambda z: z.log_softmax(1), "log-probability", "log-probabilities"),
        (lambda z: z, "logit", "logits"),
    ],
    ids=["softmax", "sigmoid", "logarithm", "logits"],
)
def test_a_probability_that_is_asked_for_is_called_one(
    end: Callable[[Tensor], Tensor], kind: str, kinds: str, tmp_path: Path
) -> None:
    explainer = compiled(end, target=lrp.Target(1, probability=True))
    explainer.save(tmp_path / "m.lrp.pt2")
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    p = end(Net(lambda z: z)(X))

    for said in (explainer(X), lrp.load(tmp_path / "m.lrp.pt2")(X), OnnxExplainer(tmp_path / "m.lrp.onnx")(X.numpy())):
        (case, *_) = said.explained()
        assert case.logit == pytest.approx(p[0, 1].item(), rel=1e-5)
        assert case.caption.startswith(f"{kind} {number(p[0, 1].item())}, Σ relevance ")
        assert f"<th>{kind}</th>" in said._repr_html_()
    pair = compiled(end, target=lrp.Target((1, 0), probability=True))(X).explained()[0]
    assert pair.caption.startswith(f"difference of {kinds} {number((p[0, 1] - p[0, 0]).item())}, ")


Step = Callable[[fx.Graph, fx.Node], fx.Node]


def halves(graph: fx.Graph, p: fx.Node) -> fx.Node:
    return call(graph, aten.cat.default, [call(graph, aten.slice.Tensor, p, 1, i, i + 2) for i in (0, 2)], 1)


DEEP: dict[str, tuple[Step, int, str]] = {
    "bounds": (lambda graph, p: call(graph, aten.clamp_min.default, p, 1e-9), 1200, "probability"),
    "moves": (lambda graph, p: call(graph, aten.reshape.default, p, [2, 4]), 1200, "probability"),
    "complements": (lambda graph, p: call(graph, aten.rsub.Scalar, p, 1), 1200, "probability"),
    "side by side": (halves, 300, "probability"),
    "logarithms of logarithms": (lambda graph, p: call(graph, aten.log.default, p), 1200, "log-probability"),
    "sums": (lambda graph, p: call(graph, aten.add.Tensor, p, 1.0), 1200, ""),
}


@pytest.mark.parametrize("name", DEEP)
def test_it_is_found_behind_a_graph_of_any_depth(name: str) -> None:
    """Deeper than Python's stack; and where the paths double with every step, each value is looked at once."""
    step, steps, kind = DEEP[name]
    graph = fx.Graph()
    logits = graph.placeholder("logits")
    logits.meta["val"] = torch.randn(2, 4)
    output = call(graph, aten.sigmoid.default, logits)
    for _ in range(steps):
        output = step(graph, output)
    graph.output((output,))
    module = fx.GraphModule(nn.Module(), graph)

    behind, said = logits_behind(module, output)

    assert said == kind == kind_of(module, output)
    assert (behind is output) == (not kind)
    graph.lint()
    if kind:  # the logits themselves, moved as their probabilities were
        graph.output_node().args = ((behind,),)
        assert torch.equal(fx.Interpreter(module).run(X[:2, :4])[0], X[:2, :4])
