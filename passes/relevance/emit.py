"""The walk that emits relevance: from the seed back to the inputs, one rule a node.

`propagate_relevance` is the whole of LRP in one loop. It runs on whatever tensors `fetch` hands it: real ones (the
audit, the tests) or symbolic ones. `emit_relevance` traces it on symbolic ones: each forward value that a rule asks for
becomes a placeholder of the relevance graph, and each node of the graph remembers in `meta["custom"]["lrp"]` which
forward node it explains, by which rule.

    forward:  z = linear(x, W, b); a = relu(z)        relevance(a, W):  g = one_hot; g·sign(a); matmul(·, W)
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch.fx import traceback
from torch.fx.experimental.proxy_tensor import make_fx

from lrp_compiler.base.errors import CompositeError
from lrp_compiler.passes.graph.assignment import assignment
from lrp_compiler.passes.graph.notes import note_form
from lrp_compiler.passes.graph.tools import is_tensor, module_path, unguarded
from lrp_compiler.rules import Relevance, RuleError, propagate, total
from lrp_compiler.rules.relevance import Form

from .seed import Seed, seed_relevance
from .several_targets import over_targets

Fetch = Callable[[fx.Node], Tensor]
Absorb = Callable[[fx.Node, str, Tensor], None]
Observe = Callable[[fx.Node, Relevance], None]
PassOn = Callable[[fx.Node, fx.Node, Relevance], None]
Asked = Callable[[fx.Node, fx.Node], None]


class Accumulator:
    """Relevance of the tensors that the walk has reached, summed over their consumers.

    Like forms are added as they are; unlike ones meet in total form, the only one that every relevance has.
    """

    def __init__(self, fetch: Fetch, asked: Asked) -> None:
        self._fetch = fetch
        self._asked = asked
        self._parts: defaultdict[fx.Node, dict[str, Relevance]] = defaultdict(dict)

    def add(self, node: fx.Node, relevance: Relevance) -> None:
        """Add what one consumer passes on."""
        parts = self._parts[node]
        known = parts.get(relevance.form)
        together = relevance if known is None else Relevance(known.tensor + relevance.tensor, relevance.form)
        parts[relevance.form] = together

    def __contains__(self, node: fx.Node) -> bool:
        return node in self._parts

    def take(self, node: fx.Node) -> Relevance:
        """All relevance of the node's value."""
        parts = self._parts.pop(node)
        if len(parts) == 1:
            return next(iter(parts.values()))
        return total(parts["total"].tensor + self.total(node, parts["unit"]))

    def total(self, node: fx.Node, relevance: Relevance) -> Tensor:
        """`R` of the node's value."""
        if relevance.form == "total":
            return relevance.tensor
        if relevance.as_total is not None:
            return relevance.as_total()
        self._asked(node, node)
        return relevance.tensor * self._fetch(node)


def propagate_relevance(
    forward: fx.GraphModule,
    seeds: Mapping[fx.Node, Relevance],
    fetch: Fetch,
    *,
    asked: Asked = lambda origin, value: None,
    absorb: Absorb | None = None,
    observe: Observe | None = None,
    pass_on: PassOn | None = None,
    parameters: bool = False,
) -> dict[fx.Node, Relevance]:
    """Relevance of the forward graph's inputs, in reverse order of the nodes.

    Args:
        forward: the assigned forward graph.
        seeds: relevance put on nodes from outside.
        fetch: node → its forward value.
        asked: told (origin, value) whenever a rule asks for a forward value: a promise.
        absorb: told (node, cause, share) what leaves the flow, when the books are kept.
        observe: told the relevance of every node that the walk reaches.
        pass_on: told (node, operand, share) what a rule hands to each operand.
        parameters: whether rules also tell the shares of the parameters that are asked for. What they get is no flow
            of its own: a weight's is the same messages as its input's, a bias's is what it absorbs.

    Returns:
        Relevance by placeholder, and by weight where `parameters` says so.

    Raises:
        CompositeError: a rule does not fit an operation.
    """
    reached = Accumulator(fetch, asked)
    for node, relevance in seeds.items():
        reached.add(node, relevance)
    arrived: dict[fx.Node, Relevance] = {}
    for node in reversed(forward.graph.nodes):
        if node not in reached:
            continue
        given = assignment(node)
        rule = given.rule if given else "input"
        with traceback.annotate({"lrp": {"explains": node.name, "module": module_path(node), "rule": rule}}):
            relevance = reached.take(node)
            if observe is not None:
                observe(node, relevance)
            if given is None:
                if node.op in ("placeholder", "get_attr"):
                    arrived[node] = relevance
                continue
            keep = None if absorb is None else (lambda cause, share, node=node: absorb(node, cause, share))
            op = given.op(node, fetch, keep, partial(asked, node), given.wanted if parameters else ())
            try:
                flow = propagate(op, relevance, given.rule, **given.options)
            except RuleError as error:
                raise CompositeError(f"{error} ({node.name} in {module_path(node) or 'the model itself'}).") from error
            for name, share in flow.items():
                if share is None:
                    continue
                share = _in_dtype_of(fetch(given.arguments[name]), share)
                reached.add(given.arguments[name], share)
                if pass_on is not None:
                    pass_on(node, given.arguments[name], share)
    return arrived


def _in_dtype_of(value: Tensor, share: Relevance) -> Relevance:
    """A share in its tensor's own precision: ops that promote hand relevance back in the wider one."""
    if not value.is_floating_point() or share.tensor.dtype == value.dtype:
        return share
    return share.map(lambda tensor: tensor.to(value.dtype))


def wide(value: Tensor) -> Tensor:
    """The value as the rules see it: half precision is read as float32, in which relevance is summed and divided."""
    return value.to(torch.float32) if value.dtype in HALF else value


HALF = (torch.float16, torch.bfloat16)


def emit_relevance(
    forward: fx.GraphModule, explained: fx.Node, seed: Seed, wanted: Mapping[str, fx.Node]
) -> tuple[fx.GraphModule, list[tuple[fx.Node, fx.Node]]]:
    """Trace the walk into the relevance graph.

    Args:
        forward: the assigned forward graph.
        explained: its `[batch, classes]` value that is explained.
        seed: what is put on it.
        wanted: name → the value whose relevance is returned under it.

    Returns:
        The relevance graph and the promises made: pairs of (who asked, which forward value). The graph's placeholders
        are the promised values (`meta["promise"]` names the forward node), then the seed's own run-time inputs
        (`meta["seed"]`); its output is a dict from name to relevance in total form, shaped like that value (like the
        looked-up indices for an index input), with `[targets]` in front where there are several targets. It is float32
        for values of half precision.
    """
    nodes = [node for node in forward.graph.nodes if is_tensor(node)]
    values = [node.meta["val"] for node in nodes]
    fake_mode = explained.meta["val"].fake_mode
    with fake_mode:
        extra = [seed.placeholder(wide(explained.meta["val"]))] if seed.inputs else []
    promises: dict[tuple[fx.Node, fx.Node], None] = {}
    returned = set(wanted.values())

    def relevance(*tensors: Tensor) -> dict[str, Tensor]:
        handed = dict(zip(nodes, tensors, strict=False))
        widened: dict[fx.Node, Tensor] = {}

        def fetch(node: Any) -> Tensor:
            if node not in handed:
                return node.meta["val"]
            if node not in widened:
                widened[node] = wide(handed[node])
            return widened[node]

        def asked(origin: fx.Node, value: fx.Node) -> None:
            promises[origin, value] = None

        with traceback.annotate({"lrp": {"explains": explained.name, "module": "", "rule": "seed"}}):
            given = dict(zip(seed.inputs, tensors[len(nodes) :], strict=True))
            start = seed_relevance(fetch(explained), seed, given)
        if seed.reads_value:
            asked(explained, explained)
        seen: dict[fx.Node, Relevance] = {}

        def observe(node: fx.Node, relevance: Relevance) -> None:
            note_form(node, relevance.tensor, relevance.form)
            if node in returned:
                seen[node] = relevance

        def walk(start: Tensor, form: Form) -> dict[str, Tensor]:
            propagate_relevance(
                forward, {explained: Relevance(start, form)}, fetch, asked=asked, observe=observe, parameters=True
            )
            result = {}
            for name, node in wanted.items():
                with traceback.annotate({"lrp": {"explains": node.name, "module": "", "rule": "input"}}):
                    if node in seen:
                        result[name] = Accumulator(fetch, asked).total(node, seen[node])
                    else:  # a rule keeps everything away from it
                        result[name] = torch.zeros_like(fetch(node), dtype=start.dtype)
                    note_form(node, result[name], "total")
            return result

        if seed.target.targets is None:
            return walk(start.tensor, start.form)
        return over_targets(partial(walk, form=start.form), start.tensor)

    with torch.no_grad(), traceback.preserve_node_meta(), unguarded(explained), fake_mode:
        # Before dispatch linear and matmul are whole; what vmap does to them shows only behind it, and there only the
        # Python decompositions keep symbolic sizes.
        several = seed.target.targets is not None
        with enable_python_dispatcher() if several else contextlib.nullcontext():
            traced = make_fx(relevance, pre_dispatch=not several)(*values, *extra)
    return _with_named_placeholders(traced, nodes, seed), list(promises)


def _with_named_placeholders(traced: fx.GraphModule, nodes: Sequence[fx.Node], seed: Seed) -> fx.GraphModule:
    """The traced graph with placeholders named after the forward values they stand for; unasked ones are left out."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    labels = [*(("promise", node.name) for node in nodes), *(("seed", name) for name in seed.inputs)]
    for placeholder, (key, name) in zip(traced.graph.find_nodes(op="placeholder"), labels, strict=True):
        if placeholder.users or key == "seed":
            copies[placeholder] = graph.placeholder(name)
            copies[placeholder].meta.update(placeholder.meta)
            copies[placeholder].meta[key] = name
    for node in traced.graph.nodes:
        if node.op != "placeholder":
            copies[node] = graph.node_copy(node, lambda original: copies[original])
    return fx.GraphModule(traced, graph)
