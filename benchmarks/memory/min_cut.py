"""The other planner: functorch's min-cut partitioner, the one that torch.compile uses, on the planner's own lists.

    values, asked, budget   →   a stand-in graph   →   functorch: what to save   →   a Decision

functorch reads a joint forward and backward graph of torch. The lists know no operations, so the stand-in graph has a
typical one for each kind of value: an alias where it is free, an addition where it is elementwise, a matrix product
where it takes many operations for its size, a softmax else. Every value that is asked for is read by a chain of
products that starts at a tangent. Sizes and costs are those of the lists.

functorch weighs what is saved, and takes rebuilding for free up to that: it knows no segments and holds whatever it
rebuilds. The decision says what is really held. It takes more than linear time: a cross-check.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx
from torch._functorch import config, partitioners
from torch._inductor.custom_graph_pass import CustomRuntimeEstimator
from torch.utils._ordered_set import OrderedSet

from lrp_compiler.passes.promises.planner import Decision, Value, consequences
from lrp_compiler.passes.promises.planner import plan as plan_by_segments

aten = torch.ops.aten
INTENSIVE = 8.0
"""Operations for a byte above which functorch is told of a matrix product."""


def plan(values: Sequence[Value], asked: Iterable[int], budget: float = 1.0) -> Decision:
    """Decide for every value that is asked for, as the project's planner does.

    Args:
        values: the forward graph, in topological order.
        asked: indices of the values that relevance asks for.
        budget: share, 0 to 1, of the bytes that the default policy holds; what is saved is at most that.

    Returns:
        functorch's choice. What it holds may be more than what it saves.
    """
    wanted = sorted({index for index in asked if not values[index].given})
    decision = Decision(promised=plan_by_segments(values, wanted).promised)
    if wanted:
        stand_in = _StandIn(values, wanted)
        decision.kept = stand_in.saved(1.0)
        saved = sum(values[index].nbytes for index in decision.kept)
        if saved > budget * decision.promised:
            # functorch's budget is a share of what it saves itself.
            decision.kept = stand_in.saved(budget * decision.promised / saved)
    consequences(values, wanted, decision, [-1, *sorted(decision.kept)])
    at_hand = decision.kept | {index for index, value in enumerate(values) if value.given}
    for index in sorted(decision.rebuilt):
        # A view of what is saved is there at once; all else waits for relevance to come near.
        if values[index].free and at_hand.issuperset(values[index].sources):
            decision.segment[index] = 0
            at_hand.add(index)
    return decision


class _Cost(CustomRuntimeEstimator):
    """What the lists say that a node costs."""

    def __call__(self, node: fx.Node) -> float:
        return max(float(node.meta["cost"]), 1.0)

    def uuid(self) -> str:
        """Names the estimator in torch's caches."""
        return "lrp_compiler"


class _StandIn:
    def __init__(self, values: Sequence[Value], wanted: Sequence[int]) -> None:
        self.graph = fx.Graph()
        forward: list[fx.Node] = []
        for index, value in enumerate(values):
            sources = tuple(forward[source] for source in value.sources)
            forward.append(
                self._node(f"value_{index}", _operation(value), () if value.given else sources, value.nbytes)
            )
            forward[-1].meta["cost"] = value.cost
        self.index = {node: index for index, node in enumerate(forward)}
        # The name says that it comes from behind.
        tangent = self._node("tangents_1", None, (), 0)
        backward = [tangent]
        for index in reversed(wanted):
            backward.append(self._node(f"relevance_{index}", aten.mul.Tensor, (backward[-1], forward[index]), 0))
        self.graph.output((forward[-1], backward[-1]))
        given = [node for node, value in zip(forward, values, strict=True) if value.given]
        self.info = partitioners.NodeInfo(
            inputs=given,
            _required_fw_nodes=OrderedSet(forward),
            required_bw_nodes=OrderedSet(backward),
            tangents_closure=OrderedSet(backward),
            unclaimed_nodes=OrderedSet(),
            fw_order={node: place for place, node in enumerate(forward)},
            static_lifetime_input_nodes=OrderedSet(given),
        )
        for node in reversed(self.graph.nodes):
            steps = [user.dist_from_bw + 1 for user in node.users if user.op != "output"]
            node.dist_from_bw = 0 if node in self.info.required_bw_nodes else min(steps, default=int(1e9))

    def saved(self, budget: float) -> set[int]:
        """Indices of the values that functorch saves within this share of what it would like to."""
        with config.patch(activation_memory_budget_runtime_estimator=_Cost()):
            nodes = partitioners.choose_saved_values_set(self.graph, self.info, budget)
        return {self.index[node] for node in nodes if node.op != "placeholder"}

    def _node(self, name: str, target: Any, sources: tuple[fx.Node, ...], nbytes: int) -> fx.Node:
        if target is None:
            node = self.graph.placeholder(name)
        else:
            node = self.graph.create_node("call_function", target, sources, name=name)
        node.meta["val"] = torch.empty(nbytes, dtype=torch.uint8, device="meta")
        return node


def _operation(value: Value) -> Any:
    if value.given:
        return None
    if value.free:
        return aten.alias.default
    if value.cheap:
        return aten.add.Tensor
    return aten.mm.default if value.cost > INTENSIVE * value.nbytes else aten._softmax.default
