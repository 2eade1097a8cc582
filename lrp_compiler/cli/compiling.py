"""What commands share that compile a model: their options, and the explainer that these make of it."""

import argparse
from pathlib import Path
from typing import Any

from lrp_compiler.base.errors import InputError
from lrp_compiler.formats import MODELS, PT2

from . import kinds

MODEL = f"the model's file: {' or '.join(MODELS)} (a {PT2} is what torch.export.save wrote)"


def add_composite(command: argparse.ArgumentParser) -> None:
    """By which rules a model is compiled."""
    command.add_argument(
        "--composite",
        default="auto",
        help="which rules apply where; auto: chosen from the model's structure (default: %(default)s)",
    )
    command.add_argument(
        "--option",
        action="append",
        default=[],
        type=kinds.option,
        metavar="NAME=VALUE",
        help="parameter of the composite, a number or one for each channel: low=-2.1,-2.0,-1.8; once for each",
    )


def add_compile_options(command: argparse.ArgumentParser) -> None:
    """How a model is compiled."""
    add_composite(command)
    command.add_argument(
        "--target",
        type=kinds.target_mode,
        default="argmax",
        metavar="argmax|index|none|answer|INT[:INT],…",
        help="class to explain; A:B is A minus B, a comma makes several; index: chosen at run time; none: what --seeds "
        "says; answer: the tokens of a text that a language model wrote, prompt and answer in one: a run says by "
        "--weights FILE.npy, [batch, sequence] or [spans, batch, sequence], how much the token at each place counts "
        "(1 at the answer's tokens explains the answer; the first token has no score) (default: %(default)s)",
    )
    command.add_argument(
        "--score",
        choices=["logit", "centred", "log-probability"],
        help="of --target answer: what a token scores; centred: its logit minus the mean logit (default: logit)",
    )
    command.add_argument(
        "--tokens",
        choices=["own", "index"],
        help="of --target answer: which token is scored at each place; own: the one that stands there (default); "
        "index: the one that a run gives by --target FILE.npy",
    )
    command.add_argument(
        "--against",
        type=kinds.against,
        metavar="INT|index",
        help="of --target answer: a token whose logit is subtracted; index: given by a run, --against FILE.npy",
    )
    command.add_argument(
        "--count", type=kinds.count, metavar="N", help="of --target answer: how many spans a run explains at once"
    )
    command.add_argument(
        "--position",
        type=kinds.position,
        metavar="last|last-unpadded|index|sum|INT,…",
        help="where in an output with more dims than batch and classes (default: the last of a sequence)",
    )
    command.add_argument("--explained-output", metavar="NAME", help="which output is explained (default: logits)")
    command.add_argument(
        "--seed",
        choices=["value", "one", "tensor"],
        help="relevance put on it: its logit, 1, or a tensor given at run time (default: the composite's)",
    )
    command.add_argument(
        "--wrt",
        action="append",
        metavar="NAME",
        help="input, parameter or module whose relevance is wanted; once for each (default: all inputs)",
    )
    command.add_argument(
        "--fixed",
        action="append",
        default=[],
        metavar="NAME",
        help="input that is held constant (a mask) and leaves all relevance to the others; once for each",
    )
    command.add_argument(
        "--observe",
        action="append",
        default=[],
        metavar="PATTERN",
        help="modules (encoder.layer.*) or nodes (softmax*) whose values' relevance is returned as well; once for each",
    )
    command.add_argument(
        "--form",
        choices=["total", "unit", "both"],
        default="total",
        help="of what is observed: relevance, its coefficient (relevance = value times coefficient), or both",
    )
    command.add_argument(
        "--masks",
        action="append",
        default=[],
        metavar="PATTERN",
        help="modules or nodes whose relevance a run may mask, channel by channel; once for each",
    )
    command.add_argument(
        "--seeds",
        action="append",
        default=[],
        metavar="PATTERN",
        help="modules or nodes that a run may put relevance on; once for each (alone: --target none)",
    )
    command.add_argument(
        "--aggregate",
        action="append",
        default=[],
        metavar="PATTERN",
        help="modules or nodes over which relevance is summed into one map of the input, aggregate.<input>: a score "
        "that adds up to nothing; once for each",
    )
    command.add_argument(
        "--reduce",
        type=kinds.names,
        default=[],
        metavar="NAME,…",
        help="make relevance smaller before it is returned: channels, features or heads (sums), patch:N (sums of N by "
        "N), signs (positive and negative apart), top:K (the largest), float16; sums: as it is, with its sums",
    )
    command.add_argument(
        "--memory-budget",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of the promised bytes that may be held; the rest is rebuilt (default: %(default)s)",
    )
    command.add_argument(
        "--attention-block",
        type=int,
        metavar="QUERIES",
        help="how many queries of an attention are gone through at once; 0: all (default: all, or blocks of 128 where "
        "the scores may take more than 256 MiB)",
    )
    command.add_argument(
        "--cache",
        action="store_true",
        help="take graphs again that were compiled before of the same model, whatever its weights; they lie in the "
        "folder LRP_COMPILER_CACHE, or in ~/.cache/lrp_compiler",
    )


def compiled(arguments: argparse.Namespace, progress: Any) -> Any:
    """The explainer of the model, by these options."""
    import lrp_compiler as lrp
    from lrp_compiler.compiler import resolve_composite

    return lrp.compile(
        arguments.model,
        composite=resolve_composite(arguments.composite, dict(arguments.option)),
        target=_explained(arguments),
        seed=arguments.seed,
        wrt=arguments.wrt,
        fixed=arguments.fixed,
        observe=arguments.observe,
        form=arguments.form,
        masks=arguments.masks,
        seeds=arguments.seeds,
        aggregate=arguments.aggregate,
        reduce=arguments.reduce,
        memory_budget=arguments.memory_budget,
        attention_block=arguments.attention_block,
        cache=arguments.cache,
        progress=progress,
    )


def _explained(arguments: argparse.Namespace) -> Any:
    """What is explained: a class, or the tokens of an answer."""
    import lrp_compiler as lrp

    given = {name: getattr(arguments, name) for name in ("score", "tokens", "against", "count")}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.target == "answer":
        if arguments.position is not None:
            raise InputError("--position does not go with --target answer: a run says by --weights which tokens count.")
        return lrp.Answer(output=arguments.explained_output, **given)
    if given:
        raise InputError(f"--{next(iter(given))} goes with --target answer alone.")
    return lrp.Target(arguments.target, arguments.explained_output, arguments.position)


def explainer_in(path: Path) -> Any:
    """The explainer in the file; `None`: it is a program that is still to be compiled."""
    import lrp_compiler as lrp

    return lrp.load(path) if holds_explainer(path) else None


def holds_explainer(path: Path) -> bool:
    """Whether the file holds an explainer, and no program."""
    from lrp_compiler.artefact.storage import is_explainer

    return is_explainer(path)
