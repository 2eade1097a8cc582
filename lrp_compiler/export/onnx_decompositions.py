"""What of a program is written out in other ops before the exporter translates it: no more than it has no way for."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from lrp_compiler.passes.graph import TORCHS, attribute, call, is_tensor, write_out
from lrp_compiler.rules import TRANSPOSED, bind
from lrp_compiler.torch_private import changed, decompositions_of, pytree


def _batch_norm(x: torch.Tensor, *args: Any) -> torch.Tensor:
    """Batch norm in eval mode; torch's table does not list it, since it could be in training mode."""
    weight, bias, mean, variance, _, momentum, epsilon, _ = args
    norm = torch.ops.aten._native_batch_norm_legit_no_training.default
    result: torch.Tensor = norm(x, weight, bias, mean, variance, momentum, epsilon)[0]
    return result


def _of_tensors(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda x, number: function(x, torch.scalar_tensor(number, dtype=x.dtype))


_WITH_ATTRIBUTES = {
    torch.ops.aten.pow.Tensor_Scalar: _of_tensors(torch.pow),
    torch.ops.aten.remainder.Scalar: _of_tensors(torch.remainder),
    torch.ops.aten.fmod.Scalar: _of_tensors(torch.fmod),
    **decompositions_of(
        [
            torch.ops.aten.leaky_relu.default,
            torch.ops.aten.elu.default,
            torch.ops.aten.celu.default,
            torch.ops.aten.softplus.default,
            torch.ops.aten.hardtanh.default,
            torch.ops.aten.addmm.default,
            torch.ops.aten.addmv.default,
        ]
    ),
}
"""Ops whose numbers are attributes in ONNX, which must be known; and how they are written where one is a size."""


def _layer_norm(
    x: torch.Tensor, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, enable: bool = True
) -> torch.Tensor:
    """A layer norm whose ε keeps its digits."""
    normed = _normed(x, list(range(-len(shape), 0)), eps)
    return _scaled(normed, weight, bias, 0)


def _group_norm(
    x: torch.Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, enable: bool = True
) -> torch.Tensor:
    """The same of groups of channels."""
    normed = _normed(x.reshape(x.shape[0], groups, -1), [2], eps).reshape(x.shape)
    return _scaled(normed, weight, bias, x.dim() - 2)


def _batch_norm_written_out(x: torch.Tensor, *args: Any) -> torch.Tensor:
    """The same of a batch norm in eval mode, by its running statistics."""
    weight, bias, mean, variance, _, _, eps, _ = args
    behind = x.dim() - 2
    normed = (x - _along_channels(mean, behind)) * (_along_channels(variance, behind) + eps).rsqrt()
    return _scaled(normed, weight, bias, behind)


def _normed(x: torch.Tensor, dims: list[int], eps: float) -> torch.Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred * ((centred * centred).mean(dims, keepdim=True) + eps).rsqrt()


def _scaled(x: torch.Tensor, weight: Any, bias: Any, behind: int) -> torch.Tensor:
    x = x if weight is None else x * _along_channels(weight, behind)
    return x if bias is None else x + _along_channels(bias, behind)


def _along_channels(vector: torch.Tensor, behind: int) -> torch.Tensor:
    return vector.reshape(*vector.shape, *[1] * behind) if behind else vector


def _logarithm(base: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x.log() / math.log(base)


def _mish(x: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = x * _WITH_ATTRIBUTES[torch.ops.aten.softplus.default](x).tanh()
    return result


def _range(start: float, end: float, step: float = 1, **options: Any) -> torch.Tensor:
    """A range of numbers: the exporter's own is one of float32."""
    places = torch.arange(math.ceil((end - start) / step), dtype=torch.int64, device=options.get("device"))
    return places.to(torch.float64) * step + start


RANGES = (torch.ops.aten.arange.start, torch.ops.aten.arange.start_step)
_IN_DOUBLE = {
    **_WITH_ATTRIBUTES,
    **decompositions_of(
        [
            torch.ops.aten.gelu.default,
            torch.ops.aten.selu.default,
            torch.ops.aten.hardsigmoid.default,
            torch.ops.aten.hardswish.default,
        ]
    ),
    torch.ops.aten.mish.default: _mish,
    torch.ops.aten.layer_norm.default: _layer_norm,
    torch.ops.aten.group_norm.default: _group_norm,
    torch.ops.aten.batch_norm.default: _batch_norm_written_out,
    torch.ops.aten.log2.default: _logarithm(2.0),
    torch.ops.aten.log10.default: _logarithm(10.0),
    **dict.fromkeys(RANGES, _range),
}
"""Ops whose numbers are float32 in ONNX, as attributes are, or in the exporter's translation; and how they are written
where the result is float64."""


def _loses_digits(node: fx.Node) -> bool:
    """Whether its numbers would be float32 beside values of float64; a range of as many as a size says stays."""
    is_double = node.target in _IN_DOUBLE and node.meta["val"].dtype is torch.float64
    return is_double and not (node.target in RANGES and any(map(_is_calculated, node.args)))


def _is_calculated(value: Any) -> bool:
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), (torch.SymInt, torch.SymFloat))


_CAST_INSIDE = {
    torch.ops.aten.pow.Tensor_Tensor,
    torch.ops.aten.pow.Tensor_Scalar,
    torch.ops.aten.pow.Scalar,
    torch.ops.aten.stack.default,
}
"""Ops that cast their operands to the dtype of the result; in ONNX they must be of it, and the exporter leaves them."""


def _mixes_dtypes(node: fx.Node) -> bool:
    if node.target not in _CAST_INSIDE:
        return False
    return {source.meta["val"].dtype for source in node.all_input_nodes if is_tensor(source)} != {
        node.meta["val"].dtype
    }


def _cast_before(node: fx.Node) -> Callable[..., torch.Tensor]:
    """The op on operands of its result's dtype."""
    op: Any = node.target
    dtype = node.meta["val"].dtype

    def cast(*args: Any, **kwargs: Any) -> torch.Tensor:
        result: torch.Tensor = op(*pytree.tree_map_only(torch.Tensor, lambda value: value.to(dtype), args), **kwargs)
        return result

    return cast


def _is_padded_beyond_a_step(node: fx.Node) -> bool:
    """Whether a transposed convolution adds as much to its result's end as a step or more, which torch allows where the
    kernel's elements lie further apart, and onnxruntime does not."""
    given = bind(node.target, node.args, node.kwargs)
    dims = node.meta["val"].dim() - 2
    more, step = (_by_dim(given[name], dims) for name in ("output_padding", "stride"))
    return any(added >= stride for added, stride in zip(more, step, strict=True))


def _padded_afterwards(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> torch.Tensor:
    """A transposed convolution, the borders of its result cut or made longer by an op of its own."""
    dims = weight.dim() - 2
    borders = list(zip(_by_dim(padding, dims), _by_dim(output_padding, dims), strict=True))
    none, steps, reach = [0] * dims, _by_dim(stride, dims), _by_dim(dilation, dims)
    whole = torch.ops.aten.convolution.default(x, weight, None, steps, none, reach, True, none, groups)
    for dim, (less, more) in enumerate(borders, 2):
        whole = torch.ops.aten.slice.Tensor(whole, dim, less, whole.shape[dim] - max(0, less - more))
    longer = [amount for less, more in reversed(borders) for amount in (0, max(0, more - less))]
    result: torch.Tensor = torch.ops.aten.constant_pad_nd.default(whole, longer)
    return result if bias is None else result + bias.reshape(-1, *[1] * dims)


def _by_dim(value: Any, dims: int) -> list[int]:
    several = list(value) if isinstance(value, list | tuple) else [value]
    return several * (dims // len(several))


def _running_product(x: torch.Tensor, dim: int) -> torch.Tensor:
    """`cumprod`, which ONNX has not: in steps that double, or of an open size each product by itself."""
    size = x.shape[dim] if x.dim() else 1
    if isinstance(size, int):
        reach = 1
        while reach < size:
            ones = torch.ones_like(x.narrow(dim, 0, reach))
            x = x * torch.cat([ones, x.narrow(dim, 0, size - reach)], dim)
            reach *= 2
        return x
    dim %= x.dim()
    places = torch.arange(size, device=x.device)
    first = (places <= places.unsqueeze(-1)).reshape(size, size, *[1] * (x.dim() - 1 - dim))
    return torch.where(first, x.unsqueeze(dim), 1.0).prod(dim + 1)


def _moved(x: torch.Tensor, source: int, destination: int) -> torch.Tensor:
    """`movedim`, of which the exporter knows `permute` alone."""
    order = [place for place in range(x.dim()) if place != source % x.dim()]
    order.insert(destination % x.dim(), source % x.dim())
    return x.permute(order)


def _rolled(x: torch.Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> torch.Tensor:
    """`roll` with dims counted from the front: onnxscript 0.7.1 finds no size of the last one counted from the end."""
    return torch.roll(x, shifts, [dim % x.dim() for dim in dims])


def _chosen(condition: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """`where` of truth values, for which onnxruntime has no kernel."""
    return (condition & first) | (~condition & second)


def _chooses_truth(node: fx.Node) -> bool:
    return node.target is torch.ops.aten.where.self and node.meta["val"].dtype is torch.bool


_OWN: Mapping[Any, Callable[..., Any]] = {
    torch.ops.aten.batch_norm.default: _batch_norm,
    torch.ops.aten.cumprod.default: _running_product,
    torch.ops.aten.movedim.int: _moved,
    torch.ops.aten.roll.default: _rolled,
}
"""What is written out in this project's way."""


def decomposed(program: ExportedProgram, table: Mapping[Any, Callable[..., Any]]) -> ExportedProgram:
    """What `program.run_decompositions(table)` returns, for a program that has no effects.

    torch traces the whole graph anew, with all its symbolic sizes; here only the few nodes are that the exporter has no
    translation for. What this cannot do (an op with several results) fails, and the caller takes torch's way.
    """
    module = fx.GraphModule(program.graph_module, copy.deepcopy(program.graph))
    table = {**table, **_OWN}
    _write_out_everywhere(module, table)
    return changed(program, root=module, graph=module.graph, example_inputs=None, verifiers=None)


def _write_out_everywhere(module: fx.GraphModule, table: Mapping[Any, Callable[..., Any]]) -> None:
    """In the graph and in the bodies of its loops, which are copied."""
    for node in module.graph.find_nodes(op="get_attr"):
        held = attribute(module, str(node.target))
        if isinstance(held, fx.GraphModule):
            body = fx.GraphModule(held, copy.deepcopy(held.graph))
            _write_out_everywhere(body, table)
            module.add_module(str(node.target), body)
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.to.dtype):
        node.target, node.args, node.kwargs = torch.ops.aten._to_copy.default, node.args[:1], {"dtype": node.args[1]}
    for node in module.graph.nodes:  # those that are put in front of it have had their turn
        if _mixes_dtypes(node):
            write_out(node, _cast_before(node), composite=False)
        elif node.target in TRANSPOSED and _is_padded_beyond_a_step(node):
            write_out(node, _padded_afterwards, composite=False)
        elif _chooses_truth(node):
            write_out(node, _chosen, composite=False)
        elif _loses_digits(node):
            write_out(node, _IN_DOUBLE[node.target], composite=False)
        elif node.target in table:
            write_out(node, table[node.target], composite=False)
        elif node.target in _WITH_ATTRIBUTES and any(map(_is_calculated, (*node.args, *node.kwargs.values()))):
            write_out(node, _WITH_ATTRIBUTES[node.target], composite=False)
    module.graph.eliminate_dead_code()
    module.recompile()


def with_operands_apart(program: ExportedProgram) -> ExportedProgram:
    """The program with copies of what its loops read that could be a view of another value that they read.

    torch refuses a loop two of whose operands lie in the same memory (a weight and its transpose) where it traces a
    program anew, as its decompositions do. What an ONNX runtime makes of a copy is the value itself.
    """
    module = fx.GraphModule(program.graph_module, copy.deepcopy(program.graph))
    _copy_operands_of_loops(module)
    return changed(program, root=module, graph=module.graph, example_inputs=None, verifiers=None)


def _copy_operands_of_loops(module: fx.GraphModule) -> None:
    for node in module.graph.find_nodes(op="call_function", target=TORCHS):
        body_of, *operands = node.args
        body = attribute(module, str(body_of.target))
        inner = fx.GraphModule(body, copy.deepcopy(body.graph))
        _copy_operands_of_loops(inner)
        module.add_module(str(body_of.target), inner)
        with module.graph.inserting_before(node):
            node.args = (body_of, *(type(several)(map(_copy_of_view, several)) for several in operands))
    module.recompile()


def _copy_of_view(operand: Any) -> Any:
    if operand.op != "call_function" or not is_tensor(operand) or operand.target is torch.ops.aten.clone.default:
        return operand
    return call(operand.graph, torch.ops.aten.clone.default, operand, like=operand)
