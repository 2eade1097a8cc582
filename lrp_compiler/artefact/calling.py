"""A call of an explainer: what is given becomes one tensor an input; what comes out has the model's structure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from lrp_compiler.base.boundary import describe_node, reason_of
from lrp_compiler.base.errors import InputError
from lrp_compiler.base.latents import check_spread, whole_shape
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.references import bind_with_references
from lrp_compiler.base.run import Run
from lrp_compiler.base.sizes import size_of
from lrp_compiler.base.specs import TensorSpec
from lrp_compiler.base.validate import (
    check,
    check_choice,
    check_rows,
    check_weights,
    count_from_end,
    not_numbers,
    own_inputs,
)
from lrp_compiler.torch_private import pytree

from .artefact import Artefact

PLAIN = (list, tuple, dict, type(None), bool, int, float, str)
"""Inputs that are no tensors themselves but may hold some, or were baked in."""


def bound_inputs(
    about: Metadata,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    extras: Mapping[str, Any],
    check_nan: bool,
    inside: Mapping[str, Tensor] = MappingProxyType({}),
    reference: Any = None,
) -> tuple[list[Tensor], dict[str, int]]:
    """One tensor for each input, and the open sizes.

    Args:
        about: what the explainer says about itself.
        args: the model's inputs by position.
        kwargs: and by name.
        extras: `target`, `position`, `seed`, `weights` and `against`.
        check_nan: refuse NaN in the model's inputs.
        inside: masks and seeds of values inside the network, those that are given, by name of the input.
        reference: what the inputs are compared with, as `Explainer.__call__` takes it.
    """
    expected = about.choices
    extras, kwargs = own_inputs({*about.arguments, *(spec.name for spec in about.inputs)}, expected, extras, kwargs)
    given = bind_with_references(about, *_flattened(about, args, kwargs), reference)
    bound = {name: as_tensor(name, value) for name, value in given.items()}
    has_nan: Callable[[Tensor], bool] | None = (lambda t: bool(torch.isnan(t).any())) if check_nan else None
    sizes = check(about.inputs, bound, has_nan=has_nan, ranges=about.ranges)
    tensors = [bound[spec.name].to(getattr(torch, spec.dtype)) for spec in about.inputs]
    for name, chosen in extras.items():
        wanted = name in [spec.name for spec in expected]
        check_choice(name, chosen is not None, wanted, about.target, about.explains_answer)
    for spec in expected:
        value = as_tensor(spec.name, extras[spec.name]).to(tensors[0].device)
        if spec.name != "seed" and value.dim() == 0:
            value = value.expand([sizes[size] if isinstance(size, str) else size for size in spec.shape])
        if spec.name == "weights" and not value.is_complex():
            value = value.to(getattr(torch, spec.dtype))
        sizes = check([spec], {spec.name: value}, sizes=sizes)
        value = value.to(getattr(torch, spec.dtype))
        if spec.name == "weights":
            check_weights(spec, value, bool(torch.isfinite(value).all()))
        whole = spec.name not in ("seed", "weights")
        tensors.append(
            count_from_end(spec.name, value, about.most(spec.name, sizes), about.explains_answer) if whole else value
        )
    defaults = about.defaults
    for spec in about.seed_inputs[len(expected) :]:
        tensors.append(_inside(spec, inside.get(spec.name), defaults[spec.name], sizes).to(tensors[0].device))
    return tensors, sizes


def own_tensors(about: Metadata, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """One tensor for each of the model's own inputs, in order.

    Raises:
        InputError: something is missing, or is no tensor.
    """
    given = bind_with_references(about, *_flattened(about, args, kwargs), None)
    return [as_tensor(spec.name, given[spec.name]).to(getattr(torch, spec.dtype)) for spec in about.inputs]


def _inside(spec: TensorSpec, given: Tensor | None, default: float, sizes: Mapping[str, int]) -> Tensor:
    """A mask or a seed in its whole shape."""
    dtype, whole = getattr(torch, spec.dtype), whole_shape(spec, sizes)
    if given is None:
        return torch.full((1,) * len(whole), default, dtype=dtype).expand(whole)
    check_spread(spec, given, whole)
    return given.to(dtype).expand(whole)


@contextlib.contextmanager
def saying_where(artefact: Artefact, tensors: Sequence[Tensor]) -> Iterator[None]:
    """What the model itself cannot do with these inputs becomes an `InputError`: of the number, or of the operation."""
    try:
        yield
    except Exception as error:
        names = [spec.name for spec in artefact.about.inputs]
        check_rows(artefact.about.rows, dict(zip(names, tensors, strict=False)))
        run = _Found(artefact.forward)
        try:
            run.run(*tensors[: len(artefact.forward.graph.find_nodes(op="placeholder"))])
        except Exception as own:
            where = f" at {describe_node(run.at)}" if run.at is not None else ""
            raise InputError(f"The model itself fails on these inputs{where}: {reason_of(own)}.") from error
        raise


def value_of(forward: fx.GraphModule, name: str, tensors: Sequence[Tensor]) -> Tensor:
    """What a node of the forward graph holds for these inputs; nothing behind it is run.

    Args:
        forward: the forward graph.
        name: of the node.
        tensors: the inputs, in the order of the placeholders.
    """
    run = fx.Interpreter(forward)
    given = iter(tensors)
    for node in forward.graph.nodes:
        run.env[node] = next(given) if node.op == "placeholder" else run.run_node(node)
        if node.name == name:
            break
    found: Tensor = run.env[node]
    return found


def _flattened(about: Metadata, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The call's tensors: nested ones get dotted names, plain values are compared with what was baked in."""
    arguments, constants = about.arguments, about.constants
    if len(args) > len(arguments):
        return list(args), dict(kwargs)
    flat = {}
    names = {spec.name for spec in about.inputs}
    for root, value in [*zip(arguments, args, strict=False), *kwargs.items()]:
        if not isinstance(value, PLAIN) or root in names:
            flat[root] = value
            continue
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            steps = (str(getattr(step, "key", getattr(step, "idx", step))) for step in path)
            name = ".".join([root, *steps])
            if name not in constants:
                flat[name] = leaf
            elif leaf != constants[name]:
                raise InputError(
                    f"Input {name!r} was {constants[name]!r} when the explainer was compiled, and cannot change."
                )
    return [], flat


def run_of(about: Metadata, tensors: Sequence[Tensor], results: Sequence[Tensor]) -> Run:
    """What was run and what came out, by name.

    Args:
        about: what the explainer says about itself.
        tensors: one for each input, then those that target, position and seed take.
        results: the model's own outputs, flat.
    """
    inputs, choices, outputs = (
        [spec.name for spec in specs] for specs in (about.inputs, about.seed_inputs, about.outputs)
    )
    given = dict(zip([*inputs, *choices], tensors, strict=True))
    return Run(
        about,
        {name: given[name] for name in inputs},
        dict(zip(outputs, results, strict=True)),
        {name: given[name] for name in choices},
    )


def structured(artefact: Artefact, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> Any:
    """The model's outputs in its own structure, with what is no tensor in its place; by name where that is unknown."""
    named: list[tuple[str, Any]] = [
        (spec.name, value) for spec, value in zip(artefact.about.outputs, tensors, strict=True)
    ]
    for other in artefact.about.others:
        value = size_of(other["size"], sizes) if "size" in other else other["value"]
        named.insert(other["at"], (other["name"], value))
    try:
        spec = artefact.structure or pytree.treespec_loads(artefact.about.output_structure)
        return pytree.tree_unflatten([value for _, value in named], spec)
    except Exception:
        # The class of the output (a ModelOutput, say) is not known in this process: names serve as well.
        return dict(named)


class _Found(fx.Interpreter):
    """Knows which node it is at."""

    at: fx.Node | None = None

    def run_node(self, node: fx.Node) -> Any:
        """Run it."""
        self.at = node
        return super().run_node(node)


def of_array(array: np.ndarray, dtype: str) -> Tensor:
    """An array as the tensor of an input of this dtype. numpy has no bfloat16: float32 stands for it, here and back."""
    tensor = torch.from_numpy(array)
    return tensor.bfloat16() if (dtype, tensor.dtype) == ("bfloat16", torch.float32) else tensor


def as_tensor(name: str, value: Any) -> Tensor:
    """What was given as a tensor; raises `InputError` if it is nothing of the kind."""
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(not_numbers(name, value, reason_of(error))) from error
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise InputError(f"Input {name!r} is a sparse or nested tensor: give x.to_dense(), or one padded to a size.")
    if tensor.is_quantized:
        raise InputError(f"Input {name!r} is quantised: give x.dequantize().")
    if tensor.is_meta:
        raise InputError(f"Input {name!r} is on device 'meta', where tensors have no values.")
    return tensor
