"""Numbers of things, in words."""

import pytest

from lrp_compiler.base.counted import counted, pace


@pytest.mark.parametrize(
    ("count", "what", "said"),
    [
        (0, "row", "0 rows"),
        (1, "row", "1 row"),
        (12_000, "row", "12,000 rows"),
        (1, "class|classes", "1 class"),
        (2, "class|classes", "2 classes"),
        (1, "node has|nodes have", "1 node has"),
    ],
)
def test_one_is_one_and_more_are_several(count: int, what: str, said: str) -> None:
    assert counted(count, what) == said


@pytest.mark.parametrize(
    ("rate", "said"), [(12_345.6, "12,346"), (10.4, "10"), (9.4, "9.4"), (0.2361, "0.24"), (1, "1"), (0.0004, "0.0004")]
)
def test_what_is_slow_is_not_told_as_nothing(rate: float, said: str) -> None:
    assert pace(rate) == said
