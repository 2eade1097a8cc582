"""Files that are either whole or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_destination(path: str | os.PathLike[str]) -> None:
    """Refuse a path at which no file can be put; worth asking before a long computation.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        IsADirectoryError: `path` is a folder itself.
        PermissionError: the folder is read-only.
    """
    final = Path(path)
    if not final.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {final}: there is no folder {final.parent}.")
    if final.is_dir():
        raise IsADirectoryError(f"Cannot write {final}: it is a folder.")
    if not os.access(final.parent, os.W_OK):
        raise PermissionError(f"Cannot write {final}: folder {final.parent} is read-only.")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to; what was written appears under `path` when the block ends without an error.

    The yielded path has the file's own name, in a temporary folder next to it: a file that is written beside it, such
    as ONNX's external data, may be referred to by name and is moved along. An existing file is replaced in one step
    (companions first, the file itself last); after an error the folder is as it was before.

    Raises:
        OSError: as `check_destination`, before anything is written.
    """
    final = Path(path)
    check_destination(final)
    # Inside the target's own folder, because a rename is atomic only within one file system.
    folder = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        yield folder / final.name
        for written in sorted(folder.iterdir(), key=lambda file: file.name == final.name):
            os.replace(written, final.parent / written.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
