"""Run-time inputs at values inside the network: masks of the relevance that leaves them, and relevance put on them.

    mask.features.28 [batch, channels]    the relevance of features.28 times it, before it goes on
    past.features.28 [batch]              what is on its way past features.28 times it: 0 leaves what goes through
    seed.features.28 [batch, …]           added to what arrives there

Masks of two layers are an AND (relevance has to pass both), the ones in the mask of one layer an OR: the conditions of
Concept Relevance Propagation (Achtibat et al. 2023, arXiv 2206.03208).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.validate import check_option, whole_number
from lrp_compiler.passes.assign import named_values
from lrp_compiler.passes.graph import assignment, is_tensor, module_path, same_shape
from lrp_compiler.rules import Form, Relevance, by_element, find
from lrp_compiler.torch_private import fake_mode_of

from .walk import MASKED, Gate, made_by

Kind = Literal["mask", "past", "seed"]


@dataclass(frozen=True)
class Mask:
    """Run-time masks of the relevance that leaves values of the network towards its inputs.

    Args:
        path: modules, whose leaving values are meant (`features.*`: `*` stays between two dots, `**` does not), or else
            nodes of the forward graph (`softmax*`).
        dims: what a mask tells apart: "channels" (`[batch, channels]`; heads, where a value has such a dim), the number
            of another dim (`[batch, its size]`), or "all" (every element, in the shape of the value).
        exclude_parallel: whether, where such a mask is given, relevance that by-passes the layer is dropped, as in CRP:
            all that does not go through it, what a call puts on values before it or beside it included.

    Raises:
        InputError: values that are none of these.
    """

    path: str
    dims: Literal["channels", "all"] | int = "channels"
    exclude_parallel: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_option("Mask(path=…)", self.path, isinstance(self.path, str), "the path of a module, or a pattern")
        number = whole_number(self.dims)
        fits = number is not None or self.dims in ("channels", "all")
        check_option("Mask(dims=…)", self.dims, fits, "'channels', 'all' or the number of a dimension")
        fits = isinstance(self.exclude_parallel, bool)
        check_option("Mask(exclude_parallel=…)", self.exclude_parallel, fits, "True or False")


@dataclass(frozen=True)
class Put:
    """Relevance that is put on values of the network at run time: of a neuron, a channel, a head, a position.

    Args:
        path: as in `Mask`.
        form: what is given: "total": the relevance itself; "unit": what is multiplied by the value, so that 1 at one
            neuron explains its activation. Where relevance that comes from the target meets a total, given or not, it
            is made one, too: it may then differ by what the stabiliser is worth.

    Raises:
        InputError: values that are none of these.
    """

    path: str
    form: Form = "total"

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_option("Put(path=…)", self.path, isinstance(self.path, str), "the path of a module, or a pattern")
        check_option("Put(form=…)", self.form, self.form in ("total", "unit"), "'total' or 'unit'")


@dataclass(frozen=True)
class Latent:
    """One such input.

    Args:
        kind: what it does.
        path: the name that its value goes by.
        node: that value in the forward graph.
        dim: of a mask: the dim besides the batch that it tells apart; None: all of them.
        form: of what is put on it.
    """

    kind: Kind
    path: str
    node: str
    dim: int | None = None
    form: Form = "total"

    @property
    def name(self) -> str:
        """Of the input."""
        return f"{self.kind}.{self.path}"

    @property
    def default(self) -> float:
        """What holds where it is not given."""
        return 0.0 if self.kind == "seed" else 1.0

    def placeholder(self, value: Tensor, targets: int | None) -> Tensor:
        """A symbolic value of it.

        Args:
            value: of its node, as the rules see it.
            targets: how many there are at once, in front.
        """
        sizes = list(value.shape)
        if self.kind == "past":
            sizes = sizes[:1]
        elif self.kind == "mask" and self.dim is not None:
            sizes = [sizes[0], sizes[self.dim]]
        with fake_mode_of(value):
            return value.new_empty((*(() if targets is None else (targets,)), *sizes))

    def spread(self, given: Tensor, rank: int) -> Tensor:
        """A mask `[batch, channels]` with its channels in their place among `rank` dims."""
        if self.dim is None:
            return given
        for _ in range(self.dim - 1):
            given = given.unsqueeze(1)
        for _ in range(rank - 1 - self.dim):
            given = given.unsqueeze(-1)
        return given

    def to_dict(self) -> dict[str, object]:
        """As plain data."""
        return asdict(self)


def gates_of(
    latents: Iterable[Latent], given: Mapping[str, Tensor], nodes: Mapping[str, fx.Node]
) -> dict[fx.Node, list[Gate]]:
    """What relevance is multiplied by, node by node.

    Args:
        latents: the run-time inputs.
        given: their values by name.
        nodes: the forward graph's, by name.
    """
    found: defaultdict[fx.Node, list[Gate]] = defaultdict(list)
    for latent in latents:
        if latent.kind == "mask":
            node = nodes[latent.node]
            with made_by(node, MASKED, module_path(node)):
                mask = latent.spread(given[latent.name], node.meta["val"].dim())
            found[node].append(Gate(mask, given.get(f"past.{latent.path}")))
    return found


def put_on(
    latents: Iterable[Latent],
    given: Mapping[str, Tensor],
    nodes: Mapping[str, fx.Node],
    shape: Callable[[fx.Node], Sequence[int]],
) -> list[tuple[fx.Node, Relevance]]:
    """The relevance that is put on nodes; arguments as those of `gates_of`, and the shape of each node's value."""
    seeds = []
    for latent in latents:
        if latent.kind == "seed":
            node, start = nodes[latent.node], given[latent.name]
            # What a file holds where no seed is given is one row: a flow that starts here needs all of them.
            with made_by(node, "seed", module_path(node)):
                whole = torch.zeros(tuple(shape(node)), dtype=start.dtype, device=start.device)
                seeds.append((node, Relevance(start + whole, latent.form)))
    return seeds


def latents_of(
    module: fx.GraphModule, masks: Sequence[Mask], seeds: Sequence[Put], reached: Collection[fx.Node]
) -> tuple[Latent, ...]:
    """The run-time inputs that are asked for.

    Args:
        module: the forward graph, its active nodes annotated.
        masks: what is asked for as masks.
        seeds: what is asked for as seeds.
        reached: the nodes that relevance reaches.

    Raises:
        InputError: a pattern that names nothing, or what takes no relevance; a value of whole numbers; a dim that it
            does not have.
    """
    found: dict[str, Latent] = {}

    def add(latent: Latent) -> None:
        if found.setdefault(latent.name, latent) != latent:
            raise InputError(f"{latent.kind}s= names {latent.path!r} twice, in different ways.")

    for mask in masks:
        for path, node in named_values(module, mask.path, reached, "masks").items():
            _check_floats(node, path, "masks")
            add(Latent("mask", path, node.name, _dim_of(mask, path, node)))
            if mask.exclude_parallel:
                add(Latent("past", path, node.name))
    for seed in seeds:
        for path, node in named_values(module, seed.path, reached, "seeds").items():
            _check_floats(node, path, "seeds")
            add(Latent("seed", path, node.name, form=seed.form))
    return tuple(found.values())


def _check_floats(node: fx.Node, path: str, what: str) -> None:
    value = node.meta["val"]
    if not value.is_floating_point():
        raise InputError(f"{what}= names {path!r}, which holds whole numbers: name the value that is made of them.")


def _dim_of(mask: Mask, path: str, node: fx.Node) -> int | None:
    rank: int = node.meta["val"].dim()
    if mask.dims == "all":
        return None
    dim = feature_dim(node) if mask.dims == "channels" else int(mask.dims)
    if not -rank <= dim < rank or not dim % rank:
        shape = list(node.meta["val"].shape)
        raise InputError(
            f"Mask({mask.path!r}, dims={mask.dims!r}) does not fit {path!r} of shape {shape}: choose a dimension "
            "behind the batch, or dims='all'."
        )
    return dim % rank


def feature_dim(node: fx.Node) -> int:
    """The dim of a value's channels or features: where the operation puts them that made it, elementwise steps apart.

    Where that does not say so (a product, attention's scores): the last of three dims, else the one behind the batch.
    """
    rank: int = node.meta["val"].dim()
    at: fx.Node | None = node
    while at is not None:
        given = assignment(at)
        if given is None:
            break
        operator = find(given.op(at))
        channels = None if operator is None else operator.channels
        if channels is not None and (channels > 0 or not _of_two_values(given.arguments.values())):
            return channels % rank
        operands = [given.operand(name) for name in given.active]
        same = [operand for operand in operands if _elementwise(at, operand)]
        at = same[0] if same else None
    return 2 if rank == 3 else min(1, rank - 1)


def _of_two_values(operands: Iterable[object]) -> bool:
    """Whether no operand is a matrix of weights: in a product with a pattern that is held fixed heads come first."""
    return len([one for one in operands if is_tensor(one) and one.meta["val"].dim() > 2]) > 1


def _elementwise(node: fx.Node, operand: fx.Node) -> bool:
    """Whether each element of the result stems from the one in the same place."""
    return by_element(node.target) and same_shape(node, operand)
