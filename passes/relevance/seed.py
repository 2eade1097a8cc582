"""The relevance put on the explained value.

    z [batch, classes], target 3    →    one-hot rows: in unit form the logit itself, in total form 1
    z [batch, classes], pair (3, 5) →    +1 at 3, −1 at 5
    several targets                 →    one such tensor for each, stacked: [targets, batch, classes]
    scores [batch, sequence] of an answer's tokens → their weights: in unit form that many times the score

`seed_relevance` is run when relevance is emitted; `select_explained` has made the explained value before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lrp_compiler.passes.forward import Answer, Pick, Target
from lrp_compiler.rules import Relevance, total, unit
from lrp_compiler.torch_private import fake_mode_of

SeedMode = Literal["value", "one", "tensor"]
WEIGHTS = "weights"
"""Name of the run-time input that says how much each token of an answer counts."""


@dataclass(frozen=True)
class Seed:
    """Which classes are explained and what is put on them.

    Args:
        target: the explained value; its classes alone will do.
        mode: "value" (the logit itself), "one" (1) or "tensor" (given at run time, in total form).
    """

    target: Target | Answer
    mode: SeedMode = "value"

    def __post_init__(self) -> None:
        """Make a Target of plain classes."""
        if not isinstance(self.target, Answer):
            object.__setattr__(self, "target", Target.of(self.target))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Run-time inputs that the seed needs."""
        if isinstance(self.target, Answer):
            return (WEIGHTS,)
        if self.target.classes is None:
            return ()
        if self.mode == "tensor":
            return ("seed",)
        return ("target",) if self.target.classes == "index" else ()

    @property
    def reads_value(self) -> bool:
        """Whether the seed depends on the explained value."""
        return isinstance(self.target, Target) and self.mode != "tensor" and "argmax" in self.target.picks

    def placeholder(self, explained: Tensor) -> Tensor:
        """A symbolic value of the run-time input that the seed needs."""
        lead = () if self.target.targets is None else (self.target.targets,)
        with fake_mode_of(explained):
            if self.mode == "tensor" or isinstance(self.target, Answer):
                return explained.new_empty((*lead, *explained.shape))
            return torch.empty((*lead, explained.shape[0]), dtype=torch.int64, device=explained.device)


def seed_relevance(z: Tensor, seed: Seed, given: Mapping[str, Tensor]) -> Relevance | None:
    """Relevance of the explained value; None: nothing is put on it.

    Args:
        z: `[batch, classes]`, float.
        seed: what to put where.
        given: the run-time inputs that the seed needs: `target` int64 `[batch]` or `[targets, batch]`, or `seed`,
            shaped like z with the targets in front; of an answer `weights`, likewise.

    Returns:
        Shaped like z, or `[targets, batch, classes]`: ±1 in unit form for mode "value" (the logit itself), in total
        form for mode "one", or `given["seed"]`.
    """
    if isinstance(seed.target, Answer):
        return Relevance(given[WEIGHTS], "total" if seed.mode == "one" else "unit")
    if seed.target.classes is None:
        return None
    if seed.mode == "tensor":
        return total(given["seed"])
    numbers = torch.arange(z.shape[-1], device=z.device)

    def one_hot(pick: Pick) -> Tensor:
        if isinstance(pick, tuple):
            return one_hot(pick[0]) - one_hot(pick[1])
        if pick == "argmax":
            chosen = numbers == z.argmax(-1, keepdim=True)
        elif pick == "index":
            chosen = numbers == given["target"].unsqueeze(-1)
        else:
            chosen = (numbers == int(pick)).expand(*z.shape)
        return chosen.to(z.dtype)

    rows = [one_hot(pick) for pick in seed.target.picks]
    share = torch.stack(rows) if isinstance(seed.target.classes, list) else rows[0]
    return total(share) if seed.mode == "one" else unit(share)
