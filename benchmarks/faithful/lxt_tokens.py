"""LXT 2.1 on the networks of `text_methods.Network`: a process of its own, in build/peers with transformers 4.52.4.

    python -m benchmarks.faithful.lxt_tokens FOLDER THREADS     reads FOLDER/in.pt, writes FOLDER/out.pt

LXT patches transformers' classes before the model is made; relevance is then gradient × input of the word embeddings.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.networks import torchvision_operators  # noqa: F401  # lxt imports torchvision

IN, OUT = "in.pt", "out.pt"
PATCHED = {"reviews": "transformers.models.bert.modeling_bert", "questions": "transformers.models.llama.modeling_llama"}
GAMMA = 0.05


def reviews(configuration: Mapping[str, Any]) -> Any:
    from transformers import BertConfig, BertModel

    from benchmarks.faithful.reviews import ReviewClassifier

    encoder = BertModel(BertConfig(**configuration), add_pooling_layer=False)
    return ReviewClassifier(encoder, configuration["hidden_size"])


def questions(configuration: Mapping[str, Any]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    from benchmarks.faithful.questions import NextToken

    return NextToken(LlamaForCausalLM(LlamaConfig(**configuration)))


NETWORKS = {"reviews": reviews, "questions": questions}


def patch(network: str, variant: str) -> None:
    """Put LXT's forwards in the place of transformers' own.

    Raises:
        LookupError: LXT has no such variant for this architecture.
    """
    from lxt.efficient import monkey_patch, monkey_patch_zennit

    module = importlib.import_module(PATCHED[network])
    if variant == "cp-lrp":
        ours = importlib.import_module(f"lxt.efficient.models.{PATCHED[network].split('.')[2]}")
        if not hasattr(ours, "cp_LRP"):
            raise LookupError(f"LXT has no CP-LRP for {PATCHED[network]}.")
        monkey_patch(module, ours.cp_LRP)
        return
    if variant == "attnlrp-gamma":
        monkey_patch_zennit()
    monkey_patch(module)


def main(folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    given = torch.load(folder / IN, weights_only=True)
    job = given["job"]
    patch(job["network"], job["variant"])
    model = NETWORKS[job["network"]](job["configuration"]).eval().requires_grad_(False)
    model.load_state_dict(given["state"])
    if job["variant"] == "attnlrp-gamma":
        from zennit.composites import LayerMapComposite
        from zennit.rules import Gamma

        LayerMapComposite([(torch.nn.Linear, Gamma(GAMMA))]).register(model)
    start, found = time.process_time(), []
    for input_ids, attention_mask, target in given["batches"]:
        x = model.embedding(input_ids).detach().requires_grad_()
        logits = model.from_embeddings(x, attention_mask)
        logits.gather(1, target[:, None]).sum().backward()
        found.append((x * x.grad).sum(-1).detach())
    torch.save({"relevance": found, "seconds": time.process_time() - start}, folder / OUT)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
