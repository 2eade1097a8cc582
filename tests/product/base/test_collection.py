"""The garbage collector is left as it was found."""

import gc

import pytest

from lrp_compiler.base.collection import THRESHOLDS, rare_collection


@pytest.mark.parametrize("given", [(700, 10, 10), (0, 10, 10), (200_000, 5, 5)])
def test_thresholds_are_those_of_before(given: tuple[int, int, int]) -> None:
    own = gc.get_threshold()
    gc.set_threshold(*given)
    try:
        with rare_collection():
            inside = gc.get_threshold()
        assert gc.get_threshold() == given
        with pytest.raises(ZeroDivisionError), rare_collection():
            1 / 0  # noqa: B018
        assert gc.get_threshold() == given
    finally:
        gc.set_threshold(*own)
    assert inside == (given if not given[0] else tuple(map(max, given, THRESHOLDS)))
