"""The walk traced: every forward value that a rule asks for becomes a placeholder of the relevance graph.

    forward:  z = linear(x, W, b); a = relu(z)        relevance(a, W):  g = one_hot; g·sign(a); matmul(·, W)

Each node of it knows which forward node it explains, by which rule, and whether it is the relevance of a forward value.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx

from lrp_compiler.base.errors import CompositeError
from lrp_compiler.passes.graph import (
    SEEDED,
    Origin,
    add_placeholder,
    copy_node,
    everywhere,
    from_torch,
    is_tensor,
    set_origin,
    twins_of,
    without_unread,
)
from lrp_compiler.rules import Form, Relevance
from lrp_compiler.torch_private import (
    OpOverload,
    expression,
    fake_mode_of,
    make_fx,
    node_that_makes,
    notes_are_kept,
    python_dispatcher,
    schema,
    unguarded,
)

from .aggregate import aggregate
from .latents import Latent, gates_of, put_on
from .remembered import Remembered
from .seed import Seed, seed_relevance
from .several_targets import over_targets
from .walk import HALF, MADE_BY, Accumulator, Listeners, made_by, propagate_relevance, wide

FORM = "lrp_form"
"""`node.meta` key while relevance is traced: of which values the node is the relevance, and in which form."""
START = ""
"""What the relevance of the explained value goes by among all that the walk starts from."""


@dataclass(frozen=True)
class Question:
    """What is to be known of a forward graph; all nodes are its own.

    Args:
        explained: the `[batch, classes]` value that is explained.
        wanted: name → the value whose relevance is returned under it.
        latents: run-time inputs at values of the network: masks of relevance, and what is put on them.
        coefficients: name → the value whose relevance in unit form is returned under it.
        maps: name → values whose relevance is summed into one map over the places of the first, returned under it.
    """

    explained: fx.Node
    wanted: Mapping[str, fx.Node]
    latents: Sequence[Latent] = ()
    coefficients: Mapping[str, fx.Node] = field(default_factory=dict)
    maps: Mapping[str, Sequence[fx.Node]] = field(default_factory=dict)


def emit_relevance(
    forward: fx.GraphModule, question: Question, seed: Seed
) -> tuple[fx.GraphModule, list[tuple[fx.Node, fx.Node]]]:
    """Trace the walk into the relevance graph.

    Args:
        forward: the assigned forward graph.
        question: what is explained, and the relevance of what is returned.
        seed: what is put on the explained value.

    Returns:
        The relevance graph and the promises made: pairs of (who asked, which forward value). The graph's placeholders
        are the promised values (`meta["promise"]` names the forward node), then the seed's own run-time inputs
        (`meta["seed"]`), then the latents (likewise); its output is a dict from name to relevance in total form, shaped
        like that value (like the looked-up indices for an index input), with `[targets]` in front where there are
        several targets; then that of the coefficients; then the maps. It is float32 for values of half precision.
    """
    explained, latents = question.explained, question.latents
    nodes = [node for node in forward.graph.nodes if is_tensor(node)]
    values = [node.meta["val"] for node in nodes]
    open_sizes = {expression(size) for value in values for size in value.shape if isinstance(size, torch.SymInt)}
    # … but not of those that are made with fractions (`int(0.5 * size)`).
    sizes = {size for size in open_sizes if all(atom.is_integer for atom in size.atoms())}
    fake_mode = fake_mode_of(explained.meta["val"])
    by_name = {node.name: node for node in forward.graph.nodes}
    twins = twins_of(forward)
    several = seed.target.targets
    with fake_mode:
        extra = [seed.placeholder(wide(explained.meta["val"]))] if seed.inputs else []
        extra += [latent.placeholder(wide(by_name[latent.node].meta["val"]), several) for latent in latents]
    entering = [*seed.inputs, *(latent.name for latent in latents)]
    # Under vmap, and where values are widened when they are first read, what is done depends on what was done before.
    alike = several is None and not any(value.dtype in HALF for value in values)
    promises: dict[tuple[fx.Node, fx.Node], None] = {}
    summed = {f"{name} {number}": node for name, those in question.maps.items() for number, node in enumerate(those)}
    returned = {*question.wanted.values(), *question.coefficients.values(), *summed.values()}

    def relevance(*tensors: Tensor) -> dict[str, Tensor]:
        handed = dict(zip(nodes, tensors, strict=False))
        widened: dict[fx.Node, Tensor] = {}

        def fetch(node: fx.Node) -> Tensor:
            if node in handed and node not in widened:
                widened[node] = wide(handed[node])
            return widened[node] if node in handed else cast(Tensor, node.meta["val"] if known(node) else made(node))

        def known(node: fx.Node) -> bool:
            """Whether torch knows the number: the sizes of values. Of others it has to see how they are made."""
            number: Any = node.meta["val"]
            fraction = isinstance(number, (torch.SymFloat, torch.SymBool))
            return not fraction and (not isinstance(number, torch.SymInt) or expression(number) in sizes)

        def traced(node: fx.Node) -> Any:
            return handed.get(node, node.meta["val"])

        def made(number: fx.Node) -> Any:
            """A number, from those that it is made of, in a chain of any length."""
            numbers: dict[fx.Node, Any] = {}
            waiting = [number]
            while waiting:
                one = waiting[-1]
                missing = [node for node in one.all_input_nodes if node not in numbers and not known(node)]
                if missing and one not in numbers:
                    waiting += reversed(missing)
                    continue
                waiting.pop()
                if one not in numbers:
                    calculate: Any = one.target
                    args, kwargs = fx.map_arg(
                        (one.args, one.kwargs), lambda node: numbers[node] if node in numbers else fetch(node)
                    )
                    numbers[one] = calculate(*args, **kwargs)
            return numbers[number]

        def asked(origin: fx.Node, value: fx.Node) -> None:
            promises[origin, value] = None

        given = dict(zip(entering, tensors[len(nodes) :], strict=True))
        with made_by(explained, "seed"):
            start = seed_relevance(fetch(explained), seed, given)
        form: Form = "total" if start is None else start.form
        starts = {latent.name: given[latent.name] for latent in latents}
        put = [starts[latent.name] for latent in latents if latent.kind == "seed"]
        if start is not None:
            starts[START] = start.tensor
            put.append(start.tensor)
        for tensor in put:
            _mark(tensor, SEEDED, True)
        if start is not None and seed.reads_value:
            asked(explained, explained)
        seen: dict[fx.Node, Relevance] = {}

        def observe(node: fx.Node, relevance: Relevance) -> None:
            _name(relevance.tensor, node, relevance.form)
            if node in returned:
                seen[node] = relevance

        def walk(starts: dict[str, Tensor]) -> dict[str, Tensor]:
            seeds = [(explained, Relevance(starts[START], form))] if START in starts else []
            propagate_relevance(
                forward,
                [*seeds, *put_on(latents, starts, by_name, lambda node: handed[node].shape)],
                fetch,
                gates=gates_of(latents, starts, by_name),
                listeners=Listeners(asked=asked, observe=observe, asks=returned.__contains__),
                parameters=True,
                repeat=Remembered(traced, twins) if alike else None,
            )
            result = {}
            reached = Accumulator(fetch, asked, twins)
            for name, node in (*question.wanted.items(), *summed.items()):
                with made_by(node, "input"):
                    if node in seen:
                        result[name] = reached.total(node, seen[node])
                    else:  # a rule keeps everything away from it
                        result[name] = torch.zeros_like(fetch(node), dtype=wide(explained.meta["val"]).dtype)
                    _name(result[name], node, "total")
            for name, node in question.coefficients.items():
                with made_by(node, "input"):
                    if node in seen:
                        result[name] = reached.unit(node, seen[node])
                    else:
                        result[name] = torch.zeros_like(fetch(node))
                    _name(result[name], node, "unit")
            return result

        results = walk(starts) if several is None else over_targets(walk, starts)
        for name, those in question.maps.items():
            parts = [results.pop(f"{name} {number}") for number in range(len(those))]
            with made_by(those[0], "input"):
                results[name] = aggregate(1 if several is None else 2, *parts)
        return results

    # Before dispatch linear and matmul are whole; what vmap does to them shows only behind it, and there only the
    # Python decompositions keep symbolic sizes.
    dispatcher = contextlib.nullcontext() if several is None else python_dispatcher()
    with torch.no_grad(), notes_are_kept(), unguarded(explained), fake_mode, dispatcher:
        traced = make_fx(relevance, pre_dispatch=several is None)(*values, *extra)
    from_torch(traced)
    without_unread(traced)
    for graph in everywhere(traced):
        _refuse_writing(graph)
        _settle_sizes(graph)
        _settle_origins(graph)
    return _with_named_placeholders(traced, nodes, entering), list(promises)


def _mark(tensor: Tensor, key: str, value: object) -> None:
    node = node_that_makes(tensor)
    if node is not None:
        node.meta[key] = value


def _name(tensor: Tensor, value: fx.Node, form: str) -> None:
    """The node that makes the tensor is the relevance of `value`, in this form."""
    node = node_that_makes(tensor)
    if node is not None and MADE_BY in (node.meta.get("custom") or {}):
        known = node.meta.get(FORM, ("", ()))
        node.meta[FORM] = (form, (*(known[1] if known[0] == form else ()), value.name))


def _refuse_writing(traced: fx.GraphModule) -> None:
    """Raise `CompositeError` for a rule that writes into a tensor: a graph is a pure function, reordered at will."""
    for node in traced.graph.nodes:
        if isinstance(node.target, OpOverload) and schema(node.target).is_mutable:
            made = (node.meta.get("custom") or {}).get(MADE_BY) or {}
            where = f" of {made['value']} in {made['module'] or 'the model itself'}" if made else ""
            raise CompositeError(
                f"The rule {made.get('rule', '')!r}{where} writes into a tensor ({node.target}): a rule makes new ones."
            )


def _settle_sizes(traced: fx.GraphModule) -> None:
    """The values of shapes that `vmap` reads whole, which tracing leaves without any."""
    for node in traced.graph.nodes:
        if node.op == "call_function" and "val" not in node.meta:
            (of, *index) = node.args
            if node.target is torch.ops.aten.size.default:
                node.meta["val"] = tuple(of.meta["val"].shape)
            elif node.target is operator.getitem and isinstance(of.meta.get("val"), (tuple, list)):
                node.meta["val"] = of.meta["val"][index[0]]


def _settle_origins(traced: fx.GraphModule) -> None:
    """What tracing left in `meta["custom"]`, as facts."""
    for node in traced.graph.nodes:
        made = (node.meta.pop("custom", None) or {}).get(MADE_BY)
        form, values = node.meta.pop(FORM, ("", ()))
        if made is not None:
            known = Origin("relevance", **made)
            set_origin(node, known.named(form, values) if form else known)


def _with_named_placeholders(
    traced: fx.GraphModule, nodes: Sequence[fx.Node], entering: Sequence[str]
) -> fx.GraphModule:
    """The traced graph with placeholders named after the forward values they stand for; unasked ones are left out."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    labels = [*(("promise", node.name) for node in nodes), *(("seed", name) for name in entering)]
    for placeholder, (key, name) in zip(traced.graph.find_nodes(op="placeholder"), labels, strict=True):
        if placeholder.users or key == "seed":
            copies[placeholder] = add_placeholder(graph, name)
            copies[placeholder].meta.update(placeholder.meta)
            copies[placeholder].meta[key] = name
    for node in traced.graph.nodes:
        if node.op != "placeholder":
            copies[node] = copy_node(graph, node, copies)
    return fx.GraphModule(traced, graph)
