"""What an explanation of a long prompt takes: peak memory and seconds, attention whole and in blocks of queries.

Llama's architecture at SmolLM2-135M's published widths, 3 layers, random weights, float32, batch 1, lengths open. The
logit of the next token is explained by `attnlrp`; logits are calculated at the last position alone, so that what grows
is the layers' share. Each length and form is a process of its own, in torch and in onnxruntime:

    forward    peak resident memory while the forward graph runs by itself, in the same form, above the resting process
    explain    the same while the explainer runs
    above      explain − forward: what the explanation takes more than what it explains
    CPU        seconds of CPU, the median of runs, on one thread: a busy machine shows less in these than by the clock,
               and of several threads those that wait count, too
    ÷ whole    CPU of the explanation, as a multiple of what it takes with attention whole
    difference Σ |relevance − relevance with attention whole|, as a share of Σ |relevance|
    exponent   slope of log(above) over log(length), by least squares: 1 is linear, 2 quadratic

Peaks are those of a first run at this length, of onnxruntime's under `lean_options`, its arena growing by what is asked
for; seconds are those under its default options. Rows are kept in results/long_context.json, the table in
results/long_context.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.base import processes, reporting
from benchmarks.base.places import BUILD, RESULTS
from benchmarks.memory.at_budget import rest, status

LENGTHS = (1024, 2048, 4096, 8192)
BLOCKS = (0, 128)
"""Queries a block has; 0: attention is whole."""
TIMED_UP_TO = 2048
"""Beyond that memory alone is measured."""
WHOLE_UP_TO = 4096
"""Beyond that attention as a whole takes more than 20 GB."""
RUNTIMES = ("torch", "onnxruntime")
KINDS = ("forward", "explain")
VOCABULARY = 49152
FEW = 16
"""Tokens of the example, and of a run before what is measured, in which weights are read."""
REPEAT = 5
"""Runs whose median is taken."""
FOLDER = BUILD / "long_context"

Run = Callable[[dict[str, Any]], Any]
"""Inputs by name → the last of what is returned."""


def model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    class NextToken(torch.nn.Module):
        """Logits of the next token alone."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            found = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, logits_to_keep=1)
            return found.logits[:, -1]

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=3,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=max(LENGTHS),
        tie_word_embeddings=True,
    )
    return NextToken(LlamaForCausalLM(config)).eval()


def inputs(length: int) -> dict[str, Any]:
    import numpy as np

    ids = np.random.default_rng(length).integers(0, VOCABULARY, (1, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def write(block: int) -> None:
    """The explainer's files, and of the ONNX file the part that makes the model's outputs."""
    import onnx
    import torch

    import benchmarks.networks.torchvision_operators  # noqa: F401  # before transformers
    import lrp_compiler as lrp

    FOLDER.mkdir(parents=True, exist_ok=True)
    example = {name: torch.as_tensor(array).expand(2, -1).clone() for name, array in inputs(FEW).items()}
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=max(LENGTHS))}
    explainer = lrp.compile(
        model(),
        kwargs=example,
        composite="attnlrp",
        dynamic_shapes=dict.fromkeys(example, sizes),
        attention_block=block,
    )
    explainer.save(FOLDER / f"{block}.lrp.pt2")
    explainer.to_onnx(FOLDER / f"{block}.explain.onnx")
    file = onnx.load(FOLDER / f"{block}.explain.onnx")
    del file.graph.output[len(explainer.about.outputs) :]
    needed = {output.name for output in file.graph.output}
    for number in reversed(range(len(file.graph.node))):
        node = file.graph.node[number]
        if needed.isdisjoint(node.output):
            del file.graph.node[number]
        else:
            needed |= read_by(node)
    onnx.save(file, FOLDER / f"{block}.forward.onnx")


def read_by(node: Any) -> set[str]:
    """Names that an ONNX node reads, those that the graph inside it reads from outside among them."""
    inner = [inside for attribute in node.attribute for inside in attribute.g.node]
    return {*node.input, *(name for inside in inner for name in read_by(inside))}


def step(what: str, runtime: str, block: int, length: int) -> None:
    """Measure in this process and print what was found: the peaks, or the seconds of CPU."""
    given = inputs(length)
    runs = in_torch(block) if runtime == "torch" else in_onnxruntime(block, lean=what == "peak")
    if what == "cpu":
        print(json.dumps({what: dict(zip(KINDS, seconds([partial(run, given) for run in runs]), strict=True))}))
        return
    for run in runs:
        run(inputs(FEW))
    peaks = dict(zip(KINDS, (peak(partial(run, given)) for run in runs), strict=True))
    print(json.dumps({what: peaks} | compared(runs[1](given), runtime, block, length)))


def in_torch(block: int) -> list[Run]:
    """The forward graph and the explainer, as what they return last."""
    import torch

    import lrp_compiler as lrp

    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    explainer = lrp.load(FOLDER / f"{block}.lrp.pt2")

    def runs(module: Any) -> Run:
        return lambda given: module(*map(torch.as_tensor, given.values()))[-1].numpy()

    return [runs(explainer.forward), runs(explainer.module)]


def in_onnxruntime(block: int, lean: bool) -> list[Run]:
    """The same."""
    import onnxruntime

    from lrp_compiler.runtime import lean_options

    def runs(kind: str) -> Run:
        options = lean_options() if lean else onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        provider = ("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"} if lean else {})
        session = onnxruntime.InferenceSession(FOLDER / f"{block}.{kind}.onnx", options, providers=[provider])
        return lambda given: session.run(None, given)[-1]

    return [runs(kind) for kind in KINDS]


def compared(relevance: Any, runtime: str, block: int, length: int) -> dict[str, float]:
    """How far the relevance is from that of attention as a whole, if that has been measured; it is kept for that."""
    import numpy as np

    np.save(FOLDER / f"{runtime}-{block}-{length}.npy", relevance)
    whole = FOLDER / f"{runtime}-0-{length}.npy"
    if not block or not whole.exists():
        return {}
    wanted = np.load(whole)
    return {"difference": float(abs(relevance - wanted).sum() / abs(wanted).sum())}


def peak(run: Callable[[], Any]) -> float:
    """Resident memory at most in a run, above the resting process, MB."""
    rest()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return (status("VmHWM") - before) / 1e3


def seconds(runs: list[Callable[[], Any]]) -> list[float]:
    """Of CPU, of each the median of runs that alternate, after two of each: memory is taken then."""
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(REPEAT + 2):
        for one, run in zip(taken, runs, strict=True):
            start = time.process_time()
            run()
            one.append(time.process_time() - start)
    return [statistics.median(one[2:]) for one in taken]


# ── table ────────────────────────────────────────────────────────────────────────────────────────────────────────────


COLUMNS = (
    *("block", "tokens", "forward, MB", "explain, MB", "above, MB"),
    *("forward, CPU s", "explain, CPU s", "÷ whole", "difference"),
)


def above(row: dict[str, Any]) -> float:
    return float(row["peak"]["explain"] - row["peak"]["forward"])


def exponent(lengths: list[int], values: list[float]) -> float:
    """The slope of log(value) over log(length)."""
    import numpy as np

    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    about = "Written by `python -m benchmarks.memory.long_context`; its docstring says what the columns mean."
    parts = ["# Long prompts", about]
    for runtime in RUNTIMES:
        lines = [
            f"## {runtime}",
            "",
            f"| {' | '.join(COLUMNS)} |",
            "|" + "---:|" * len(COLUMNS),
        ]
        slopes = []
        for block in BLOCKS:
            mine = {length: rows.get(f"{runtime} {block} {length}") for length in LENGTHS}
            measured_ones = {length: row for length, row in mine.items() if row}
            for length, row in measured_ones.items():
                whole = rows.get(f"{runtime} 0 {length}")
                ratio = (
                    f"{row['cpu']['explain'] / whole['cpu']['explain']:.2f}" if whole and block and "cpu" in row else ""
                )
                difference = f"{row['difference']:.0e}" if "difference" in row else ""
                taken = row.get("cpu")
                cells = [str(block or "whole"), f"{length:,}"]
                cells += [f"{value:,.0f}" for value in (*row["peak"].values(), above(row))]
                cells += [f"{taken[key]:.2f}" if taken else "" for key in KINDS]
                cells += [ratio, difference]
                lines.append(f"| {' | '.join(cells)} |")
            if len(measured_ones) > 1:
                lengths = list(measured_ones)
                over = exponent(lengths, [above(row) for row in measured_ones.values()])
                all_of_it = exponent(lengths, [row["peak"]["explain"] for row in measured_ones.values()])
                slopes.append(f"{block or 'whole'}: above {over:.2f}, explain {all_of_it:.2f}")
        parts += ["\n".join(lines), f"Exponents: {'; '.join(slopes)}."]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES)
    parser.add_argument("--blocks", nargs="+", type=int, default=BLOCKS)
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--write", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write is not None:
        write(options.write)
        return
    if options.step:
        step(*options.step[:2], *map(int, options.step[2:]))
        return
    console = reporting.console()
    path = RESULTS / "long_context.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for block in options.blocks:
        subprocess.run(
            processes.command("benchmarks.memory.long_context", "--write", block, quiet=True),
            check=True,
            env=processes.environment(),
        )
        for runtime in options.runtimes:
            for length in options.lengths:
                if not block and length > WHOLE_UP_TO:
                    continue
                row: dict[str, Any] = {}
                for what in ("peak", "cpu") if length <= TIMED_UP_TO else ("peak",):
                    asked = ("--step", what, runtime, block, length)
                    # What is freed leaves the process at once where memory is measured; that takes time.
                    more = {"MALLOC_MMAP_THRESHOLD_": "65536"} if what == "peak" else {}
                    done = subprocess.run(
                        processes.command("benchmarks.memory.long_context", *asked, quiet=True),
                        check=True,
                        stdout=subprocess.PIPE,
                        text=True,
                        env=processes.environment(**more),
                    )
                    row |= json.loads(done.stdout.splitlines()[-1])
                rows[f"{runtime} {block} {length}"] = row
                console.print(runtime, block, length, row, highlight=False)
                reporting.write_rows(path, rows)
                reporting.write(RESULTS / "long_context.md", markdown(rows))


if __name__ == "__main__":
    main()
