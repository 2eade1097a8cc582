"""The books: where relevance went, node by node, each share by its own formula.

They are kept in float64 unless asked otherwise: so they show what the rules do, not rounding. Where the inputs get a
thousandth of a logit, the rounding of a float32 forward alone would be a tenth of a percent of what they get. Kept in
the model's own precision they show that rounding, node by node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, fx

from lrp_compiler.passes.forward import explained_value
from lrp_compiler.passes.graph import Float64, assignment, module_path, operation, twins_of, within
from lrp_compiler.passes.relevance import (
    MASKED,
    Latent,
    Listeners,
    Seed,
    gates_of,
    propagate_relevance,
    put_on,
    seed_relevance,
    wide,
)
from lrp_compiler.rules import Relevance, difference, times
from lrp_compiler.torch_private import pytree

from .books import Audit, Entry

Precision = Literal["float64", "model"]


def audit(
    forward: fx.GraphModule,
    inputs: Sequence[Tensor],
    seed: Seed,
    given: Mapping[str, Tensor],
    names: dict[str, str],
    latents: Sequence[Latent] = (),
    precision: Precision = "float64",
) -> Audit:
    """Run the forward graph and the rules eagerly and keep the books.

    The class that is explained is the one that the model picks in its own precision, be it by a rounding.

    Args:
        forward: the assigned forward graph, in the model's own dtype; it stays as it is.
        inputs: one tensor for each placeholder.
        seed: which class is explained, and how much is put on it.
        given: the run-time inputs that the seed and the latents need, by name; of several targets the books hold the
            sums.
        names: placeholder name → public input name.
        latents: masks and seeds at values of the network: what a mask keeps back is booked as "masked" where it does,
            and what by-passes one, where it was on its way to.
        precision: what forward and relevance are computed in (relevance of half-precision models in float32, as the
            explainer does); sums are float64 either way.
    """
    with torch.no_grad():
        explained = explained_value(forward)
        assert explained is not None
        values = pytree.tree_map_only(Tensor, wide, _values(fx.Interpreter, forward, inputs))
        start = seed_relevance(values[explained], seed, given)
        inside = {latent.name: given[latent.name] for latent in latents}
        if precision == "float64":
            start = None if start is None else start.map(Tensor.double)
            inside = {name: tensor.double() for name, tensor in inside.items()}
            values = pytree.tree_map_only(Tensor, _calculable, _values(Float64, forward, inputs))
        books = _Books(values, twins_of(forward))
        nodes = {node.name: node for node in forward.graph.nodes}
        result = Audit([])
        for number in range(seed.target.targets or 1):
            one = partial(_one_of, seed.target.targets, number)
            own = {name: one(tensor) for name, tensor in inside.items()}
            seeds = put_on(latents, own, nodes, lambda node: values[node].shape)
            seeds += [] if start is None else [(explained, start.map(one))]
            result.seed += sum(books.sum(node, relevance) for node, relevance in seeds)
            result.explained += sum(books.rows(node, relevance) for node, relevance in seeds)
            arrived = propagate_relevance(
                forward,
                seeds,
                values.__getitem__,
                gates=gates_of(latents, own, nodes),
                listeners=Listeners(
                    absorb=books.absorb,
                    observe=books.observe,
                    pass_on=books.pass_on,
                    drop=books.drop,
                    asks=lambda node: True,
                ),
            )
            for node, relevance in arrived.items():
                name = names.get(node.name, node.name)
                share = books.sum(node, relevance)
                books.passed[node] += share
                result.inputs[name] = result.inputs.get(name, 0.0) + share
                result.magnitude += float(books.total(node, relevance).abs().sum(dtype=torch.float64))
        result.entries = books.close()
        result.flows = {(node.name, operand.name): share for (node, operand), share in books.flows.items()}
    return result


def _calculable(value: Tensor) -> Tensor:
    """Floats of 8 bits, for which torch has no arithmetic, as what they are worth."""
    return value.double() if value.is_floating_point() and value.itemsize == 1 else value


def _one_of(targets: int | None, number: int, tensor: Tensor) -> Tensor:
    """Of several targets one."""
    return tensor if targets is None else tensor[number]


class _Books:
    def __init__(self, values: Mapping[fx.Node, Any], twins: Mapping[fx.Node, fx.Node]) -> None:
        self.values = values
        self.twins = twins
        self.seen: defaultdict[fx.Node, float] = defaultdict(float)
        self.absorbed: defaultdict[fx.Node, dict[str, float]] = defaultdict(dict)
        self.passed: defaultdict[fx.Node, float] = defaultdict(float)
        self.flows: defaultdict[tuple[fx.Node, fx.Node], float] = defaultdict(float)
        self.magnitude: defaultdict[fx.Node, float] = defaultdict(float)

    def total(self, node: fx.Node, relevance: Relevance) -> Tensor:
        """R, with 0 · ∞ = 0 also where R was made of another infinite value on the way."""
        value: Tensor = self.values[node]
        amount = difference(value, self.values[self.twins[node]]) if node in self.twins else value
        R = relevance.total_of(lambda: amount, times)
        if relevance.form == "total":
            return R
        return R.masked_fill(R.isnan() & value.isinf() & (relevance.tensor == 0), 0.0)

    def rows(self, node: fx.Node, relevance: Relevance) -> float:
        """Σ over the rows of what is put on each, without its sign."""
        R = self.total(node, relevance)
        return float(R.reshape(R.shape[0] if R.dim() else 1, -1).sum(1, dtype=torch.float64).abs().sum())

    def sum(self, node: fx.Node, relevance: Relevance) -> float:
        return float(self.total(node, relevance).sum(dtype=torch.float64))

    def absorb(self, node: fx.Node, cause: str, share: Tensor) -> None:
        self.absorbed[node][cause] = self.absorbed[node].get(cause, 0.0) + float(share.sum(dtype=torch.float64))

    def drop(self, node: fx.Node, share: Tensor) -> None:
        """What a mask elsewhere takes of what is on its way to the node: it is booked as if it had come."""
        self.seen[node] += float(share.sum(dtype=torch.float64))
        self.absorb(node, MASKED, share)

    def observe(self, node: fx.Node, relevance: Relevance) -> None:
        R = self.total(node, relevance)
        self.seen[node] += float(R.sum(dtype=torch.float64))
        self.magnitude[node] += float(R.abs().sum(dtype=torch.float64))

    def pass_on(self, node: fx.Node, operand: fx.Node, relevance: Relevance) -> None:
        share = self.sum(operand, relevance)
        self.passed[node] += share
        self.flows[node, operand] += share

    def close(self) -> list[Entry]:
        entries = []
        for node, relevance_in in self.seen.items():
            known = within(node)
            given = assignment(known)
            if given is not None or self.absorbed[node]:
                entries.append(
                    Entry(
                        node.name,
                        operation(known),
                        module_path(node),
                        MASKED if given is None else given.rule,
                        relevance_in,
                        self.passed[node],
                        self.absorbed[node],
                        self.magnitude[node],
                    )
                )
        return entries


def _values(interpreter: type[fx.Interpreter], forward: fx.GraphModule, inputs: Sequence[Tensor]) -> dict[fx.Node, Any]:
    """Every node's value."""
    run = interpreter(forward, garbage_collect_values=False)
    run.run(*inputs)
    return run.env
