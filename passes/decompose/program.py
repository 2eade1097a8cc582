"""A captured program with its composite ops written out.

What stands for an op may lay its result out in another way than the kernel did (attention returns heads and positions
swapped), and a view that was possible before is no longer: so every view of the program is a reshape first.

    attention → transpose → view       →       matmul, softmax, matmul → transpose → reshape
"""

from __future__ import annotations

import torch
from torch import fx
from torch.export import ExportedProgram

from .table import decomposition_table

aten = torch.ops.aten


def written_out(program: ExportedProgram) -> ExportedProgram:
    """The program in the ops that the rules speak of. The one that was given stays as it is."""
    return _with_free_views(program).run_decompositions(decomposition_table())


def _with_free_views(program: ExportedProgram) -> ExportedProgram:
    """The same program, in which no view depends on how its operand is laid out in memory."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(program.graph, copies))
    graph.output_node().meta.update(program.graph.output_node().meta)
    for node, copy in copies.items():
        copy.name = (
            node.name
        )  # a fresh graph renames what shadows a builtin ("input"); the signature knows the old name
    for node in graph.find_nodes(op="call_function", target=aten.view.default):
        node.target = aten.reshape.default
    return ExportedProgram(
        root=program.graph_module,
        graph=graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=program.verifiers,
    )
