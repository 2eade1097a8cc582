"""What has to happen before any test module is imported, and explainers that several test modules share."""

import gc
import os
from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest
import support  # noqa: F401  # makes torchvision importable: transformers and timm import it
import torch
from support.small import small

import lrp_compiler as lrp

# Every graph that a test makes is compared with what its stage may contain (see `passes/stages.py`).
os.environ.setdefault("LRP_COMPILER_CHECK", "1")

# Each worker of `make test` has one core, and small operations gain nothing from a second.
torch.set_num_threads(1)
# Graphs are many small objects that stay, explainers are kept for other tests: collect a hundredth as often.
gc.set_threshold(100_000, 50, 100)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Every module of tests draws the same numbers when it is imported, whatever was imported before it."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test draws the same numbers, alone or after others."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cases beyond a sample are heavy; side by side, and so in one worker, is what shares explainers across modules."""
    counts: Counter[str] = Counter()
    for item in items:
        sampled = item.get_closest_marker("sampled")
        if sampled is not None and item.get_closest_marker("heavy") is None:
            test = item.nodeid.partition("[")[0]
            if counts[test] % sampled.args[0]:
                item.add_marker(pytest.mark.heavy)
            counts[test] += 1
    items.sort(key=lambda item: "explain" not in getattr(item, "fixturenames", ()))


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
