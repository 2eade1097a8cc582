"""Masks and seeds of a call: what is given for values inside the network, by the names of inputs. Torch-free.

    explainer(x, masks={"features.28": mask})      →      {"mask.features.28": mask}

What is not given holds its default. A value may have one dim more in front, the conditions: the forward is run once,
and relevance for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import FormatError, InputError, did_you_mean
from .metadata import Metadata
from .sizes import size_of
from .specs import LatentSpec, TensorSpec
from .validate import check_option, dtype_name

KINDS = {"masks": "mask", "seeds": "seed"}
"""Argument of a call → kind of a latent."""


@dataclass(frozen=True)
class Passing:
    """A mask that says itself what becomes of relevance which by-passes its layer, where the layer asks: of several
    conditions some may say nothing of it.

    Args:
        mask: as a call takes it.
        past: what is on its way past the layer times this: 0 drops it, 1 leaves it; `[conditions, batch]`, or less.
    """

    mask: Any
    past: Any


def latent_inputs(about: Metadata, masks: Any, seeds: Any) -> dict[str, Any]:
    """What is given, by the names of inputs.

    Args:
        about: what the explainer says about itself.
        masks: path → mask, or `Passing`; None: none.
        seeds: path → what is put there.

    Raises:
        InputError: there is no such path, or the explainer takes none; nothing at all is put anywhere.
    """
    given: dict[str, Any] = {}
    for argument, values in (("masks", masks), ("seeds", seeds)):
        if values is None:
            continue
        fits = isinstance(values, Mapping) and all(isinstance(path, str) for path in values)
        check_option(argument, values, fits, "a dict from paths to tensors")
        known = {each.path: each for each in about.latents if each.kind == KINDS[argument]}
        for path, value in values.items():
            if path not in known:
                raise InputError(_unknown(argument, path, known))
            if value is not None:
                whole = value if isinstance(value, Passing) else Passing(value, 0.0)
                given[known[path].name] = whole.mask
                given |= {each.name: whole.past for each in about.latents if (each.kind, each.path) == ("past", path)}
    if about.picks is None and not any(each.name in given for each in about.latents if each.kind == "seed"):
        paths = ", ".join(each.path for each in about.latents if each.kind == "seed")
        raise InputError(f"Nothing is put anywhere: this explainer has no target, so give seeds= for {paths}.")
    return given


def _unknown(argument: str, path: str, known: Mapping[str, LatentSpec]) -> str:
    if not known:
        return f"{argument}= was given, but this explainer takes none: compile with {argument}=[{path!r}]."
    return (
        f"This explainer takes {argument} for {', '.join(known)}: {path!r} is none of them{did_you_mean(path, known)}."
    )


def conditions_of(about: Metadata, given: Mapping[str, Any]) -> int | None:
    """How many conditions are given at once, in front of all else; None: one, without a dim for it.

    Args:
        about: what the explainer says about itself.
        given: tensors or arrays by name of the input: masks and seeds, and of the choices those that are several.

    Raises:
        InputError: the numbers differ, or there are none.
    """
    counts = {}
    specs = {spec.name: spec for spec in about.seed_inputs}
    for name, value in given.items():
        shape = tuple(getattr(value, "shape", ()))
        if len(shape) > len(specs[name].shape):
            counts[name] = shape[0]
    if len(set(counts.values())) > 1:
        (one, first), (other, second) = sorted(counts.items(), key=lambda item: item[1])[:: len(counts) - 1]
        raise InputError(f"Input {one!r} holds {first} conditions, but {other!r} holds {second}: give as many of each.")
    count = next(iter(counts.values()), None)
    if count == 0:
        name = next(iter(counts))
        thing = {"target": "target", "weights": "span"}.get(name, "condition")
        raise InputError(f"No {thing} is given: {name} has shape [0, …].")
    return count


def condition(about: Metadata, given: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What is given for one of several conditions."""
    ranks = {spec.name: len(spec.shape) for spec in about.seed_inputs}
    return {
        name: value[number] if len(getattr(value, "shape", ())) > ranks[name] else value
        for name, value in given.items()
    }


def whole_shape(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of an input at these open sizes; 1, which is broadcast, where a size does not follow from them."""
    return tuple(_size(dim, sizes) for dim in spec.shape)


def _size(dim: int | str, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    try:
        return sizes[dim] if dim in sizes else size_of(dim, sizes)
    except FormatError:
        return 1


def check_spread(spec: TensorSpec, value: Any, whole: Sequence[int]) -> None:
    """Refuse what is no mask or seed: real numbers or flags, of a shape that can be broadcast to the input's: dims may
    be missing in front, or have size 1. Their precision is the input's, whatever it was.

    Raises:
        InputError: it is none.
    """
    shape, dtype = tuple(value.shape), dtype_name(value)
    if not dtype.startswith(("float", "bfloat", "int", "uint", "bool")):
        raise InputError(f"Input {spec.name!r} has dtype {dtype}, but {spec.dtype} is wanted.")
    pairs = zip(reversed(list(shape)), reversed(list(whole)), strict=False)
    if len(shape) > len(whole) or any(size not in (1, wanted) for size, wanted in pairs):
        wanted = f"[{', '.join(map(str, spec.shape))}]"
        here = f", here {list(whole)}" if list(whole) != list(spec.shape) else ""
        raise InputError(f"Input {spec.name!r} has shape {list(shape)}, but {wanted} is wanted{here}.")
