"""What an explainer accepts, checked before it runs. Torch-free: works on anything with `.shape` and `.dtype`.

The runtime calls it with numpy arrays, the torch-side explainer with tensors:

    bound = bind(specs, args, kwargs)       # name -> array, in the order of the specs
    sizes = check(specs, bound)             # {"batch": 2, ...}, or one InputError

Every failure is an `InputError` of one sentence.
"""

import math
import numbers
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from .errors import FormatError, InputError
from .sizes import size_of
from .specs import TensorSpec, brackets

# Casts that keep every value and its meaning. Integer to float is left out on purpose: a uint8 image given
# to a float network is nearly always one that somebody forgot to normalise.
_WIDENS: dict[str, tuple[str, ...]] = {
    "int64": ("int32", "int16", "int8", "uint32", "uint16", "uint8"),
    "int32": ("int16", "int8", "uint16", "uint8"),
    "int16": ("int8", "uint8"),
    "float64": ("float32", "float16", "bfloat16"),
    "float32": ("float16", "bfloat16"),
}


def whole_number(value: Any) -> int | None:
    """The int that a value stands for: one of Python or numpy, or a tensor without dims; `None` if it is none.

    Neither a bool nor a float is one, whatever its value.
    """
    if isinstance(value, bool) or dtype_of(value) == "bool" or tuple(getattr(value, "shape", ())) != ():
        return None
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):
        return None


def dtype_of(value: Any) -> str | None:
    """The dtype of an array or tensor under numpy's name; `None` of anything else."""
    return dtype_name(value) if hasattr(value, "dtype") else None


def dtype_name(array: Any) -> str:
    """The dtype of a numpy array or a torch tensor under numpy's name: `torch.float32` is `float32`."""
    return str(getattr(array.dtype, "name", array.dtype)).removeprefix("torch.")


def is_floating(dtype: str) -> bool:
    """Whether a dtype of this name can hold a NaN."""
    return dtype.startswith(("float", "bfloat", "complex"))


def bind(specs: Sequence[TensorSpec], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Give every input its value, as Python binds arguments.

    Args:
        specs: the inputs that are wanted, in order.
        args: values by position.
        kwargs: values by name.

    Returns:
        Name → value for every spec, in the order of `specs`.

    Raises:
        InputError: too many values, an unknown name, one given twice, or a missing one (None counts as missing).
    """
    takes = f"This explainer takes {_listing([spec.name for spec in specs])}"
    if len(args) > len(specs):
        raise InputError(f"{takes}, but {len(args)} were given by position.")
    bound = dict(zip((spec.name for spec in specs), args, strict=False))
    for name, value in kwargs.items():
        if name in bound:
            raise InputError(f"Input {name!r} is given twice, by position and by name.")
        if all(name != spec.name for spec in specs):
            raise InputError(f"{takes}: {name!r} is none of them.")
        bound[name] = value
    missing = [spec.name for spec in specs if bound.get(spec.name) is None]
    if missing:
        raise InputError(f"{takes}, but {' and '.join(map(repr, missing))} {_is(missing)} missing.")
    return {spec.name: bound[spec.name] for spec in specs}


def own_inputs(
    names: Collection[str], seed_inputs: Sequence[TensorSpec], choices: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell `target`, `position` and `seed` of an explainer from inputs of the model that have such a name.

    Args:
        names: of the model's inputs.
        seed_inputs: what the explainer takes besides: none of these names, as `compile` sees to.
        choices: what a call gave as target, position and seed.
        kwargs: what else it gave by name.

    Returns:
        The choices and the inputs by name.
    """
    taken = {spec.name for spec in seed_inputs}
    own = {name for name, value in choices.items() if name in names and name not in taken and value is not None}
    given = {name: None if name in own else value for name, value in choices.items()}
    return given, {**kwargs, **{name: choices[name] for name in own}}


def not_numbers(name: str, value: Any, reason: str) -> str:
    """What to say of a value that cannot be read as an array."""
    if isinstance(value, Mapping) or hasattr(value, "keys"):
        return (
            f"Input {name!r} is a {type(value).__name__}: give what is in it by name, as in explainer(**batch), or one "
            "of its tensors."
        )
    if "verflow" in reason:
        return f"Input {name!r} holds a number that is out of range: no dtype has so large a one."
    return f"Input {name!r} cannot be read as an array of numbers ({reason})."


def check(
    specs: Sequence[TensorSpec],
    bound: Mapping[str, Any],
    *,
    sizes: Mapping[str, int] | None = None,
    has_nan: Callable[[Any], bool] | None = None,
    ranges: Mapping[str, Sequence[int | None]] | None = None,
) -> dict[str, int]:
    """Compare arrays with their specs; a dtype that widens without loss passes (the caller casts it).

    Args:
        specs: what is wanted.
        bound: name → array, from `bind`.
        sizes: symbolic dimensions that are known already, from an earlier call.
        has_nan: tells whether a floating array holds a NaN; None accepts NaN unseen.
        ranges: least and greatest size of symbolic dimensions, each None where there is none.

    Returns:
        The size of every symbolic dimension, those of `sizes` included.

    Raises:
        InputError: wrong dtype, rank or fixed dimension, dimensions of one name that disagree, an empty one, a NaN.
    """
    found = dict(sizes or {})
    for spec in specs:
        array = bound[spec.name]
        _check_dtype(spec, dtype_name(array))
        _check_shape(spec, tuple(array.shape), found)
        if has_nan is not None and is_floating(spec.dtype) and has_nan(array):
            raise InputError(f"Input {spec.name!r} holds NaN.")
        for dim in spec.shape:
            _check_range(spec.name, dim, found, ranges or {})
    return found


def check_rows(rows: Mapping[str, int], arrays: Mapping[str, Any]) -> None:
    """Refuse what no row of a table is: onnxruntime counts negative numbers from the end, where torch raises.

    Args:
        rows: of inputs that are looked up, how many rows there are.
        arrays: name → array.

    Raises:
        InputError: a number is negative, or too large.
    """
    for name, count in rows.items():
        array = arrays.get(name)
        if array is None or not array.size:
            continue
        wrong = [number for number in (int(array.min()), int(array.max())) if not 0 <= number < count]
        if wrong:
            raise InputError(f"Input {name!r} holds {wrong[0]}, but what it looks up has rows 0 to {count - 1}.")


def check_option(name: str, value: Any, fits: bool, wanted: str) -> None:
    """Refuse an option of a wrong kind.

    Args:
        name: of the option.
        value: what was given.
        fits: whether it is of the right kind.
        wanted: what is wanted, to follow "name is".

    Raises:
        InputError: it does not fit.
    """
    if not fits:
        raise InputError(f"{name} is {wanted}, not {shortened(value)}.")


def check_names(name: str, value: Any) -> tuple[str, ...]:
    """Names as a tuple, whether one or several are given; raises `InputError` if they are none."""
    if isinstance(value, str):
        return (value,)
    several = isinstance(value, Collection) and not isinstance(value, Mapping | bytes)
    check_option(name, value, several and all(isinstance(one, str) for one in value), "a name, or a list of names")
    return tuple(value)


def is_number(value: Any) -> bool:
    """Whether it is a finite number, of Python or numpy; a bool is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def shortened(value: Any) -> str:
    """What a value is, in a message: as it is written where that is short, and else its type."""
    text = repr(value)
    return text if len(text) <= SHORT and "\n" not in text else f"a {type(value).__name__}"


SHORT = 60
"""Of values that are quoted."""


def check_choice(name: str, given: bool, wanted: bool, mode: object, answers: bool = False) -> None:
    """Refuse a run-time `target`, `position`, `seed`, `weights` or `against` that is missing or not wanted.

    Args:
        name: which of them.
        given: whether the caller passed one.
        wanted: whether the explainer was compiled to take one.
        mode: what it was compiled for, such as `argmax`.
        answers: whether it explains the tokens of a text.

    Raises:
        InputError: `given` and `wanted` differ.
    """
    how, kind = {
        "target": ("target='index'", "one class index for each row"),
        "seed": ("seed='tensor'", "a relevance"),
        "position": ("lrp.Target(position='index')", "one position for each row"),
        "weights": ("target=lrp.Answer()", "a number for each token"),
        "against": ("target=lrp.Answer(against='index')", "one token for each place of the text"),
    }[name]
    if answers and name == "target":
        how, kind = "target=lrp.Answer(tokens='index')", "one token for each place of the text"
    if wanted and not given:
        verb = "are" if name == "weights" else "is"
        raise InputError(f"The {name} {verb} missing: this explainer was compiled with {how} and needs {kind}.")
    if given and not wanted:
        raise InputError(
            f"A {name} was given, but this explainer was compiled for {mode!r}; compile with {how} to choose it at "
            "run time."
        )


def several_given(choices: Mapping[str, Any], seed_inputs: Sequence[TensorSpec]) -> list[str]:
    """Which of a call's choices are several, one dim more in front, for an explainer that takes one at a time.

    Args:
        choices: what the caller gave by name, or None.
        seed_inputs: the run-time inputs beyond the model's own.
    """
    ranks = {spec.name: len(spec.shape) for spec in seed_inputs}
    return [name for name, rank in SEVERAL.items() if ranks.get(name) == rank and _rank(choices.get(name)) == rank + 1]


EXTRAS = ("target", "position", "seed", "weights", "against")
"""What a call may choose besides the model's inputs, masks and seeds."""
SEVERAL = {"target": 1, "weights": 2}
"""Choices of which several may come in front, and the dims of one: `[batch]`, `[batch, sequence]`."""


def _rank(value: Any) -> int:
    """How many dims a tensor, or what nested lists hold, has."""
    if isinstance(value, list | tuple) and value:
        return 1 + min(map(_rank, value))
    return len(getattr(value, "shape", ()))


def check_weights(spec: TensorSpec, weights: Any, finite: bool) -> None:
    """Refuse what are no weights of an answer's tokens.

    Args:
        spec: of the input.
        weights: an array or tensor in its shape.
        finite: whether all of them are finite.

    Raises:
        InputError: a weight is NaN or infinite, or the text has one token alone.
    """
    if not finite:
        raise InputError(f"The {spec.name} hold NaN or an infinite number: a token that does not count has weight 0.")
    if weights.shape[-1] < 2:
        raise InputError(
            "The text has one token alone: nothing predicts the first one, so there is no answer to explain."
        )


def count_from_end(name: str, given: Any, size: int | None, tokens: bool = False) -> Any:
    """Whole numbers with the negative ones counted from the end, as Python does; of tokens none is negative.

    Args:
        name: "target", "against" or "position", for messages.
        given: integers of any shape, numpy or torch.
        size: how many classes or positions there are; None if only the lower bound is known.
        tokens: whether the classes are tokens, of which −100 is none, as labels have it where nothing is meant.

    Raises:
        InputError: one of them is out of range, or negative where `size` is not known.
    """
    low = 0 if size is None or tokens else -size
    for index in (int(given.min()), int(given.max())):
        if index < low or (size is not None and index >= size):
            things = "tokens" if tokens else "classes" if name == "target" else "positions"
            known = "numbers start at 0" if size is None else f"the model has {size} {things}, 0 to {size - 1}"
            raise InputError(f"{name.capitalize()} {index} is out of range: {known}.")
    return given if size is None else given + (given < 0) * size


def _check_dtype(spec: TensorSpec, given: str) -> None:
    if given == spec.dtype or given in _WIDENS.get(spec.dtype, ()):
        return
    narrows = spec.dtype in _WIDENS.get(given, ())
    reason = "; narrowing can lose digits, so convert it yourself" if narrows else ""
    if spec.name in ("target", "position"):
        reason = f": a {spec.name} is a whole number"
    elif "bool" in (spec.dtype, given):
        reason = "; for a mask write mask != 0" if spec.dtype == "bool" else f"; convert a mask to {spec.dtype}"
    raise InputError(f"Input {spec.name!r} has dtype {given}, but {spec.dtype} is wanted{reason}.")


def _check_shape(spec: TensorSpec, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    given = f"Input {spec.name!r} has shape {brackets(shape)}, but {brackets(spec.shape)} is wanted"
    if len(shape) != len(spec.shape):
        only_batch_missing = spec.shape[:1] == ("batch",) and len(shape) == len(spec.shape) - 1
        raise InputError(given + (": the batch dimension is missing." if only_batch_missing else "."))
    for position, (size, wanted) in enumerate(zip(shape, spec.shape, strict=True)):
        if isinstance(wanted, str):
            if size == 0:
                raise InputError(f"Input {spec.name!r} is empty: dimension {wanted!r} has size 0.")
            follows = _following(wanted, sizes)
            if follows is not None and size != follows:
                raise InputError(f"{given}: dimension {position} must be {wanted}, here {follows}, not {size}.")
            expected = sizes.setdefault(wanted, size)
            if size != expected:
                raise InputError(
                    f"Input {spec.name!r} has size {size} in dimension {wanted!r}, an input before it {expected}."
                )
        elif size != wanted:
            raise InputError(f"{given}: dimension {position} must be {wanted}, not {size}.")


def _following(dim: str, sizes: Mapping[str, int]) -> int | None:
    """The size of a dimension that follows from others (`2*batch`); `None` where it does not."""
    if dim.isidentifier():
        return None
    try:
        return size_of(dim, sizes)
    except FormatError:
        return None


def _check_range(
    name: str, dim: int | str, sizes: Mapping[str, int], ranges: Mapping[str, Sequence[int | None]]
) -> None:
    low, high = ranges.get(str(dim), (None, None))
    size = sizes.get(str(dim), 0)
    if (low is not None and size < low) or (high is not None and size > high):
        wanted = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
        raise InputError(
            f"Input {name!r} has size {size} in dimension {dim!r}, but the explainer was compiled for {wanted} there."
        )


def _listing(names: Sequence[str]) -> str:
    return f"{len(names)} input{'' if len(names) == 1 else 's'} ({', '.join(names)})"


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
