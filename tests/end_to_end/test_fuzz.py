"""Random modules under random composites, targets, budgets and shapes: a right result or an `LrpError`, nothing else.

`make fuzz` runs as many as an hour holds; these are the first of them.
"""

import pytest

from benchmarks.sound.fuzz import examine
from benchmarks.sound.modules import draw


def ends_well(seed: int) -> None:
    written = draw(seed)
    row = examine(written)
    assert row["kind"] in ("passed", "refused", "no case"), f"{row}\n{written.script()}"


@pytest.mark.sampled(8)
@pytest.mark.parametrize("seed", range(24))
def test_random_modules(seed: int) -> None:
    ends_well(seed)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_many_random_modules(seed: int) -> None:
    ends_well(seed)
