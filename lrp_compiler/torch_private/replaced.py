"""What of torch is replaced for the length of a block, by one thread at a time."""

from __future__ import annotations

import copy
import functools
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from .sizes import known_size

_changing = RLock()
"""Held while a part of torch is replaced, which is of the whole process."""


@contextmanager
def remembered_annotations() -> Iterator[None]:
    """A program that is read in this block is read without working out the same thing thousands of times.

    torch asks for the annotations of a class at each of the 10⁵ pieces of a large graph, and parses a size (`4*s0`)
    each time that it occurs: half the time of `torch.export.load`. Both are of the whole process: one thread at a time,
    and it ends with the block. Waits for torch to remember them.
    """
    from torch._export.serde import serialize

    hints = functools.cache(lambda cls: typing.get_type_hints(cls, globalns=vars(serialize.schema)))
    remembering: Any = types.SimpleNamespace(**vars(typing))
    remembering.get_type_hints = lambda cls, globalns: hints(cls)
    reader: Any = serialize.GraphModuleDeserializer
    parse = reader._parse_sym_expr

    def parse_once(self: Any, text: Any, hint: Any = None) -> Any:
        symbols, known = vars(self).setdefault("_sizes_read", (self.symbol_name_to_symbol, {}))
        if symbols is not self.symbol_name_to_symbol:  # another graph's
            known = {}
            self._sizes_read = self.symbol_name_to_symbol, known
        key = (text, type(hint), hint)
        if key not in known:
            known[key] = parse(self, text, hint)
        return known[key]

    with _changing:
        serialize.typing, reader._parse_sym_expr = remembering, parse_once
        try:
            yield
        finally:
            serialize.typing, reader._parse_sym_expr = typing, parse


@contextmanager
def promotion_where_dtypes_mix() -> Iterator[None]:
    """The ONNX exporter writes casts of operands out in this block without running the nodes that need none again.

    Where all that enters a node is tensors, of the one dtype of floats that leaves it, no rule of promotion casts any.
    Waits for torch to look first.
    """
    from torch.onnx._internal.fx.passes import type_promotion

    interpreter: Any = type_promotion._TypePromotionInterpreter
    run_node = interpreter.run_node

    def run_where_dtypes_mix(self: Any, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point():
            given = [self.env[source] for source in node.all_input_nodes]
            alike = all(isinstance(each, Tensor) and each.dtype == value.dtype for each in given)
            numbers = any(isinstance(each, int | float) for each in (*node.args, *node.kwargs.values()))
            if alike and not (numbers and type_promotion.get_type_promotion_rule(node, self.type_promotion_table)):
                return value
        return run_node(self, node)

    with _changing, _answers_not_traced(type_promotion):
        interpreter.run_node = run_where_dtypes_mix
        try:
            yield
        finally:
            interpreter.run_node = run_node


@contextmanager
def _answers_not_traced(type_promotion: Any) -> Iterator[None]:
    """Before torch 2.13 promotion takes the first operation that is traced for the one that it asked for, and so what a
    tensor says of its device."""
    mode: Any = getattr(type_promotion, "_OpTraceDispatchMode", None)
    if mode is None:
        yield
        return
    dispatch = mode.__torch_dispatch__

    def without_questions(self: Any, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "namespace", "") == "prim":
            return function(*args, **(kwargs or {}))
        return dispatch(self, function, types, args, kwargs or {})

    mode.__torch_dispatch__ = without_questions
    try:
        yield
    finally:
        mode.__torch_dispatch__ = dispatch


@contextmanager
def numbers_in_double(wanted: bool) -> Iterator[None]:
    """The ONNX exporter writes Python's numbers down in float64 in this block where it takes them for float32.

    It does so wherever it does not know what they meet, and casts to float64 what is left of them. They are cast to
    float32 here, so that whoever reads them gets what they got, and a cast to float64 behind that one can be undone
    (`export/onnx_casts.py`). Waits for torch to know the dtype first.

    Args:
        wanted: whether anything of this is done.
    """
    import onnx_ir
    from torch.onnx._internal.exporter import _building

    building: Any = _building
    make = building._get_or_create_constant

    def whole(constant_farm: Any, number: Any, dtype: Any, opset: Any) -> Any:
        key = (tuple(number) if isinstance(number, list) else number, dtype)
        if dtype is not onnx_ir.DataType.FLOAT or key in constant_farm or _is_single(number):
            return make(constant_farm, number, dtype, opset)
        constant = opset.Constant(value=onnx_ir.tensor(number, dtype=onnx_ir.DataType.DOUBLE))
        constant_farm[key] = opset.Cast(constant, to=dtype)
        return constant_farm[key]

    with _changing:
        if wanted:
            building._get_or_create_constant = whole
        try:
            yield
        finally:
            building._get_or_create_constant = make


def _is_single(number: Any) -> bool:
    """Whether it is the same in float32."""
    try:
        exact = np.asarray(number, np.float64)
    except (TypeError, ValueError):  # a complex one
        return True
    with np.errstate(over="ignore"):
        return np.array_equal(exact, exact.astype(np.float32), equal_nan=True)


_TRANSLATIONS: dict[Any, Any] = {}
"""The ONNX exporter's translations by opset, for the operators that there were."""


@contextmanager
def translations_read_once() -> Iterator[None]:
    """The ONNX exporter reads the sources of all its translations once a process in this block, not with every file.

    Waits for torch to keep them.
    """
    from torch.onnx._internal.exporter import _registration

    of_torch: Any = _registration.ONNXRegistry
    read, itself = of_torch.from_torchlib, vars(of_torch)["from_torchlib"]

    def kept(*opset: Any, **options: Any) -> Any:
        # Operators of a library that was imported since have translations, too.
        operators = frozenset(torch._C._dispatch_get_all_op_names())
        if operators != _TRANSLATIONS.get("operators"):
            _TRANSLATIONS.clear()
            _TRANSLATIONS["operators"] = operators
        key = opset, tuple(options.items())
        if key not in _TRANSLATIONS:
            _TRANSLATIONS[key] = read(*opset, **options)
        registry = copy.copy(_TRANSLATIONS[key])
        registry.functions = {op: list(functions) for op, functions in registry.functions.items()}
        return registry

    with _changing:
        of_torch.from_torchlib = staticmethod(kept)
        try:
            yield
        finally:
            of_torch.from_torchlib = itself


@contextmanager
def composites_noted_quickly() -> Iterator[None]:
    """torch notes how some 500 composite ops are written out without detours in this block, which took it longer than
    a small network.

    It looks them all up once, not once for every namespace, and makes no type for every one of 10,000 entries. Waits
    for torch to do so.
    """
    from torch import _ops
    from torch._export import utils as _utils

    utils: Any = _utils
    operator: Any = _ops.OperatorBase
    look_up = utils._materialize_cpp_cia_ops
    note = operator.py_impl

    def noted(self: Any, key: Any) -> Any:
        keys = torch._C.DispatchKey
        if not isinstance(key, keys) or key == keys.Python or key in self.py_kernels:
            return note(self, key)

        def kept(kernel: Any) -> Any:
            self.py_kernels[key] = kernel
            self._dispatch_cache.clear()
            return kernel

        return kept

    with _changing:
        utils._materialize_cpp_cia_ops = functools.cache(look_up)
        operator.py_impl = noted
        try:
            yield
        finally:
            utils._materialize_cpp_cia_ops = look_up
            operator.py_impl = note


RECURRENT = [getattr(torch.ops.aten, name).input for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")]


@contextmanager
def sequences_stay_open() -> Iterator[None]:
    """A recurrent layer over a sequence of open length is exported whole in this block, not for one length.

    torch works out what it returns step by step, which fixes the length. Waits for a symbolic shape of these operators.
    """

    def around(kernel: Any) -> Any:
        @functools.wraps(kernel)
        def returned(tensor: Tensor, hx: Any, params: Any, has_biases: bool, num_layers: int, *options: Any) -> Any:
            if known_size(tensor.shape[0]) is not None and known_size(tensor.shape[1]) is not None:
                return kernel(tensor, hx, params, has_biases, num_layers, *options)
            states = [hx] if isinstance(hx, Tensor) else list(hx)
            directions = 2 if options[2] else 1
            result = tensor.new_empty([*tensor.shape[:2], states[0].shape[-1] * directions])
            return (result, *(torch.empty_like(state) for state in states))

        return returned

    with _changing:
        known = {op: dict(op.py_kernels) for op in RECURRENT}
        for op, kernels in known.items():
            op.py_kernels.update({key: around(kernel) for key, kernel in kernels.items()})
            op._dispatch_cache.clear()
        try:
            yield
        finally:
            for op, kernels in known.items():
                op.py_kernels.update(kernels)
                op._dispatch_cache.clear()


@contextmanager
def pools_stay_open() -> Iterator[None]:
    """A pool over an image of open size is exported in this block for all sizes, odd and even ones alike.

    torch asks whether the last window starts behind the image, also where none can, and before 2.13 whether the last
    step is a whole one; what it has learnt of the example's size is then taken for a bound. Waits for a symbolic shape
    that asks nothing.
    """
    from torch import _meta_registrations

    shapes: Any = _meta_registrations
    known = shapes.pooling_output_shape_pad_lr
    with _changing:
        shapes.pooling_output_shape_pad_lr = _windows
        try:
            yield
        finally:
            shapes.pooling_output_shape_pad_lr = known


def _windows(size: Any, kernel: int, before: int, after: int, stride: int, dilation: int, ceil_mode: bool) -> Any:
    """How many windows a pool has along a dim of so many elements, with so many zeros before and behind them."""
    behind = after - dilation * (kernel - 1) - 1 + (stride - 1 if ceil_mode else 0)
    """How far behind the image the last one may start."""
    windows = (size + before + behind) // stride + 1
    starts_inside = (size + before - 1) // stride + 1
    return torch.sym_min(windows, starts_inside) if ceil_mode and behind >= 0 else windows
