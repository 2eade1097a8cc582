"""A graph as text, one line a node: what a dump holds and what ARCHITECTURE.md prints.

x: f32[s, 3] = input
linear: f32[s, 4] = linear(x, weight, bias)            # epsilon(epsilon=0.0)
matmul: f32[s, 3] = matmul(mul, weight)                # linear: epsilon
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from lrp_compiler.torch_private import op_name

from .assignment import assignment
from .origin import origin
from .scan import Scan
from .tools import outputs

DTYPES = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
    torch.bool: "bool",
}


def graph_text(module: fx.GraphModule) -> str:
    """One line a node: name, dtype and shape, operation, and behind `#` the rule that explains it or that made it.

    The body of a loop stands behind it, indented.
    """
    lines = []
    for node in module.graph.nodes:
        if node.op == "output":
            continue
        text = f"{node.name}{type_text(node)} = {operation_text(node)}"
        note = _note(node)
        lines.append(f"{text:<64}  # {note}" if note else text)
        if isinstance(node.target, Scan):
            lines += [f"    {line}" for line in graph_text(node.target.body).splitlines()]
    return "\n".join([*lines, f"return {_returned(module)}"]) + "\n"


def type_text(node: fx.Node) -> str:
    """Its dtype and shape, `: f32[s, 3]`; empty for what is no tensor."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        shape = ", ".join(str(size) for size in value.shape)
        return f": {DTYPES.get(value.dtype, str(value.dtype))}[{shape}]"
    return ": size" if isinstance(value, torch.SymInt) else ""


def operation_text(node: fx.Node) -> str:
    """What the node computes: `linear(x, weight, bias)`, `input` or `constant`."""
    if node.op == "placeholder":
        if "promise" in node.meta:
            return f"promise({node.meta['promise']})"
        return "input"
    if node.op == "get_attr":
        return "constant"
    name = op_name(node.target) or getattr(node.target, "__name__", str(node.target))
    given = [_argument(value) for value in node.args]
    given += [f"{key}={_argument(value)}" for key, value in node.kwargs.items() if key not in ("pin_memory", "device")]
    return f"{name}({', '.join(given)})"


def _argument(value: object) -> str:
    if isinstance(value, fx.Node):
        return value.name
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_argument, value))}]"
    return DTYPES[value] if isinstance(value, torch.dtype) and value in DTYPES else str(value)


def _note(node: fx.Node) -> str:
    given = assignment(node)
    if given is not None and given.rule:
        options = ", ".join(f"{name}={value}" for name, value in given.options.items())
        return f"{given.rule}({options})" if options else given.rule
    known = origin(node)
    return f"{known.value}: {known.rule}" if known is not None and known.phase == "relevance" else ""


def _returned(module: fx.GraphModule) -> str:
    flat: Any = module.graph.output_node().args[0]
    if isinstance(flat, Mapping):
        return ", ".join(f"{name}: {_argument(value)}" for name, value in flat.items())
    return ", ".join(map(_argument, outputs(module)))
