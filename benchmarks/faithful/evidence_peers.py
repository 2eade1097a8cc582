"""LXT and Inseq on whole answers: a process of its own each, that answers questions line by line.

    python -m benchmarks.faithful.evidence_peers lxt FOLDER       build/peers: transformers 4.52.4
    python -m benchmarks.faithful.evidence_peers inseq FOLDER     build/inseq

Each line that it reads is a JSON object {"method", "prompt", "answer", "text", "wrote"} (ids, and both as texts); each
line that it writes one {"relevance", "seconds"} behind the word FOUND, relevance `[prompt]`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from benchmarks.base import beside, environment, processes
from benchmarks.base.places import BUILD

STATE = "model.pt"
FOUND = "FOUND "
INSEQ = ("inseq==0.7.1", "jaxtyping==0.3.2", "wadler-lindig", "treescope", "typeguard==2.13.3")

Row = dict[str, Any]


class Ids(Protocol):
    """Of `evidence_questions.Asked`."""

    prompt: Any
    answer: Any
    question: Any


def python(peer: str) -> Path:
    """The Python of a peer's environment; made where there is none."""
    if peer == "lxt":
        return environment.python()

    def fill(pip: list[str | Path]) -> None:
        # Alone: what it asks for besides are builds for CUDA.
        subprocess.run([*pip, "--no-deps", *INSEQ], check=True)

    return beside.made(BUILD / "inseq", fill)


class Peer:
    """A process that waits for questions.

    Args:
        name: "lxt" or "inseq".
        folder: where the model's weights lie (`STATE`).
    """

    def __init__(self, name: str, folder: Path) -> None:
        interpreter = python(name)
        command = processes.command("benchmarks.faithful.evidence_peers", name, folder, python=interpreter, quiet=True)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=processes.environment(interpreter, OMP_NUM_THREADS="1"),
        )

    def __call__(self, method: str, asked: Ids) -> tuple[list[float], float]:
        """Relevance of the prompt's tokens, and seconds of the processor.

        Raises:
            RuntimeError: the process ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        question = asked.question
        text = {"text": question.prompt, "wrote": f" {question.answer}"}
        ids = {"prompt": asked.prompt.tolist(), "answer": asked.answer.tolist()}
        self.process.stdin.write(json.dumps({"method": method, **ids, **text}) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(FOUND):
                row = json.loads(line.removeprefix(FOUND))
                return row["relevance"], row["seconds"]
        raise RuntimeError(f"{method}: its process ended, by {self.process.wait()}.")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


# ── in the process ───────────────────────────────────────────────────────────────────────────────────────────────────


def lxt(folder: Path) -> Callable[[Row], Any]:
    """LXT 2.1: gradient × input of the patched model, Σ of the answer's logits from one backward."""
    import torch

    from benchmarks.faithful.lxt_tokens import patch

    given = torch.load(folder / STATE, weights_only=True)
    patch("questions", "attnlrp")
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**given["configuration"])).eval().requires_grad_(False)
    model.load_state_dict(given["state"])

    def explain(row: Row) -> Any:
        answer = torch.tensor(row["answer"])
        x = model.get_input_embeddings()(torch.tensor([row["prompt"] + row["answer"]])).detach().requires_grad_()
        logits = model(inputs_embeds=x, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1]
        logits[torch.arange(len(answer)), answer].sum().backward()
        return (x * x.grad).sum(-1)[0, : len(row["prompt"])].detach()

    return explain


def inseq(_: Path) -> Callable[[Row], Any]:
    """Inseq 0.7: each token of the answer by itself, in its own loop; then summed over them."""
    from benchmarks.networks import torchvision_operators  # noqa: F401  # transformers imports torchvision

    import inseq as library  # isort: skip

    from benchmarks.networks.pretrained import smollm2

    tokenizer, model = smollm2()
    made: dict[str, Any] = {}

    def explain(row: Row) -> Any:
        method = row["method"]
        if method not in made:
            made[method] = library.load_model(model, method, tokenizer=tokenizer)
        out = made[method].attribute(
            row["text"], row["text"] + row["wrote"], attributed_fn="logit", show_progress=False
        )
        found = out.sequence_attributions[0].target_attributions
        before = len(row["prompt"])
        assert found.shape[:2] == (before + len(row["answer"]), len(row["answer"])), found.shape
        # Saliency by Inseq's own norm over features; amounts add up.
        tokens = found.norm(dim=-1) if method == "saliency" else found.sum(-1)
        return tokens[:before].nan_to_num().sum(1)

    return explain


PEERS: Mapping[str, Callable[[Path], Callable[[Row], Any]]] = {"lxt": lxt, "inseq": inseq}


def main(name: str, folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    explain = PEERS[name](folder)
    for line in sys.stdin:
        row = json.loads(line)
        start = time.process_time()
        relevance = explain(row)
        seconds = time.process_time() - start
        print(FOUND + json.dumps({"relevance": relevance.tolist(), "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
