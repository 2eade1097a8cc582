"""Packages of npm as they are published: fetched once, kept in the user's cache. Torch-free."""

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError, LrpError


@dataclass(frozen=True)
class Package:
    """A package of npm, and which of its files are wanted."""

    name: str
    version: str
    files: Mapping[str, str]
    """Path in the package → name under which it is copied."""


def copy_package(package: Package, target: Path, source: str | os.PathLike[str] | None = None) -> None:
    """Copy the wanted files to the new folder `target`.

    Args:
        package: which one.
        target: a folder that is not there yet.
        source: the unpacked package; by default npm fetches it into the user's cache.

    Raises:
        InputError: `source` lacks one of the files.
        LrpError: npm is not there, or fails.
    """
    folder = fetched(package) if source is None else Path(source)
    missing = [path for path in package.files if not (folder / path).is_file()]
    if missing:
        wanted = f"the unpacked npm package {package.name} (tested: {package.version})"
        raise InputError(f"{folder} has no {missing[0]}: give the folder of {wanted}.")
    target.mkdir(parents=True)
    for path, name in package.files.items():
        shutil.copyfile(folder / path, target / name)


def fetched(package: Package) -> Path:
    """The unpacked package in the user's cache (`XDG_CACHE_HOME`, or `~/.cache`); npm fetches it if it is not there.

    Raises:
        LrpError: npm is not there, or fails.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrp_compiler" / "npm"
    known = f"{package.name}@{package.version}"
    folder = cache / known.replace("/", "-")
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise LrpError(
            f"There is no npm to fetch {known} with: install Node.js, or give the unpacked package's folder."
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        command = [npm, "pack", "--ignore-scripts", "--loglevel=error", "--pack-destination", scratch, known]
        done = subprocess.run(command, capture_output=True, text=True, cwd=scratch)
        archives = list(Path(scratch).glob("*.tgz"))
        if done.returncode or not archives:
            lines = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()]
            reason = lines[-1] if lines else "no archive came"
            raise LrpError(f"npm cannot fetch {known} ({reason}): try again, or give the unpacked package's folder.")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(scratch, filter="data")
        # Whoever else fetched it meanwhile put the same there.
        with suppress(OSError):
            os.rename(Path(scratch) / "package", folder)
    return folder
