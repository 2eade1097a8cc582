"""What masks cost: nothing where they are not given; of many conditions the forward is run once."""

import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.small import small
from support.zoo import SEVEN
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import lrp_compiler as lrp

CONDITIONS = 50
MASKED = ["features.28", "features.17"]


class Counting(TorchDispatchMode):
    """Counts the operations that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


def convolutions(run: Callable[[], Any]) -> int:
    with Counting() as counting:
        run()
    return sum(count for name, count in counting.counts.items() if "conv" in name)


@pytest.mark.heavy
def test_fifty_conditions_run_the_forward_once() -> None:
    example = small("vgg16")
    (x,), _ = example.fresh(batch=1, seed=3)
    explainer = lrp.compile(example.model, (x,), composite="epsilon-plus", target=1, masks=MASKED)
    channels = explainer.about.seed_inputs[0].shape[1]
    masks = {MASKED[0]: (torch.rand(CONDITIONS, 1, int(channels)) < 0.5)}

    with torch.no_grad():
        forward = convolutions(lambda: explainer.artefact.parts[0](x))
        whole = convolutions(lambda: explainer(x))
        many = convolutions(lambda: explainer(x, masks=masks))

    assert forward > 0
    assert many == forward + CONDITIONS * (whole - forward)


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "paths"), [("vgg16", MASKED), ("resnet50", ["layer4.0.conv2", "layer2.0.conv3"])])
def test_masks_that_are_not_given_cost_next_to_nothing(name: str, paths: list[str]) -> None:
    example = SEVEN[name].build(image_size=96)
    (x,), _ = example.fresh(batch=2, seed=3)
    plain = lrp.compile(example.model, (x,), composite="epsilon-plus", target=1)
    masked = lrp.compile(example.model, (x,), composite="epsilon-plus", target=1, masks=paths)
    assert torch.equal(plain(x).relevance["x"], masked(x).relevance["x"])

    ratios = [seconds(lambda: masked(x)) / seconds(lambda: plain(x)) for _ in range(41)]

    assert statistics.median(ratios) <= 1.03


@pytest.mark.heavy
def test_fifty_conditions_cost_no_more_than_fifty_times_relevance() -> None:
    example = SEVEN["vgg16"].build(image_size=96)
    (x,), _ = example.fresh(batch=1, seed=3)
    explainer = lrp.compile(example.model, (x,), composite="epsilon-plus", target=1, masks=MASKED)
    channels = int(explainer.about.seed_inputs[0].shape[1])
    masks: dict[str, Tensor] = {MASKED[0]: torch.rand(CONDITIONS, 1, channels)}
    explainer(x, masks=masks)

    def ratio() -> float:
        whole = seconds(lambda: explainer(x))
        return seconds(lambda: explainer(x, masks=masks)) / (CONDITIONS * whole)

    # Each of them leaves the forward out: less than fifty explanations, whatever the share of the forward.
    assert statistics.median(ratio() for _ in range(7)) <= 1.0
