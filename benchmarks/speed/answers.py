"""What one span of a language model's answer costs, in forwards of the plain model, in turn with it.

    python -m benchmarks.speed.answers
    python -m benchmarks.speed.answers --layers 3 --prompt 1000 --answer 200 --rounds 7

A Llama in the size of SmolLM2-135M (random weights, float32), `attnlrp`, `lrp.Answer()`, lengths open; both files in
onnxruntime, medians of seconds of the processor. With all 30 layers it needs about 6 GB. Writes
`benchmarks/results/answers.md`.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers

import lrp_compiler as lrp
from benchmarks.base.reporting import console, write
from lrp_compiler.runtime import OnnxExplainer

RESULT = Path(__file__).parents[1] / "results" / "answers.md"
SIZES = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
VOCABULARY, LONGEST, LAYERS = 49_152, 8_192, 30
TARGET = 2.3


def files(layers: int, folder: Path) -> tuple[Path, Path]:
    """The plain model's file, and the explainer's."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=layers,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        use_cache=False,
        **SIZES,
    )
    model: Any = transformers.LlamaForCausalLM(config).eval()
    inputs = {"input_ids": torch.randint(0, VOCABULARY, (1, 32))}
    lengths = {"input_ids": {1: torch.export.Dim("sequence", min=2, max=LONGEST)}}
    plain, ours = folder / "plain.onnx", folder / "m.lrp.onnx"
    program = torch.export.export(model, (), inputs, dynamic_shapes=lengths)
    torch.onnx.export(program, dynamo=True, verbose=False).save(plain)
    explainer = lrp.compile(model, kwargs=inputs, composite="attnlrp", target=lrp.Answer(), dynamic_shapes=lengths)
    explainer.to_onnx(ours)
    return plain, ours


def measured(plain: Path, ours: Path, prompt: int, answer: int, rounds: int, threads: int) -> dict[str, list[float]]:
    """Contender → seconds of each round."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, prompt + answer))
    weights = np.zeros(ids.shape, np.float32)
    weights[0, prompt:] = 1
    session = onnxruntime.InferenceSession(plain, options)
    found: dict[str, list[float]] = {"forward": [], "span": []}
    with OnnxExplainer(ours, session_options=options) as explainer:
        for number in range(rounds + 1):
            start = time.process_time()
            session.run(None, {"input_ids": ids})
            middle = time.process_time()
            explainer(input_ids=ids, weights=weights)
            end = time.process_time()
            if number:  # the first round warms up
                found["forward"].append(middle - start)
                found["span"].append(end - middle)
    return found


def text(options: argparse.Namespace, found: dict[str, list[float]]) -> str:
    """The result as a page."""
    medians = {name: statistics.median(each) for name, each in found.items()}
    ratios = [span / forward for span, forward in zip(found["span"], found["forward"], strict=True)]
    cells = [f"{medians[name]:.2f} ({min(each):.2f} to {max(each):.2f})" for name, each in found.items()]
    layers = "all 30 layers" if options.layers == LAYERS else f"{options.layers} of 30 layers at full width"
    load = os.getloadavg()[0]
    return (
        "# One span of an answer, in forwards\n\n"
        f"`python -m benchmarks.speed.answers`: a Llama in the size of SmolLM2-135M, {layers}, random weights; "
        f"{options.answer} tokens of an answer explained by a prompt of {options.prompt} tokens (`lrp.Answer()`, one "
        f"backward, `attnlrp`), beside the plain model's forward in onnxruntime {onnxruntime.__version__}, "
        f"{options.threads} thread{'s' * (options.threads > 1)}: seconds of the processor, medians of {options.rounds} "
        f"rounds in turn, least and most in brackets. {datetime.date.today()}; {os.cpu_count()} cores, load "
        f"{load:.1f} at the end: above the number of cores others were at work, and the ratio counts, not seconds.\n\n"
        "| forward, s | span, forward included, s | span ÷ forward, median of the rounds | target |\n"
        "|---:|---:|---:|---:|\n"
        f"| {cells[0]} | {cells[1]} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
        f"| ≤ {TARGET} |\n"
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=LAYERS, help="of the model; default 30")
    parser.add_argument("--prompt", type=int, default=1000, help="tokens; default 1000")
    parser.add_argument("--answer", type=int, default=200, help="tokens; default 200")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--threads", type=int, default=1, help="default 1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain, ours = files(options.layers, Path(folder))
        gc.collect()
        found = measured(plain, ours, options.prompt, options.answer, options.rounds, options.threads)
    page = text(options, found)
    console().print(page, markup=False)
    write(RESULT, page)


if __name__ == "__main__":
    main()
