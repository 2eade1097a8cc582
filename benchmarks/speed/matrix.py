"""The matrix between the tokens of an answer and those before it, beside a peer's loop over the tokens, in one run.

    python -m benchmarks.speed.matrix
    python -m benchmarks.speed.matrix --layers 3 --prompt 500 --answer 100 --rows 10

SmolLM2-135M, its first layers alone, float32, one thread, torch: 200 tokens of a text explained by the 1,000 before
them. Ours: `Explainer.answer` with `rows_per_run`, all rows. The peers' loops have a forward and a backward
for each token of the answer, over the tokens in front of it; a few rows of them are timed, evenly spread, their mean
times the number of rows is the whole (so says the page):

    Inseq, input × gradient       `attribute(…, attr_pos_start=, attr_pos_end=)` for one token at a time
    Inseq, integrated gradients   with Inseq's own 50 steps
    plain torch                   the same loop without a library: input × gradient, only the explained position is
                                  multiplied with the vocabulary: the least that a loop over forwards can take

Rows of theirs stand in the middle of ours, so that a busy machine slows all alike: seconds of the processor. Writes
`benchmarks/results/matrix.md`. Inseq is installed into an environment of its own, build/inseq, which runs all of it.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.base import processes
from benchmarks.base.places import ROOT
from benchmarks.base.reporting import console, write

RESULT = Path(__file__).parents[1] / "results" / "matrix.md"
TARGET = 20
BLOCK = 128
"""Queries of an attention at once, of ours: rows of a matrix hold as many relevances of scores."""
STEPS = 50
"""Of integrated gradients: what Inseq takes where nothing is said."""


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measured(options: argparse.Namespace) -> dict[str, list[float]]:
    """Contender → seconds of each of its rows; of ours of all rows together, and of compiling."""
    import benchmarks.networks.torchvision_operators  # noqa: F401  (before transformers)

    import inseq  # isort: skip
    import torch

    import lrp_compiler as lrp
    from benchmarks.faithful.evidence_questions import questions
    from benchmarks.networks import pretrained

    torch.set_num_threads(1)
    tokenizer, model = pretrained.smollm2()
    model.requires_grad_(False)
    network: Any = model
    network.model.layers = network.model.layers[: options.layers]
    network.config.num_hidden_layers = options.layers
    text = tokenizer("\n\n".join(" ".join(question.sentences) for question in islice(questions(), 20)))["input_ids"]
    ids = text[: options.prompt + options.answer]
    prompt, answer = ids[: options.prompt], ids[options.prompt :]
    said, wrote = tokenizer.decode(prompt), tokenizer.decode(ids)
    assert tokenizer(wrote)["input_ids"] == ids
    places = np.linspace(options.prompt, len(ids) - 1, options.rows).astype(int).tolist()
    methods = {name: inseq.load_model(model, name, tokenizer=tokenizer) for name in ("input_x_gradient",)}

    def of_inseq(name: str, place: int, **more: Any) -> Callable[[], Any]:
        asked = {"attr_pos_start": place, "attr_pos_end": place + 1, "attributed_fn": "logit", "show_progress": False}
        return lambda: methods[name].attribute(said, wrote, **asked, **more)

    def plain(place: int) -> None:
        x = network.get_input_embeddings()(torch.tensor([ids[:place]])).detach().requires_grad_()
        network(inputs_embeds=x, use_cache=False, logits_to_keep=1).logits[0, -1, ids[place]].backward()

    found: dict[str, list[float]] = {"inseq": [], "integrated": [], "plain": [], "ours": [], "compile": []}

    def compiled() -> None:
        lengths = {"input_ids": {1: torch.export.Dim("sequence", min=2, max=2048)}}
        found["explainer"] = lrp.compile(  # type: ignore[assignment]
            model,
            kwargs={"input_ids": torch.tensor([ids[:16]])},
            composite="attnlrp",
            target=lrp.Answer(),
            dynamic_shapes=lengths,
            attention_block=BLOCK,
        )

    found["compile"].append(seconds(compiled))
    explainer: Any = found.pop("explainer")
    for place in places[: len(places) // 2]:
        found["inseq"].append(seconds(of_inseq("input_x_gradient", place)))
        found["plain"].append(seconds(lambda place=place: plain(place)))  # type: ignore[misc]
    found["ours"].append(seconds(lambda: explainer.answer(None, prompt, answer, rows_per_run=options.rows_per_run)))
    for place in places[len(places) // 2 :]:
        found["inseq"].append(seconds(of_inseq("input_x_gradient", place)))
        found["plain"].append(seconds(lambda place=place: plain(place)))  # type: ignore[misc]
    if options.integrated:
        methods["integrated_gradients"] = inseq.load_model(model, "integrated_gradients", tokenizer=tokenizer)
    for place in places[:: max(len(places) // 2, 1)][: options.integrated]:
        more = {"n_steps": STEPS, "internal_batch_size": 1}
        found["integrated"].append(seconds(of_inseq("integrated_gradients", place, **more)))
    return found


NAMES = {
    "plain": "plain torch, input × gradient",
    "inseq": "Inseq, input × gradient",
    "integrated": f"Inseq, integrated gradients, {STEPS} steps",
}


def page(options: argparse.Namespace, found: dict[str, list[float]]) -> str:
    """The result in words and a table."""
    (ours,), (compiling,) = found["ours"], found["compile"]
    lines = [f"| ours, `attnlrp` | {options.answer} | {ours / options.answer:.2f} | {ours:,.0f} | |"]
    for key, name in NAMES.items():
        if not found[key]:
            continue
        mean = float(np.mean(found[key]))
        spread = f"{mean:.2f} ({min(found[key]):.2f} to {max(found[key]):.2f})"
        whole = mean * options.answer
        lines.append(f"| {name} | {len(found[key])} | {spread} | {whole:,.0f} | {whole / ours:.1f} |")
    about = (
        f"`python -m benchmarks.speed.matrix`: SmolLM2-135M, its first {options.layers} of 30 layers, one thread, "
        f"torch; {options.answer} tokens of a text explained by the {options.prompt} before them and by each other. "
        f"Ours: all rows, {options.rows_per_run} a run, attention in blocks of {BLOCK}; compiling took {compiling:.0f} "
        f"s besides. The loops: a few rows are timed, the whole is their mean times {options.answer}. Seconds of the "
        f"processor, one run. {datetime.date.today()}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} behind it."
    )
    head = f"| | rows timed | a row, s | the matrix, s | ÷ ours (wish: {TARGET}) |\n|---|---:|---:|---:|---:|"
    return "\n\n".join(["# The matrix of an answer", about, "\n".join([head, *lines])]) + "\n"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8, help="of 30; default 8")
    parser.add_argument("--prompt", type=int, default=1000, help="tokens; default 1000")
    parser.add_argument("--answer", type=int, default=200, help="tokens; default 200")
    parser.add_argument("--rows", type=int, default=8, help="of the loops that are timed; default 8")
    parser.add_argument("--integrated", type=int, default=1, help="likewise, of integrated gradients; default 1")
    parser.add_argument("--rows-per-run", type=int, default=20, help="of ours; default 20")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.here:
        from benchmarks.faithful.evidence_peers import python

        interpreter = python("inseq")
        command = processes.command("benchmarks.speed.matrix", "--here", *sys.argv[1:], python=interpreter, quiet=True)
        raise SystemExit(subprocess.run(command, cwd=ROOT, env=processes.environment(interpreter)).returncode)
    text = page(options, measured(options))
    console().print(text, markup=False)
    write(RESULT, text)


if __name__ == "__main__":
    main()
