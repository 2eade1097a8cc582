"""The names of reductions, of which `reduce=["channels", "patch:16", "float16"]` is a list. Torch-free.

| name | what becomes of relevance `[batch, *dims]` |
|---|---|
| `channels` | summed over the first of its dims: `[batch, 3, height, width]` → `[batch, height, width]` |
| `features` | summed over the last of its dims: `[batch, words, features]` → `[batch, words]` |
| `heads` | summed over all dims but the first: `[batch, heads, query, key]` → `[batch, heads]` |
| `patch:N` | summed over patches of N by N in its last two dims (of N, if it has one); the last ones of what is left |
| `signs` | its positive and its negative part, apart: `.positive` and `.negative` |
| `top:K` | the K elements of largest magnitude, as int64 `.positions` in the flattened dims and `.values`; where |
|  | there are fewer, −1 and 0 |
| `float16` | rounded to 11 bits, the last of all: below 6e-8 it is 0, above 65504 infinite |
| `sums` | as it is |

Relevance of fewer dims than a name needs is left as it is, of token ids by `heads` for instance. Σ relevance of every
input and what else took a share (`absorbed`) are returned with any of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from .errors import InputError, did_you_mean

HALF, SUMS = "float16", "sums"
LEAST = {"channels": 2, "features": 2, "heads": 3, "patch": 1, "signs": 0, "top": 1, HALF: 0, SUMS: 0}
"""Name → how many dims relevance must have behind the batch."""
COUNTED = ("patch", "top")
"""Names that take a number."""


def parsed(name: str) -> tuple[str, int]:
    """`"patch:16"` → `("patch", 16)`; 0 where the name takes no number."""
    word, _, number = name.partition(":")
    return word, int(number or 0)


def check_reductions(asked: Any) -> tuple[str, ...]:
    """The names asked for, one or a list.

    Raises:
        InputError: there is none of this name, a number is missing or too many, float16 is not the last.
    """
    names = (asked,) if isinstance(asked, str) else tuple(asked) if isinstance(asked, list | tuple) else (asked,)
    for name in names:
        word, colon, number = name.partition(":") if isinstance(name, str) else (name, "", "")
        if word not in LEAST:
            hint = did_you_mean(word, LEAST)
            known = ", ".join(f"{known}:N" if known in COUNTED else known for known in LEAST)
            raise InputError(f"There is no reduction {name!r}{hint}: choose among {known}.")
        counted = number.isascii() and number.isdigit() and 0 < int(number) < 1 << 31
        if counted != (word in COUNTED) or bool(colon) != (word in COUNTED):
            wanted = f"a number, such as {word}:16" if word in COUNTED else "no number"
            raise InputError(f"The reduction {word!r} takes {wanted}, not {name!r}.")
    if HALF in names[:-1]:
        raise InputError("float16 is the last reduction: what follows would be calculated in half precision.")
    if len([name for name in names if name.startswith("top:")]) > 1:
        raise InputError("The largest of the largest are those of the smaller number: give top once.")
    top = next((number for number, name in enumerate(names) if name.startswith("top:")), len(names))
    if any(name not in (HALF, SUMS) for name in names[top + 1 :]):
        raise InputError(
            f"What follows {names[top]!r} has no dims to be summed over: give {names[top + 1]!r} before it."
        )
    return names


def keeps_sums(names: Sequence[str]) -> bool:
    """Whether what is left of relevance still adds up to all of it."""
    return all(parsed(name)[0] != "top" for name in names)


def check_taken(names: Sequence[str], taken: Collection[int]) -> None:
    """Refuse a reduction that no relevance has the dims for; raises `InputError`.

    Args:
        names: of the reductions.
        taken: places in that list of those that one had.
    """
    for at, name in enumerate(names):
        if at not in taken:
            least = LEAST[parsed(name)[0]]
            what = f"{least} dim{'s' * (least != 1)} behind the batch"
            raise InputError(f"The reduction {name!r} needs {what}, and no relevance that is returned has them there.")
