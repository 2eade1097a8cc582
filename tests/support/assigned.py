"""Graphs as the later passes find them: the passes in front of them, run one after the other."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from lrp_compiler import Composite
from lrp_compiler.passes import explainable_inputs
from lrp_compiler.passes.assign import analyse, assign_rules, reachable, wanted_values
from lrp_compiler.passes.forward import select_explained, unlift
from lrp_compiler.passes.graph import simplify
from lrp_compiler.passes.relevance import Question, Seed, emit_relevance
from lrp_compiler.rules.composites import COMPOSITES


@dataclass
class Assigned:
    """A forward graph in which every node that relevance reaches has its rule."""

    forward: fx.GraphModule
    explained: fx.Node
    reached: set[fx.Node]
    wanted: dict[str, fx.Node]
    seed: Seed

    def named(self, name: str) -> fx.Node:
        """The node of that name."""
        return next(node for node in self.forward.graph.nodes if node.name == name)

    def values(self, *inputs: Tensor) -> dict[fx.Node, Tensor]:
        """The number of every node, of these inputs."""
        found: dict[fx.Node, Tensor] = {}

        class Recording(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Tensor:
                found[n] = super().run_node(n)
                return found[n]

        Recording(self.forward).run(*inputs)
        return found


@dataclass
class Emitted(Assigned):
    """The same, and its relevance graph with the promises that were made."""

    relevance: fx.GraphModule
    promises: list[tuple[fx.Node, fx.Node]]

    def relevance_of(self, module: fx.GraphModule, *inputs: Tensor, **given: Tensor) -> Mapping[str, Tensor]:
        """What a relevance graph computes: this one, or what a pass has made of it."""
        numbers = {node.name: value for node, value in self.values(*inputs).items()}
        known = [
            numbers[node.meta["promise"]] if "promise" in node.meta else given[node.meta["seed"]]
            for node in module.graph.find_nodes(op="placeholder")
        ]
        result: Mapping[str, Tensor] = module(*known)
        return result


def captured(model: nn.Module, *examples: Tensor, dynamic: bool = True) -> fx.GraphModule:
    """The forward graph of a model of which nothing needs to be written out; of any batch size."""
    shapes = tuple({0: torch.export.Dim("batch")} for _ in examples) if dynamic else None
    return unlift(torch.export.export(model.eval(), examples, dynamic_shapes=shapes))


def assigned(
    module: fx.GraphModule,
    composite: str | Composite = "attnlrp",
    seed: Seed | None = None,
    wrt: list[str] | None = None,
    optimise: bool = True,
) -> Assigned:
    """Clean up, select what is explained, analyse and assign."""
    forward = simplify(module).graph_module
    seed = seed or Seed(1)
    table = COMPOSITES[composite]() if isinstance(composite, str) else composite
    explained = select_explained(forward, 0, "output", seed.target)
    inputs = explainable_inputs(forward)
    analyse(forward, inputs, table, wrt, optimise)
    reached = reachable(forward, explained)
    wanted = wanted_values(forward, wrt, {name: name for name in inputs}, reached)
    assign_rules(forward, table, reached)
    return Assigned(forward, explained, reached, wanted, seed)


def emitted(module: fx.GraphModule, composite: str | Composite = "attnlrp", seed: Seed | None = None) -> Emitted:
    """The relevance graph as well, simplified."""
    done = assigned(module, composite, seed)
    relevance, promises = emit_relevance(done.forward, Question(done.explained, done.wanted), done.seed)
    return Emitted(**vars(done), relevance=simplify(relevance).graph_module, promises=promises)
