"""ExportedProgram → the forward graph: a plain GraphModule that reads its own weights.

    placeholder p_weight, x; linear(x, p_weight)      →      placeholder x; get_attr weight; linear(x, weight)

Weights are shared with the model, not copied; one of several names is one node. Inputs that are plain values (None,
True, 3) vanish: they are baked in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument

from lrp_compiler.base.errors import CaptureError
from lrp_compiler.passes.graph import add_placeholder, copy_node, from_torch, keep_tensor
from lrp_compiler.torch_private import fake_mode_of, fake_tensor

SCANS = torch.ops.higher_order.scan


def unlift(program: ExportedProgram) -> fx.GraphModule:
    """Copy the program's nodes into a fresh graph.

    The result takes the program's tensor inputs in order and returns the flat tuple of the tensors among its user
    outputs. It is a pure function: what the program writes to its buffers and inputs as it runs is used in this run and
    then forgotten, so that every run starts from the buffers as they are at compile time.

    Raises:
        CaptureError: the program holds something else than tensors, branches over tensors, or has side effects.
    """
    signature = program.graph_signature
    root = torch.nn.Module()
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    specs = {spec.arg.name: spec for spec in signature.input_specs}
    names = _names(program)
    weights: dict[tuple[str, ...], fx.Node] = {}
    fake = _fake_value(program)
    # The inputs come last, but choose their names first: a weight may bear the same.
    for node in program.graph.find_nodes(op="placeholder"):
        spec = specs[node.name]
        if spec.kind == InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument):
            copies[node] = add_placeholder(graph, node.name)
            copies[node].meta.update(node.meta)
            copies[node].meta["input"] = node.name
    first = next(iter(graph.nodes), None)
    checks = _checks(program)
    for node in program.graph.nodes:
        if node in checks:
            continue
        if node.op == "placeholder":
            spec = specs[node.name]
            if spec.kind in (InputKind.USER_INPUT, InputKind.TOKEN) or not node.users:
                continue
            shared = names.get(str(spec.target), (str(spec.target),))
            if shared not in weights:
                with graph.inserting_before(first):
                    weights[shared] = graph.get_attr(keep_tensor(root, str(spec.target), _value(program, spec)))
                weights[shared].meta.update(node.meta)
                weights[shared].meta["parameter"] = shared
            copies[node] = weights[shared]
        elif node.op == "get_attr":
            value = getattr(program.graph_module, str(node.target))
            if isinstance(value, torch.nn.Module) and all(user.target is SCANS for user in node.users):
                root.add_module(str(node.target), value)
                copies[node] = graph.get_attr(str(node.target))
                continue
            if not isinstance(value, torch.Tensor):
                (user, *_) = node.users
                raise CaptureError(
                    f"The model has control flow that no rule speaks for ({user.target} at {user.name}): write a loop "
                    "as torch's scan or unroll it, and branches as torch.cond or torch.where."
                )
            copies[node] = graph.get_attr(keep_tensor(root, str(node.target), value.detach()))
            copies[node].meta.update(node.meta)
            copies[node].meta.setdefault("val", fake_tensor(value, fake))
        elif node.op == "output":
            flat = [
                copies[arg] if isinstance(arg, fx.Node) else arg
                for spec, arg in zip(signature.output_specs, node.args[0], strict=True)
                if spec.kind == OutputKind.USER_OUTPUT and isinstance(spec.arg, TensorArgument)
            ]
            graph.output(tuple(flat))
        else:
            copies[node] = copy_node(graph, node, copies)
    module = fx.GraphModule(root, graph)
    from_torch(module)
    module.graph.lint()
    return module


def _checks(program: ExportedProgram) -> set[fx.Node]:
    """Nodes that look at values and return nothing, in the order that their tokens keep: they compute nothing.

    Raises:
        CaptureError: one of them returns something that is used.
    """
    found: set[fx.Node] = set()
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.higher_order.with_effects):
        tokens = [user for user in node.users if user.args[1:] == (0,)]
        if len(tokens) < len(node.users):
            raise CaptureError(f"The model has an op with side effects ({node.args[1]} at {node.name}): take it out.")
        found.update([node, *tokens])
    return found


def _names(program: ExportedProgram) -> dict[str, tuple[str, ...]]:
    """Name of a weight → all names of the same tensor: of a tied one, or in a module that is there twice."""
    same: dict[object, list[str]] = {}
    for name, tensor in program.state_dict.items():
        # Without elements, or on device "meta", every tensor lies at 0.
        at = tensor.data_ptr() if tensor.layout is torch.strided else 0
        place = (at, tensor.shape, tensor.stride(), tensor.dtype) if at else name
        same.setdefault(place, []).append(name)
    return {name: tuple(names) for names in same.values() for name in names}


def _value(program: ExportedProgram, spec: Any) -> torch.Tensor:
    if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target in program.state_dict:
        stored: torch.Tensor = program.state_dict[spec.target]
        return stored.detach()
    value = program.constants[spec.target]
    if not isinstance(value, torch.Tensor):
        raise CaptureError(f"The model holds {spec.target}, which is not a tensor.")
    return value.detach()


def _fake_value(program: ExportedProgram) -> torch.Tensor:
    """Any symbolic tensor of the program."""
    values = (node.meta.get("val") for node in program.graph.nodes)
    found: torch.Tensor | None = next((value for value in values if fake_mode_of(value) is not None), None)
    if found is None:
        raise CaptureError("The model has no tensor in it.")
    return found
