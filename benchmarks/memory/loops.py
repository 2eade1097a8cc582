"""What explaining a recurrence takes by its length: peak memory and CPU a token, of Mamba at its published width.

transformers' Mamba (768 wide, 16 states, `attnlrp`, random weights, float32, batch 1, lengths open, logits at the last
position alone) writes its steps out in Python; they become a loop. What the loop reads, `[channels, length, states]`,
is a product that is broadcast: it is worked out in the steps, from less. `as written` is the same with
`optimise=False`, where it stands in front of the loop; `checkpoints` as `memory_budget=0.5`, with which loops keep
their states at every 32nd step alone. Each length is a process of its own, in onnxruntime:

    MB a token     resident memory at most in a first run of the explainer, above the resting process
    CPU ms         of the explainer, a token, on one thread, in a second run: memory is taken in the first
    nodes          operations of the forward graph, those in loops' bodies among them
    compile, file  seconds of CPU; MB, and MB of the weights

Rows are kept in results/loops.json, the table in results/loops.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.base import reporting
from benchmarks.base.places import BUILD, RESULTS
from benchmarks.memory.checkpoints import FREED, measured, run

LAYERS = (2, 24)
FORMS: dict[str, dict[str, Any]] = {
    "moved": {},
    "checkpoints": {"memory_budget": 0.5},
    "as written": {"optimise": False},
}
LENGTHS = (64, 256, 1024)
AS_WRITTEN_UP_TO = 2
"""Layers; with more, its graph takes more memory than there is at 1,024 tokens."""
VOCABULARY = 50280
FEW = 8
"""Tokens of the example, and of a run before what is measured."""
FOLDER = BUILD / "loops"
OWN = "benchmarks.memory.loops"


def model(layers: int) -> Any:
    import torch
    from transformers import MambaConfig, MambaForCausalLM

    class NextToken(torch.nn.Module):
        """Logits of the next token alone."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any) -> Any:
            return self.model(input_ids=input_ids, use_cache=False, logits_to_keep=1).logits[:, -1]

    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=VOCABULARY, hidden_size=768, num_hidden_layers=layers, state_size=16, time_step_rank=48
    )
    return NextToken(MambaForCausalLM(config)).eval().requires_grad_(False)


def inputs(length: int) -> dict[str, Any]:
    import numpy as np

    return {"input_ids": np.random.default_rng(length).integers(0, VOCABULARY, (1, length))}


def write(layers: int, form: str) -> None:
    """The explainer's file; what it took is printed."""
    import torch

    import benchmarks.networks.torchvision_operators  # noqa: F401  # before transformers
    import lrp_compiler as lrp
    from lrp_compiler.passes.graph import everywhere

    FOLDER.mkdir(parents=True, exist_ok=True)
    path = path_of(layers, form)
    example = {name: torch.as_tensor(array).expand(2, -1).clone() for name, array in inputs(FEW).items()}
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=max(LENGTHS))}
    network = model(layers)
    start = time.process_time()
    explainer = lrp.compile(
        network,
        kwargs=example,
        composite="attnlrp",
        dynamic_shapes=dict.fromkeys(example, sizes),
        **FORMS[form],
    )
    explainer.to_onnx(path)
    taken = time.process_time() - start
    graphs = list(everywhere(explainer.artefact.forward))
    nodes = sum(str(node.target) != "<built-in function getitem>" for graph in graphs for node in calls(graph))
    weights = sum(weight.nbytes for weight in network.parameters())
    print(json.dumps({"nodes": nodes, "compile": taken, "file": path.stat().st_size / 1e6, "weights": weights / 1e6}))


def path_of(layers: int, form: str) -> Path:
    return FOLDER / f"{layers}-{list(FORMS).index(form)}.onnx"


def calls(module: Any) -> list[Any]:
    """The operations of a graph."""
    return [node for node in module.graph.nodes if node.op == "call_function"]


# ── table ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    parts = [
        "# Recurrences by their length",
        "Written by `python -m benchmarks.memory.loops`; its docstring says what the columns mean.",
    ]
    of_files = ["| layers | form | nodes | compile, CPU s | file, MB | ÷ weights |", "|---:|---|---:|---:|---:|---:|"]
    of_runs = ["| layers | form | tokens | MB a token | CPU ms a token |", "|---:|---|---:|---:|---:|"]
    for layers in LAYERS:
        for form in FORMS:
            row = rows.get(f"{layers} {form}")
            if row is None:
                continue
            cells = [f"{row['nodes']:,}", f"{row['compile']:.0f}", f"{row['file']:.0f}"]
            of_files.append(f"| {layers} | {form} | {' | '.join(cells)} | {row['file'] / row['weights']:.3f} |")
            for length in LENGTHS:
                row = rows.get(f"{layers} {form} {length}")
                if row is not None:
                    taken = f"{row['peak'] / length:.3f} | {1e3 * row['cpu'] / length:.2f}"
                    of_runs.append(f"| {layers} | {form} | {length:,} | {taken} |")
    return "\n\n".join([*parts, "\n".join(of_files), "\n".join(of_runs)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", type=int, default=LAYERS)
    parser.add_argument("--forms", nargs="+", default=list(FORMS))
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(int(options.write[0]), options.write[1])
        return
    if options.step:
        what, layers, form, length = options.step
        print(json.dumps(run(what, path_of(int(layers), form), inputs(FEW), inputs(int(length)))))
        return
    console = reporting.console()
    path = RESULTS / "loops.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for layers in options.layers:
        for form in options.forms:
            if form == "as written" and layers > AS_WRITTEN_UP_TO:
                continue
            rows[f"{layers} {form}"] = measured(OWN, "--write", layers, form)
            for length in options.lengths:
                row = measured(OWN, "--step", "peak", layers, form, length, **FREED)
                row |= measured(OWN, "--step", "cpu", layers, form, length)
                rows[f"{layers} {form} {length}"] = row
                console.print(layers, form, length, row, highlight=False)
                reporting.write_rows(path, rows)
                reporting.write(RESULTS / "loops.md", markdown(rows))


if __name__ == "__main__":
    main()
