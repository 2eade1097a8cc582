"""Both graphs as plain data, and the graphs back from that.

The joint graph is there to be run at once: nodes and nothing said of them. Of the forward graph a file holds what it
has besides the joint graph. Weights and inputs are those of the joint graph, by name, so nothing is stored twice; the
shapes of values are worked out again when the graph is read, by running it on symbolic values. Only plain data
survives: a module that a Python function explains is there, but its function is not.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from lrp_compiler.passes.forward import EXPLAINED
from lrp_compiler.passes.graph import LEAVES, TWIN, Assignment, Scan, assign, assignment, attribute, outputs
from lrp_compiler.passes.relevance import know_inside
from lrp_compiler.rules import Facts, bind
from lrp_compiler.torch_private import OpOverload, fake_mode_of, fake_tensor, python_dispatcher, takes_a_path, unguarded

CALLS: dict[str, Callable[..., object]] = {
    f"{function.__module__}.{function.__name__}": function
    for function in (
        *(operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod, operator.pow),
        *(operator.neg, operator.pos, operator.abs, operator.eq, operator.ne, operator.lt, operator.le),
        *(operator.gt, operator.ge, operator.and_, operator.or_, operator.not_, operator.getitem),
        *(math.floor, math.ceil, math.trunc, torch.sym_max, torch.sym_min, torch.sym_float, torch.sym_int),
        *(torch.sym_not, torch.sym_ite, torch.sym_sum),
    )
}
"""What a graph may call besides operators: arithmetic on sizes, and picking one of several results."""
ATTRIBUTES: dict[type, tuple[str, Callable[[str], object]]] = {
    torch.dtype: ("dtype", lambda name: getattr(torch, name)),
    torch.layout: ("layout", lambda name: getattr(torch, name)),
    torch.memory_format: ("memory_format", lambda name: getattr(torch, name)),
}
"""Arguments that are attributes of torch."""


KEPT = ("input", "constant", "seed", "parameter", LEAVES, TWIN)
"""What else of a node's `meta` is plain data."""


class UnknownOperator(AttributeError):
    """An operator that nothing in this process defines: its name."""


def joint_to_dict(joint: fx.GraphModule) -> dict[str, object]:
    """The nodes of the joint graph as plain data (JSON), to be run and no more."""
    return {"nodes": [_entry(node, joint_to_dict) for node in _calls(joint)], "outputs": _plain(outputs(joint))}


def joint_from_dict(data: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> fx.GraphModule:
    """The inverse of `joint_to_dict`; no node knows its value.

    Args:
        data: what it made.
        weights: the tensors that the graph reads, by name.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the data is not what `joint_to_dict` makes.
    """
    graph, root = fx.Graph(), torch.nn.Module()
    made: dict[str, fx.Node] = {}
    for entry in data["nodes"]:
        if entry["op"] == "get_attr" and not hasattr(root, str(entry["target"])):
            root.register_buffer(str(entry["target"]), weights[entry["target"]])
        made[str(entry["name"])] = _node_of(
            graph, entry, made, lambda loop, operands: joint_from_dict(loop["body"], {})
        )
    graph.output(tuple(_unplain(data["outputs"], made)))
    return fx.GraphModule(root, graph)


def _calls(module: fx.GraphModule) -> Iterable[fx.Node]:
    return (node for node in module.graph.nodes if node.op != "output")


def _entry(node: fx.Node, describe: Callable[[fx.GraphModule], dict[str, object]]) -> dict[str, object]:
    entry: dict[str, object] = {"name": node.name, "op": node.op, "target": _target_name(node)}
    if node.op == "call_function":
        entry["args"], entry["kwargs"] = _plain(list(node.args)), _plain(dict(node.kwargs))
    if isinstance(node.target, Scan):
        entry["loop"] = {
            "states": node.target.states,
            "slices": node.target.slices,
            "body": describe(node.target.body),
        }
    return entry


Build = Callable[[Mapping[str, Any], Sequence[Any]], fx.GraphModule]
"""(what a file says of a loop, its operands) → the body."""


def _node_of(graph: fx.Graph, entry: Mapping[str, Any], made: Mapping[str, fx.Node], build: Build) -> fx.Node:
    name, op = str(entry["name"]), entry["op"]
    if op in ("placeholder", "get_attr"):
        return graph.create_node(op, name if op == "placeholder" else str(entry["target"]), name=name)
    if op != "call_function":
        raise ValueError(f"a node of kind {op!r}")
    args, kwargs = _unplain(entry["args"], made), _unplain(entry["kwargs"], made)
    target = _loop_of(entry["loop"], args, build) if "loop" in entry else _target_of(entry["target"])
    return graph.create_node("call_function", target, tuple(args), kwargs, name=name)


def _loop_of(data: Mapping[str, Any], operands: Sequence[Any], build: Build) -> Scan:
    return Scan(build(data, operands), int(data["states"]), int(data["slices"]))


def forward_to_dict(forward: fx.GraphModule) -> dict[str, object]:
    """The forward graph, its nodes' modules, assignments and what is explained, as plain data (JSON)."""
    stacks: dict[str, int] = {}
    modules: list[list[list[str]]] = []
    nodes = []
    for node in _calls(forward):
        entry = _entry(node, forward_to_dict)
        entry |= {key: node.meta[key] for key in KEPT if key in node.meta}
        stack = [
            [key, path, _type_name(kind)] for key, (path, kind) in (node.meta.get("nn_module_stack") or {}).items()
        ]
        if stack:
            index = stacks.setdefault(str(stack), len(modules))
            modules += [stack] if index == len(modules) else []
            entry["module"] = index
        if node.meta.get(EXPLAINED):
            entry["explained"] = True
        given = assignment(node)
        if given is not None:
            entry["assignment"] = _assignment_to_dict(given)
        nodes.append(entry)
    return {"nodes": nodes, "modules": modules, "outputs": _plain(outputs(forward))}


def forward_from_dict(data: Mapping[str, object], joint: fx.GraphModule) -> fx.GraphModule:
    """The inverse of `forward_to_dict`.

    Args:
        data: what it made.
        joint: the joint graph of the same file: its weights, and the symbolic values of its inputs.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the data is not what `forward_to_dict` makes.
    """
    originals = {node.name: node for node in joint.graph.nodes}
    values = {node.name: node.meta["val"] for node in joint.graph.find_nodes(op="placeholder")}
    forward = _graph_of(data, joint, originals, values)
    know_inside(forward)
    return forward


def _graph_of(
    data: Mapping[str, Any], joint: fx.GraphModule, originals: Mapping[str, fx.Node], values: Mapping[str, Any]
) -> fx.GraphModule:
    """The graph, or the body of a loop in it.

    Args:
        data: of it.
        joint: the joint graph of the same file.
        originals: its nodes by name.
        values: symbolic value of each input by name.
    """
    graph, root = fx.Graph(), torch.nn.Module()
    made: dict[str, fx.Node] = {}
    like = next(value for value in values.values() if isinstance(value, torch.Tensor))
    fake_mode = fake_mode_of(like)

    def body(loop: Mapping[str, Any], operands: Sequence[Any]) -> fx.GraphModule:
        inner, states = loop["body"], int(loop["states"])
        ends = states + int(loop["slices"])
        names = [entry["name"] for entry in inner["nodes"] if entry["op"] == "placeholder"]
        given = [operand.meta["val"] if isinstance(operand, fx.Node) else operand for operand in operands]
        with fake_mode:
            step = [one.select(0, 0) if states <= place < ends else one for place, one in enumerate(given)]
        return _graph_of(inner, joint, originals, dict(zip(names, step, strict=True)))

    for entry in data["nodes"]:
        node = _node_of(graph, entry, made, body)
        name = str(entry["name"])
        if node.op == "placeholder":
            node.meta["val"] = values[name]
        elif node.op == "get_attr":
            tensor = attribute(joint, str(node.target))
            root.register_buffer(str(node.target), tensor)
            node.meta["val"] = fake_tensor(tensor, like)
        else:
            node.meta["val"] = _value(node, fake_mode)
        made[name] = node
        node.meta.update({key: entry[key] for key in KEPT if key in entry})
        if "module" in entry:
            stack = data["modules"][entry["module"]]
            node.meta["nn_module_stack"] = {key: (path, kind) for key, path, kind in stack}
        if name in originals and "stack_trace" in originals[name].meta:
            node.meta["stack_trace"] = originals[name].meta["stack_trace"]
        if entry.get("explained"):
            node.meta[EXPLAINED] = True
        if "assignment" in entry:
            assign(node, _assignment_from_dict(node, entry["assignment"], made))
    graph.output(tuple(_unplain(data["outputs"], made)))
    forward = fx.GraphModule(root, graph)
    forward.graph.lint()
    return forward


def _value(node: fx.Node, fake_mode: Any) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda operand: operand.meta["val"])
    # Only torch's Python code keeps sizes symbolic in ops that are made of others.
    with torch.no_grad(), unguarded(*node.all_input_nodes), fake_mode, python_dispatcher():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _assignment_to_dict(given: Assignment) -> dict[str, object]:
    return {
        "region": given.target if isinstance(given.target, str) else None,
        "operands": {name: given.operand(name).name for name in given.active},
        "others": _others(given),
        "wanted": list(given.wanted),
        "facts": given.facts.to_dict(),
        "kind": given.kind,
        "rule": given.rule,
        "options": dict(given.options),
    }


def _others(given: Assignment) -> dict[str, object]:
    """What the operation of a region is told besides what is active; an op's arguments are those of its node."""
    others = given.arguments.items() if isinstance(given.target, str) else ()
    return {name: _plain(value) for name, value in others if name not in given.active}


def _assignment_from_dict(node: fx.Node, data: Mapping[str, Any], made: Mapping[str, fx.Node]) -> Assignment:
    operands = {name: made[value] for name, value in data["operands"].items()}
    others = {name: _unplain(value, made) for name, value in data.get("others", {}).items()}
    return Assignment(
        data["region"] or node.target,
        {**(others if data["region"] else bind(node.target, node.args, node.kwargs)), **operands},
        tuple(operands),
        wanted=tuple(data["wanted"]),
        facts=Facts.from_dict(data["facts"]),
        kind=data["kind"],
        rule=data["rule"],
        options=data["options"],
    )


def _target_name(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, Scan):
        return target.__name__
    if isinstance(target, OpOverload):
        return str(target)
    return target if isinstance(target, str) else f"{target.__module__}.{target.__name__}"


def _target_of(name: str) -> Callable[..., object]:
    """The operator, or the function on sizes, of that name; nothing else is looked up."""
    if name in CALLS:
        return CALLS[name]
    namespace, packet, overload = name.split(".")
    try:
        found = getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    except AttributeError as error:
        raise UnknownOperator(name) from error
    if not isinstance(found, OpOverload):
        raise ValueError(f"{name} is no operator")
    if argument := takes_a_path(found):
        raise ValueError(f"{name} takes a {argument}")
    return found


def _type_name(kind: object) -> str:
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)


def _plain(value: object) -> object:
    """An argument as JSON has it."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {"dict": {str(key): _plain(item) for key, item in value.items()}}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for kind, (name, _) in ATTRIBUTES.items():
        if isinstance(value, kind):
            return {name: str(value).removeprefix("torch.")}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"an argument of type {type(value).__name__} does not travel in files")


def _unplain(value: object, made: Mapping[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_unplain(item, made) for item in value]
    if not isinstance(value, dict):
        return value
    ((name, content),) = value.items()
    if name == "node":
        return made[content]
    if name == "dict":
        return {key: _unplain(item, made) for key, item in content.items()}
    if name == "float":
        return float(content)
    if name == "complex":
        return complex(*content)
    if name == "device":
        return torch.device(content)
    kind, read = next((kind, read) for kind, (known, read) in ATTRIBUTES.items() if known == name)
    found = read(content)
    if not isinstance(found, kind):
        raise ValueError(f"{content!r} is no {name}")
    return found
