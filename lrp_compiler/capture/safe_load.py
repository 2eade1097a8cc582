"""Read a `.pt2` file without running anything in it.

torch.export.load believes its files: it unpickles weights, constants and sample inputs, loads compiled libraries,
evaluates the expressions of symbolic sizes, writes names into Python source, and takes any function under `torch` for
an operator. Here every such place is looked at first, through the readers that torch itself uses and in the same open
file, and whatever torch.export.save does not write for a model of plain tensors is refused.
"""

from __future__ import annotations

import ast
import io
import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO

import torch
from torch import fx
from torch.export import ExportedProgram

from lrp_compiler.base.errors import FormatError
from lrp_compiler.base.held import HeldFile
from lrp_compiler.passes.joint import UnknownOperator
from lrp_compiler.torch_private import (
    PT2ArchiveReader,
    mapped_weights,
    record_size,
    remembered_annotations,
    stand_ins,
    takes_a_path,
    without_stand_ins,
)
from lrp_compiler.torch_private import archive_layout as layout

MODEL = "model"
"""Name of the one program in a file; torch allows several."""
PLAIN = re.compile(r"[\w.+:/<>,|*\- ]*")
"""What names of weights, modules and types are made of: nothing that ends a string or calls a function."""
TEXT = re.compile(r"[^'\"\\\x00-\x1f]*")
"""A string that the model takes; torch compares it in Python source."""
TEXTUAL = re.compile(r"[\s\S]*")
"""Any text."""
TARGET = re.compile(
    r"torch\.ops\.(?!_)\w+\.((?!__)\w+|__[ilr]?(and|or|xor|lshift|rshift)__)\.(?!__)\w+"
    r"|torch\.ops\.higher_order\.(?!__)\w+|torch\._?sym_\w+|math\.(?!__)\w+"
    r"|_operator\.(eq|ne|le|ge|lt|gt|neg|pos|abs|mul|add|sub|floordiv|mod|pow|truediv|and_|or_|xor|not_|getitem)"
)
"""An operator, as torch writes it; nothing that leads from one to something else."""
FUNCTION = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Mod|Max|Min|Abs|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|StrictLessThan"
    r"|LessThan|StrictGreaterThan|GreaterThan|And|Or|Not|Piecewise|ExprCondPair|floor|ceiling|FloorDiv|ModularIndexing"
    r"|Where|PythonMod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift|RShift|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv"
    r"|IsNonOverlappingAndDenseIndicator|TruncToFloat|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity"
    r"|OpaqueUnaryFn_\w+|size|stride|storage_offset|trunc|floor|ceil|sym_(float|int|max|min|not)"
)
"""What the expression of a symbolic size may call."""
ROUNDING = {"math": ("trunc", "floor", "ceil"), "torch": ("sym_float", "sym_int", "sym_max", "sym_min", "sym_not")}
"""Module → the functions of it that a guard on sizes names."""
SYNTAX = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Call, ast.keyword, ast.Subscript, ast.Attribute),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.Tuple),
)
PACKED, SLACK = 8, 1 << 26
"""A file may take so many times its size in memory, and so many bytes (or elements) more."""
FACTORIES = {"builtins.dict", "builtins.list", "builtins.set", "builtins.tuple", "builtins.int", "builtins.float"}


class TooLarge(Exception):
    """What in the file would take far more memory than the file has bytes."""


class Refused(Exception):
    """What the file holds that could run; the rest of a sentence."""


def load_exported(
    path: str | os.PathLike[str], extra_files: dict[str, Any] | None = None, opened: BinaryIO | None = None
) -> ExportedProgram:
    """Load what torch.export.save wrote.

    Args:
        path: the file.
        extra_files: as torch.export.load takes them: filled with what the file holds under these names.
        opened: the same file, open: what is read where another lies under the path by now.

    Raises:
        FormatError: something in the file would run code, now or when the program is called.
        Exception: whatever torch raises on a file that is none of its own.
    """
    with refusing(path), open(path, "rb") if opened is None else nullcontext(opened) as file:
        classes = _check_archive(file)
        file.seek(0)
        with stand_ins(classes), remembered_annotations():
            program = torch.export.load(file, extra_files=extra_files)
            for entry in program.module_call_graph:
                if entry.signature is not None:
                    entry.signature.in_spec = without_stand_ins(entry.signature.in_spec)
                    entry.signature.out_spec = without_stand_ins(entry.signature.out_spec)
        _check_operators(program)
    return program


def load_weights(held: HeldFile, texts: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The weights of what torch.export.save wrote, mapped into memory, and nothing else of it.

    Args:
        held: the file.
        texts: names of extra files.

    Returns:
        The weights by name, and the texts of the extra files, "" for one that is not there.

    Raises:
        FormatError: something in the weights would run code, or claims to be larger than it is.
        Exception: whatever torch raises on a file that is none of its own.
    """
    with refusing(held.name), held.reader() as file:
        reader = _opened(file)
        _check_weights(reader)
        _check_samples(reader)
        present = set(reader.get_file_names())
        places = [layout.EXTRA_DIR + name for name in texts]
        found = [reader.read_string(place) if place in present else "" for place in places]
        with zipfile.ZipFile(held.reader()) as archive:
            stored = [record for record in archive.infolist() if not record.compress_type]
        plain = {record.filename.partition("/")[2]: record.file_size for record in stored}
        return mapped_weights(held.memory(), plain, reader, MODEL), found


@contextmanager
def refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """What makes a file refused becomes a `FormatError` that names it."""
    try:
        yield
    except Refused as reason:
        raise FormatError(f"{os.fspath(path)!r} is not loaded, because it could run code: {reason}.") from reason
    except TooLarge as claim:
        raise FormatError(f"{os.fspath(path)!r} is damaged, or made to fill the memory: {claim}.") from claim
    except UnknownOperator as name:
        raise FormatError(
            f"{os.fspath(path)!r} needs the operator {name}, which is not known here: import what defines it, and "
            "what registers its rule, then load again (on the command line: --import MODULE)."
        ) from name


def check_structure(text: Any) -> None:
    """Check the text of a pytree spec, if there is one, for which torch would import modules and call what they hold.

    Raises:
        FormatError: it names something to be imported.
    """
    try:
        _results("null" if text is None else str(text))
    except Refused as reason:
        raise FormatError(f"The structure of the outputs is not read, because it could run code: {reason}.") from reason


def _check_archive(file: BinaryIO) -> set[str]:
    """Look at all that torch would run; returns the classes that the program's inputs and outputs are made of."""
    reader = _opened(file)
    _check_weights(reader)
    _check_samples(reader)
    content = json.loads(reader.read_string(layout.MODELS_FILENAME_FORMAT.format(MODEL)))
    _check(content, "")
    return set(_classes(content))


def _opened(file: BinaryIO) -> PT2ArchiveReader:
    """The archive, which torch may read in the one way that is looked at here, and which holds one program alone."""
    with zipfile.ZipFile(file) as archive:
        if "version" in archive.namelist():  # torch reads older files in another way
            raise Refused("it is of a format before torch 2.8, which is pickled")
    _check_unpacked(file)
    file.seek(0)
    reader = PT2ArchiveReader(file)
    names = reader.get_file_names()
    model = layout.MODELS_FILENAME_FORMAT.format(MODEL)
    for name in names:
        if name.startswith(layout.AOTINDUCTOR_DIR):
            raise Refused("it holds a compiled library, for torch._inductor.aoti_load_package")
        if name.startswith(layout.MODELS_DIR) and name != model:
            raise Refused(f"{name!r} is a second program")
    return reader


def _check_weights(reader: PT2ArchiveReader) -> None:
    """That weights and constants are plain bytes, as many as they say."""
    names = reader.get_file_names()
    for folder, config in (
        (layout.WEIGHTS_DIR, layout.WEIGHTS_CONFIG_FILENAME_FORMAT),
        (layout.CONSTANTS_DIR, layout.CONSTANTS_CONFIG_FILENAME_FORMAT),
    ):
        if f"{folder}{MODEL}.pt" in names:
            raise Refused(f"{folder}{MODEL}.pt is a pickle")
        for entry in json.loads(reader.read_string(config.format(MODEL)))["config"].values():
            kinds = (layout.WEIGHT_FILENAME_PREFIX, layout.TENSOR_CONSTANT_FILENAME_PREFIX)
            if entry["use_pickle"] is not False or not entry["path_name"].startswith(kinds):
                raise Refused(f"{folder}{entry['path_name']} is a pickle")
            _check_claim(entry, record_size(reader, f"{folder}{entry['path_name']}"))


def _check_samples(reader: PT2ArchiveReader) -> None:
    """That the sample inputs are tensors, and no more of them than the file has bytes."""
    samples = layout.SAMPLE_INPUTS_FILENAME_FORMAT.format(MODEL)
    if content := reader.read_bytes(samples):
        if zipfile.is_zipfile(io.BytesIO(content)):
            _check_unpacked(io.BytesIO(content))
        try:
            torch.load(io.BytesIO(content), weights_only=True)
        except Exception as error:  # torch would unpickle it all the same
            raise Refused(f"{samples} is a pickle of more than tensors") from error


def _check_unpacked(file: BinaryIO) -> None:
    """That reading a zip takes about as much memory as its file takes on disk: torch packs nothing."""
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        inside = sum(member.file_size for member in archive.infolist())
    if inside > PACKED * size + SLACK:
        raise TooLarge(f"its {size:,} bytes unpack to {inside:,}")


def _check_claim(entry: dict[str, Any], stored: int) -> None:
    """That a weight is about as large as what is stored of it; less is stored of one that is expanded."""
    meta = entry["tensor_meta"]
    elements = math.prod(int(size["as_int"]) for size in meta["sizes"])
    if elements > (PACKED * stored + SLACK if stored else 0):
        raise TooLarge(f"{entry['path_name']} claims to have {elements:,} elements, and is {stored:,} bytes")


def _classes(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("type"), str) and "children_spec" in value:
            yield value["type"]
        for name, entry in value.items():
            yield from _classes(entry, name)
    elif isinstance(value, list):
        for entry in value:
            yield from _classes(entry, key)
    elif key in ("in_spec", "out_spec") and isinstance(value, str):
        yield from _classes(json.loads(value))


def _check(value: Any, key: str, in_node: bool = False) -> None:
    """Every text of a program's JSON, by the key under which it stands."""
    in_node = in_node or key == "nodes"
    if isinstance(value, dict):
        if key == "metadata" and all(isinstance(note, str) for note in value.values()):
            return  # notes on a node: stack traces, modules
        for name, entry in value.items():
            _fits(PLAIN, name)
            _check(entry, name, in_node)
    elif isinstance(value, list):
        for entry in value:
            _check(entry, key, in_node)
    elif isinstance(value, str) and not (in_node and key in ("as_string", "as_strings")):  # operators get those quoted
        CHECKS.get(key, _plain)(value)


def _fits(pattern: re.Pattern[str], text: str) -> None:
    if not pattern.fullmatch(text):
        raise Refused(f"{text[:60]!r} is not a name")


def _plain(text: str) -> None:
    _fits(PLAIN, text)


def _text(text: str) -> None:
    _fits(TEXT, text)


def _identifier(text: str) -> None:
    if text and not text.isidentifier():
        raise Refused(f"{text[:60]!r} is not a name")


def _target(text: str) -> None:
    if not TARGET.fullmatch(text):
        raise Refused(f"{text[:60]!r} is not an operator")
    owner: Any = torch
    for part in text.split(".")[1:] if text.startswith("torch.ops.") else ():
        owner = getattr(owner, part, None)
    if owner is None:
        raise UnknownOperator(text.removeprefix("torch.ops."))


def _expression(text: str) -> None:
    """torch hands these to sympy, which evaluates them."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"{text[:60]!r} is not an expression of sizes") from error
    for node in nodes:
        fits = isinstance(node, SYNTAX)
        if isinstance(node, ast.Call):
            fits = FUNCTION.fullmatch(getattr(node.func, "id", getattr(node.func, "attr", ""))) is not None
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            fits = node.attr in ("size", "stride", "storage_offset", "shape", *ROUNDING.get(owner, ()))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            fits = PLAIN.fullmatch(node.value) is not None
        if not fits:
            raise Refused(f"{text[:60]!r} is not an expression of sizes")


def _results(text: str) -> None:
    """The structure of what is returned: any text may be a key in it, since torch reads it as JSON and nothing else."""
    _structure(text, keys=TEXTUAL)


def _structure(text: str, keys: re.Pattern[str] = PLAIN) -> None:
    """A pytree spec: JSON, with JSON in the texts of its contexts.

    Args:
        text: the spec.
        keys: what its texts may be; those of arguments become names in Python source.
    """

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "__enum__" in value:
                raise Refused("a structure names an enum to be imported")
            if "default_factory_module" in value:
                factory = f"{value['default_factory_module']}.{value.get('default_factory_name')}"
                if factory not in FACTORIES:
                    raise Refused(f"a structure names {factory[:60]!r} to be imported")
            for name, entry in value.items():
                _fits(keys, name)
                walk(entry)
        elif isinstance(value, list):
            for entry in value:
                walk(entry)
        elif isinstance(value, str) and not PLAIN.fullmatch(value):
            inside = _json(value)
            if inside is None:
                _fits(keys, value)
            else:
                walk(inside)

    content = _json(text)
    if content is None and text != "null":
        raise Refused(f"{text[:60]!r} is not a structure")
    walk(content)


def _json(text: str) -> Any:
    """What a text says as JSON; None if it says nothing."""
    try:
        return json.loads(text)
    except ValueError:
        return None
    except RecursionError as error:
        raise Refused(f"{text[:60]!r} is not a structure") from error


CHECKS: dict[str, Callable[[str], None]] = {
    "name": _identifier,
    "as_name": _identifier,
    "forward_arg_names": _identifier,
    "as_string": _text,
    "as_strings": _text,
    "target": _target,
    "as_operator": _target,
    "expr_str": _expression,
    "guards_code": _expression,
    "in_spec": _structure,
    "out_spec": _results,
}


def _check_operators(program: ExportedProgram) -> None:
    """That they are operators at all, torch has verified."""
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, fx.GraphModule)]
    for node in (node for graph in graphs for node in graph.nodes):
        if argument := takes_a_path(node.target):
            raise Refused(f"operator {node.target} takes a {argument}")
