"""torch's private corners, all in one place: what each is for here, and the public way that it waits for.

Everything else in the project keeps to torch's documented interfaces. When a release of torch moves something, this is
the file to look at; `make test-torch` tries others.
"""

from __future__ import annotations

import copy
import functools
import json
import linecache
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from threading import RLock
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch._decomp import get_decompositions
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import OpOverload
from torch._subclasses.fake_impls import fast_detach
from torch.export.pt2_archive import PT2ArchiveReader
from torch.export.pt2_archive import constants as archive_layout
from torch.fx import traceback
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing as untraced
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot, make_fx, track_tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.passes.dialect.common.cse_pass import CSEPass
from torch.fx.passes.infra.pass_base import PassResult
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._python_dispatch import _disable_current_modes as without_modes
from torch.utils._sympy.value_ranges import ValueRanges

__all__ = [
    "UNKNOWN_MODULE",
    "CSEPass",  # merging what is calculated twice; waits for a pass in torch.export
    "OpOverload",  # the type of `torch.ops.aten.add.Tensor`; waits for a public name
    "PT2ArchiveReader",  # what is in a .pt2 before anything of it is run; waits for a safe torch.export.load
    "PassResult",  # what torch's own passes return; documented, in an experimental module
    "TorchDispatchMode",  # who sees every call of an op; documented, in a private module
    "ValueRanges",  # what an ExportedProgram knows of its sizes; waits for a public constructor
    "annotate",
    "archive_layout",
    "changed",
    "compile_package",
    "composites_noted_quickly",
    "core_decompositions",
    "data_dependent_lines",
    "decompositions_of",
    "expression",
    "fake_mode_of",
    "fake_tensor",
    "hint",
    "hold_what_is_in",
    "is_backward",
    "is_traced",
    "known_size",
    "largest",
    "load_package",
    "make_fx",  # tracing of functions into graphs; torch.export traces modules alone
    "mapped_weights",
    "module_stack",
    "node_that_makes",
    "notes_are_kept",
    "notes_here",
    "op_name",
    "promotion_where_dtypes_mix",
    "python_dispatcher",
    "pytree",  # nested inputs and outputs; waits for torch.utils.pytree
    "range_of",
    "remembered_annotations",
    "renamed",
    "schema",
    "sequences_stay_open",
    "sources_forgotten",
    "stand_ins",
    "statically_known_true",  # what is known of sizes without fixing them; waits for torch.sym_* of the kind
    "take_name",
    "takes_a_path",
    "traced_again",
    "translations_read_once",
    "unguarded",
    "untraced",  # looking at symbolic values while something else is traced; waits for a public name
    "without_modes",  # looking at a tensor itself while something else is traced; waits for a public name
    "without_stand_ins",
]


def schema(target: Any) -> Any:
    """The op's schema: names, types and defaults of its arguments; None of what is no op. Waits for a public one."""
    return getattr(target, "_schema", None)


def op_name(target: Any) -> str | None:
    """`add` of `torch.ops.aten.add.Tensor`; None of what is no op. Waits for a public one."""
    return getattr(target, "_opname", None)


UNKNOWN_MODULE = "_empty_nn_module_stack_from_metadata_hook"
"""The path that torch.export writes where it lost the module."""


def module_stack(node: fx.Node) -> list[tuple[str, str, str]]:
    """The module calls that a node was traced in, the outermost first: name of the call, path and class of the module.

    torch's own key says which call it is (`@1`: the second), and the module by its path or, after a strict export, by a
    number. The class is a string with its package, of what is traced into a graph the class itself. Waits for a
    documented form.
    """
    stack = node.meta.get("nn_module_stack") or {}
    return [
        (
            "".join((str(path), *str(key).partition("@")[1:])),
            str(path),
            getattr(kind, "__name__", str(kind)).rpartition(".")[2],
        )
        for key, (path, kind) in stack.items()
    ]


def is_backward(target: Any) -> bool:
    """Whether an op is the gradient of another, by what torch calls those. Waits for a tag."""
    return "backward" in (op_name(target) or "")


def expression(size: torch.SymInt | torch.SymFloat | torch.SymBool) -> Any:
    """The sympy expression of a symbolic size, by which equal sizes are known. Waits for equality of SymInts."""
    return size.node.expr


def renamed(whole: Any, names: Mapping[Any, str]) -> Any:
    """The expression of a size, its symbols under these names."""
    return whole.xreplace({symbol: type(symbol)(name) for symbol, name in names.items()})


def hint(size: int | torch.SymInt) -> int:
    """The example's size; 1 where it depends on values and is not known before the run."""
    if isinstance(size, int):
        return size
    return 1 if size.node.hint is None else int(size.node.hint)


def known_size(size: int | torch.SymInt) -> int | None:
    """The size if it is known at compile time, else `None`."""
    if isinstance(size, int):
        return size
    known = size.node.maybe_as_int()
    return None if known is None else int(known)


def largest(size: int | torch.SymInt) -> int:
    """The most that a size may be, by what capture found; the example's where nothing bounds it."""
    if isinstance(size, int):
        return size
    upper = size.node.shape_env.bound_sympy(expression(size)).upper
    return int(upper) if upper.is_Integer and upper < UNBOUNDED else hint(size)


UNBOUNDED = 2**31
"""A bound on an open size that is none."""


def range_of(size: torch.SymInt) -> dict[Any, Any]:
    """Symbol → the range that capture found for it, of every symbol in the size."""
    ranges = size.node.shape_env.var_to_range
    return {symbol: ranges[symbol] for symbol in expression(size).free_symbols}


def fake_mode_of(*values: Any) -> Any:
    """The mode that the symbolic tensors among the values belong to; `None`: there is none among them."""
    return next((value.fake_mode for value in values if hasattr(value, "fake_mode")), None)


def fake_tensor(tensor: Tensor, like: Any) -> Tensor:
    """A symbolic tensor of fixed shape, in the mode of `like`."""
    made: Tensor = fake_mode_of(like).from_tensor(tensor, static_shapes=True)
    return made


def unguarded(*nodes: fx.Node) -> AbstractContextManager[None]:
    """Where symbolic values may be worked out without learning from them.

    torch's symbolic convolution asks for the batch size to guess a memory format: that must not bound the batch. Waits
    for a public way to suppress guards.
    """
    mode = fake_mode_of(*(node.meta.get("val") for node in nodes))
    known = None if mode is None else mode.shape_env
    return nullcontext() if known is None else known.suppress_guards()


def annotate(note: Mapping[str, Any]) -> AbstractContextManager[None]:
    """What is traced in this block carries the note in `meta["custom"]`. Experimental in torch.fx.traceback."""
    return traceback.annotate(dict(note))


def notes_are_kept() -> AbstractContextManager[None]:
    """Tracing in this block keeps what `annotate` says."""
    return traceback.preserve_node_meta()


def python_dispatcher() -> AbstractContextManager[None]:
    """Behind `torch.func.vmap` only torch's Python decompositions keep symbolic sizes."""
    return enable_python_dispatcher()


def node_that_makes(tensor: Tensor) -> fx.Node | None:
    """While it is traced: the node of the graph that makes this tensor, batched by vmap or not."""
    mode = get_proxy_mode()
    while torch._C._functorch.is_batchedtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    slot: Any = None if mode is None else get_proxy_slot(tensor, mode.tracer, None)
    return None if slot is None else slot.proxy.node


def is_traced() -> bool:
    """Whether what is done now is traced into a graph."""
    return get_proxy_mode() is not None


def traced_again(node: fx.Node) -> Tensor:
    """While it is traced: a fresh symbolic tensor that this node makes, from what is known of its value."""
    mode: Any = get_proxy_mode()
    value = node.meta["val"]
    tensor: Tensor = fast_detach(value.fake_mode, value)
    track_tensor(tensor, fx.Proxy(node, mode.tracer), constant=None, tracer=mode.tracer)
    return tensor


def notes_here() -> dict[str, Any]:
    """What `annotate` has nodes carry that are traced here, as `node.meta` has it."""
    custom = traceback.get_current_meta().get("custom")
    return {"custom": dict(custom)} if custom else {}


@contextmanager
def sources_forgotten() -> Iterator[None]:
    """What is generated in the block keeps no copy of its source, by which torch lets tracebacks show generated lines.

    torch keeps one of every graph that is compiled anew, in every pass, for ever: megabytes for a large model. Waits
    for a cache in torch.fx that forgets.
    """
    cache = torch.fx.graph_module._loader.eval_cache
    before = set(cache)
    try:
        yield
    finally:
        for key in set(cache) - before:
            cache.pop(key, None)
            linecache.cache.pop(key, None)


class StandIn(dict[str, Any]):
    """Base of what stands for a class of inputs or outputs that nothing in this process has registered."""


_standing_in = RLock()


@contextmanager
def stand_ins(names: Iterable[str]) -> Iterator[None]:
    """Let torch read structures of classes that are not registered here, a library's own outputs for example.

    Registering is of the whole process: one at a time, and it ends with the block. Waits for a `torch.export.load` that
    leaves unknown classes alone.
    """
    with _standing_in, ExitStack() as stack:
        for name in sorted(set(names) - pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.keys()):
            made = type("StandIn", (StandIn,), {})
            pytree._private_register_pytree_node(
                made,
                lambda given: (list(given.values()), list(given)),
                lambda values, keys: dict(zip(keys, values, strict=True)),
                serialized_type_name=name,
                to_dumpable_context=json.dumps,
                from_dumpable_context=json.loads,
            )
            stack.callback(pytree.treespec_loads.cache_clear)  # it has learned what the name meant
            stack.callback(pytree._deregister_pytree_node, made)
        yield


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


def record_size(reader: PT2ArchiveReader, name: str) -> int:
    """How many bytes a record of a `.pt2` file has. Before torch 2.13 it is read for that."""
    archive: Any = reader.archive_file
    size = getattr(archive, "get_record_size", None)
    return int(size(name)) if size is not None else len(archive.get_record(name))


def mapped_weights(memory: Any, plain: Mapping[str, int], reader: PT2ArchiveReader, model: str) -> dict[str, Tensor]:
    """The weights of a program in a `.pt2` file, by name, as they lie in the file: read when they are first used.

    Torch asks for storages, before 2.13 for bytes. Waits for `torch.export.load(mmap=True)`.

    Args:
        memory: the bytes of the file, a writable buffer.
        plain: sizes, by name, of what lies in it as it is, not compressed.
        reader: of the same file.
        model: name of the program in it.
    """
    from torch.export.pt2_archive import _package

    archive: Any = reader.archive_file

    class Mapped:
        @staticmethod
        def get_record_size(name: str) -> int:
            return record_size(reader, name)

        @staticmethod
        def get_storage_from_record(name: str, count: int, dtype: torch.dtype) -> Tensor:
            start = archive.get_record_offset(name)
            if not count or name not in plain or start % dtype.itemsize:  # packed anew by something else than torch
                return cast(Tensor, archive.get_storage_from_record(name, count, dtype))
            return torch.frombuffer(memory, dtype=dtype, count=count, offset=start)

    def bytes_of(name: str) -> Any:
        start = archive.get_record_offset(name)
        if name not in plain or start % _ALIGNED:
            return bytearray(reader.read_bytes(name))
        return memoryview(memory)[start : start + plain[name]]

    mapping: Any = types.SimpleNamespace(
        archive_file=Mapped,
        read_string=reader.read_string,
        read_bytes=bytes_of,
        get_file_names=reader.get_file_names,
    )
    weights: Any = _package._load_state_dict(mapping, model)
    return {name: tensor.detach() for name, tensor in weights.items()}


_ALIGNED = torch.complex128.itemsize
"""Where numbers of any dtype may begin."""


def takes_a_path(target: Any) -> str | None:
    """The argument by which an operator is told of a file that it reads or writes; None where it has none."""
    for argument in getattr(getattr(target, "_schema", None), "arguments", ()):
        if isinstance(argument.type, torch.StringType) and any(word in argument.name for word in _FILES):
            return str(argument.name)
    return None


_FILES = ("file", "path", "uri")
"""An operator with a text argument called so reads or writes files."""


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


def without_stand_ins(spec: Any) -> Any:
    """The structure with a dict for every class that was stood in for, a tuple where that keeps no names."""
    if spec is None or spec.is_leaf():
        return spec
    kind, context, children = spec.type, spec.context, [without_stand_ins(child) for child in spec.children()]
    if isinstance(kind, type) and issubclass(kind, StandIn):
        named = isinstance(context, list) and len(context) == len(children) and all(map(_is_text, context))
        kind, context = (dict, context) if named else (tuple, None)
    return pytree.TreeSpec(kind, context, children)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def take_name(node: fx.Node, erased: fx.Node) -> None:
    """Give a node the name of one that it replaced, which torch keeps for ever. Waits for a public `Node.rename`."""
    node.graph._graph_namespace._used_names.discard(erased.name)
    node._rename(erased.name)


def decompositions_of(ops: Iterable[Any]) -> dict[Any, Any]:
    """torch's decompositions of these ops. Waits for a public reading of single ones."""
    return dict(get_decompositions(list(ops)))


def core_decompositions(beyond: Iterable[Any]) -> dict[Any, Any]:
    """torch's decompositions to core ATen, and those of the ops `beyond` it."""
    return dict(torch.export.default_decompositions().items()) | decompositions_of(beyond)


def changed(program: torch.export.ExportedProgram, **parts: Any) -> torch.export.ExportedProgram:
    """The program with other parts, of those that its constructor takes. Waits for a public way to change one.

    Args:
        program: stays as it is.
        parts: by the constructor's names; `None` for what it shall find out itself.
    """
    whole = {
        "root": program.graph_module,
        "graph": program.graph,
        "graph_signature": program.graph_signature,
        "state_dict": program.state_dict,
        "range_constraints": program.range_constraints,
        "module_call_graph": program.module_call_graph,
        "example_inputs": program.example_inputs,
        "constants": program.constants,
        "verifiers": program.verifiers,
    }
    return torch.export.ExportedProgram(**{**whole, **parts})


def hold_what_is_in(module: torch.nn.Module, other: torch.nn.Module) -> None:
    """Let a module hold the parameters, buffers and modules of another, under their names. Waits for a public way.

    What it holds later is its own. Names that `register_buffer` and its like refuse (`0`, with dots) are taken as well.
    """
    for tables in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        module.__dict__[tables] = copy.copy(getattr(other, tables))


def data_dependent_lines(draft: torch.export.ExportedProgram) -> list[tuple[str, int]]:
    """File and line of the user's code for every value that `torch.export.draft_export` did not know.

    Waits for a public report of drafts.
    """
    # torch's trace log knows every file by a number.
    from torch._logging.structured import INTERN_TABLE

    report: Any = getattr(draft, "_report", None)
    files = {number: name for name, number in INTERN_TABLE.items()}
    found = []
    for failure in report.failures if report else ():
        frames = [frame for frame in failure.data.get("user_stack", ()) if frame.get("name") != "_call_impl"]
        file = files.get(frames[-1]["filename"]) if frames else None
        if file is not None:
            found.append((str(file), int(frames[-1]["line"])))
    return found


def load_package(path: str) -> Any:
    """An AOTInductor package as a function of its flat inputs. Beta in `torch._inductor`."""
    from torch._inductor import aoti_load_package

    return aoti_load_package(path)


def compile_package(program: torch.export.ExportedProgram, path: str, notes: Mapping[str, str]) -> None:
    """Write an AOTInductor package with these notes. Beta in `torch._inductor`.

    Raises:
        FileNotFoundError: there is no C++ compiler.
        Exception: whatever AOTInductor raises.
    """
    # Inductor takes a second to import; nothing else needs it.
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
        aoti_compile_and_package(program, package_path=path, inductor_configs={"aot_inductor.metadata": dict(notes)})
    except InvalidCxxCompiler as error:
        raise FileNotFoundError("no C++ compiler") from error
