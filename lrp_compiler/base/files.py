"""Files and folders that are either whole or not there, whoever is killed and whoever else writes."""

import ctypes
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

_SUFFIX = ".writing"
"""Of the temporary folders, which a later writer clears away if their own was killed."""


def check_destination(path: str | os.PathLike[str]) -> None:
    """Refuse a path at which no file can be put; worth asking before a long computation.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        IsADirectoryError: `path` is a folder itself.
        PermissionError: the folder is read-only.
    """
    final = Path(path)
    folder = place_of(final).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"Cannot write {final}: there is no folder {folder}.")
    if final.is_dir():
        raise IsADirectoryError(f"Cannot write {final}: it is a folder.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"Cannot write {final}: folder {folder} is read-only.")


def place_of(path: str | os.PathLike[str]) -> Path:
    """Where a file is written: a symbolic link stays one, and what it leads to is replaced."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


@contextmanager
def atomic_path(path: str | os.PathLike[str], outdated: str | None = None) -> Iterator[Path]:
    """Yield a path to write to; what was written appears under `path` when the block ends without an error.

    The yielded path has the file's own name, in a temporary folder next to it: a file that is written beside it, such
    as ONNX's external data, may be referred to by name and is moved along. An existing file is replaced in one step
    (companions first, the file itself last) and hands on its mode; after an error the folder is as it was before.

    Args:
        path: where to.
        outdated: pattern of an earlier file's companions: those that were not written anew go once the file is there.

    Raises:
        OSError: as `check_destination`, before anything is written.
    """
    check_destination(path)
    final = place_of(path)
    with _scratch(final) as folder:
        with _named(path):
            yield folder / final.name
        with _locked(final.parent):
            written = sorted(folder.iterdir(), key=lambda file: file.name == final.name)
            for file in written:
                _keep_mode(final.parent / file.name, file)
                os.replace(file, final.parent / file.name)
            _clear(final.parent, [outdated] if outdated else [], {file.name for file in written})


@contextmanager
def atomic_pair(
    first: str | os.PathLike[str], second: str | os.PathLike[str], outdated: Iterable[str] = ()
) -> Iterator[tuple[Path, Path]]:
    """Yield two paths to write to; the two files appear together, or none of them.

    A folder that holds nothing else, or is not there yet, is replaced or made in one step. Beside other files, or in
    two folders, the old second file goes before the new first one comes: whoever is killed in between leaves a pair
    that is incomplete, but never one of old and new.

    Args:
        first: where one file goes.
        second: where the other one goes.
        outdated: patterns of an earlier pair's companions, as for `atomic_path`.

    Raises:
        OSError: as `check_destination`, before anything is written; or the two are one path.
    """
    places = place_of(first), place_of(second)
    folders = [Path(os.path.realpath(place.parent)) for place in places]
    names = [place.name for place in places]
    together = folders[0] == folders[1]
    if together and names[0] == names[1]:
        raise FileExistsError(f"Cannot write two parts to one path, {first}: give each its own.")
    own = together and _is_own(folders[0], [*names, *outdated])
    if not own:
        for path in (first, second):
            check_destination(path)
    with ExitStack() as stack:
        # Beside a folder that is to be replaced as a whole, and else beside each file.
        places_of_scratch = folders[:1] if own else [folder / name for folder, name in zip(folders, names, strict=True)]
        made = [stack.enter_context(_scratch(place)) for place in places_of_scratch]
        if own:
            made = [made[0] / folders[0].name] * 2
            made[0].mkdir()
        with _named(first):
            yield made[0] / names[0], made[1] / names[1]
        for folder, part, name in zip(folders, made, names, strict=True):
            _keep_mode(folder / name, part / name)
        stack.enter_context(_locked(*folders))
        if own and _is_own(folders[0], [*names, *outdated]) and _place_folder(made[0], folders[0]):
            return
        written = {file.name for part in made for file in part.iterdir()}
        _put_pair([part / name for part, name in zip(made, names, strict=True)], folders)
        for folder in folders:
            _clear(folder, outdated, written)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new, empty folder; it appears under `path` when the block ends without an error, in place of another.

    The two are exchanged in one step (Linux, macOS). Where the system cannot, the old one is moved aside first; after a
    kill in between the next call brings it back.
    """
    final = place_of(path)
    aside = final.with_name(f".{final.name}.before")
    if aside.is_dir() and not final.exists():
        os.rename(aside, final)
    with _scratch(final) as scratch:
        made = scratch / final.name
        made.mkdir()
        yield made
        with _locked(final.parent):
            if _place_folder(made, final):
                return
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(final, aside)
            try:
                os.rename(made, final)
            except OSError:
                os.rename(aside, final)
                raise
            shutil.rmtree(aside, ignore_errors=True)


def _put_pair(made: list[Path], folders: list[Path]) -> None:
    """Move two files and their companions; the old second file goes before the new first one comes."""
    for file, folder in zip(made, folders, strict=True):
        for beside in [path for path in file.parent.iterdir() if path not in made]:
            os.replace(beside, folder / beside.name)
    first, second = (folder / file.name for file, folder in zip(made, folders, strict=True))
    aside = made[1].with_name(f"{second.name}.before")
    if second.exists():
        os.replace(second, aside)
    try:
        os.replace(made[0], first)
    except OSError:
        if aside.exists():
            os.replace(aside, second)
        raise
    os.replace(made[1], second)


def _place_folder(made: Path, final: Path) -> bool:
    """Put the folder in its place, or in that of another, which is then where it was; False: the system cannot."""
    if final.is_dir():
        _keep_mode(final, made)
    with suppress(OSError):
        os.rename(made, final)  # of no folder, or an empty one
        return True
    return _exchange(made, final)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False: the system cannot."""
    paths = os.fsencode(one), os.fsencode(other)
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return bool(libc.renamex_np(*paths, 2) == 0)  # RENAME_SWAP
        here = -100  # AT_FDCWD: paths as they are
        return bool(libc.renameat2(here, paths[0], here, paths[1], 2) == 0)  # RENAME_EXCHANGE
    return False


def _is_own(folder: Path, patterns: Iterable[str]) -> bool:
    """Whether nothing but files of these names is in the folder, and it can be replaced; it need not be there yet."""
    if not folder.parent.is_dir() or not os.access(folder.parent, os.W_OK):
        return False
    if not folder.exists():
        return True
    if not folder.is_dir() or folder == Path.cwd():
        return False
    return all(any(fnmatchcase(name, pattern) for pattern in patterns) for name in os.listdir(folder))


@contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    """An error of the system that names no file, a full disk for one, names this one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _clear(folder: Path, patterns: Iterable[str], written: set[str]) -> None:
    """Remove what fits a pattern and was not written just now."""
    for file in (file for pattern in patterns for file in folder.glob(pattern)):
        if file.name not in written:
            file.unlink(missing_ok=True)


def _keep_mode(old: Path, new: Path) -> None:
    with suppress(OSError):
        shutil.copymode(old, new)


@contextmanager
def _scratch(final: Path) -> Iterator[Path]:
    """A temporary folder beside `final`, since a rename is atomic only within one file system.

    It is held as long as its process lives: those that nobody holds are of processes that were killed, and are removed.
    """
    start = f".{final.name[:60]}."
    with _locked(final.parent):
        _remove_left(final.parent, start)
        folder = Path(tempfile.mkdtemp(prefix=start, suffix=_SUFFIX, dir=final.parent))
        kept = ExitStack()
        kept.enter_context(held(folder, wait=True))
    with kept:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def clear_left(folder: Path) -> None:
    """Remove the temporary folders in a folder whose processes were killed, whatever file they were for."""
    with _locked(folder):
        _remove_left(folder, ".")


def _remove_left(folder: Path, start: str) -> None:
    for left in glob.glob(f"{glob.escape(start)}*{_SUFFIX}", root_dir=folder):
        with held(folder / left, wait=False) as free:
            if free:
                shutil.rmtree(folder / left, ignore_errors=True)


@contextmanager
def _locked(*folders: Path) -> Iterator[None]:
    """One at a time in these folders, of all threads and processes that ask for it."""
    with ExitStack() as stack:
        for folder in sorted({Path(os.path.realpath(folder)) for folder in folders}):
            if folder.is_dir():
                stack.enter_context(held(folder, wait=True))
        yield


@contextmanager
def held(folder: Path, *, wait: bool) -> Iterator[bool | None]:
    """Hold a folder; says whether it is held. Where folders cannot be locked (None) nobody waits, and nothing is free.

    Args:
        folder: one that is there.
        wait: for whoever holds it, of all threads and processes that ask for it so.
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield None
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine: bool | None = True
        except BlockingIOError:
            mine = False
        except OSError:
            mine = None
        yield mine
    finally:
        os.close(handle)
