"""Does the relevance of a whole answer lie on the sentence that it was taken from? SmolLM2-135M on long contexts.

    python -m benchmarks.faithful.evidence          may be stopped and started again: rows are kept question by question

SmolLM2-135M-Instruct is asked about made-up facts (`evidence_questions`). Measured are the first 100 questions that it
answers rightly: teacher forced, it thinks every token of the answer likeliest. Explained is Σ of the answer's logits;
of each method the prompt's relevance alone is looked at, and what the first token got is told apart and counts nowhere
else: models rest their attention on it when nothing else matters.

    share          what the supporting sentence got of the positive relevance of the prompt
    … absolute     of |relevance|
    top-1, sum     whether no other sentence of the context got more
    top-1, mean    whether none got more per token
    sink           |relevance| of the first token, as a share of the prompt's
    seconds        of the processor, for a question; forward included

Methods take turns on each question, on one thread; LXT and Inseq in processes of their own. Inseq explains each token
of the answer by itself, all others their sum. Gradients are captum's formulas by torch's autograd; those of two methods
are of one backward, attention of one forward: each is said to take all of it. Integrated gradients, which take ten
forwards and backwards, have every tenth question, Inseq every twentieth. Rows are kept in results/evidence.json, the
page is results/evidence.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.base import reporting
from benchmarks.base.places import BUILD, RESULTS
from benchmarks.faithful import evidence_methods, evidence_peers
from benchmarks.faithful.evidence_questions import Asked, asked, questions
from benchmarks.faithful.metrics import difference, interval
from benchmarks.faithful.questions import smollm2

FOLDER = BUILD / "evidence"
ROWS, PAGE, PICTURE = (RESULTS / f"evidence.{ending}" for ending in ("json", "md", "png"))
WANTED = 100
VALUES = ("share", "absolute", "sum", "mean", "sink", "seconds")
OURS = ("attnlrp", "attnlrp, 1 hop")
EVERY = {"integrated gradients": (10, 0), "inseq gradient × input": (20, 5), "inseq saliency": (20, 5)}
"""Of methods that have not every question: how many questions lie between theirs, and which is the first."""
METHODS = (
    *OURS,
    "lxt attnlrp",
    "gradient × input",
    "saliency",
    "integrated gradients",
    "inseq gradient × input",
    "inseq saliency",
    "attention rollout",
    "attention, last layer",
)
OF_PEERS = {
    "lxt attnlrp": ("lxt", "attnlrp"),
    "inseq gradient × input": ("inseq", "input_x_gradient"),
    "inseq saliency": ("inseq", "saliency"),
}
"""Whose process, and what it calls the method."""
CHANCE = "chance"
SIZES = ((0, 300), (300, 600), (600, 2048))

# ── what is measured of a question ───────────────────────────────────────────────────────────────────────────────────


def values(relevance: np.ndarray, sentence: np.ndarray, supporting: int, seconds: float) -> list[float]:
    """`VALUES` of one explanation.

    Args:
        relevance: of the prompt's tokens.
        sentence: the number of the sentence that each lies in, −1 outside the context.
        supporting: the number of the one that holds the answer.
        seconds: that it took.
    """
    inside = sentence == supporting
    rest = relevance.copy()
    rest[0] = 0
    numbers = range(sentence.max() + 1)
    sums = np.array([rest[sentence == number].sum() for number in numbers])
    # The first token counts nowhere, so it is none of its sentence's either.
    lengths = np.bincount(sentence[1:][sentence[1:] >= 0], minlength=len(sums))
    positive, magnitude = np.maximum(rest, 0), np.abs(rest)
    shares = [part[inside].sum() / max(part.sum(), 1e-30) for part in (positive, magnitude)]
    hits = [float(np.argmax(each) == supporting) for each in (sums, sums / np.maximum(lengths, 1))]
    return [*shares, *hits, abs(relevance[0]) / max(np.abs(relevance).sum(), 1e-30), seconds]


def chance(sentence: np.ndarray, supporting: int) -> list[float]:
    """`VALUES` of relevance that is the same everywhere; hits: those of a token, and of a sentence, drawn at random."""
    inside = float((sentence[1:] == supporting).sum())
    in_context = float((sentence[1:] >= 0).sum())
    share = inside / (len(sentence) - 1)
    return [share, share, inside / in_context, 1 / (sentence.max() + 1), 1 / len(sentence), 0.0]


@torch.inference_mode()
def right(model: Any, one: Asked) -> bool:
    """Whether the model thinks every token of the answer likeliest behind those before it."""
    ids = torch.from_numpy(one.ids)[None]
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(one.answer) + 1).logits[0, :-1]
    return bool((logits.argmax(-1) == torch.from_numpy(one.answer)).all())


def explained(
    one: Asked, explain: Mapping[tuple[str, ...], Callable[[Asked], evidence_methods.All]], number: int
) -> dict[str, list[float]]:
    """`VALUES` of every method whose turn it is on the number-th question that is answered rightly."""
    found = {CHANCE: chance(one.sentence, one.question.supporting)}
    kept = {}
    for names, method in explain.items():
        every, first = EVERY.get(names[0], (1, 0))
        if number % every != first:
            continue
        for name, (relevance, seconds) in method(one).items():
            kept[name] = relevance[: len(one.prompt)]
            found[name] = values(kept[name], one.sentence, one.question.supporting, seconds)
    np.savez_compressed(FOLDER / f"{one.question.number}.npz", **kept)
    return {name: [round(value, 5) for value in row] for name, row in found.items()}


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def methods(
    model: Any, reference: int, configuration: Mapping[str, Any]
) -> Iterator[dict[tuple[str, ...], Callable[[Asked], evidence_methods.All]]]:
    """All of them, by the names of what they find; their processes end behind it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / "attnlrp.lrp.onnx"
    if not file.exists():
        evidence_methods.write_explainer(model, "attnlrp", file)
    state = FOLDER / evidence_peers.STATE
    if not state.exists():
        torch.save({"configuration": dict(configuration), "state": model.state_dict()}, state)
    peers = {name: evidence_peers.Peer(name, FOLDER) for name in evidence_peers.PEERS}

    def of_peer(name: str, one: Asked) -> evidence_methods.All:
        peer, method = OF_PEERS[name]
        relevance, seconds = peers[peer](method, one)
        return {name: evidence_methods.Found(np.array(relevance), seconds)}

    try:
        yield {
            OURS: evidence_methods.Ours(file, OURS[0]),
            ("gradient × input", "saliency"): partial(evidence_methods.of_gradients, model),
            ("integrated gradients",): partial(evidence_methods.of_path, model, reference),
            ("attention rollout", "attention, last layer"): partial(evidence_methods.of_attention, model),
            **{(name,): partial(of_peer, name) for name in OF_PEERS},
        }
    finally:
        for peer in peers.values():
            peer.close()


def read() -> dict[str, Any]:
    """Rows so far, by the question's number."""
    return json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else {}


def write(rows: Mapping[str, Any]) -> None:
    """A line a question."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(row, ensure_ascii=False)}" for key, row in rows.items())
    reporting.write(ROWS, f"{{\n{lines}\n}}\n")


def measure(wanted: int) -> None:
    """Ask and explain until so many questions are answered rightly."""
    rows, console = read(), reporting.console()
    tokenizer, network, configuration = smollm2()
    model: Any = network.model
    with methods(model, int(tokenizer.eos_token_id), configuration) as explain:
        for question in questions():
            answered = sum(row["right"] for row in rows.values())
            if answered >= wanted:
                return
            if str(question.number) in rows:
                continue
            one = asked(question, tokenizer)
            row: dict[str, Any] = {"tokens": len(one.prompt), "answer": len(one.answer), "right": right(model, one)}
            if row["right"]:
                row["methods"] = explained(one, explain, answered)
            rows[str(question.number)] = row
            write(rows)
            console.print(question.number, row["tokens"], "right" if row["right"] else "wrong", highlight=False)


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def measured(rows: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """Of a method, a column of `VALUES` each by name, and the questions' numbers and lengths."""
    mine = {number: row for number, row in rows.items() if name in row.get("methods", {})}
    columns = np.array([row["methods"][name] for row in mine.values()]).reshape(len(mine), len(VALUES))
    tokens = np.array([row["tokens"] for row in mine.values()])
    return dict(zip(VALUES, columns.T, strict=True)) | {"number": np.array(list(mine)), "tokens": tokens}


def with_interval(samples: np.ndarray) -> str:
    low, high = interval(samples)
    return f"{samples.mean():.3f} [{low:.3f}, {high:.3f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def all_methods(rows: Mapping[str, Any]) -> str:
    """A line for each method."""
    lines = []
    for name in (*METHODS, CHANCE):
        found = measured(rows, name)
        if len(found["number"]):
            cells = [with_interval(found[value]) for value in VALUES[:4]]
            seconds = f"{found['seconds'].mean():.1f}" if name != CHANCE else ""
            lines.append([f"`{name}`" if name in OURS else name, str(len(found["number"])), *cells])
            lines[-1] += [f"{found['sink'].mean():.2f}", seconds]
    return table(("method", "questions", "share", "… absolute", "top-1, sum", "top-1, mean", "sink", "seconds"), lines)


def differences(rows: Mapping[str, Any]) -> str:
    """`attnlrp` with a hop less every other method, question by question."""
    ours, lines = measured(rows, OURS[1]), []
    for name in METHODS:
        other = measured(rows, name)
        if name == OURS[1] or not len(other["number"]):
            continue
        at = np.isin(ours["number"], other["number"])
        cells = []
        for value in VALUES[:4]:
            mean, (low, high) = difference(ours[value][at], other[value])
            cells.append(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append([name, str(int(at.sum())), *cells])
    return table(("less", "questions", "share", "… absolute", "top-1, sum", "top-1, mean"), lines)


def by_length(rows: Mapping[str, Any]) -> str:
    """Share and top-1 (sum) by the prompt's length, of the methods that have every question."""
    names = [name for name in (*METHODS, CHANCE) if name not in EVERY]
    lines = []
    for name in names:
        found, cells = measured(rows, name), []
        for low, high in SIZES:
            at = (found["tokens"] >= low) & (found["tokens"] < high)
            cells.append(f"{found['share'][at].mean():.3f}, {found['sum'][at].mean():.2f}" if at.any() else "")
        lines.append([name, *cells])
    counted = measured(rows, CHANCE)["tokens"]
    sizes = [f"{low} to {high}: {((counted >= low) & (counted < high)).sum()}" for low, high in SIZES]
    return table(("share, top-1 (sum)", *(f"{size} questions" for size in sizes)), lines)


def page(rows: Mapping[str, Any]) -> str:
    """The results in words and tables."""
    answered = [row for row in rows.values() if row["right"]]
    tokens = np.array([row["tokens"] for row in answered])
    length = np.mean([row["answer"] for row in answered])
    about = (
        f"Written by `python -m benchmarks.faithful.evidence`; its docstring says what the columns mean. "
        f"SmolLM2-135M-Instruct, {len(rows)} questions asked, {len(answered)} answered rightly (teacher forced, every "
        f"token the likeliest): these are measured. Prompts of {tokens.min()} to {tokens.max()} tokens, median "
        f"{np.median(tokens):.0f}; answers of {length:.1f} tokens in the mean. Brackets: 95 %, by bootstrap. "
        f"{datetime.date.today()}; {os.cpu_count()} cores, one thread, others at work: seconds of the processor."
    )
    least = 0.025 ** (1 / len(answered))
    notes = (
        "`auto` takes `attnlrp` for a model with attention. Chance: relevance that is the same everywhere. A bootstrap "
        f"of hits alone has no width: {len(answered)} of {len(answered)} are {least:.2f} at least (95 %, exact)."
    )
    if len(answered) < WANTED:
        notes += f" Not finished: {WANTED} are wanted, and the script goes on from here."
    parts = ["# The sentence that an answer stands on", about, all_methods(rows), notes]
    parts += [f"## `{OURS[1]}` less the others, question by question", differences(rows)]
    parts += ["## By length", by_length(rows), "## A prompt", f"![Words of a prompt, coloured]({PICTURE.name})"]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=WANTED, help=f"answered rightly; default {WANTED}")
    parser.add_argument("--page", action="store_true", help="write the page from the rows that there are")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.page:
        measure(options.questions)
    reporting.write(PAGE, page(read()))


if __name__ == "__main__":
    main()
