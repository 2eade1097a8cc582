"""The attribution graph: which channel, head or feature handed how much relevance to which, down to the inputs.

Nodes are the explained logit, units of chosen layers and what the inputs are made of. An edge says how much of the
upper node's relevance reaches the lower one past all other chosen layers:

    put the relevance of a node on it, let nothing pass the other layers, and see what arrives there

Relevance is linear in what is put where, so that all that a node gets adds up to its own relevance (units that are no
nodes of their own are the node `rest` of their layer). What a node has and hands on to no other was absorbed on its
way: by biases, constants, stabilisers.

Sources: Marks et al., "Sparse feature circuits", arXiv 2403.19647; Ameisen et al., "Circuit tracing", Transformer
Circuits 2025, whose viewers read `Graph.save`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError, did_you_mean
from lrp_compiler.base.latents import Passing
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.run import Labels, named, to_numpy
from lrp_compiler.base.specs import LatentSpec
from lrp_compiler.base.validate import check_option, is_number, whole_number

from .circuit import Edge, Graph, Node
from .common import batch_dim, channel_dim, named_inputs, relevance_of, rows_in

Apart = Literal["channels", "tokens", "both"]
LOGIT = "logit"


@dataclass(frozen=True)
class _Layer:
    """A layer, or an input: which node each element of its value belongs to.

    Args:
        path: of the value.
        groups: int64, in the shape of the value: number of the node.
        nodes: what they are.
        put: what is put on all of it to have its relevance there, `[1, …]`: that, or its coefficient; None: an input.
    """

    path: str
    groups: np.ndarray
    nodes: list[Node]
    put: np.ndarray | None = None

    def summed(self, R: np.ndarray) -> np.ndarray:
        """Relevance `[conditions, …]` as `[conditions, nodes]`."""
        flat = self.groups.reshape(-1)
        return np.stack([np.bincount(flat, row.reshape(-1), len(self.nodes)) for row in R.astype(np.float64)])


@boundary("make the graph")
def graph(
    explainer: Any,
    inputs: Any,
    layers: Sequence[str] | None = None,
    *,
    target: int | tuple[int, int] | None = None,
    apart: Apart | Mapping[str, Apart] = "channels",
    keep: int = 8,
    threshold: float = 0.01,
    batch_size: int = 16,
    tokens: Sequence[str] | None = None,
    labels: Labels | None = None,
    told: Callable[[int, int], None] | None = None,
) -> Graph:
    """The attribution graph of one row: units of chosen layers, and the relevance that one hands to the other.

    Args:
        explainer: compiled with `seed="tensor"`, and with `masks=`, `seeds=` and `observe=` for the layers. With
            `seeds=lrp.Put(path, "unit")` and `form="both"` coefficients are put there, which no stabiliser divides:
            what to take with rules that carry these (attnlrp), and small activations.
        inputs: the model's input, one row; several as a dict by name.
        layers: paths, from the input to the output; by default all that the explainer was compiled for.
        target: the class that is explained, or a pair: the first minus the second; by default the largest logit.
        apart: what is a unit of a layer: "channels" (heads, features), "tokens" (positions: the first dim behind the
            batch that is not the channels'), or "both": a channel at a position; or a dict of these by path.
        keep: how many units of a layer are nodes of their own, at most: those with most relevance. The others of the
            layer are one node, its rest.
        threshold: edges that carry less are dropped, as a share of all that reaches the lower one's layer; so are units
            and inputs that then have none.
        batch_size: so many nodes at a time.
        tokens: what the positions of the input are called.
        labels: the classes' names.
        told: called with how many nodes are done, of how many.

    Raises:
        InputError: an option is of a wrong kind, more than one row, or the explainer was compiled otherwise.
    """
    check_option("keep", keep, (whole_number(keep) or 0) > 0, "how many units of a layer, from 1 up")
    check_option("threshold", threshold, is_number(threshold) and 0 <= threshold < 1, "a share from 0 to below 1")
    check_option("batch_size", batch_size, (whole_number(batch_size) or 0) > 0, "a whole number from 1 up")
    about: Metadata = explainer.about
    given = named_inputs(about, inputs)
    if rows_in(about, given) != 1:
        raise InputError("A graph is of one row: give x[:1], say.")
    latents = _latents(about, layers)
    seed, explained, plain = _explained(explainer, given, target)
    name = named(explained, labels, plain.run)
    top = Node(LOGIT, LOGIT, None, None, float(seed.sum()), name)
    found = [_layer(plain, about, latent, _apart(apart, latent.path), keep) for latent in latents]
    own = [spec.name for spec in about.inputs if spec.name in plain.relevance]
    found += [_input(plain, about, name, tokens) for name in own]
    edges: list[Edge] = []
    done, total = 0, 1 + sum(len(layer.nodes) for layer in found if layer.put is not None)
    for upper, nodes, options in _put(latents, found, seed, top, batch_size):
        arrived = explainer(**given, **options)
        for layer in found:
            if layer is not upper:
                edges += _edges(nodes, layer, to_numpy(arrived.relevance[layer.path]))
        done += len(nodes)
        if told is not None:
            told(done, total)
    nodes = [top, *(node for layer in found for node in layer.nodes)]
    paths = [latent.path for latent in latents]
    return Graph(nodes, edges, paths, own, about.name, list(tokens or [])).pruned(threshold)


def _edges(uppers: Sequence[Node], layer: _Layer, R: np.ndarray) -> Iterator[Edge]:
    """What arrives at the nodes of a layer, of each upper one: relevance `[upper nodes, 1, …]`, of one `[1, …]`."""
    for upper, sums in zip(uppers, layer.summed(R.reshape(len(uppers), -1)), strict=True):
        for lower, weight in zip(layer.nodes, sums, strict=True):
            if weight:
                yield Edge(lower.id, upper.id, float(weight))


def _latents(about: Metadata, layers: Sequence[str] | None) -> list[LatentSpec]:
    """The seeds of the layers."""
    inside = {entry.input for entry in about.relevance if entry.form == "total"}
    masks = {latent.path for latent in about.latents if latent.kind == "mask"}
    known = {latent.path: latent for latent in about.latents if latent.kind == "seed" and latent.path in masks & inside}
    wanted = list(known) if layers is None else [layers] if isinstance(layers, str) else list(layers)
    missing = [path for path in wanted if path not in known]
    if about.seed != "tensor" or missing or not wanted:
        path = missing[0] if missing else wanted[0] if wanted else "layer"
        hint = did_you_mean(path, known) if missing else ""
        raise InputError(
            "A graph puts relevance on one node after another"
            f"{f', and this explainer takes none for {path!r}' if missing else ''}{hint}: compile with seed='tensor', "
            f"and with masks=, seeds= and observe= for its layers, such as {path!r}."
        )
    units = {entry.input for entry in about.relevance if entry.form == "unit"}
    bare = [path for path in wanted if known[path].form == "unit" and path not in units]
    if bare:
        raise InputError(f"A graph puts coefficients on {bare[0]!r}, in unit form: compile with form='both', too.")
    return [known[path] for path in dict.fromkeys(wanted)]


def _explained(explainer: Any, given: Mapping[str, Any], target: Any) -> tuple[np.ndarray, Any, Any]:
    """What is put on the logits, `[1, classes]`; the class or pair; and the explanation of it."""
    about: Metadata = explainer.about
    spec = next(spec for spec in about.choices if spec.name == "seed")
    others = [spec.name for spec in about.choices if spec.name != "seed" and spec.name not in given]
    if others:
        raise InputError(f"A graph is of a fixed {others[0]}: compile without {others[0]}='index'.")
    classes = spec.shape[-1]
    if not isinstance(classes, int) or len(spec.shape) != 2:
        raise InputError("A graph is of one logit: this explainer's number of classes is open.")
    zeros = np.zeros((1, classes), spec.dtype)
    z = explainer(**given, seed=zeros).run.logits()
    if z is None or z.shape != (1, classes):
        raise InputError("A graph is of a logit, and a function of the outputs is explained here.")
    pair = target if isinstance(target, tuple | list) else (int(z.argmax()) if target is None else target,)
    numbers = [whole_number(one) for one in pair]
    fits = len(pair) in (1, 2) and all(one is not None and 0 <= one < classes for one in numbers)
    check_option("target", target, fits, f"a class from 0 to {classes - 1}, or a pair of them")
    chosen = [int(one) for one in numbers if one is not None]
    seed = zeros.copy()
    for sign, one in zip((1, -1), chosen, strict=False):
        seed[0, one] += sign * z[0, one]
    explained = chosen[0] if len(chosen) == 1 else tuple(chosen)
    return seed, explained, explainer(**given, seed=seed)


def _apart(apart: Any, path: str) -> Apart:
    chosen = apart.get(path, "channels") if isinstance(apart, Mapping) else apart
    check_option(
        "apart", chosen, chosen in get_args(Apart), "'channels', 'tokens' or 'both', or a dict of these by path"
    )
    return chosen


def _layer(plain: Any, about: Metadata, latent: LatentSpec, apart: Apart, keep: int) -> _Layer:
    """The units of a layer that have most relevance, and the rest."""
    R = to_numpy(relevance_of(plain, latent.path)).astype(np.float64)
    dim, batch = channel_dim(about, latent.path, R.ndim, None), batch_dim(about, latent.path, R.ndim)
    others = [at for at in range(R.ndim) if at not in (dim, batch)]
    if apart != "channels" and not others:
        raise InputError(f"{latent.path!r} has no dim besides its channels': it has no tokens to tell apart.")
    dims = {"channels": [dim], "tokens": others[:1], "both": [dim, *others[:1]]}[apart]
    sizes = [R.shape[at] for at in dims]
    number = np.zeros(R.shape, np.int64)
    for at, size in zip(dims, sizes, strict=True):
        number = number * size + _along(at, R.shape)
    sums = np.bincount(number.reshape(-1), R.reshape(-1), int(np.prod(sizes)))
    kept = [int(one) for one in np.argsort(-np.abs(sums), kind="stable")[:keep] if sums[one]]
    groups = np.full(len(sums), len(kept))
    groups[kept] = np.arange(len(kept))
    nodes = []
    for one in kept:
        places = dict(zip(dims, np.unravel_index(one, sizes), strict=True))
        unit, position = (int(places[at]) if at in places else None for at in (dim, others[0] if others else -1))
        label = " ".join(
            part for part in (f"{unit}" * (unit is not None), f"@{position}" * (position is not None)) if part
        )
        nodes.append(
            Node(f"{latent.path}:{label.replace(' ', '')}", latent.path, unit, position, float(sums[one]), label)
        )
    rest = float(R.sum() - sum(node.relevance for node in nodes))
    nodes.append(Node(f"{latent.path}:rest", latent.path, None, None, rest, "rest"))
    put = R if latent.form == "total" else to_numpy(plain.coefficients[latent.path])
    return _Layer(latent.path, groups[number], nodes, put)


def _along(at: int, shape: Sequence[int]) -> np.ndarray:
    """The place of each element along one dim, to be broadcast to the shape."""
    return np.arange(shape[at]).reshape([-1 if axis == at else 1 for axis in range(len(shape))])


def _input(plain: Any, about: Metadata, name: str, tokens: Sequence[str] | None) -> _Layer:
    """What an input is made of: elements of a row, positions of a sequence, or all of it."""
    R = to_numpy(plain.relevance[name]).astype(np.float64)
    batch = batch_dim(about, name, R.ndim)
    positions = next((at for at in range(R.ndim) if at != batch and R.ndim in (2, 3)), None)
    count = 1 if positions is None else R.shape[positions]
    place = np.zeros((), np.int64) if positions is None else _along(positions, R.shape)
    groups = np.broadcast_to(place, R.shape)
    sums = np.bincount(groups.reshape(-1), R.reshape(-1), count)
    if tokens is not None and R.ndim in (2, 3):
        fits = isinstance(tokens, Sequence) and len(tokens) == count
        check_option("tokens", tokens, fits, f"the names of the {count} positions of {name!r}")
    names = [name] if R.ndim not in (2, 3) else [f"{at}" for at in range(count)] if tokens is None else map(str, tokens)
    nodes = [
        Node(f"{name}:{at}", name, None, at, float(sums[at]), label)
        for at, label in zip(range(count), names, strict=True)
    ]
    return _Layer(name, groups, nodes)


def _put(
    latents: Sequence[LatentSpec], found: Sequence[_Layer], seed: np.ndarray, top: Node, size: int
) -> Iterator[tuple[_Layer | None, list[Node], dict[str, Any]]]:
    """The logit, then the units of each layer, so many at a time: whose relevance is put where, and what stops it."""
    dtype = seed.dtype
    past = np.ones((), dtype)  # what by-passes a layer is an edge of its own, whatever its mask does in other calls
    closed = {latent.path: Passing(np.zeros((), dtype), past) for latent in latents}
    yield None, [top], {"seed": seed, "masks": closed}
    for layer in found:
        if layer.put is None:
            continue
        masks = {**closed, layer.path: Passing(np.ones((), dtype), past)}
        whole = range(len(layer.nodes))
        for first in range(0, len(whole), size):
            some = list(whole[first : first + size])
            put = np.stack([np.where(layer.groups == at, layer.put, 0) for at in some]).astype(dtype)
            nodes = [layer.nodes[at] for at in some]
            yield layer, nodes, {"seed": np.zeros_like(seed), "masks": masks, "seeds": {layer.path: put}}
