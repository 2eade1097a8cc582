"""The relevance of intermediate values, added to an explainer that is compiled already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import fx

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.quiet import quiet
from lrp_compiler.passes.assign.assign_rules import reachable
from lrp_compiler.passes.assign.wanted_values import with_observed
from lrp_compiler.passes.graph.tools import outputs
from lrp_compiler.passes.joint.persist import annotate_for_file
from lrp_compiler.passes.promises.plan import Plan

from .passes import Seed, joint_graph
from .shapes import tensor_specs

if TYPE_CHECKING:
    from .explainer import Explainer


def observed(
    explainer: Explainer, explained: fx.Node, seed: Seed, patterns: Sequence[str]
) -> tuple[fx.GraphModule, Plan, list[dict[str, Any]]]:
    """See `Explainer.observe`: the joint graph, the plan, and what the metadata says of each relevance."""
    forward, metadata = explainer.forward, explainer.metadata
    if any(entry.get("node") is None for entry in metadata["relevance"]):
        raise InputError("This explainer's file is of an earlier release: compile the model again, with observe=.")
    by_name = {node.name: node for node in forward.graph.nodes}
    known = {entry["input"]: by_name[entry["node"]] for entry in metadata["relevance"]}
    wanted = with_observed(known, forward, patterns, reachable(forward, explained))
    with quiet():
        joint, plan = joint_graph(forward, explained, seed, wanted, memory_budget=metadata["plan"]["budget"])
    annotate_for_file(forward, joint, explained)
    names = [entry["name"] for entry in (*metadata["inputs"], *metadata["seed_inputs"])]
    symbols = tensor_specs(joint.graph.find_nodes(op="placeholder"), names).symbols
    return joint, plan, relevance_entries(wanted, outputs(joint)[len(metadata["outputs"]) :], symbols)


def relevance_entries(
    wanted: Mapping[str, fx.Node], values: Sequence[fx.Node], symbols: dict[Any, str]
) -> list[dict[str, Any]]:
    """What the metadata says of each relevance: name, shape and dtype, and the forward node whose relevance it is."""
    specs = tensor_specs(values, [f"relevance.{name}" for name in wanted], symbols).tensors
    return [
        {**spec.to_dict(), "input": name, "node": node.name}
        for (name, node), spec in zip(wanted.items(), specs, strict=True)
    ]
