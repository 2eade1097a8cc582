"""What has to happen before any test module is imported, and explainers that several test modules share."""

from collections.abc import Callable
from functools import cache

import pytest
import support  # noqa: F401  # makes torchvision importable: transformers and timm import it
import torch
from support.small import small

import lrp_compiler as lrp

# More threads than cores make small operations slower, and a fixed number keeps runs comparable.
torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test draws the same numbers, alone or after others."""
    torch.manual_seed(0)


@cache
def _explain(name: str, composite: str, dtype: torch.dtype = torch.float32) -> lrp.Explainer:
    example = small(name, dtype)
    return lrp.compile(
        example.model,
        example.args,
        example.kwargs,
        composite=composite,
        target="index",
        dynamic_shapes=example.dynamic_shapes,
    )


@pytest.fixture(scope="session")
def explain() -> Callable[..., lrp.Explainer]:
    """`explain(name, composite, dtype)`: the explainer of a small architecture for `target="index"`, compiled once."""
    return _explain
