"""The environment of the sweep, in build/sound: this one's packages and, besides, the libraries that are swept."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.base import beside
from benchmarks.base.places import BUILD

FOLDER = BUILD / "sound"
PACKAGES = (
    *("expecttest", "timm", "torchvision", "transformers", "monai", "segmentation-models-pytorch", "torch-geometric"),
    *("torchaudio", "vit-pytorch", "x-transformers", "rtdl-revisiting-models", "pytorch-tabnet", "diffusers"),
    *("tab-transformer-pytorch", "itransformer", "pytorch-tcn", "zuko", "nflows"),
)
"""Without what they require: torch stays the one that is here."""
REQUIRED = (
    *("einops", "einx", "hyper-connections", "rotary-embedding-torch", "beartype", "jaxtyping", "wadler-lindig"),
    *("delu", "torch-einops-utils", "aiohttp", "xxhash", "pyparsing", "loguru", "importlib-metadata", "zipp"),
    *(
        "aiosignal",
        "aiohappyeyeballs",
        "multidict",
        "yarl",
        "frozenlist",
        "propcache",
        "attrs",
        "UMNN",
        "frozendict",
        "x-mlps-pytorch",
        "discrete-continuous-embed-readout",
        "gateloop-transformer",
    ),
)
"""Of what they import, what does not ask for torch."""


def python() -> Path:
    """Its Python; made where there is none."""
    return beside.made(FOLDER, _fill)


def _fill(pip: list[str | Path]) -> None:
    for package in (*REQUIRED, *PACKAGES):
        # One that a machine cannot get leaves its library out of the table, and says so there.
        subprocess.run([*pip, "--no-deps", package], check=False)
    for binary in FOLDER.glob("lib/python*/site-packages/torchaudio/lib/*.so"):
        binary.unlink()  # made for another torch; the layers are Python
