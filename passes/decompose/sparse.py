"""Sparse matrices as dense ones: the rules, and ONNX, know no other layout.

    buffer A (CSR); _sparse_mm(A, x)                 →        buffer A (dense); mm(A, x)
    sparse_coo_tensor(indices, values); mm(·, x)     →        zeros.scatter_add(places, values); mm(·, x)

Buffers are made dense in the program itself, before it is traced again: symbolic tensors are not of every layout. What
a model makes sparse as it runs is made dense in the forward graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from lrp_compiler.base.errors import CaptureError
from lrp_compiler.passes.graph import Result, inline, is_tensor
from lrp_compiler.torch_private import OpOverload, changed, fake_mode_of, fake_tensor

aten = torch.ops.aten

PRODUCTS: dict[object, OpOverload] = {
    aten._sparse_mm.default: aten.mm.default,
    aten._sparse_addmm.default: aten.addmm.default,
}
"""Products of a sparse matrix → the same of a dense one."""
LAYOUTS = (
    aten.to_dense.default,
    aten._to_dense.default,
    aten.to_sparse.default,
    aten.to_sparse.sparse_dim,
    aten.to_sparse_csr.default,
    aten.coalesce.default,
    aten._coalesce.default,
)
"""The same values in another layout."""
PARTS = (aten.values, aten.indices, aten._values, aten._indices, aten.crow_indices, aten.col_indices)
"""What a sparse tensor consists of."""
MOST = 1 << 27
"""Elements of a matrix that is made dense: half a gigabyte in float32."""


def dense_buffers(program: ExportedProgram) -> ExportedProgram:
    """The program with dense weights in the place of sparse ones; the one that was given stays as it is.

    Raises:
        CaptureError: the model looks at the indices or the values of a sparse buffer, or it is too large to be dense.
    """
    sparse = [node for node in program.graph.find_nodes(op="placeholder") if _is_sparse(node)]
    if not sparse:
        return program
    fake = next(node.meta["val"] for node in program.graph.nodes if fake_mode_of(node.meta.get("val")) is not None)
    stored = {spec.arg.name: str(spec.target) for spec in program.graph_signature.input_specs if spec.target}
    values = {**program.state_dict, **program.constants}
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(program.graph, copies))
    graph.output_node().meta.update(program.graph.output_node().meta)
    for node, copy in copies.items():
        copy.name = node.name  # the signature knows these names
    for node, copy in copies.items():
        if node in sparse:
            name, shape = stored[node.name], tuple(node.meta["val"].shape)
            if prod(shape) > MOST:
                raise CaptureError(
                    f"{name} is a sparse tensor of shape {list(shape)}, which is too large to be made dense: keep its "
                    "rows, columns and values, and write zeros.index_add(0, rows, values[:, None] * x[columns])."
                )
            copy.meta["val"] = fake_tensor(values[name].to_dense(), fake)
        if getattr(node.target, "overloadpacket", None) in PARTS and _is_sparse(node.args[0]):
            raise CaptureError(
                f"The model looks into a sparse tensor ({node.target}): keep its indices and values as buffers of "
                "their own, or the dense matrix."
            )
        copy.target = PRODUCTS.get(node.target, copy.target)
        if node.target in LAYOUTS and any(map(_is_sparse, (node, *node.all_input_nodes))):
            copy.replace_all_uses_with(copies[node.all_input_nodes[0]])
            graph.erase_node(copy)

    def dense(tensors: Mapping[str, object]) -> dict[str, object]:
        return {
            name: value.to_dense() if isinstance(value, Tensor) and value.layout is not torch.strided else value
            for name, value in tensors.items()
        }

    return changed(program, graph=graph, state_dict=dense(program.state_dict), constants=dense(program.constants))


def same(tensor: Tensor, *options: object, dtype: torch.dtype | None = None, **more: object) -> Tensor:
    """The same values, cast if asked for."""
    return tensor if dtype is None else tensor.to(dtype)


def from_places(
    sparse_dim: int,
    dense_dim: int,
    size: Sequence[int | torch.SymInt],
    indices: Tensor,
    values: Tensor,
    **options: object,
) -> Tensor:
    """Values put to their places, those of one place added up."""
    places: Any = 0
    cells: Any = 1
    for index, length in zip(indices.unbind(0), size[:sparse_dim], strict=True):
        places, cells = places * length + index, cells * length
    flat = torch.zeros([cells, *size[sparse_dim:]], dtype=values.dtype, device=values.device)
    places = places.reshape(-1, *[1] * dense_dim).expand(values.shape)
    return flat.scatter_add(0, places, values).reshape(list(size))


DENSE: dict[object, Callable[..., object]] = {
    **PRODUCTS,
    **dict.fromkeys((*LAYOUTS, aten._to_copy.default, aten.clone.default), same),
    aten._sparse_coo_tensor_with_dims_and_tensors.default: from_places,
}
"""What these do with dense tensors; all other ops do with them what they do."""


def make_dense(module: fx.GraphModule) -> Result:
    """Rewrite the forward graph in place."""
    found = [node for node in module.graph.nodes if any(map(_is_sparse, (node, *node.all_input_nodes)))]
    dense: dict[fx.Node, fx.Node] = {}
    for node in found:
        if node.op == "call_function":
            function: Any = DENSE.get(node.target, node.target)
            given = fx.map_arg((node.args, node.kwargs), lambda operand: dense.get(operand, operand))
            dense[node] = inline(node, function, *given)
            if not _is_sparse(node):
                node.replace_all_uses_with(dense[node])
    for node in reversed(found):
        if node.op != "output" and not node.users:
            module.graph.erase_node(node)
    return Result(module, bool(found))


def _is_sparse(node: object) -> bool:
    return isinstance(node, fx.Node) and is_tensor(node) and node.meta["val"].layout is not torch.strided
