"""Sparse matrices, in buffers or made as the model runs, are dense ones to the rules."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.whole import runs_in_onnxruntime, survives_files
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.errors import CaptureError

pytestmark = [pytest.mark.filterwarnings("ignore:Sparse:UserWarning"), pytest.mark.sampled(12)]

DENSE = torch.tensor([[0, 2, 0, 0, 1], [1, 0, 0, 3, 0], [0, 0, 0, 0, 0], [0, 4, 0, 0, 0], [1, 0, -2, 0, 0.5]])
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
LAYOUTS = {"COO": DENSE.to_sparse(), "CSR": DENSE.to_sparse_csr(), "CSC": DENSE.to_sparse_csc()}
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sparse.mm": torch.sparse.mm,
    "mm": torch.mm,
    "matmul": lambda A, h: A @ h,
    "sparse.addmm": lambda A, h: torch.sparse.addmm(h, A, h, beta=0.5, alpha=2),
    "addmm": lambda A, h: torch.addmm(h, A, h),
    "made dense": lambda A, h: A.to_dense() @ h,
}


class GraphLayer(nn.Module):
    def __init__(self, product: Callable[[Tensor, Tensor], Tensor], matrix: Tensor) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.product, self.stem = product, nn.Linear(4, 6)
        self.register_buffer("matrix", matrix)
        with torch.no_grad():
            self.stem.weight.copy_(torch.randn(6, 4, generator=generator))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.matrix, torch.relu(self.stem(x)))


@pytest.mark.sampled(48)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_of_a_sparse_buffer_is_that_of_the_dense_one(name: str, layout: str, tmp_path: Path) -> None:
    model = GraphLayer(PRODUCTS[name], LAYOUTS[layout])
    explainer = lrp.compile(model, (X,), composite="attnlrp", target=1)

    explanation = explainer(X)

    by_dense = {"sparse.mm": torch.mm, "sparse.addmm": lambda A, h: torch.addmm(h, A, h, beta=0.5, alpha=2)}
    dense = GraphLayer(by_dense.get(name, PRODUCTS[name]), DENSE)
    wanted = lrp.compile(dense, (X,), composite="attnlrp", target=1)(X)
    torch.testing.assert_close(explanation.output, model(X))
    torch.testing.assert_close(explanation.relevance["x"], wanted.relevance["x"])
    assert abs(explainer.audit(X).error) <= 1e-9
    assert model.matrix.layout is LAYOUTS[layout].layout  # the model stays as it is
    survives_files(explainer, (X,), tmp_path)
    runs_in_onnxruntime(dense, (X,), None, tmp_path)


def test_an_onnx_file_of_a_sparse_buffer_agrees(tmp_path: Path) -> None:
    model = GraphLayer(torch.sparse.mm, LAYOUTS["CSR"])
    lrp.compile(model, (X,), composite="attnlrp", target=1).to_onnx(tmp_path / "m.lrp.onnx")

    from lrp_compiler.runtime import OnnxExplainer

    with OnnxExplainer(tmp_path / "m.lrp.onnx") as runtime:
        torch.testing.assert_close(torch.as_tensor(runtime(X.numpy()).output), model(X))


@pytest.mark.slow
def test_a_matrix_made_of_edges_as_the_model_runs(tmp_path: Path) -> None:
    """Its values are an activation; two edges between the same nodes add up."""
    edges = torch.tensor([[0, 1, 2, 3, 4, 0, 0], [1, 2, 3, 4, 0, 3, 1]])

    class Weighted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            weights = torch.cat([x[:, 0], x[:2, 1]])
            return torch.sparse.mm(torch.sparse_coo_tensor(edges, weights, (5, 5)), x)

    explainer = lrp.compile(Weighted().eval(), (X,), composite="attnlrp", target=1)

    torch.testing.assert_close(explainer(X).output, Weighted()(X))
    assert abs(explainer.audit(X).error) <= 1e-9
    survives_files(explainer, (X,), tmp_path)
    runs_in_onnxruntime(Weighted(), (X,), None, tmp_path)


def test_what_is_too_large_to_be_dense_is_refused_with_the_way_out() -> None:
    size = 20_000
    matrix = torch.sparse_coo_tensor(torch.tensor([[0], [1]]), torch.ones(1), (size, size))

    with pytest.raises(CaptureError, match=r"matrix is a sparse tensor of shape \[20000, 20000\].*index_add"):
        lrp.compile(GraphLayer(torch.sparse.mm, matrix), (torch.randn(size, 4),))


def test_looking_into_a_sparse_buffer_is_refused_with_the_way_out() -> None:
    model = GraphLayer(lambda A, h: h[A.coalesce().indices()[0]], LAYOUTS["COO"].coalesce())

    with pytest.raises(CaptureError, match="keep its indices and values as buffers"):
        lrp.compile(model, (X,))
