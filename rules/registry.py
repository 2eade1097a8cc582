"""Where operators and rules meet: R rules and M operators cost R + M.

An *operator* describes one ATen op in the terms of its kind: a linear map, a quotient f(x)/x, the transpose of a
selection. A *rule* says what relevance becomes, for every operator of the kinds that it fits. A composite chooses
which rule applies where; each operator brings the one that is taken when no composite says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, signature
from typing import Any, TypeVar, Unpack

import torch

from lrp_compiler.torch_private import OpOverload, schema

from .conditions import Condition, always
from .op import PASSED_OVER, Op
from .relevance import Relevance
from .traits import Given, declare, traits

Flow = Mapping[str, Relevance | None]
"""What a rule returns: relevance by operand name; `None` for an active operand that gets nothing on purpose."""


class RuleError(LookupError):
    """A rule that does not fit an operation, or that forgot one of its operands."""


Describe = Callable[[Op], Any]
DescribeT = TypeVar("DescribeT", bound=Describe)
Register = Callable[[DescribeT], DescribeT]
"""A decorator that registers the function and hands it back."""
Rule = Callable[..., Flow]
RuleT = TypeVar("RuleT", bound=Rule)
UserRule = Callable[[Op, Relevance], "Flow | Relevance"]
UserRuleT = TypeVar("UserRuleT", bound=UserRule)
Overload = OpOverload

FUNCTION = "lrp::function"
"""Stands where an overload does for a whole region of elementwise ops that is one function of one activation."""

QUANTISED = "lrp::quantised"
"""The same for a quantisation: whole steps of a size, and perhaps back again."""

USERS = "user"
"""Family and rule of what a user's own function explains."""
PICK = ("ind", "mask", "condition")
"""So begin the names of operands of a user's op that say which elements."""


@dataclass(frozen=True)
class Operator:
    """How the rules see one ATen op.

    Args:
        kind: what composites address ("convolution", "linear", "activation", …).
        family: which rules fit ("linear map", "elementwise", "selection", …).
        describe: op → the family's description of it.
        rule: name of the rule that applies by default.
        when: whether this operator fits the call at hand (which operands are active).
        channels: the dim of the result along which its channels or features lie, where it has a place for them.
    """

    kind: str
    family: str
    describe: Describe
    rule: str
    when: Condition = always
    channels: int | None = None


OPERATORS: dict[object, list[Operator]] = {}
"""ATen overload (or `FUNCTION`) → its operators."""


@dataclass(frozen=True)
class Conduct:
    """What is known of a rule, apart from its formula.

    Args:
        multiplies: it multiplies by its operand, so that this gets nothing wherever it is 0.
        hands_on: an element of an operand gets nothing where nothing arrives at what was made of it.
        alike: it does the same at all operations that look alike to it. A function that is a user's may read whatever
            it likes, and say more at every call.
        of_differences: it holds for differences from a reference, too.
    """

    multiplies: bool = False
    hands_on: bool = False
    alike: bool = True
    of_differences: bool = False


NOTHING = Conduct()

RULES: dict[tuple[str, str], Rule] = {}
"""(family, rule name) → rule."""
CONDUCT: dict[tuple[str, str], Conduct] = {}
"""(family, rule name) → what is known of it."""


def operator(
    *targets: Overload | str,
    kind: str,
    family: str,
    rule: str,
    when: Condition = always,
    channels: int | None = None,
    **known: Unpack[Given],
) -> Callable[[DescribeT], DescribeT]:
    """Register the decorated function as the description of `targets`, which have these traits (see `traits.py`).

    Raises:
        TypeError: a packet (`aten.add`) was given instead of an overload (`aten.add.Tensor`); an unknown trait.
        ValueError: one of the targets has an operator for some of the same calls already.
    """

    def register(describe: DescribeT) -> DescribeT:
        for target in targets:
            _add(target, Operator(kind, family, describe, rule, when, channels))
        declare(*targets, **known)
        return describe

    return register


def family_rule(family: str, name: str, **conduct: bool) -> Callable[[RuleT], RuleT]:
    """Register the decorated function as rule `name` of a family: `(op, description, relevance, **options) → Flow`.

    Args:
        family: whose operators it fits.
        name: what composites call it.
        conduct: what is known of it (see `Conduct`).

    Raises:
        TypeError: there is nothing of that name to know.
        ValueError: the family has a rule of that name already.
    """

    known = Conduct(**conduct)

    def register(function: RuleT) -> RuleT:
        if (family, name) in RULES:
            raise ValueError(f"the {family} family has a rule {name!r} already")
        RULES[family, name], CONDUCT[family, name] = function, known
        return function

    return register


def rule(*targets: Overload, replace: bool = False) -> Callable[[UserRuleT], UserRuleT]:
    """Register the decorated function `(op, relevance) → relevance` as the rule of one op, or of several.

    It returns the relevance of the op's operands by name, or a single `Relevance` for an op with one active operand.

    Args:
        targets: overloads, `torch.ops.mylib.myop.default`.
        replace: whether it takes the place of a rule that was registered so before, as when a notebook's cell runs
            again. What was compiled before keeps its graph; its `audit` asks the rule that stands here now.

    Raises:
        TypeError: a packet (`torch.ops.mylib.myop`) was given instead of an overload (`torch.ops.mylib.myop.default`).
        ValueError: one of the ops has a rule already: one of the library's, or another, and `replace` is not given.
            No op's rule has changed then.
    """

    def register(function: UserRuleT) -> UserRuleT:
        mine = Operator("user", USERS, lambda op: function, USERS)
        for target in targets:
            known = OPERATORS.get(target, ())
            if any(entry.family != USERS for entry in known):
                raise ValueError(f"{target} has a rule of the library's: give another one in a composite's entry")
            if known and not replace:
                raise ValueError(f"{target} has a rule already: @lrp.rule(…, replace=True) takes its place")
            _check_overload(target)
        for target in targets:
            OPERATORS[target] = [mine]
            names = (argument.name for argument in schema(target).arguments)
            declare(target, picks_by=tuple(name for name in names if name.startswith(PICK)))
        return function

    return register


@family_rule(USERS, USERS, alike=False)
def user(op: Op, function: UserRule, relevance: Relevance) -> Flow:
    """Whatever the function registered with `rule` says."""
    try:
        signature(function).bind(op, relevance)
    except TypeError as error:
        raise RuleError(f"The rule of {op.target} is a function of (op, relevance): {error}") from error
    given = function(op, relevance)
    flow = {op.active[0]: given} if isinstance(given, Relevance) else given
    if not (isinstance(flow, Mapping) and all(isinstance(share, Relevance | None) for share in flow.values())):
        raise RuleError(
            f"The rule of {op.target} returns a Relevance (lrp.total or lrp.unit), or a dict of one by operand, not a "
            f"{type(given).__name__}"
        )
    for name, share in flow.items():
        if name in op.active and share is not None and share.tensor.dim() != len(op.shape(name)):
            raise RuleError(
                f"The rule of {op.target} gives {name!r} relevance of shape {list(share.tensor.shape)}: it is shaped "
                f"like its operand, {list(op.shape(name))}"
            )
    return flow


def find(op: Op) -> Operator | None:
    """The operator of this call, or `None` where there is none."""
    return next((entry for entry in OPERATORS.get(op.target, ()) if entry.when(op)), None)


def of_family(target: object, family: str) -> bool:
    """Whether an op has an operator of that family, for some of its calls at least."""
    return any(entry.family == family for entry in OPERATORS.get(target, ()))


def by_element(target: object) -> bool:
    """Whether each element of the result is made of those in its place alone.

    torch's tag says so; where torch has none (`hardswish`, `masked_fill`, the whole of a region), what the op is.
    """
    tagged = torch.Tag.pointwise in getattr(target, "tags", ())
    return tagged or traits(target).chooses or of_family(target, "elementwise")


def conduct(op: Op, rule: str) -> Conduct:
    """What is known of the rule of that name at this call; of one that does not fit, nothing."""
    entry = find(op)
    return CONDUCT.get((entry.family, rule or entry.rule), NOTHING) if entry is not None else NOTHING


def describe(op: Op) -> Any:
    """How the rules see this call: what its operator says of it."""
    entry = find(op)
    assert entry is not None
    return entry.describe(op)


def rules_of(family: str) -> list[str]:
    """Names of the rules that fit a family."""
    return sorted(name for owner, name in RULES if owner == family)


RULE_ARGUMENTS = 3
"""What every rule of a family takes before its options: op, description, relevance."""


def options_of(family: str, name: str) -> tuple[Parameter, ...]:
    """The options of a rule, their annotations as types."""
    return _options(RULES[family, name])


@cache
def _options(rule: Rule) -> tuple[Parameter, ...]:
    return tuple(signature(rule, eval_str=True).parameters.values())[RULE_ARGUMENTS:]


def propagate(op: Op, relevance: Relevance, rule: str | None = None, **options: object) -> Flow:
    """Relevance of the op's operands, by name: apply `rule` (default: the operator's own) to the op.

    Raises:
        RuleError: the op has no operator, its family no such rule, or the rule says nothing of an active operand or of
            a parameter whose relevance is wanted.
    """
    op.precision = relevance.tensor.dtype
    op.nothing = relevance.tensor == 0 if op.fact(PASSED_OVER) else None
    entry = find(op)
    if entry is None:
        raise RuleError(f"There is no rule for {op.target}; @rule registers one, in every process that uses it")
    name = rule or entry.rule
    if (entry.family, name) not in RULES:
        raise RuleError(f"{op.target} is of kind {entry.kind!r}: it takes {rules_of(entry.family)}, not {name!r}")
    flow = RULES[entry.family, name](op, entry.describe(op), relevance, **options)
    missing = sorted(set(op.wanted) - set(flow))
    if missing:
        raise RuleError(f"The rule {name!r} gives parameters of {op.target} no relevance ({', '.join(missing)})")
    if set(flow) != {*op.active, *op.wanted}:
        raise RuleError(
            f"The rule {name!r} of {op.target} speaks of {sorted(flow)}, but {sorted(op.active)} are active"
        )
    return flow


def _add(target: Overload | str, entry: Operator) -> None:
    _check_overload(target)
    entries = OPERATORS.setdefault(target, [])
    if not all(known.when.excludes(entry.when) for known in entries):
        raise ValueError(f"{target} has a rule already for some of these calls")
    entries.append(entry)


def _check_overload(target: object) -> None:
    if not isinstance(target, Overload | str):
        raise TypeError(f"{target} is not an op overload: write for example {target}.default")
