"""Which function runs which ONNX operator: one table, filled by the files in `operators/`.

    @onnx_op("Conv")
    def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, group: int = 1, …) -> Tensor: ...

Inputs are positional, attributes are keywords of the same name. What the function takes says its signature: `Tensor`
(sizes are made tensors), `Operand` (a single number comes as that), `Sizes` (a tensor is read), `Known` (a tensor, or
sizes where they are known), `Any` (as it is). An attribute that is not in the
signature, and a keyword without a default that is not in the file, are refused with a sentence. Three keywords are no
attributes: `outputs`, how many results are asked for, `opset`, that of the file, and `stored`, ONNX's numbers of the
inputs' dtypes, where they are constants: torch has no whole numbers of 4 bits.

Of several functions for an operator the one with the largest `since` up to the file's opset runs. `@size_form` adds
what an operator does to sizes, `@scaled_form` what to whole numbers that stand for others; where these return
`NotImplemented` the tensors' function runs.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import onnx
from torch import Tensor

from lrp_compiler.base.errors import FormatError, did_you_mean

from .sizes import Sizes

V = TypeVar("V")
F = TypeVar("F", bound=Callable[..., Any])
Operand = Tensor | float
"""An operand of arithmetic: a single number that is a constant, or a size, comes as that."""
Known = Tensor | Sizes
"""Numbers that are looked at where they are known: as sizes then, and else as a tensor."""
GIVEN = ("outputs", "opset", "stored")
"""Keywords of an operator's function that are no attributes."""


@dataclass(frozen=True)
class Prepared:
    """Weights that an operator's function takes in another form: made once, where they are constants.

    Args:
        positions: of the inputs that go; the function gets None for them, and what was made as `*rest`.
        function: of these inputs, and of the keywords.
        keywords: attributes that it takes besides.
        names: (which of the inputs are there, the keywords) → a word for each of its results.
    """

    positions: tuple[int, ...]
    function: Callable[..., tuple[Tensor, ...]]
    keywords: tuple[str, ...]
    names: Callable[..., list[str]]


@dataclass(frozen=True)
class Operator:
    """A function that runs an ONNX operator.

    Args:
        function: of the inputs and attributes.
        since: the first opset of which it is true.
        fold: whether it is worked out once, when nothing but constants goes in.
        kinds: of each positional parameter what it takes: `Tensor`, `Sizes` or `Any`.
        rest: the same of `*inputs`; None where there are none.
        attributes: names of the keywords, in order.
        required: those without a default.
        needs: positions of the inputs that there must be.
        numbers: attributes that are tensors, and of which the numbers are wanted.
        prepared: what is done to its weights before.
        neutral: position of an input → the number that changes nothing there.
    """

    function: Callable[..., Any]
    since: int
    fold: bool
    kinds: tuple[Any, ...]
    rest: Any
    attributes: tuple[str, ...]
    required: tuple[str, ...]
    needs: tuple[int, ...]
    numbers: frozenset[str]
    prepared: Prepared | None = None
    neutral: Mapping[int, float] = field(default_factory=dict)

    def kind(self, position: int) -> Any:
        """What is taken at this position; None: nothing."""
        return self.kinds[position] if position < len(self.kinds) else self.rest


@dataclass
class Entry:
    """All that is known of an operator."""

    revisions: list[Operator] = field(default_factory=list)
    sizes: Callable[..., Any] | None = None
    scaled: Callable[..., Any] | None = None


TABLE: dict[tuple[str, str], Entry] = {}
"""(domain, operator) → its functions."""
Condition = Callable[[dict[str, Any]], bool]
"""Of a node's attributes, as the file has them."""
REASONS: dict[tuple[str, str], list[tuple[str, Condition | None]]] = {}
"""(domain, operator) → why it has no function, and when: the rest of a sentence that starts with its name."""


def onnx_op(
    *names: str,
    since: int = 1,
    domain: str = "",
    fold: bool = True,
    prepared: Prepared | None = None,
    neutral: Mapping[int, float] | None = None,
    options_of: Callable[..., Any] | None = None,
) -> Callable[[F], F]:
    """Register a function for operators of these names.

    Args:
        names: of the operators, as in the file.
        since: the first opset of the domain of which the function is true.
        domain: "" is ONNX's own.
        fold: False keeps it out of constant folding: what it makes is larger than what goes in, or random.
        prepared: what is done to its weights before.
        neutral: position of an input → a number: a constant that holds nothing else is left out.
        options_of: the function whose attributes are taken as well, as `**options` to be handed on to it.
    """

    def register(function: F) -> F:
        for name in names:
            entry = TABLE.setdefault((domain, name), Entry())
            operator = operator_like(function, since, fold, options_of)
            entry.revisions.append(replace(operator, prepared=prepared, neutral=neutral or {}))
            entry.revisions.sort(key=lambda revision: revision.since)
        return function

    return register


def size_form(*names: str, domain: str = "") -> Callable[[F], F]:
    """Register what operators do to sizes; the function takes `Sizes` for every input, and the same attributes."""

    def register(function: F) -> F:
        for name in names:
            TABLE.setdefault((domain, name), Entry()).sizes = function
        return function

    return register


def scaled_form(*names: str, domain: str = "") -> Callable[[F], F]:
    """Register what operators do to whole numbers that stand for others: the function takes these as `Scaled`.

    Where it returns `NotImplemented` the tensors' function runs.
    """

    def register(function: F) -> F:
        for name in names:
            TABLE.setdefault((domain, name), Entry()).scaled = function
        return function

    return register


def no_operator(reason: str, *names: str, domain: str = "", when: Condition | None = None) -> None:
    """Say why operators have no function.

    Args:
        reason: the rest of a sentence that starts with the operator's name.
        names: of the operators.
        domain: "" is ONNX's own.
        when: of which attributes that is true; None: always.
    """
    for name in names:
        REASONS.setdefault((domain, name), []).append((reason, when))


def reason_against(domain: str, node: onnx.NodeProto) -> str:
    """Why a node cannot be explained, as `no_operator` says; "" where nothing is said."""
    known = REASONS.get((domain, node.op_type))
    if known is None:
        return ""
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    return next((reason for reason, when in known if when is None or when(attributes)), "")


def chosen(table: Mapping[str, V], word: str, what: str) -> V:
    """The entry of this name; raises `FormatError`, the sentence beginning with `what`, where there is none."""
    if word not in table:
        raise FormatError(f"{what} is {word!r}, and can be {', '.join(table)}{did_you_mean(word, table)}.")
    return table[word]


def operator_of(domain: str, name: str, opset: int) -> Operator | None:
    """The function for the operator in a file of this opset, if there is one."""
    entry = TABLE.get((domain, name), Entry())
    return next((revision for revision in reversed(entry.revisions) if revision.since <= opset), None)


def size_form_of(domain: str, name: str) -> Callable[..., Any] | None:
    """What the operator does to sizes, if it is known."""
    return TABLE.get((domain, name), Entry()).sizes


def scaled_form_of(domain: str, name: str) -> Callable[..., Any] | None:
    """What the operator does to whole numbers that stand for others, if it is known."""
    return TABLE.get((domain, name), Entry()).scaled


def operator_like(
    function: Callable[..., Any], since: int = 1, fold: bool = True, options_of: Callable[..., Any] | None = None
) -> Operator:
    """What a function's signature says of it; `**options` are the keywords of another, which has none required."""
    hints = {} if options_of is None else typing.get_type_hints(options_of)
    hints |= typing.get_type_hints(function)
    kinds: list[Any] = []
    rest: Any = None
    keywords: dict[str, inspect.Parameter] = {}
    needs: list[int] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            keywords[parameter.name] = parameter
        elif parameter.kind is parameter.VAR_POSITIONAL:
            rest = _kind(hints.get(parameter.name, Any))
        elif parameter.kind is parameter.VAR_KEYWORD:
            others = inspect.signature(options_of).parameters.values() if options_of is not None else ()
            keywords |= {one.name: one for one in others if one.kind is one.KEYWORD_ONLY}
        else:
            hint = hints.get(parameter.name, Any)
            if parameter.default is parameter.empty and type(None) not in typing.get_args(hint):
                needs.append(len(kinds))
            kinds.append(_kind(hint))
    required = tuple(name for name, one in keywords.items() if one.default is one.empty and name not in GIVEN)
    numbers = frozenset(name for name in keywords if _kind(hints.get(name, Any)) is Sizes)
    return Operator(function, since, fold, tuple(kinds), rest, tuple(keywords), required, tuple(needs), numbers)


def _kind(hint: Any) -> Any:
    """`Tensor | None` → Tensor."""
    if set(typing.get_args(hint)) - {type(None)} == set(typing.get_args(Operand)):
        return Operand
    if set(typing.get_args(hint)) - {type(None)} == set(typing.get_args(Known)):
        return Known
    inner = [part for part in typing.get_args(hint) if part is not type(None)] or [hint]
    return next((kind for kind in (Tensor, Sizes) if inner == [kind]), Any)
