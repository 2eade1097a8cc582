"""Files that are either whole or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to; what was written appears under `path` when the block ends without an error.

    The yielded path has the file's own name, in a temporary folder next to it: a file that is written beside it, such
    as ONNX's external data, may be referred to by name and is moved along. An existing file is replaced in one step
    (companions first, the file itself last); after an error the folder is as it was before.

    Raises:
        FileNotFoundError: the folder of `path` does not exist; raised before anything is written.
        IsADirectoryError: `path` is a folder.
    """
    final = Path(path)
    if not final.parent.is_dir():
        raise FileNotFoundError(f"cannot write {final}: folder {final.parent} does not exist")
    if final.is_dir():
        raise IsADirectoryError(f"cannot write {final}: it is a folder")
    # Inside the target's own folder, because a rename is atomic only within one file system.
    folder = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        yield folder / final.name
        for written in sorted(folder.iterdir(), key=lambda file: file.name == final.name):
            os.replace(written, final.parent / written.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
