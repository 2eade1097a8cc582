"""What a rule sees of the operation that it explains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from lrp_compiler.torch_private import OpOverload, schema

from .facts import Fact, Facts
from .relevance import TOTAL_STABILISER, Relevance, difference, divide, has_shape
from .traits import Arguments, Handle, traits

T = TypeVar("T")
Share = Callable[[], Tensor]


def _tuples(value: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(amounts) for name, amounts in value.items()}


NONNEGATIVE: Fact[tuple[str, ...]] = Fact("nonnegative", (), tuple)
"""Names of the operands that are ≥ 0 for every input."""
BORDERS: Fact[Mapping[str, tuple[int, ...]]] = Fact("borders", {}, _tuples)
"""Of the operands with zeros put around them, how many: as `torch.nn.functional.pad` counts."""

PASSED_OVER: Fact[bool] = Fact("passed_over", False)
"""Whether the result, or what is made of it, may be NaN or infinite where a choice takes another value instead."""


def bind(target: object, args: Iterable[object], kwargs: Mapping[str, object]) -> dict[str, Any]:
    """Arguments of a call by schema name, defaults filled in; lists of tensors as `name.0`, `name.1`, …

    The plain list stays under its own name, so that `options` and operands are found the same way. A target without
    a schema (a Python function) has its arguments numbered.
    """
    bound = dict(kwargs)
    if not isinstance(target, OpOverload):
        return {**bound, **{str(index): value for index, value in enumerate(args)}}
    parameters = schema(target).arguments
    bound.update({parameter.name: value for parameter, value in zip(parameters, args, strict=False)})
    for parameter in parameters:
        if parameter.name not in bound:
            bound[parameter.name] = parameter.default_value if parameter.has_default_value() else None
    for name, value in list(bound.items()):
        if isinstance(value, (list, tuple)):
            bound.update({f"{name}.{index}": item for index, item in enumerate(value)})
    return bound


def per_dim(value: int | Sequence[int], dims: int) -> list[int]:
    """One value for each of `dims` spatial dims, from a single value or a list of one."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


@dataclass(frozen=True)
class Values:
    """How the forward values of an operation are reached, and who is told what its rule does.

    Args:
        fetch: handle → tensor (a real one when run eagerly, a symbolic one when compiled).
        asked: told the handle of every forward value that is read.
        absorb: told (cause, share) for relevance that leaves the flow; `None` when nobody keeps the books.
        there: where relevance is of differences from a reference: handle → that of the same value at the reference,
            itself if it is the same there. Relevance in unit form multiplies the difference of the two then.
    """

    fetch: Callable[[Handle], Tensor]
    asked: Callable[[Handle], None] | None = None
    absorb: Callable[[str, Tensor], None] | None = None
    there: Callable[[Handle], Handle] | None = None


class Op:
    """One operation of the forward graph: its target, its operands and its result, fetched when asked for.

    A rule reads forward values through `tensor(name)` and `output`. Reading one makes a promise, so whoever keeps those
    is told (`Values.asked`). Shapes, dtypes and options cost nothing and are not told.

    Names are those of the op's ATen schema (`input`, `weight`, `self`, `other`, …); the members of a list of
    tensors are called `tensors.0`, `tensors.1`, ….

    Args:
        target: the ATen overload.
        arguments: handles and plain values by schema name (see `bind`).
        result: the handle of the op's own result.
        values: how they are reached.
        active: names of the operands that carry relevance.
        facts: what is known of the operation besides (see `facts.py`).
        wanted: names of the constant operands (parameters) whose relevance is asked for.
    """

    def __init__(
        self,
        target: OpOverload | str,
        arguments: Arguments,
        result: Handle,
        values: Values,
        *,
        active: Iterable[str],
        facts: Facts | None = None,
        wanted: Iterable[str] = (),
    ) -> None:
        self.target: Any = target
        self.arguments = arguments
        self.active = tuple(active)
        self.wanted = tuple(wanted)
        self._facts = facts or Facts()
        self._result = result
        self._values = values
        self._fetch = values.fetch
        self._there = values.there
        self.precision = torch.float32
        """In which whole numbers are read that are calculated with: that of the relevance that arrives."""
        self.beside: Mapping[int, Relevance] = {}
        """Of one of several results: what has arrived at the others, by number, where it goes back with this one's."""
        self.nothing: Tensor | None = None
        """Where no relevance has arrived, of a result that may be passed over: values read there are 1, so that none of
        them, NaN and infinite ones neither, makes anything else of it."""
        self.results: Mapping[int, Handle] = {}
        """The handles of these, and of its own result, by number."""
        self.listeners: Any = None
        """Who is told of what happens inside an operation that is a walk of its own: those of the walk around it."""
        self.varied = False
        """Whether a value has been read that differs at the reference."""

    @classmethod
    def eager(
        cls,
        target: OpOverload,
        *args: object,
        active: Iterable[str] | None = None,
        facts: Facts | None = None,
        wanted: Iterable[str] = (),
        absorb: Callable[[str, Tensor], None] | None = None,
        asked: Callable[[Handle], None] | None = None,
        reference: Mapping[str, Tensor] | None = None,
        **kwargs: object,
    ) -> Op:
        """The op run on real tensors: how a rule is tried out by hand.

        `active` defaults to the first tensor operand. With `reference`, values of operands by name, relevance is of
        differences from what the op makes of these.
        """
        arguments = bind(target, args, kwargs)
        tensors = [name for name, value in arguments.items() if isinstance(value, Tensor)]
        result, there = target(*args, **kwargs), None
        if reference is not None:
            pairs = [(arguments[name], value) for name, value in reference.items()]
            given = {id(here): value for here, value in pairs}
            pairs.append((result, target(*(given.get(id(arg), arg) for arg in args), **kwargs)))
            there = partial(_at_reference, pairs)
        return cls(
            target,
            arguments,
            result,
            Values(lambda tensor: cast(Tensor, tensor), asked, absorb, there),
            active=tensors[:1] if active is None else active,
            facts=facts,
            wanted=wanted,
        )

    def seen_as(self, target: OpOverload) -> Op:
        """The same operands and result, as a call of another op."""
        op = copy(self)
        op.target = target
        return op

    @property
    def differs(self) -> bool:
        """Whether relevance is of differences from a reference."""
        return self._there is not None

    @property
    def there(self) -> Op:
        """The same operation at the reference."""
        assert self._there is not None
        other = Op(
            self.target,
            {name: _mapped(value, self._there) for name, value in self.arguments.items()},
            self._there(self._result),
            replace(self._values, absorb=None, there=None),
            active=self.active,
            facts=self._facts,
        )
        other.precision = self.precision
        other.nothing = self.nothing
        return other

    @property
    def varying(self) -> list[str]:
        """Operands that carry no relevance and differ at the reference."""
        there = self._there
        if there is None:
            return []
        plain = [(name, value) for name, value in self.arguments.items() if not isinstance(value, list | tuple)]
        return [name for name, value in plain if name not in self.active and there(value) is not value]

    def calculated(self, values: Mapping[str, Tensor]) -> Tensor:
        """The op with other values for some of its operands, by name."""

        def given(name: str) -> Any:
            value = self._argument(name)
            if name in values:
                return values[name]
            if isinstance(value, list | tuple):
                return [given(f"{name}.{index}") for index in range(len(value))]
            return torch.fx.map_arg(value, self._read)

        parameters = schema(self.target).arguments
        args = [given(one.name) for one in parameters if not one.kwarg_only]
        return cast(Tensor, self.target(*args, **{one.name: given(one.name) for one in parameters if one.kwarg_only}))

    def _argument(self, name: str) -> Any:
        """An operand or option.

        Raises:
            LookupError: the operation has none of that name.
        """
        if name not in self.arguments:
            raise LookupError(
                f"{name!r} is neither operand nor option of {self.target}, which has {', '.join(self.arguments)}"
            )
        return self.arguments[name]

    def has(self, name: str) -> bool:
        """Whether the operand was given (an optional bias may be `None`)."""
        return self.arguments.get(name) is not None

    def option(self, name: str) -> Any:
        """A plain argument (stride, dim, …), its schema default where it was not given."""
        # A size that is only known at run time is a handle, too, perhaps among others in a list.
        return torch.fx.map_arg(self._argument(name), self._fetch)

    def tensor(self, name: str) -> Tensor:
        """The forward value of an operand: asking makes a promise. Whole numbers that are features become floats."""
        value = self._ask(self._argument(name))
        return value.to(self.dtype(name)) if self._is_reckoned(name) else value

    def factor(self, name: str) -> Tensor | float:
        """An operand that may be a tensor or a plain number; a tensor of whole numbers as `floats` gives it."""
        return self.number(name) if self.is_number(name) else self.floats(name)

    def floats(self, name: str) -> Tensor:
        """The forward value of an operand; whole numbers as floats, in the result's dtype if it is one."""
        tensor, result = self.tensor(name), self._fetch(self._result).dtype
        whole = not (tensor.is_floating_point() or tensor.is_complex())
        return tensor.to(result if result.is_floating_point else self.precision) if whole else tensor

    def is_number(self, name: str) -> bool:
        """Whether the operand is a plain number; sizes are."""
        return not isinstance(self.option(name), Tensor)

    def number(self, name: str) -> Tensor | float:
        """A plain number; one that varies with the sizes, whose value nobody may ask for, as a tensor without dims."""
        value = self.option(name)
        if not isinstance(value, (torch.SymInt, torch.SymFloat)):
            return cast(float, value)
        result = self._fetch(self._result)
        return torch.scalar_tensor(cast(float, value), dtype=result.dtype, device=result.device)

    @property
    def output(self) -> Tensor:
        """The forward result: asking makes a promise."""
        value = self._ask(self._result)
        return value if value.is_floating_point() or value.is_complex() else value.to(self.precision)

    def shape(self, name: str) -> torch.Size:
        """Shape of an operand; dims may be symbolic."""
        return self._fetch(self._argument(name)).shape

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of an operand, as `tensor` hands it out."""
        if self._is_reckoned(name):
            return self.precision
        return self._fetch(self._argument(name)).dtype

    def _is_reckoned(self, name: str) -> bool:
        """Whether the operand carries relevance as whole numbers that are calculated with, and looks nothing up."""
        if name not in self.active or name in traits(self.target).indices:
            return False
        value = self._fetch(self._argument(name))
        return isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex())

    def device(self, name: str) -> torch.device:
        """Device of an operand."""
        return self._fetch(self._argument(name)).device

    def rank(self, name: str) -> int:
        """Number of dims of an operand."""
        return len(self.shape(name))

    @property
    def output_shape(self) -> torch.Size:
        """Shape of the result; dims may be symbolic."""
        return self._fetch(self._result).shape

    @property
    def rectifies(self) -> bool:
        """Whether the result is 0 wherever the operand is ≤ 0, and nowhere less."""
        asked = traits(self.target).rectifies
        return asked is not None and asked(self.arguments)

    def is_active(self, name: str) -> bool:
        """Whether relevance flows to this operand."""
        return name in self.active

    def fact(self, fact: Fact[T]) -> T:
        """What the analyses found, or the fact's default."""
        return self._facts[fact]

    def is_nonnegative(self, name: str) -> bool:
        """Whether the operand is known to be ≥ 0 for every input."""
        return name in self.fact(NONNEGATIVE)

    def inside(self, name: str) -> Tensor | None:
        """1 for what the operand held before zeros were put around it, 0 for those; `None`: there are none.

        Rules that measure from another value than 0 ask: a border has no pixels, whether a convolution puts it there or
        an op in front of it.
        """
        amounts = self.fact(BORDERS).get(name)
        if not amounts:
            return None
        dims = len(amounts) // 2
        added = [first + last for first, last in zip(amounts[::2], amounts[1::2], strict=True)]
        sizes = [size - more for size, more in zip(self.shape(name)[-dims:], reversed(added), strict=True)]
        ones = torch.ones(sizes, dtype=self.dtype(name), device=self.device(name))
        return torch.nn.functional.pad(ones, list(amounts))

    @property
    def amount(self) -> Tensor:
        """What relevance of the result in unit form multiplies: the result, or its difference from the reference."""
        return difference(self.output, self.there.output) if self.differs else self.output

    def amount_of(self, name: str) -> Tensor:
        """The same of an operand."""
        return difference(self.tensor(name), self.there.tensor(name)) if self.differs else self.tensor(name)

    def total(self, relevance: Relevance) -> Tensor:
        """`R` of the op's result."""
        return relevance.total_of(lambda: self.amount)

    def quotient(self, relevance: Relevance, epsilon: float, z: Callable[[], Tensor] | None = None) -> Tensor:
        """`R / s(z)` for the relevance R of the op's result; its share for the stabiliser is absorbed.

        In unit form and with `z` the result itself (the default) this is `g ⊙ |z|/(|z| + ε)`, and just `g` in the
        limit `epsilon=0`: then no forward value is needed and nothing is divided.
        """
        if relevance.form == "unit" and z is None:
            if not epsilon:
                return relevance.tensor
            size = self.amount.abs()
            self.absorb("stabiliser", lambda: relevance.tensor * self.amount * (epsilon / (size + epsilon)))
            return relevance.tensor * (size / (size + epsilon))
        epsilon = epsilon or TOTAL_STABILISER
        denominator = self.amount if z is None else z()
        total = self.total(relevance)
        self.absorb("stabiliser", lambda: total * epsilon / (denominator.abs() + epsilon))
        return divide(total, denominator, epsilon)

    @property
    def keeps_books(self) -> bool:
        """Whether anybody asks what leaves the flow."""
        return self._values.absorb is not None

    def absorb(self, cause: str, share: Share) -> None:
        """Book relevance that leaves the flow here: `share()` is summed under `cause` when an audit is kept."""
        if self._values.absorb is not None:
            self._values.absorb(cause, share())

    def _ask(self, handle: Handle) -> Tensor:
        if self._values.asked is not None:
            self._values.asked(handle)
        if self._there is not None and self._there(handle) is not handle:
            self.varied = True
        value = self._fetch(handle)
        if self.nothing is None or not value.is_floating_point() or not has_shape(value, self.nothing.shape):
            return value
        return torch.where(self.nothing, 1.0, value)

    def _read(self, handle: object) -> Any:
        value: Any = self._fetch(handle)
        return self._ask(handle) if isinstance(value, Tensor) else value


def _at_reference(pairs: Sequence[tuple[Tensor, Tensor]], handle: Handle) -> Handle:
    return next((value for here, value in pairs if here is handle), handle)


def _mapped(value: object, function: Callable[[Handle], Handle]) -> Handle:
    """An argument with its handles mapped, those in a list one by one."""
    if isinstance(value, list | tuple):
        return type(value)(_mapped(item, function) for item in value)
    return function(value)
