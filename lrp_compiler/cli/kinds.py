"""What an argument may be: each kind takes the text of one, and hands on its value or says what would be one."""

import argparse
from pathlib import Path
from typing import Any

from lrp_compiler.base.errors import InputError
from lrp_compiler.formats import ending_of


def explainer_path(text: str) -> Path:
    """The path of an explainer that is to be written."""
    try:
        ending_of(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None
    return Path(text)


def against(text: str) -> Any:
    """The token whose logit compile subtracts, or that a run gives it."""
    return "index" if text == "index" else count(text)


def target_mode(text: str) -> Any:
    """Which class compile explains: when it is chosen, or which one, a difference of two, or several."""
    if text in ("argmax", "index", "answer"):
        return text
    if text == "none":
        return None
    try:
        picks = [tuple(map(int, pick.split(":"))) for pick in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} is neither argmax, nor index, nor answer, nor class numbers such as 3, 3:5 or 1,2,3"
        ) from None
    plain = [pick[0] if len(pick) == 1 else pick for pick in picks]
    return plain[0] if len(plain) == 1 else plain


def position(text: str) -> Any:
    """Where in an output compile explains it."""
    if text in ("last", "last-unpadded", "index", "sum"):
        return text
    try:
        steps = tuple(map(int, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is neither last, last-unpadded, index, sum, nor numbers") from None
    return steps[0] if len(steps) == 1 else steps


def numbers(text: str) -> list[float]:
    """A number, or one for each colour."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is neither a number nor numbers such as 0.485,0.456,0.406") from None


def column(text: str) -> tuple[str, str]:
    """Which column of a data set is which input."""
    name, equals, called = text.partition("=")
    if not (name and equals and called):
        raise argparse.ArgumentTypeError(f"{text} is not INPUT=COLUMN")
    return name, called


def reference(text: str) -> tuple[str, Any]:
    """What inputs are compared with: the input ("" for all of them), and a number, "blur" or the path of an array."""
    name, _, value = text.rpartition("=")
    for number in (int, float):
        try:
            return name, number(value)
        except ValueError:
            continue
    if value != "blur" and not value.endswith(".npy"):
        raise argparse.ArgumentTypeError(f"{text} is not [INPUT=]NUMBER, [INPUT=]blur or [INPUT=]FILE.npy")
    return name, value


def option(text: str) -> tuple[str, Any]:
    """A parameter of a composite: a number, one for each channel, or a text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE")
    try:
        found = [float(part) for part in value.split(",")]
    except ValueError:
        return name, value
    return name, found[0] if len(found) == 1 else found


def workers(text: str) -> int | tuple[int, ...]:
    """How many processes, or how many at least and at most."""
    try:
        least, *most = map(int, text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is neither a number nor LEAST:MOST") from None
    return (least, *most) if most else least


def count(text: str) -> int:
    """A whole number from 0 up."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 0 up")
    return int(text)


def target(text: str) -> str | int:
    """A number for all rows, or the file that holds each row's."""
    try:
        return int(text)
    except ValueError:
        return text


def names(text: str) -> list[str]:
    """Names with commas between them."""
    return text.split(",")


def condition(text: str) -> tuple[str, int | list[int]]:
    """Channels that relevance may pass at a value, or the class."""
    path, equals, chosen = text.rpartition("=")
    try:
        numbers = [int(part) for part in chosen.split(",")] if chosen else []
    except ValueError:
        numbers = []
    if not (path and equals and numbers):
        raise argparse.ArgumentTypeError(f"{text} is neither PATH=N[,N] nor y=CLASS")
    return path, numbers[0] if len(numbers) == 1 else numbers
