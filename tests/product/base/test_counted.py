"""Numbers of things, in words."""

import pytest

from lrp_compiler.base.counted import counted


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
