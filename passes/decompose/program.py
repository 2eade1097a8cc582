"""A captured program with its composite ops written out.

What stands for an op may lay its result out in another way than the kernel did (attention returns heads and positions
swapped), and a view that was possible before is no longer: so every view of the program is a reshape first.

    attention → transpose → view       →       matmul, softmax, matmul → transpose → reshape
    amax(scalar, 0)                    →       reshape(amax(reshape(scalar, [1]), 0), [])
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import replace
from keyword import iskeyword

import torch
from torch import fx
from torch.export import ExportedProgram, ModuleCallEntry
from torch.export.graph_signature import ExportGraphSignature, InputKind, InputSpec, TensorArgument

from lrp_compiler.base.errors import CaptureError
from lrp_compiler.passes.graph import call, is_tensor
from lrp_compiler.torch_private import changed, composites_noted_quickly, known_size, pytree
from lrp_compiler.torch_private import schema as schema_of

from .branches import write_out_branches
from .loops import loops_apart
from .sparse import dense_buffers
from .table import decomposition_table

aten = torch.ops.aten


def written_out(program: ExportedProgram) -> ExportedProgram:
    """The program in the ops that the rules speak of. The one that was given stays as it is.

    Raises:
        CaptureError: an op can be written out for one size alone, and that size was to stay open; the program writes
            into elements that share a place in memory.
    """
    # Writing out may fix a size for the program that was given, too.
    still_open = {
        (node.name, dim)
        for node in program.graph.find_nodes(op="placeholder")
        if isinstance(node.meta.get("val"), torch.Tensor)
        for dim, size in enumerate(node.meta["val"].shape)
        if known_size(size) is None
    }
    names = _written_names(program)
    plain = _renamed(_with_free_views(dense_buffers(program)), names)
    try:
        with composites_noted_quickly():
            decomposed = plain.run_decompositions(decomposition_table())
    except RuntimeError as error:
        if "internal overlap" not in str(error):
            raise
        raise CaptureError(
            "The model writes in place into a tensor of which several elements are one place in memory (an expanded "
            "one, or windows that overlap): give it a clone, x.clone().relu_()."
        ) from error
    result = _renamed(decomposed, {new: old for old, new in names.items()})
    for node in result.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        for dim, size in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
            if (node.name, dim) in still_open and known_size(size) is not None:
                raise CaptureError(
                    f"Dimension {dim} of the input {node.name!r} is open, but the model holds an operation that can be "
                    f"explained for a known size alone ({known_size(size)} in the example; steps of a recurrent layer "
                    "are such): give dynamic_shapes without this dimension."
                )
    return result


def _written_names(program: ExportedProgram) -> dict[str, str]:
    """Names of weights that torch cannot write into Python source, and what they are called meanwhile."""
    held = {*program.state_dict, *program.constants}
    odd = [name for name in held if re.search(r"[\"'\\\x00-\x1f]", name) or any(map(iskeyword, name.split(".")))]
    return {name: f"weight_of_odd_name_{number}" for number, name in enumerate(sorted(odd))}


def _renamed(program: ExportedProgram, names: Mapping[str, str]) -> ExportedProgram:
    """The same program with other names of its weights."""
    if not names:
        return program
    signature = program.graph_signature
    taken, given = (
        [replace(spec, target=names.get(str(spec.target), spec.target)) for spec in specs]
        for specs in (signature.input_specs, signature.output_specs)
    )
    return changed(
        program,
        graph_signature=ExportGraphSignature(taken, given),
        state_dict={names.get(name, name): value for name, value in program.state_dict.items()},
        constants={names.get(name, name): value for name, value in program.constants.items()},
    )


def _with_arguments_for_python(program: ExportedProgram) -> list[ModuleCallEntry]:
    """The calls of the program's modules, its own with arguments that may stand in Python source.

    torch writes the arguments given by name into a function's head, whatever they are called.
    """
    calls: list[ModuleCallEntry] = program.module_call_graph
    first, *others = calls
    if first.signature is None:
        return calls
    spec = first.signature.in_spec
    # The inputs are named after them: so that the names stay, an argument is called as its input was.
    args, kwargs = pytree.tree_unflatten(list(program.graph_signature.user_inputs), spec)
    if all(name.isidentifier() and not iskeyword(name) for name in kwargs):
        return calls
    called = [
        value if isinstance(value, str) else re.sub(r"[^a-zA-Z0-9]+", "_", name).lower()
        for name, value in kwargs.items()
    ]
    plain = dict(zip(called, kwargs.values(), strict=True))
    signature = replace(first.signature, in_spec=pytree.tree_structure((args, plain)), forward_arg_names=None)
    return [replace(first, signature=signature), *others]


def _is_along_a_scalar(node: fx.Node) -> bool:
    """Whether an op takes a dim of a tensor that has none, as torch allows and hardly any rule or runtime does."""
    schema = schema_of(node.target)
    if node.op != "call_function" or schema is None or not node.args or not _is_scalar(node.args[0]):
        return False
    is_view = any(result.alias_info is not None for result in schema.returns)
    return not is_view and any(argument.name in ("dim", "dims") for argument in schema.arguments)


def _is_scalar(node: object) -> bool:
    return is_tensor(node) and node.meta["val"].dim() == 0


def _take_vectors(graph: fx.Graph, node: fx.Node) -> None:
    """Give the op vectors of one element for its scalars, and its readers the scalars that they had.

    What is put in somewhere (`index_fill`) stays one: it is a number, without dims wherever it goes.
    """
    schema = schema_of(node.target)
    number = next((at for at, one in enumerate(schema.arguments) if one.name == "value"), None) if schema else None

    def vector(given: fx.Node) -> fx.Node:
        return call(graph, aten.reshape.default, given, [1], like=node) if _is_scalar(given) else given

    with graph.inserting_before(node):
        node.args = tuple(
            argument if at == number else fx.map_arg(argument, vector) for at, argument in enumerate(node.args)
        )
        node.kwargs = {
            name: argument if name == "value" else fx.map_arg(argument, vector)
            for name, argument in node.kwargs.items()
        }
    for result in [node, *(user for user in node.users if user.target is operator.getitem)]:
        if _is_scalar(result):
            with graph.inserting_after(result):
                scalar = call(graph, aten.reshape.default, result, [], like=node)
            result.replace_all_uses_with(scalar)
            scalar.args = (result, [])


def _with_free_views(program: ExportedProgram) -> ExportedProgram:
    """The same program, in which no view depends on how its operand is laid out, no op takes a dim of a scalar, and no
    branch is left."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(program.graph, copies))
    graph.output_node().meta.update(program.graph.output_node().meta)
    for node, copy in copies.items():
        copy.name = (
            node.name
        )  # a fresh graph renames what shadows a builtin ("input"); the signature knows the old name
    owner, constants = write_out_branches(program, graph, copies)
    owner, held = loops_apart(owner, graph)
    constants |= held
    for node in graph.find_nodes(op="call_function", target=aten.view.default):
        node.target = aten.reshape.default
    for node in [node for node in graph.nodes if _is_along_a_scalar(node)]:
        _take_vectors(graph, node)
    signature = program.graph_signature
    made = [
        InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(node.name), str(node.target))
        for node in graph.find_nodes(op="placeholder")
        if node.target in constants
    ]
    return changed(
        program,
        root=owner,
        graph=graph,
        graph_signature=ExportGraphSignature([*made, *signature.input_specs], list(signature.output_specs)),
        module_call_graph=_with_arguments_for_python(program),
        # With them torch writes checks of the inputs, names as they are, into source that it runs.
        example_inputs=None,
        constants={**program.constants, **constants},
    )
