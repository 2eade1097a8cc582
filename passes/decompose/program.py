"""A captured program with its composite ops written out.

What stands for an op may lay its result out in another way than the kernel did (attention returns heads and positions
swapped), and a view that was possible before is no longer: so every view of the program is a reshape first.

    attention → transpose → view       →       matmul, softmax, matmul → transpose → reshape
"""

from __future__ import annotations

import torch
from torch import fx
from torch.export import ExportedProgram

from lrp_compiler.base.errors import CaptureError
from lrp_compiler.torch_private import known_size

from .table import decomposition_table

aten = torch.ops.aten


def written_out(program: ExportedProgram) -> ExportedProgram:
    """The program in the ops that the rules speak of. The one that was given stays as it is.

    Raises:
        CaptureError: an op can be written out for one size alone, and that size was to stay open.
    """
    result: ExportedProgram = _with_free_views(program).run_decompositions(decomposition_table())
    given = {node.name: node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")}
    for node in result.graph.find_nodes(op="placeholder"):
        before, after = given.get(node.name), node.meta.get("val")
        if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
            for dim, (size, fixed) in enumerate(zip(before.shape, after.shape, strict=True)):
                if isinstance(size, torch.SymInt) and known_size(fixed) is not None:
                    raise CaptureError(
                        f"Dimension {dim} of the input {node.name!r} is open in dynamic_shapes, but the model holds an "
                        f"operation that can be explained for a known size alone ({known_size(fixed)} in the example; "
                        "adaptive pools of sizes that they do not divide are such): leave this dimension out."
                    )
    return result


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
