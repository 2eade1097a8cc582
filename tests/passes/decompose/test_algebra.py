"""Linear algebra: of constants it is worked out, what it does to an activation is a linear map, the rest is refused."""

import operator
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.whole import holds, runs_in_onnxruntime, survives_files
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode

import lrp_compiler as lrp
from lrp_compiler.errors import UnsupportedOpError
from lrp_compiler.passes.decompose import work_out_algebra
from lrp_compiler.passes.forward import unlift
from lrp_compiler.passes.graph import call

pytestmark = pytest.mark.sampled(12)

aten = torch.ops.aten
X = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MATRIX = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 3 * torch.eye(4)
POSITIVE = MATRIX @ MATRIX.T + torch.eye(4)


class Algebra(nn.Module):
    """A function of x and of a constant matrix, classified."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], matrix: Tensor) -> None:
        super().__init__()
        self.function = function
        self.matrix = nn.Parameter(matrix.clone())

    def forward(self, x: Tensor) -> Tensor:
        made = self.function(x, self.matrix).flatten(1)
        return torch.stack([made.sum(1), (made * torch.arange(made.shape[1])).sum(1)], 1)


OF_CONSTANTS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = {
    "inverse": (lambda x, A: torch.linalg.inv(A) @ x, MATRIX),
    "exponential": (lambda x, A: torch.linalg.matrix_exp(A / 4) @ x, MATRIX),
    "orthogonal": (lambda x, A: x @ torch.linalg.matrix_exp((A - A.T) / 2), MATRIX),
    "factors": (lambda x, A: torch.linalg.qr(A)[0] @ x, MATRIX),
    "eigenvectors": (lambda x, A: torch.linalg.eigh(A)[1] @ x * torch.linalg.eigh(A)[0], POSITIVE),
    "determinant": (lambda x, A: x * torch.linalg.det(A), MATRIX),
    "solved": (lambda x, A: torch.linalg.solve(A, x), MATRIX),
    "solved from the right": (lambda x, A: torch.linalg.solve(A, x, left=False), MATRIX),
    "solved for vectors": (lambda x, A: torch.linalg.solve(A.expand(2, 4, 4), x[:, 0]), MATRIX),
    "solved for one vector": (lambda x, A: torch.linalg.solve(A, x.sum((0, 1))).unsqueeze(0), MATRIX),
    "by a triangle": (lambda x, A: torch.linalg.solve_triangular(A.tril(), x, upper=False), MATRIX),
    "by a triangle of ones": (
        lambda x, A: torch.linalg.solve_triangular(A.triu(), x, upper=True, left=False, unitriangular=True),
        MATRIX,
    ),
    "by a triangle, old": (lambda x, A: torch.triangular_solve(x, A, upper=False, transpose=True)[0], MATRIX),
    "by Cholesky": (lambda x, A: torch.cholesky_solve(x, torch.linalg.cholesky(A)), POSITIVE),
    "by LU": (lambda x, A: torch.linalg.lu_solve(*torch.linalg.lu_factor(A), x), MATRIX),
}


@pytest.mark.sampled(48)
@pytest.mark.parametrize("name", OF_CONSTANTS)
def test_with_a_constant_matrix_it_is_a_linear_map(name: str, tmp_path: Path) -> None:
    model = Algebra(*OF_CONSTANTS[name])

    explainer = holds(model, (X,))

    leaf = X.clone().requires_grad_()
    model(leaf)[:, 0].sum().backward()
    torch.testing.assert_close(explainer(X).relevance["x"], X * leaf.grad)
    survives_files(explainer, (X,), tmp_path)
    runs_in_onnxruntime(model, (X,), None, tmp_path)


OF_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "inverse": torch.linalg.inv,
    "inverse, old": torch.inverse,
    "pseudo-inverse": torch.linalg.pinv,
    "solve": lambda x: torch.linalg.solve(x, x),
    "solve for a constant": lambda x: torch.linalg.solve(x, MATRIX),
    "cholesky": lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(4)),
    "eigh": lambda x: torch.linalg.eigh(x + x.mT)[1],
    "svd": lambda x: torch.linalg.svd(x)[0],
    "qr": lambda x: torch.linalg.qr(x)[0],
    "lu": lambda x: torch.linalg.lu(x)[2],
    "exponential": torch.matrix_exp,
    "determinant": lambda x: x * torch.linalg.det(x).reshape(-1, 1, 1),
    "logarithm of it": lambda x: x * torch.linalg.slogdet(x)[1].reshape(-1, 1, 1),
    "spectral norm": lambda x: x / torch.linalg.matrix_norm(x, 2).reshape(-1, 1, 1),
}


class Inside(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Around(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Linear(4, 4), Inside(function), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.stem(x)).flatten(1))


@pytest.mark.sampled(48)
@pytest.mark.parametrize("name", OF_ACTIVATIONS)
def test_of_an_activation_it_is_refused_by_name_with_the_reason_and_the_way_out(name: str) -> None:
    model = Around(OF_ACTIVATIONS[name]).double().eval()

    with pytest.raises(UnsupportedOpError) as raised:
        lrp.compile(model, (X,), composite="attnlrp", target=0)

    assert all("inner" in node.module_path for node in raised.value.nodes)
    assert "has no shares by element: let lrp.Entry('*', function, path=…)" in str(raised.value)


@pytest.mark.parametrize("name", ["solve", "solve for a constant"])
def test_a_solution_that_is_left_says_why(name: str) -> None:
    module = unlift(torch.export.export(Inside(OF_ACTIVATIONS[name]), (X,)))

    result = work_out_algebra(module)

    assert not result.modified
    assert [reason for _, reason in result.declined] == ["its matrix is no constant"]


@pytest.mark.parametrize("name", ["inverse", "eigh", "determinant"])
def test_the_way_out_works(name: str) -> None:
    def evenly(op: lrp.Op, relevance: lrp.Relevance) -> lrp.Relevance:
        size = op.shape("0")
        return lrp.total((op.total(relevance).sum((1, 2), keepdim=True) / 16).expand(size))

    model = Around(OF_ACTIVATIONS[name]).double().eval()
    composite = lrp.Composite("mine", (lrp.Entry("*", evenly, path="inner"), *lrp.composites.attnlrp().entries))

    holds(model, (X,), composite=composite)


def test_constants_may_be_made_of_more_constants_than_the_stack_holds() -> None:
    root, graph = nn.Module(), fx.Graph()
    root.matrix = nn.Parameter(MATRIX.clone())
    matrix = graph.get_attr("matrix")
    matrix.meta["val"] = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(MATRIX)
    for _ in range(1200):
        matrix = call(graph, aten.mul.Tensor, matrix, 1.001)
    graph.output((call(graph, aten.linalg_inv_ex.default, matrix),))
    inverse = graph.output_node().args[0][0]
    with graph.inserting_after(inverse):
        graph.output_node().args = ((call(graph, operator.getitem, inverse, 0),),)

    module = work_out_algebra(fx.GraphModule(root, graph)).graph_module

    assert [node.op for node in module.graph.nodes] == ["get_attr", "output"]
    torch.testing.assert_close(module()[0], torch.linalg.inv(MATRIX) / 1.001**1200)
