"""Files of torch: what is in a `.pt2`, and AOTInductor's packages."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.export.pt2_archive import PT2ArchiveReader


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
