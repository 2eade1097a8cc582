"""What has to happen before any test module is imported."""

import support  # noqa: F401  # makes torchvision importable: transformers and timm import it
import torch

# More threads than cores make small operations slower, and a fixed number keeps runs comparable.
torch.set_num_threads(2)
