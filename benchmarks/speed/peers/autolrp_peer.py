"""autoLRP 0.2.0 on the same PyTorch models; what it cannot run is a row with its reason.

Its rules give a bias a share by magnitude, |b| / (|z| + |b|): without biases its ε rule gives what Zennit's gives, with
them another relevance.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import autolrp
import torch
from autolrp import ATTNLRP, BASE, CPLRP, ELEMENTWISE_NODES, LRPConfig, on

from benchmarks.speed.cases import Case
from benchmarks.speed.peers.networks import explained, for_gradients, leaf, network, per_input

CONFIGURATIONS = {
    "epsilon": lambda: LRPConfig(eps=1e-6),
    "epsilon-plus": LRPConfig.composite,
    "attnlrp": lambda: LRPConfig(rule={**BASE, **ATTNLRP, **on(ELEMENTWISE_NODES, "yx")}),
    "cp-lrp": lambda: LRPConfig(rule={**BASE, **CPLRP}),
}


def make(name: str, case: Case, folder: Path, threads: int) -> Callable[[dict[str, Any]], Any]:
    torch.set_num_threads(threads)
    model = for_gradients(network(case.network))
    configuration = CONFIGURATIONS[case.composite]()

    def run(inputs: dict[str, Any]) -> Any:
        value, argument = leaf(model, inputs)
        x = autolrp.tensor(value)
        explained(model(**{argument: x})).sum().lrp(config=configuration)
        return per_input(x.relevance.as_subclass(torch.Tensor), argument)

    return run
