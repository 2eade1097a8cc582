"""What was compiled, and nothing that one can do with it: all that views, checks and exports need to know."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import RLock
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.passes.forward import explained_in, explained_value
from lrp_compiler.passes.joint import lift, move, split
from lrp_compiler.passes.promises import Plan
from lrp_compiler.passes.relevance import Latent, Seed

Graphs = tuple[fx.GraphModule, fx.GraphModule]


def _nothing() -> None:
    """There is no file."""


@dataclass(frozen=True, eq=False)
class Artefact:
    """A compiled model: its joint graph, its forward graph, and what is said about it.

    Args:
        about: what its files say about it.
        read: gives the two graphs; called once, when one of them is first asked for.
        structure: the model's own structure of its outputs (a pytree's); `None` where the file alone knows.
        quick: the joint graph as it runs, of which nothing else is known; `None`: the joint graph itself.
        check: raises `FormatError` if the file that the weights lie in has changed; asked before they are used.
    """

    about: Metadata
    read: Callable[[], Graphs]
    structure: Any = None
    quick: fx.GraphModule | None = None
    check: Callable[[], None] = _nothing
    _reading: Any = field(default_factory=RLock, init=False, repr=False)

    @classmethod
    def of(cls, module: fx.GraphModule, forward: fx.GraphModule, about: Metadata, structure: Any = None) -> Artefact:
        """Of the graphs `module` and `forward` (see there)."""
        return cls(about, lambda: (module, forward), structure)

    @property
    def graphs(self) -> Graphs:
        """The joint graph and the forward graph; their weights are those of what runs."""
        with self._reading:
            return self._graphs

    @cached_property
    def _graphs(self) -> Graphs:
        self.check()
        graphs = self.read()
        held = {} if self.quick is None else dict(self.quick.named_buffers())
        for graph in graphs:
            for name in [name for name, _ in graph.named_buffers() if name in held]:
                graph.register_buffer(name, held[name])
        return graphs

    @property
    def is_read(self) -> bool:
        """Whether all that is known of the graphs is there."""
        return "_graphs" in vars(self)

    @property
    def module(self) -> fx.GraphModule:
        """The joint graph: model inputs, seed inputs → flat outputs, relevance of each value asked for."""
        return self.graphs[0]

    @property
    def forward(self) -> fx.GraphModule:
        """The forward graph, every node annotated with its rule."""
        return self.graphs[1]

    @property
    def running(self) -> fx.GraphModule:
        """The joint graph, to be run: there at once, whether or not all that is known of it has been read."""
        self.check()
        return self.module if self.quick is None else self.quick

    @cached_property
    def plan(self) -> Plan:
        """The promises, and how each is resolved."""
        return Plan() if self.about.plan is None else Plan.from_dict(self.about.plan)

    @cached_property
    def program(self) -> ExportedProgram:
        """The joint graph as a program, without tracing it again."""
        return lift(self.module)

    @cached_property
    def parts(self) -> Graphs:
        """The joint graph in two: model inputs → outputs and kept values; those, seeds and masks → relevance."""
        inputs = len(self.forward.graph.find_nodes(op="placeholder"))
        return split(self.module, inputs, len(self.about.outputs))[:2]

    @property
    def seed(self) -> Seed:
        """What is explained, and how much is put on it."""
        return Seed(explained_in(self.about.explains), self.about.seed)  # type: ignore[arg-type]

    @property
    def latents(self) -> tuple[Latent, ...]:
        """Its run-time inputs at values of the network."""
        return tuple(
            Latent(each.kind, each.path, each.node, each.dim, each.form)  # type: ignore[arg-type]
            for each in self.about.latents
        )

    @property
    def explained(self) -> fx.Node:
        """The node of the forward graph that is explained."""
        node = explained_value(self.forward)
        if node is None:
            raise InputError("This explainer does not say which of its values is explained: compile the model again.")
        return node

    def moved(self, device: torch.device | str) -> Artefact:
        """The same on another device.

        Raises:
            Exception: whatever torch raises where there is no such device.
        """

        def both() -> Graphs:
            return move(self.module, device), move(self.forward, device)

        if self.quick is not None:
            # What lies on another device was copied there.
            check = self.check if torch.device(device).type == "cpu" else _nothing
            return replace(self, read=both, quick=move(self.quick, device), check=check)
        graphs = both()
        return replace(self, read=lambda: graphs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Artefact:
        """One with weights and graphs of its own; what has not been read is read when it is asked for, as here."""
        quick = copy.deepcopy(self.quick, memo)
        if quick is not None and not self.is_read:
            return replace(self, quick=quick)
        graphs = copy.deepcopy(self.graphs, memo)
        return replace(self, read=lambda: graphs, quick=quick)
