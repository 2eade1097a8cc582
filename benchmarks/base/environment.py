"""The environment of peers that want another transformers, in build/peers; made where there is none."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

from benchmarks.base.places import BUILD, ROOT

FOLDER = BUILD / "peers"
PINNED = ("torch", "numpy", "pillow", "safetensors")
"""In the project's own versions."""
PACKAGES = ("transformers==4.52.4", "lxt==2.1", "zennit==0.5.1", "autolrp==0.2.0")


def python() -> Path:
    """Its Python."""
    mark, interpreter = FOLDER / "complete", FOLDER / "bin" / "python"
    if not mark.exists():
        lines = (ROOT / "constraints.txt").read_text().splitlines()
        versions = dict(line.split("==") for line in lines if "==" in line)
        pip = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        venv.create(FOLDER, with_pip=True, clear=True)
        # torch first and alone: the pin takes the build without CUDA, whatever other packages would ask for.
        subprocess.run([*pip, f"torch=={versions['torch']}"], check=True)
        subprocess.run([*pip, *(f"{name}=={versions[name]}" for name in PINNED), *PACKAGES], check=True)
        # Its requirement names a build of torch of its own.
        subprocess.run([*pip, "--no-deps", f"torchvision=={versions['torchvision']}"], check=True)
        mark.touch()
    return interpreter
