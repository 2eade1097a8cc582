"""Imported first, makes torchvision importable next to a torch that it was not built for."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch


def _declared() -> torch.library.Library | None:
    """Declare the two operators that torchvision's import looks for, when its own binary can't be loaded.

    torchvision's binary only loads into the torch build it was compiled for, and without it `import torchvision`
    (hence timm, hence several transformers models) fails on the missing schemas. Nothing here calls the operators.
    Returns the library that holds the declarations; they vanish with it.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None or hasattr(torch.ops.torchvision, "nms"):
        return None
    for binary in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(binary)
        except OSError:
            continue
        return None
    # FRAGMENT may be opened any number of times in a process, DEF only once.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_LIBRARY = _declared()
