"""What a pass returns: new code where the graph is another, and why places were let be."""

from collections.abc import Callable

import torch

from lrp_compiler.passes.graph import Result

X = torch.tensor([[1.0, -2.0]])


def test_code_is_written_anew_where_the_graph_is_another(graph_of: Callable) -> None:
    graph = graph_of(lambda x: x.exp(), X)
    (node,) = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.exp.default)
    node.target = torch.ops.aten.neg.default
    assert torch.equal(graph(X)[0], X.exp())  # the old code

    assert torch.equal(Result(graph, False).graph_module(X)[0], X.exp())
    assert torch.equal(Result(graph, True).graph_module(X)[0], -X)


def test_it_is_torchs_result_with_the_reasons_besides(graph_of: Callable) -> None:
    graph = graph_of(lambda x: x.exp(), X)

    plain, told = Result(graph, False), Result(graph, True, iter([("exp", "is no product")]))

    assert (plain.modified, plain.declined) == (False, ())
    assert (told.modified, told.declined) == (True, (("exp", "is no product"),))
    module, modified = told  # as torch's pass manager takes it apart
    assert (module, modified) == (graph, True)
