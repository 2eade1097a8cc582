"""Conditions on rows: what holds for the rows of a small table, by hand."""

import numpy as np
import pytest

from lrp_compiler.data.where import Where
from lrp_compiler.data.window import Window
from lrp_compiler.errors import InputError

ROWS = Window({"n": [0, 1, 2, 3, None], "s": list("abcab")}, np.arange(5), np.arange(5), {4: "broken"})


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("n == 1", [1]),
        ("n > 0 and s != 'b'", [2, 3]),
        ("1 <= n < 3", [1, 2]),
        ("n < 1 or s == 'c'", [0, 2]),
        ("not s == 'a'", [1, 2]),
        ("s in ('a', 'c')", [0, 2, 3]),
        ("s not in ['a']", [1, 2]),
        ("n is not None and n != 2", [0, 1, 3]),
        ("-1 < n < 1", [0]),
    ],
)
def test_a_condition_picks_rows(text: str, kept: list[int]) -> None:
    found = Where(text).of(ROWS)

    assert found.ids.tolist() == [*kept, 4]  # a row that cannot be read is not lost
    assert found.errors == {len(kept): "broken"}
    assert found.columns["s"] == ["abcab"[row] for row in [*kept, 4]]


@pytest.mark.parametrize(
    "text", ["n ==", "n + 1", "f(n)", "n.real == 1", "n in 3", "n is 3", "n == [1]", "", "n = 1", "3"]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no condition"):
        Where(text)


def test_values_that_do_not_compare_are_said() -> None:
    with pytest.raises(InputError, match="does not fit the columns"):
        Where("n == 'a'").of(ROWS)
