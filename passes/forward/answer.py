"""What a language model wrote, as the explained value: a score for each token of a text, `[batch, sequence]`.

    logits [batch, sequence, vocabulary], ids    →    score at t: that of the token at t, by the logits at t − 1

The text holds the prompt and the answer: one forward predicts every token of it from those before. How much each score
counts is said at run time (`weights`): relevance of the weighted sum is one backward, of whichever tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.nn import functional

from lrp_compiler.base.errors import InputError, did_you_mean
from lrp_compiler.base.metadata import ANSWER
from lrp_compiler.base.validate import check_option, whole_number
from lrp_compiler.passes.graph import outputs
from lrp_compiler.torch_private import statically_known_true

from .select_explained import EXPLAINED, MASK, run_time_input, splice
from .target import Target

AGAINST, TARGET = "against", "target"
"""Names of the run-time inputs that say which tokens are scored, and against which."""
IDS = ("decoder_input_ids", "input_ids")
"""What the ids of the text are called; a decoder's come first."""
SCORES = ("logit", "centred", "log-probability")


@dataclass(frozen=True)
class Answer:
    """The explained value: what tokens of a text score with the model that (teacher forced) wrote them.

    A call takes `weights`, float `[batch, sequence]`: the weight at t belongs to the token at t, which is predicted by
    what stands before it. 1 at the tokens of an answer explains the answer, in one backward; `[spans, batch, sequence]`
    are several, each explained by itself from one forward: relevance has the spans in front. Nothing predicts the first
    token: its score is 0, whatever its weight. Relevance of all inputs + what is absorbed = Σ weights ⊙ scores.

    Args:
        score: what a token scores: its "logit"; "centred": its logit minus the mean over the vocabulary;
            "log-probability".
        tokens: which token is scored at t: "own", the one that stands there; "index": an int64 input `target`,
            `[batch, sequence]`, at run time (what stands before t stays as it is).
        against: a token whose logit is subtracted: its number, or "index" (an int64 input `against`,
            `[batch, sequence]`, at run time); None: none. Goes with score="logit": of a difference the other scores are
            the same.
        count: how many spans at once, for which forward and backward are one graph: `weights` is then
            `[count, batch, sequence]`.
        output: name or number of the output that holds the logits; default: `logits`, else the first float tensor.
        ids: name of the input that holds the text's ids, `[batch, sequence]`; default: `decoder_input_ids`,
            `input_ids`, or the only input of whole numbers in that shape.

    Raises:
        InputError: values that are none of these, or do not go together.
    """

    score: Literal["logit", "centred", "log-probability"] = "logit"
    tokens: Literal["own", "index"] = "own"
    against: int | Literal["index"] | None = None
    count: int | None = None
    output: str | int | None = None
    ids: str | None = None

    def __post_init__(self) -> None:
        """Read numbers of numpy and torch as numbers, and refuse what makes no sense."""
        for name, known in (("score", SCORES), ("tokens", ("own", "index"))):
            given = getattr(self, name)
            hint = did_you_mean(given, known) if isinstance(given, str) and given not in known else ""
            wanted = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}{hint}"
            check_option(f"Answer({name}=…)", given, given in known, wanted)
        for name in ("against", "count", "output"):
            number = whole_number(getattr(self, name))
            object.__setattr__(self, name, getattr(self, name) if number is None else number)
        token = isinstance(self.against, int) and not isinstance(self.against, bool) and self.against >= 0
        fits = self.against is None or self.against == "index" or token
        check_option("Answer(against=…)", self.against, fits, "the number of a token, 'index' or None")
        fits = self.count is None or (whole_number(self.count) or 0) >= 1
        check_option("Answer(count=…)", self.count, fits, "how many spans there are at once, from 1 up")
        for name, kinds in (("output", str | int | None), ("ids", str | None)):
            check_option(f"Answer({name}=…)", getattr(self, name), isinstance(getattr(self, name), kinds), "a name")
        if self.against is not None and self.score != "logit":
            raise InputError(
                f"Answer(against=…) is a difference of two logits, which is the same for score={self.score!r}: leave "
                "the score out."
            )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Run-time inputs of the forward."""
        return (TARGET,) * (self.tokens == "index") + (AGAINST,) * (self.against == "index")

    @property
    def targets(self) -> int | None:
        """Size of the leading dim of the relevance; `None`: there is none."""
        return self.count

    @property
    def label(self) -> str:
        """How messages call it: by what is scored."""
        said = self.to_dict()
        rest = [f"{key}={said[key]!r}" for key in ("score", "tokens", "against") if said[key] != getattr(Answer, key)]
        return f"Answer({', '.join(rest)})" if rest else ANSWER

    def to_dict(self) -> dict[str, object]:
        """As plain data."""
        return {"kind": ANSWER, **{each.name: getattr(self, each.name) for each in fields(self)}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Answer:
        """The inverse of `to_dict`."""
        return cls(**{key: value for key, value in data.items() if key != "kind"})

    def __str__(self) -> str:
        """What was said."""
        return self.label


Explained = Target | Answer | Callable[[Any], Tensor]


def explained_in(data: Mapping[str, object]) -> Target | Answer:
    """The inverse of both `to_dict`."""
    return Answer.from_dict(data) if data.get("kind") == ANSWER else Target.from_dict(dict(data))


def select_answer(
    module: fx.GraphModule, output: int, name: str, answer: Answer, inputs: Mapping[str, str]
) -> tuple[fx.Node, Answer]:
    """Insert the scores, `[batch, sequence]`, and return their node, and what is explained with its ids' name.

    Args:
        module: the forward graph; tokens that are given at run time become placeholders of it.
        output: number of the logits among the graph's flat outputs.
        name: that output's name, for messages.
        answer: which tokens, and what they score.
        inputs: placeholder → public name of the model's inputs.

    Raises:
        InputError: the output is not `[batch, sequence, vocabulary]`, the text is too short, there are no ids of it,
            or no such token.
    """
    logits: fx.Node = outputs(module)[output]
    shape = logits.meta["val"].shape
    if len(shape) != 3:
        raise InputError(f"An Answer explains logits [batch, sequence, vocabulary], and {name!r} is {list(shape)}.")
    if isinstance(shape[1], int) and shape[1] < 2:
        raise InputError("An Answer needs a text of two tokens at least: nothing predicts the first one.")
    if isinstance(answer.against, int) and isinstance(shape[2], int) and answer.against >= shape[2]:
        raise InputError(
            f"Answer(against={answer.against}) is out of range: there are {shape[2]} tokens, 0 to {shape[2] - 1}."
        )
    # Like the scores: what is made of the ids of a text that is not this output's would be nonsense.
    given = [run_time_input(module, each, logits, 2) for each in answer.inputs]
    if answer.tokens == "own":
        tokens = _ids(module, logits, name, answer, inputs)
        answer = replace(answer, ids=inputs[tokens.meta["input"]])
    else:
        tokens = given[0]
    against = given[-1:] if answer.against == "index" else []
    explained = splice(module, partial(_scores, answer=answer), [logits, tokens, *against])
    explained.meta[EXPLAINED] = True
    return explained, answer


def _scores(z: Tensor, tokens: Tensor, against: Tensor | None = None, *, answer: Answer) -> Tensor:
    """`[batch, sequence]`, 0 at the first token."""
    before = z[:, :-1]

    def of(ids: Tensor) -> Tensor:
        return before.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)

    score = of(tokens)
    if against is not None:
        score = score - of(against)
    elif isinstance(answer.against, int):
        score = score - before.select(-1, answer.against)
    elif answer.score == "centred":
        score = score - before.mean(-1)
    elif answer.score == "log-probability":
        score = score - torch.logsumexp(before, -1)
    return functional.pad(score, (1, 0))


def _ids(module: fx.GraphModule, logits: fx.Node, name: str, answer: Answer, inputs: Mapping[str, str]) -> fx.Node:
    """The input that holds the text."""
    sizes = logits.meta["val"].shape[:2]
    found: dict[str, fx.Node] = {}
    for node in module.graph.find_nodes(op="placeholder"):
        value = node.meta["val"]
        whole = not (value.is_floating_point() or value.is_complex() or value.dtype is torch.bool)
        if whole and value.dim() == 2 and node.meta["input"] in inputs:
            found[inputs[node.meta["input"]]] = node
    if answer.ids is not None and answer.ids not in found:
        listing = ", ".join(found) or "none"
        raise InputError(f"There are no ids {answer.ids!r} of a text; inputs of whole numbers, two dims: {listing}.")
    free = [each for each in found if not each.endswith(MASK)]
    named = [each for end in IDS for each in free if each.endswith(end)]
    # A decoder's name ends as an encoder's does.
    known = answer.ids or next(iter(named), free[0] if len(free) == 1 else None)
    if known is None:
        raise InputError(
            "The ids of the text are not known: name them by lrp.Answer(ids=…), or give the tokens at run time by "
            "lrp.Answer(tokens='index')."
        )
    node = found[known]
    if not all(statically_known_true(a == b) for a, b in zip(node.meta["val"].shape, sizes, strict=True)):
        raise InputError(
            f"Input {known!r} has shape {list(node.meta['val'].shape)}, but output {name!r} has "
            f"{list(logits.meta['val'].shape)}: they are not of one text, so name its ids by lrp.Answer(ids=…)."
        )
    return node
