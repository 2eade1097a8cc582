"""Models, oracles and reference results that the tests measure the library against.

No oracle in here imports the library: one that shared code with what it judges would agree with its errors.
"""

from benchmarks.networks import torchvision_operators  # noqa: F401  # before timm, transformers and zennit
