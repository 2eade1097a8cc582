"""A plain GraphModule → ExportedProgram: the inverse of `unlift`.

    placeholder x; get_attr weight; linear(x, weight)      →      placeholder b_weight, x; linear(x, b_weight)

Nothing is traced again: the graph holds ATen ops only, and its symbolic sizes and their ranges are the capture's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymIntArgument,
    TensorArgument,
)

from lrp_compiler.passes.graph import add_placeholder, attribute, copied, copy_node, is_tensor, outputs, scans, to_torch
from lrp_compiler.torch_private import ValueRanges, hint, pytree, range_of

UNWRITTEN = ("nn_module_stack", "source_fn_stack", "torch_fn")
"""What torch writes to files as text that it parses again, by commas and brackets, which names may hold; the forward
graph in the file knows the modules."""


def lift(module: fx.GraphModule) -> ExportedProgram:
    """Copy the module's nodes into a program that takes the same tensors and returns the same flat tuple.

    Weights are shared with the module, not copied, and become buffers; the sample inputs are zeros.
    """
    module = _with_torchs_loops(module)
    graph, root = fx.Graph(), torch.nn.Module()
    copies: dict[fx.Node, fx.Node] = {}
    weights: dict[str, fx.Node] = {}
    taken: list[InputSpec] = []

    def take(node: fx.Node, name: str, kind: InputKind, target: str | None) -> fx.Node:
        copy = add_placeholder(graph, name)
        copy.meta = dict(node.meta)
        taken.append(InputSpec(kind, TensorArgument(copy.name), target, persistent=None if target is None else True))
        return copy

    # The inputs come last, but choose their names first: `load` knows them by these.
    placeholders = module.graph.find_nodes(op="placeholder")
    for node in placeholders:
        copies[node] = take(node, node.name, InputKind.USER_INPUT, None)
    entered = taken[:]
    taken.clear()
    with graph.inserting_before(next(iter(graph.nodes))):
        for node in module.graph.find_nodes(op="get_attr"):
            target = str(node.target)
            held = attribute(module, target)
            if isinstance(held, torch.nn.Module):  # the body of a loop
                root.add_module(target, held)
                copies[node] = graph.get_attr(target)
                continue
            if target not in weights:
                weights[target] = take(node, f"b_{target}", InputKind.BUFFER, target)
            copies[node] = weights[target]
    taken += entered
    for node in module.graph.nodes:
        if node.op == "call_function":
            copies[node] = copy_node(graph, node, copies)
            for key in UNWRITTEN:
                copies[node].meta.pop(key, None)
    results = [copies[result] if isinstance(result, fx.Node) else result for result in outputs(module)]
    graph.output(tuple(results))
    given = [OutputSpec(OutputKind.USER_OUTPUT, _argument(result), None) for result in results]
    call = ModuleCallSignature(
        inputs=[],
        outputs=[],
        in_spec=pytree.tree_structure((tuple(placeholders), {})),
        out_spec=pytree.tree_structure(tuple(results)),
        # By these torch tells the sizes of one input from another's, in the guards that it runs.
        forward_arg_names=[copies[node].name for node in placeholders],
    )
    return ExportedProgram(
        root=root,
        graph=graph,
        graph_signature=ExportGraphSignature(taken, given),
        state_dict={target: attribute(module, target) for target in weights},
        range_constraints=_ranges(module),
        module_call_graph=[ModuleCallEntry("", call)],
        example_inputs=(tuple(_zeros(node.meta["val"]) for node in placeholders), {}),
    )


def _with_torchs_loops(module: fx.GraphModule) -> fx.GraphModule:
    """The module, or a copy in which torch's own operator calls the loops."""
    if not scans(module):
        return module
    own = copied(module)
    to_torch(own)
    return own


def _argument(result: Any) -> ConstantArgument | TensorArgument | SymIntArgument:
    if not isinstance(result, fx.Node):
        return ConstantArgument("", result)
    return TensorArgument(result.name) if is_tensor(result) else SymIntArgument(result.name)


def _zeros(value: torch.Tensor) -> torch.Tensor:
    return torch.zeros([hint(size) for size in value.shape], dtype=value.dtype, device=value.device)


def _ranges(module: fx.GraphModule) -> dict[Any, ValueRanges[Any]]:
    """What the capture knows of the sizes that are open, those among them that depend on values (of a mask)."""
    ranges = {}
    for node in module.graph.nodes:
        value = node.meta.get("val")
        for size in value.shape if isinstance(value, torch.Tensor) else [value]:
            if isinstance(size, torch.SymInt):
                for symbol, known in range_of(size).items():
                    # torch counts an open size from 2, since it never tells 0 and 1 from the rest.
                    ranges[symbol] = ValueRanges(1, known.upper) if known.lower == 2 else known
    return dict(sorted(ranges.items(), key=lambda item: str(item[0])))
