"""A model that writes the steps of a recurrence out, one by one in Python: captured at two lengths, and put together.

    for t in range(x.shape[1]): h = torch.tanh(h + x[:, t])

torch.export fixes the length of such a model. It is exported at two lengths here, which `passes/reroll` makes one
program of, with a loop for the steps; and what that returns at further lengths is compared with the model.
"""

from __future__ import annotations

import inspect
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import Dim, ExportedProgram

from lrp_compiler.base.errors import LrpError
from lrp_compiler.passes.reroll import NotRepeated, of_any_length
from lrp_compiler.torch_private import hold_what_is_in, notes_are_kept, pytree, schema

from .same_output import run_model, same
from .shape_hints import Larger, fixed_sizes, narrowed_sizes, shape_hint

LENGTHS = (4, 8)
"""The shorter one of the two, if the model takes it; the longer a program, the longer it takes to capture."""
SMALL = 64
"""Sizes up to which examples of several times as much are tried: each step that Python wrote out is captured, too."""
FURTHER = (2, 5)
"""So many times the shorter length, less one, the program is compared with the model."""


Export = Callable[[torch.nn.Module, tuple[Any, ...], Mapping[str, Any], Any], ExportedProgram]


def of_two_lengths(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dynamic_shapes: Any,
    fixed: Sequence[str],
    export: Export,
) -> ExportedProgram:
    """The model's program, of any length.

    Args:
        model: the module.
        args: example inputs.
        kwargs: the same, by name.
        dynamic_shapes: as torch.export takes it.
        fixed: names of the dims that torch.export fixed, as its message has them.
        export: (model, args, kwargs, dynamic_shapes) → program.

    Raises:
        NotRepeated: the two are no loops; the message says where.
    """
    inputs = _Inputs(model, args, kwargs, dynamic_shapes, fixed)
    *some, last = dict.fromkeys(max(length, inputs.least) for length in LENGTHS)
    for length in some:
        with suppress(NotRepeated):
            return _of(inputs, length, model, args, kwargs, dynamic_shapes, export)
    return _of(inputs, last, model, args, kwargs, dynamic_shapes, export)


def larger_example(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dynamic_shapes: Any,
    fixed: Sequence[str],
    export: Export,
) -> Larger | None:
    """Whether the model is captured with a larger example: what is 1 in the example by chance is taken for fixed.

        x[:, :-1] of 2, x.shape[1] // 2 of 3

    Args:
        model, args, kwargs, dynamic_shapes, export: as for `of_two_lengths`.
        fixed: names of the dims that are fixed, or bounded.

    Returns:
        What came of it; None: there is no larger one, since what is fixed is no one size.
    """
    try:
        inputs = _Inputs(model, args, kwargs, dynamic_shapes, fixed)
    except NotRepeated:
        return None
    size = inputs.size
    sizes = [size + 1, 2 * size + 2, 4 * size] if size <= SMALL else [size + 1]
    for larger in dict.fromkeys(sizes):
        if not inputs.least <= larger <= inputs.most:
            continue
        given, named, _ = inputs.at(larger)
        try:
            run_model(model, given, named)
        except Exception:  # it takes no such size
            continue
        try:
            export(model, given, named, dynamic_shapes)
        except Exception as error:
            text = str(error)
            if not fixed_sizes(text) and not narrowed_sizes(text) and shape_hint(text):
                return Larger(larger, shape_hint(text))
        else:
            return Larger(larger)
    return Larger(None)


def _of(
    inputs: _Inputs,
    length: int,
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dynamic_shapes: Any,
    export: Export,
) -> ExportedProgram:
    programs = []
    for one in (length, length + 1):
        given, named, shapes = inputs.at(one)
        try:
            programs.append(_functional(export(model, given, named, shapes)))
        except LrpError:
            raise
        except Exception as error:
            raise NotRepeated(f"the model cannot be captured with {one} of them") from error
    shorter, longer = (program.module(check_guards=False) for program in programs)
    of_any_length(shorter, longer, length, inputs.place(programs[0]))
    program = export(_Rolled(shorter, programs[0], model), args, kwargs, dynamic_shapes)
    for times in FURTHER:
        further = min(times * length - 1, inputs.most)
        given, named, _ = inputs.at(further)
        try:
            wanted = run_model(model, given, named)
        except Exception:  # it takes no such length
            continue
        found = run_model(program, given, named)
        if wanted is None or found is None or not all(map(same, found, wanted)):
            raise NotRepeated(f"made of {length} and {length + 1}, the program is not the model's at length {further}")
    return program


def _functional(program: ExportedProgram) -> ExportedProgram:
    """The program, without what is changed in place."""
    known = (schema(node.target) for node in program.graph.nodes)
    return program.run_decompositions({}) if any(one is not None and one.is_mutable for one in known) else program


class _Noted(torch.nn.Module):
    """Runs a graph node by node, so that what is traced of it keeps the paths of modules; weights have their names."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__()
        hold_what_is_in(self, module)
        for name, inner in self.named_children():
            if isinstance(inner, fx.GraphModule):
                setattr(self, name, _Noted(inner))
        for node in module.graph.find_nodes(op="get_attr"):  # constants that the model's forward itself makes
            if "." not in node.target and not hasattr(self, node.target):
                self.register_buffer(node.target, getattr(module, node.target), persistent=False)
        self._graph = module.graph

    def forward(self, *args: Any) -> Any:
        """The flat results of flat arguments."""
        with notes_are_kept():
            return fx.Interpreter(self, graph=self._graph).run(*args, enable_io_processing=False)


class _Rolled(_Noted):
    """The same, called as the model is."""

    def __init__(self, module: fx.GraphModule, program: ExportedProgram, like: torch.nn.Module) -> None:
        super().__init__(module)
        self._call_spec = program.call_spec
        self.__dict__["forward"] = self._forward_as(inspect.signature(like.forward))

    def _forward_as(self, signature: inspect.Signature) -> Callable[..., Any]:
        """The forward, its arguments called as the model's."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            leaves = pytree.tree_leaves(_ordered(self._call_spec.in_spec, args, kwargs))
            return pytree.tree_unflatten(list(_Noted.forward(self, *leaves)), self._call_spec.out_spec)

        forward.__signature__ = signature  # type: ignore[attr-defined]
        return forward


def _ordered(in_spec: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments in a program's order."""
    _, named = in_spec.children()
    return tuple(args), {name: kwargs[name] for name in named.context}


class _Inputs:
    """Example inputs at other lengths.

    Args:
        model, args, kwargs, dynamic_shapes, fixed: as for `of_two_lengths`.

    Raises:
        NotRepeated: what is fixed is no length alone.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        dynamic_shapes: Any,
        fixed: Sequence[str],
    ) -> None:
        self._args, self._kwargs, self._shapes, self._fixed = args, dict(kwargs), dynamic_shapes, set(fixed)
        self._parameters = inspect.signature(model.forward).parameters
        marks = list(self._marks(self._shapes, ()))
        self._dims: dict[tuple[Any, ...], set[int]] = defaultdict(set)
        """Where a tensor is → its dims that are fixed."""
        for (*path, dim), mark in marks:
            if self._is_fixed((*path, dim), mark):
                self._dims[tuple(path)].add(dim)
        sizes = {tensor.shape[dim] for path, tensor in self._tensors() for dim in self._dims.get(path, ())}
        if len(sizes) != 1 or not all(name.isidentifier() or name.startswith("L[") for name in fixed):
            raise NotRepeated(f"{', '.join(sorted(set(fixed)))} are no one size that is given in dynamic_shapes")
        (self.size,) = sizes
        bounds = [mark for at, mark in marks if self._is_fixed(at, mark) and getattr(mark, "min", None) is not None]
        self.least = max([0, *(int(mark.min) for mark in bounds)])
        self.most = min([sys.maxsize, *(int(mark.max) for mark in bounds if mark.max < sys.maxsize)])

    def _marks(self, shapes: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Where a dim is → what dynamic_shapes says of it."""
        if isinstance(shapes, Mapping | list | tuple):
            pairs = shapes.items() if isinstance(shapes, Mapping) else enumerate(shapes)
            for key, inner in pairs:
                yield from self._marks(inner, (*path, key) if path else (self._name(key),))
        elif shapes is not None:
            yield path, shapes

    def _name(self, key: Any) -> Any:
        """Of an argument, by its place."""
        return list(self._parameters)[key] if isinstance(key, int) else key

    def _arguments(self) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Where dynamic_shapes has an argument → its value: of `*args` and `**kwargs` each within those."""
        kinds = {parameter.kind: name for name, parameter in self._parameters.items()}
        several, others = kinds.get(inspect.Parameter.VAR_POSITIONAL), kinds.get(inspect.Parameter.VAR_KEYWORD)
        named = [name for name in self._parameters if name != several]
        for at, value in enumerate(self._args):
            before = len(self._args) if several is None else list(self._parameters).index(several)
            yield (named[at],) if at < before else (several, at - before), value
        for name, value in self._kwargs.items():
            yield (name,) if name in self._parameters else (others, name), value

    def _is_fixed(self, path: tuple[Any, ...], mark: Any) -> bool:
        *where, dim = path
        by_place = "L" + "".join(f"[{key!r}]" for key in where) + f".size()[{dim}]"
        return not isinstance(mark, int) and getattr(mark, "__name__", by_place) in self._fixed

    def _tensors(self) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
        """Where a tensor is → the tensor, of all inputs."""
        for where, value in self._arguments():
            for path, leaf in pytree.tree_flatten_with_path(value)[0]:
                if isinstance(leaf, Tensor):
                    yield (*where, *_keys(path)), leaf

    def at(self, length: int) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """Inputs of that length, which repeat the example's or cut it, and shapes in which it is fixed."""

        def leaf(where: tuple[Any, ...], path: Any, tensor: Any) -> Any:
            for dim in self._dims.get((*where, *_keys(path)), ()):
                tensor = tensor.index_select(dim, torch.arange(length, device=tensor.device) % tensor.shape[dim])
            return tensor

        values = [pytree.tree_map_with_path(partial(leaf, where), value) for where, value in self._arguments()]
        args, rest = tuple(values[: len(self._args)]), values[len(self._args) :]
        return args, dict(zip(self._kwargs, rest, strict=True)), self._closed(self._shapes, ())

    def _closed(self, shapes: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(shapes, Mapping):
            return {key: self._closed(one, (*path, key) if path else (self._name(key),)) for key, one in shapes.items()}
        if isinstance(shapes, list | tuple):
            return type(shapes)(
                self._closed(one, (*path, at) if path else (self._name(at),)) for at, one in enumerate(shapes)
            )
        return Dim.STATIC if shapes is not None and self._is_fixed(path, shapes) else shapes

    def place(self, program: ExportedProgram) -> tuple[int, int]:
        """Number of one of a program's inputs, and its dim, that are so long."""
        args, kwargs = _ordered(program.call_spec.in_spec, self._args, self._kwargs)
        leaves = pytree.tree_leaves((args, kwargs))
        path, tensor = next((path, tensor) for path, tensor in self._tensors() if path in self._dims)
        return next(at for at, leaf in enumerate(leaves) if leaf is tensor), min(self._dims[path])


def _keys(path: Any) -> list[Any]:
    """Of a pytree's path."""
    return [getattr(key, "key", getattr(key, "idx", None)) for key in path]
