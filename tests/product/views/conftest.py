"""An explainer that the pages of the graphs show, and what the views know of it."""

import pytest
import torch
from support.viewed import Net, X

import lrp_compiler as lrp
from lrp_compiler.views.graph_data import GraphData, graph_data


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def explainer(net: Net) -> lrp.Explainer:
    batch = torch.export.Dim("batch")
    return lrp.compile(net, (X,), composite="attnlrp", target="index", memory_budget=0.4, dynamic_shapes=({0: batch},))


@pytest.fixture(scope="module")
def data(explainer: lrp.Explainer) -> GraphData:
    return graph_data(explainer, explainer.audit(X, target=1))
