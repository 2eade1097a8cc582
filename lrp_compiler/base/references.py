"""What inputs are compared with, where relevance is of differences: the references of a call. Torch-free.

explainer(x, reference="blur")      →      {"x": x, "reference.x": x blurred}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import InputError, did_you_mean
from .metadata import Metadata
from .specs import TensorSpec
from .validate import bind, dtype_of, is_floating, is_number, not_numbers, shortened

PREFIX = "reference."
"""In front of an input's name: the input that takes its reference."""
BLUR = "blur"
SPREAD = 1 / 8
"""Standard deviation of the blur, as a share of the picture's shorter side."""
PICTURE = 4
"""How many dims pictures have, `[batch, channels, height, width]`."""


def bind_with_references(
    about: Metadata, args: Sequence[Any], kwargs: Mapping[str, Any], reference: Any
) -> dict[str, Any]:
    """A value for every input, those of references made from what the call says.

    Args:
        about: what the explainer says about itself.
        args: the model's inputs by position.
        kwargs: and by name; `reference.<input>` among them are taken as they are.
        reference: of all inputs that have one, or by input: an array (dims of size 1 and missing ones in front are
            spread), a number, or "blur". None: zeros, of inputs of floats.

    Raises:
        InputError: as `bind`; a reference that does not fit or holds NaN, or none where the input is no float.
    """
    given = references_by_input(about, reference)
    specs = {spec.name: spec for spec in about.inputs if spec.name in given}
    own = bind(
        [spec for spec in about.inputs if spec.name not in specs],
        args,
        {name: value for name, value in kwargs.items() if name not in specs},
    )
    for name, spec in specs.items():
        of = name.removeprefix(PREFIX)
        if kwargs.get(name) is not None and given[name] is not None:
            raise InputError(f"Input {of!r} has two references: give {name} or reference=, not both.")
        own[name] = kwargs[name] if kwargs.get(name) is not None else _made(spec, of, own[of], given[name])
        if kwargs.get(name) is not None or hasattr(given[name], "shape") or isinstance(given[name], list | tuple):
            _check_numbers(of, own[of], own[name])
    return {spec.name: own[spec.name] for spec in about.inputs}


def references_by_input(about: Metadata, reference: Any) -> dict[str, Any]:
    """`reference.<input>` → what a call says of it, None where it says nothing; of all inputs that have one.

    Args:
        about: what the explainer says about itself.
        reference: of all of them, or by input.

    Raises:
        InputError: no input has one, or none of that name.
    """
    names = [
        spec.name.removeprefix(PREFIX) for spec in about.inputs if about.differences and spec.name.startswith(PREFIX)
    ]
    if reference is not None and not names:
        raise InputError("A reference was given, but relevance is not of differences: compile composite='reference'.")
    if not isinstance(reference, Mapping):
        return {f"{PREFIX}{name}": reference for name in names}
    strange = [name for name in reference if name not in names]
    if strange:
        hint = did_you_mean(strange[0], names) if isinstance(strange[0], str) else ""
        raise InputError(f"reference names {strange[0]!r}{hint}: the inputs that have one are {', '.join(names)}.")
    return {f"{PREFIX}{name}": reference.get(name) for name in names}


def check_said(spec: TensorSpec, reference: Any) -> None:
    """Raises `InputError` if a reference has to be said and is not: of what are no floats.

    Args:
        spec: of the input that takes it.
        reference: what was said.
    """
    if reference is None and not is_floating(spec.dtype):
        name = spec.name.removeprefix(PREFIX)
        raise InputError(
            f"Input {name!r} has no reference that goes without saying: give one, the number of a mask or padding "
            f"token, say, as in reference={{{name!r}: 103}}."
        )


def _made(spec: TensorSpec, name: str, x: Any, reference: Any) -> Any:
    """The reference of one input, as an array or a tensor like x."""
    x = x if hasattr(x, "shape") else _array(name, x)
    check_said(spec, reference)
    reference = 0 if reference is None else reference
    if isinstance(reference, str):
        if reference != BLUR or len(x.shape) != PICTURE or not is_floating(spec.dtype):
            raise InputError(
                f"reference={shortened(reference)} of input {name!r}: give an array, a number, or 'blur' for pictures "
                "of floats, [batch, channels, height, width]."
            )
        return blurred(_array(name, x))
    if isinstance(reference, int | float) and not isinstance(reference, bool):
        _check_number(spec, name, reference)
    if is_number(reference):
        return x.new_full(x.shape, reference) if hasattr(x, "new_full") else np.full(x.shape, reference, x.dtype)
    if not hasattr(reference, "shape"):
        listed = _array(f"{PREFIX}{name}", reference)
        reference = listed.astype(spec.dtype) if is_floating(spec.dtype) and listed.dtype.kind in "if" else listed
    try:
        if hasattr(reference, "expand"):
            return reference.expand(x.shape)
        return np.broadcast_to(reference, tuple(x.shape))
    except (ValueError, RuntimeError):
        shapes = f"{list(reference.shape)}, but the input has {list(x.shape)}"
        raise InputError(f"The reference of input {name!r} has shape {shapes}: it cannot be spread to that.") from None


def _check_number(spec: TensorSpec, name: str, reference: float) -> None:
    """Raises `InputError` if a number cannot be what an input holds everywhere."""
    if not is_floating(spec.dtype):
        fits, what = (
            isinstance(reference, int) or reference.is_integer(),
            f"a whole number is wanted, as {spec.dtype} has",
        )
        whole = spec.dtype.startswith(("int", "uint"))
        fits = fits and (not whole or np.iinfo(spec.dtype).min <= int(reference) <= np.iinfo(spec.dtype).max)
    elif spec.dtype == "bfloat16":
        fits, what = math.isfinite(reference), "a finite number is wanted"
    else:
        largest = float(np.finfo(spec.dtype).max)
        fits, what = -largest <= reference <= largest, f"a finite number is wanted, which {spec.dtype} holds"
    if not fits:
        raise InputError(f"reference={shortened(reference)} of input {name!r}: {what}.")


def _check_numbers(name: str, x: Any, reference: Any) -> None:
    """Raises `InputError` if a reference holds NaN, or an infinite number where the input holds another.

    A mask of −∞ may be its own reference: what is the same at both ends differs by nothing.

    Args:
        name: of the input.
        x: its value.
        reference: an array or a tensor, or nested lists.
    """
    reference = reference if hasattr(reference, "shape") else _array(f"{PREFIX}{name}", reference)
    if not is_floating(dtype_of(reference) or ""):
        return
    if bool((abs(reference) < math.inf).all()):
        return
    if bool((reference != reference).any()):
        raise InputError(f"The reference of input {name!r} holds NaN, so no difference from it is a number.")
    # In double precision: numpy has no bfloat16.
    here, there = (_array(name, value.double() if hasattr(value, "double") else value) for value in (x, reference))
    try:
        sound = bool((np.isfinite(there) | (there == here)).all())
    except ValueError:  # shapes that do not go together are told of elsewhere
        return
    if not sound:
        raise InputError(
            f"The reference of input {name!r} is infinite where the input is not, so no difference from it is a "
            "number: give finite ones."
        )


def _array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(not_numbers(name, value, str(error))) from error


def blurred(pictures: np.ndarray) -> np.ndarray:
    """Pictures blurred by a normal distribution; beyond the border they go on as they end.

    Args:
        pictures: `[batch, channels, height, width]`, floats.
    """
    deviation = SPREAD * min(pictures.shape[-2:])
    reach = max(1, round(3 * deviation))
    places = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (places / max(deviation, 1e-6)) ** 2)
    weights = weights / weights.sum()
    result = pictures.astype(np.float64)
    for dim in (-2, -1):
        size = pictures.shape[dim]
        around = [(0, 0)] * result.ndim
        around[dim] = (reach, reach)
        padded = np.pad(result, around, mode="edge")
        result = sum(
            weight * np.take(padded, range(start, start + size), axis=dim) for start, weight in enumerate(weights)
        )
    return result.astype(pictures.dtype)
