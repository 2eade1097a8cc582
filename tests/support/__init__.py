"""Models, oracles and reference results that the tests measure the library against.

No oracle in here imports the library: one that shared code with what it judges would agree with its errors.
"""

import torch

_TORCHVISION_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# A library object takes its definitions with it when it is collected, so this one must outlive the function below.
_torchvision_library: torch.library.Library | None = None


def make_torchvision_importable() -> None:
    """Declare the two operators without which torchvision's Python part does not import.

    The binary operators of torchvision do not load into every CPU build of torch. The model definitions need none of
    them, yet the import fails at registering shapes for `nms`; transformers and timm import torchvision and fail with
    it. Where the binary loads, or where somebody has declared the operators already, nothing is done.
    """
    global _torchvision_library
    if hasattr(torch.ops.torchvision, "nms"):
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        # FRAGMENT may be opened any number of times in a process, DEF only once.
        _torchvision_library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in _TORCHVISION_OPERATORS:
            _torchvision_library.define(operator)


make_torchvision_importable()
