"""Networks that are exported to ONNX both ways, and what becomes of their relevance on the way."""

from .compare import compared
from .of_images import IMAGES
from .of_texts import TEXTS

NETWORKS = {**IMAGES, **TEXTS}
"""library/name → what builds it."""

__all__ = ["NETWORKS", "compared"]
