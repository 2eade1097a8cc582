"""What an op is, apart from its rule: traits that the passes read.

    declare(aten.relu.default, sign=always_nonnegative, rectifies=lambda given: True)

A trait stands next to the operator that it belongs to; ops that have no operator (`aten.full`) have their traits in
`operators/plain.py`. Each trait is about the op itself: what follows from it is the business of the pass that asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor

from lrp_compiler.torch_private import OpOverload

Handle = Any
"""What stands for a forward value among an operation's arguments: whatever `Values.fetch` understands."""
Arguments = Mapping[str, Any]
"""Arguments of a call by schema name, defaults filled in (see `bind`)."""


@dataclass(frozen=True)
class Call:
    """A call as the analysis of signs sees it.

    Args:
        arguments: by schema name; operands are handles.
        floats: the operands that are floating-point tensors.
        known: whether the value of a handle is known to be ≥ 0.
    """

    arguments: Arguments
    floats: Sequence[Handle]
    known: Callable[[Handle], bool]


Sign = Callable[[Call], bool]
"""Whether the result of the call is ≥ 0 for every input."""

Products = Callable[[Arguments, Sequence[int]], int]
"""(arguments by schema name, sizes in place of tensors; sizes of the result) → a number."""

Derivative = Callable[[Any, Tensor], Tensor]
"""(op, x) → f′(x); the op is an `Op`, whose module reads traits."""


class Summand(NamedTuple):
    """How an operand goes into a sum.

    Args:
        sign: +1 or −1.
        factor: name of the argument that multiplies it besides, if one does.
    """

    sign: int
    factor: str | None = None


@dataclass(frozen=True)
class Traits:
    """What an op is.

    Args:
        sign: when its result is ≥ 0; `None`: never for certain.
        rectifies: whether a call's result is 0 wherever its operand is ≤ 0, and nowhere less.
        free: a view or a cast: computing it again takes nothing worth counting.
        copies: the same values, of the same shape and dtype.
        casts: the same values, perhaps of another dtype.
        bins: gives each element the number of the bin that it falls into.
        may_do_nothing: whether a call with such arguments gives the operand itself where shape and dtype stay.
        neutral: the number that, as `other`, changes nothing.
        pads: puts a border around the last dims of its operand.
        indices: integer operands whose relevance is that of what they looked up.
        picks_by: operands that say which elements, not how much: an index, a mask; of several the name of their list.
        counted_by: operands of whose values it depends how many elements there are, where not on those of all.
        ranks: picks elements along a dim; its results are the values, and the indices where these stood.
        bias: name of the operand that is added to a linear map's result.
        bias_trails: how many dims follow the one along which that bias lies, if the op takes one at all.
        output_channel: of an op that a batch norm folds into: the dim of its weight that is the output channel.
        reduces: takes dims away, by a sum, a mean, a spread or a norm.
        roots: takes a square root.
        inverts: gives 1 over what it is given.
        arithmetic: calculates on single elements by +, −, ×, ÷, powers and bounds, or changes the shape.
        pairs: calculates on pairs of elements.
        powers: of a product or a quotient of its operands: the power of each, 1 or −1.
        sums: of a sum of its operands: how each goes in.
        matrices: of a plain product of matrices or vectors, A B: the two operands.
        of_shape: makes its result from its operand's shape and dtype, whatever the values.
        algebra: works on whole matrices, as an inverse or a factorisation does: no element has a share.
        extreme: +1: gives the largest of what it is given, −1: the smallest.
        derivative: of a function of one operand with corners or poles: (op, x) → f′(x); others need none.
        undefined: whether a call may give NaN or an infinite value of operands that are finite.
        chooses: takes each element from one of its operands, whatever the others have there.
        clamps: bounds its first operand, element by element; values that lie between the bounds stay.
        products: of a product of matrices or a convolution: how many products of two numbers it takes.
        squashes: makes a probability, or its logarithm, of a logit.
        logarithms: how many logarithms it takes, of its operand or of the probability that it makes of it; exp: −1.
        lowered: of an op of the project's own: the function of torch's that does the same.
    """

    sign: Sign | None = None
    rectifies: Callable[[Arguments], bool] | None = None
    free: bool = False
    copies: bool = False
    casts: bool = False
    bins: bool = False
    may_do_nothing: Callable[[Arguments], bool] | None = None
    neutral: float | None = None
    pads: bool = False
    indices: tuple[str, ...] = ()
    picks_by: tuple[str, ...] = ()
    counted_by: tuple[str, ...] = ()
    ranks: bool = False
    bias: str | None = None
    bias_trails: int | None = None
    output_channel: int | None = None
    reduces: bool = False
    roots: bool = False
    inverts: bool = False
    arithmetic: bool = False
    pairs: bool = False
    powers: Mapping[str, int] = field(default_factory=dict)
    sums: Mapping[str, Summand] = field(default_factory=dict)
    matrices: tuple[str, str] | None = None
    of_shape: bool = False
    algebra: bool = False
    extreme: int = 0
    derivative: Derivative | None = None
    undefined: Callable[[Call], bool] | None = None
    chooses: bool = False
    clamps: bool = False
    products: Products | None = None
    squashes: bool = False
    logarithms: int = 0
    lowered: Callable[..., Tensor] | None = None


class Given(TypedDict, total=False):
    """The same by name, of which some are said."""

    sign: Sign | None
    rectifies: Callable[[Arguments], bool] | None
    free: bool
    copies: bool
    casts: bool
    bins: bool
    may_do_nothing: Callable[[Arguments], bool] | None
    neutral: float | None
    pads: bool
    indices: tuple[str, ...]
    picks_by: tuple[str, ...]
    counted_by: tuple[str, ...]
    ranks: bool
    bias: str | None
    bias_trails: int | None
    output_channel: int | None
    reduces: bool
    roots: bool
    inverts: bool
    arithmetic: bool
    pairs: bool
    powers: Mapping[str, int]
    sums: Mapping[str, Summand]
    matrices: tuple[str, str] | None
    of_shape: bool
    algebra: bool
    extreme: int
    derivative: Derivative | None
    undefined: Callable[[Call], bool] | None
    chooses: bool
    clamps: bool
    products: Products | None
    squashes: bool
    logarithms: int
    lowered: Callable[..., Tensor] | None


PLAIN = Traits()
TRAITS: dict[object, Traits] = {}
"""Op → its traits, for those that have any."""
_DECLARED: dict[object, dict[str, Any]] = {}
"""Op → what was said of it, by name: that a trait is not there is said, too."""


def declare(*targets: object, **given: Unpack[Given]) -> None:
    """Write down traits of ops.

    Raises:
        TypeError: there is no such trait.
        ValueError: another value was declared for one of the ops already.
    """
    names = {field.name for field in fields(Traits)}
    unknown = sorted(set(given) - names)
    if unknown:
        raise TypeError(f"there is no trait {unknown[0]!r}")
    for target in targets:
        known = _DECLARED.setdefault(target, {})
        for name, value in given.items():
            if known.setdefault(name, value) != value:
                raise ValueError(f"{target} has {name}={known[name]!r} already")
        TRAITS[target] = Traits(**known)


def existing(*names: str) -> list[OpOverload]:
    """The default overloads of those of the ATen ops that there are in this release of torch.

    An op that only some of the supported releases have is named by this: an attribute that is not there is an error
    while the library is imported.
    """
    packets = (getattr(torch.ops.aten, name, None) for name in names)
    return [packet.default for packet in packets if packet is not None]


def traits(target: object) -> Traits:
    """The traits of an op."""
    return TRAITS.get(target, PLAIN)


def summands(target: object, given: Arguments) -> Mapping[str, float]:
    """By which number each operand goes into the sum that a call is.

    Args:
        target: the op.
        given: its arguments by schema name.

    Returns:
        Operand → number; nothing where it is no sum, or where a number varies with the sizes.
    """
    found: dict[str, float] = {}
    for name, (sign, factor) in traits(target).sums.items():
        number = 1 if factor is None else given[factor]
        if not isinstance(number, (int, float)):
            return {}
        found[name] = sign * number
    return found


def always(given: object) -> bool:
    """Whatever the call."""
    return True


def always_nonnegative(call: Call) -> bool:
    """A result that is ≥ 0 whatever the input (ReLU, sigmoid, softmax, exp, squares)."""
    return True


def keeps_sign(*numbers: str) -> Sign:
    """A result that is ≥ 0 if every float operand is.

    Args:
        numbers: names of the operands that may be plain numbers, which must be ≥ 0, too, or handles of such.
    """

    def sign(call: Call) -> bool:
        given = [call.arguments[name] for name in numbers]
        plain = [value for value in given if isinstance(value, (int, float))]
        handles = [*call.floats, *(value for value in given if not isinstance(value, (int, float)))]
        return all(value >= 0 for value in plain) and all(map(call.known, handles))

    return sign


def filled_with(name: str) -> Sign:
    """A constant: ≥ 0 if the number that it is filled with is."""

    def sign(call: Call) -> bool:
        value = call.arguments[name]
        return isinstance(value, (int, float)) and value >= 0

    return sign
