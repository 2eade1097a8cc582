"""What compiling takes where a model's weights are mapped from a file: they are read where they lie, and never copied.

    python -m benchmarks.memory.mapped
    python -m benchmarks.memory.mapped --models 7b

Llamas with random weights, in a file that `torch.load(…, mmap=True)` maps and `load_state_dict(…, assign=True)` puts
into a model without weights of its own; `attnlrp`, `lrp.Answer()`, lengths open. Steps are processes of their own:

    rest      the model is built on its mapped weights, and nothing done with them yet
    forward   … and predicts once: every weight has been read
    compile   … instead of that, it is compiled
    onnx      … and the explainer written as an ONNX file, weights in files of 2 GB at most (of a model in float16:
              onnxruntime has no arithmetic in bfloat16 on processors)

Peaks are resident memory at most (VmHWM), all of it: libraries, mapped pages of the weights' file that happen to be in
memory, and what the process holds itself. `anonymous` is the last of these alone, sampled every 20 ms: pages of files
may be dropped at any time and read again. ÷ weights: peak less what libraries take (the peak at rest), as a multiple of
the weights' bytes; the wish is 1.2 at most. Rows are kept in results/mapped.json, the table in results/mapped.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.base import processes, reporting
from benchmarks.base.places import BUILD, RESULTS
from benchmarks.memory.at_budget import status

FOLDER = BUILD / "mapped"
WISH = 1.2
TOKENS = 16
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "7b": (
        "Llama 7B's width, 2 layers",
        {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "num_hidden_layers": 2,
            "vocab_size": 32000,
            "tie_word_embeddings": False,
        },
    ),
    "1b": (
        "Llama 3.2 1B, 16 layers",
        {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "num_hidden_layers": 16,
            "vocab_size": 128256,
            "tie_word_embeddings": True,
        },
    ),
}
STEPS = (
    ("bfloat16", "rest"),
    ("bfloat16", "forward"),
    ("bfloat16", "compile"),
    ("float16", "rest"),
    ("float16", "onnx"),
)


def config(name: str) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**MODELS[name][1], max_position_embeddings=4096, use_cache=False)


def write_weights(name: str, dtype: str) -> None:
    """A state dict of normal noise, each tensor scaled by what it is multiplied with."""
    import torch

    import benchmarks.networks.torchvision_operators  # noqa: F401  # before transformers
    from transformers import LlamaForCausalLM  # isort: skip

    torch.manual_seed(0)
    with torch.device("meta"):
        empty = LlamaForCausalLM(config(name))
    tied = {"lm_head.weight"} if empty.config.tie_word_embeddings else set()
    state = {}
    for key, value in empty.state_dict().items():
        if key not in tied:
            noise = torch.randn(value.shape, dtype=torch.float32)
            state[key] = (1 + 0.1 * noise if value.ndim == 1 else noise / value.shape[1] ** 0.5).to(
                getattr(torch, dtype)
            )
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.save(state, FOLDER / f"{name}-{dtype}.pt")


def model(name: str, dtype: str) -> Any:
    """On its mapped weights."""
    import torch
    from transformers import LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    state = torch.load(FOLDER / f"{name}-{dtype}.pt", mmap=True, weights_only=True)
    with torch.device("meta"):
        made = LlamaForCausalLM(config(name))
    if made.config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    made.load_state_dict(state, assign=True)
    made.model.rotary_emb = LlamaRotaryEmbedding(made.config)  # no weight: it is worked out
    return made.eval().requires_grad_(False)


@contextmanager
def anonymous() -> Iterator[dict[str, int]]:
    """The most anonymous memory while it lasts, kB, as `peak`."""
    found, done = {"peak": 0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            found["peak"] = max(found["peak"], status("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def step(name: str, dtype: str, what: str) -> None:
    """Run one step in this process and print what it took."""
    import torch

    import benchmarks.networks.torchvision_operators  # noqa: F401  # before transformers
    import lrp_compiler as lrp
    import lrp_compiler.export.onnx  # likewise

    torch.set_num_threads(1)
    ids = torch.arange(TOKENS)[None]
    files: list[float] = []

    def compiled() -> Any:
        lengths = {"input_ids": {1: torch.export.Dim("sequence", min=2, max=2048)}}
        options: dict[str, Any] = {"composite": "attnlrp", "target": lrp.Answer(), "dynamic_shapes": lengths}
        return lrp.compile(made, kwargs={"input_ids": ids}, **options)

    def onnx() -> None:
        path = FOLDER / f"{name}.lrp.onnx"
        compiled().to_onnx(path)
        files.extend(sorted(file.stat().st_size / 1e9 for file in FOLDER.glob(f"{path.name}*")))

    does: dict[str, Callable[[], Any]] = {
        "rest": lambda: None,
        "forward": lambda: made(input_ids=ids),
        "compile": compiled,
        "onnx": onnx,
    }
    start = time.perf_counter()
    with anonymous() as found, torch.no_grad():
        made = model(name, dtype)
        does[what]()
    row = {"seconds": time.perf_counter() - start, "peak": status("VmHWM") / 1e6, "anonymous": found["peak"] / 1e6}
    weights = sum({value.data_ptr(): value.nbytes for value in made.parameters()}.values())
    print(json.dumps({**row, "weights": weights / 1e9, "files": files}))


def markdown(rows: dict[str, Any]) -> str:
    """The table."""
    columns = ("model", "dtype", "step", "weights", "peak", "anonymous", "÷ weights", "seconds", "files")
    lines = [f"| {' | '.join(columns)} |", "|---|---|---" + "|---:" * (len(columns) - 3) + "|"]
    for key, row in rows.items():
        name, dtype, what = key.split()
        rest = rows[f"{name} {dtype} rest"]["peak"]
        over = "" if what == "rest" else f"{(row['peak'] - rest) / row['weights']:.2f}"
        files = " + ".join(f"{size:.2f}" for size in row["files"])
        cells = [MODELS[name][0], dtype, what, *(f"{row[value]:.2f}" for value in ("weights", "peak", "anonymous"))]
        cells += [over, f"{row['seconds']:.0f}", files]
        lines.append(f"| {' | '.join(cells)} |")
    about = "Written by `python -m benchmarks.memory.mapped`; its docstring says what the columns mean. Sizes in GB."
    return "\n\n".join(["# Weights that are mapped", about, "\n".join(lines)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="default: all")
    parser.add_argument("--again", action="store_true", help="measure also what has a row")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_weights(*options.write)
        return
    if options.step:
        step(*options.step)
        return
    console, path = reporting.console(), RESULTS / "mapped.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def run(*asked: str) -> str:
        command = processes.command("benchmarks.memory.mapped", *asked, quiet=True)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=processes.environment())
        return done.stdout

    for name in options.models:
        for dtype, what in STEPS:
            key = f"{name} {dtype} {what}"
            if key in rows and not options.again:
                continue
            if not (FOLDER / f"{name}-{dtype}.pt").exists():
                run("--write", name, dtype)
            rows[key] = json.loads(run("--step", name, dtype, what).splitlines()[-1])
            console.print(key, rows[key], highlight=False)
            reporting.write_rows(path, rows)
            reporting.write(RESULTS / "mapped.md", markdown(rows))


if __name__ == "__main__":
    main()
