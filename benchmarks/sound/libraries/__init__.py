"""The libraries that are swept, each with the names of its models and how one is built small."""

from .example import Example as Example
from .example import Library as Library
from .example import NotBuilt as NotBuilt
from .of_images import TIMM, TORCHVISION
from .of_others import OTHERS
from .of_transformers import TRANSFORMERS

LIBRARIES = {library.package: library for library in (TORCHVISION, TIMM, TRANSFORMERS, *OTHERS)}
