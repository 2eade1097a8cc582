"""What is explained, and the relevance put on it.

`select_explained` adds to the forward graph the value that is explained, `[batch, classes]`:

    logits [batch, sequence, classes]    →    select(logits, 1, −1) [batch, classes]

so that relevance finds its way back through ordinary selection rules. `seed` is run when relevance is emitted: it says
which class of every row gets how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from lrp_compiler.errors import InputError
from lrp_compiler.rules import Relevance, total, unit

from .graph_tools import call, outputs

aten = torch.ops.aten

SeedMode = Literal["value", "one", "tensor"]
EXPLAINED = "lrp_explained"
"""`node.meta` flag of the explained value."""


@dataclass(frozen=True)
class Seed:
    """Which class is explained and what is put on it.

    Args:
        target: "argmax" (each row's largest logit), "index" (given at run time) or a class number.
        mode: "value" (the logit itself), "one" (1) or "tensor" (given at run time, in total form).
    """

    target: str | int = "argmax"
    mode: SeedMode = "value"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Run-time inputs that the seed needs."""
        if self.mode == "tensor":
            return ("seed",)
        return ("target",) if self.target == "index" else ()

    def check(self, classes: int | torch.SymInt) -> None:
        """Compare a fixed class number with the number of classes.

        Raises:
            InputError: there is no such class.
        """
        if isinstance(self.target, int) and isinstance(classes, int) and not 0 <= self.target < classes:
            raise InputError(
                f"Target {self.target} is out of range: the model has {classes} classes, 0 to {classes - 1}."
            )


def select_explained(module: fx.GraphModule, output: int, name: str) -> fx.Node:
    """Insert the explained value, `[batch, classes]`, and return its node.

    Args:
        module: the forward graph.
        output: position of the explained tensor among the graph's flat outputs.
        name: that output's name, for messages.

    Raises:
        InputError: the output has no batch dim, or more dims than a class and a position take.
    """
    final = module.graph.output_node()
    node: fx.Node = outputs(module)[output]
    rank = node.meta["val"].dim()
    if rank not in (1, 2, 3):
        raise InputError(
            f"Output {name!r} has shape {list(node.meta['val'].shape)}: a target is a class of a [batch, classes] or "
            "[batch, sequence, classes] output; wrap the model so that it returns one."
        )
    explained = node
    with module.graph.inserting_before(final):
        if rank == 1:
            explained = call(module.graph, aten.unsqueeze.default, node, -1)
        elif rank == 3:
            explained = call(module.graph, aten.select.int, node, 1, -1)
    explained.meta[EXPLAINED] = True
    return explained


def seed_relevance(z: Tensor, seed: Seed, given: Tensor | None) -> Relevance:
    """Relevance of the explained value.

    Args:
        z: `[batch, classes]`, float.
        seed: what to put where.
        given: the run-time input, where the seed needs one: `target` int64 `[batch]`, or `seed` like z.

    Returns:
        One-hot rows in unit form (mode "value": the logit itself), in total form for mode "one", or `given`.
    """
    if seed.mode == "tensor":
        assert given is not None
        return total(given)
    classes = torch.arange(z.shape[-1], device=z.device)
    if seed.target == "argmax":
        chosen = classes == z.argmax(-1, keepdim=True)
    elif seed.target == "index":
        assert given is not None
        chosen = classes == given.unsqueeze(-1)
    else:
        chosen = (classes == int(seed.target)).expand(*z.shape)
    one_hot = chosen.to(z.dtype)
    return total(one_hot) if seed.mode == "one" else unit(one_hot)
