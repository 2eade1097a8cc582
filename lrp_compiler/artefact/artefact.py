"""What was compiled, and nothing that one can do with it: all that views, checks and exports need to know."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import fx
from torch.export import ExportedProgram

from lrp_compiler.base.errors import InputError
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.passes.forward import Target, explained_value
from lrp_compiler.passes.joint import lift
from lrp_compiler.passes.promises import Plan
from lrp_compiler.passes.relevance import Seed


@dataclass(frozen=True, eq=False)
class Artefact:
    """A compiled model.

    Args:
        module: the joint graph: model inputs, seed inputs → flat outputs, relevance of each value asked for.
        forward: the forward graph, every node annotated with its rule.
        about: what its files say about it.
        structure: the model's own structure of its outputs (a pytree's); `None` where the file alone knows.
    """

    module: fx.GraphModule
    forward: fx.GraphModule
    about: Metadata
    structure: Any = None

    @cached_property
    def plan(self) -> Plan:
        """The promises, and how each is resolved."""
        return Plan() if self.about.plan is None else Plan.from_dict(self.about.plan)

    @cached_property
    def program(self) -> ExportedProgram:
        """The joint graph as a program, without tracing it again."""
        return lift(self.module)

    @property
    def seed(self) -> Seed:
        """What is explained, and how much is put on it."""
        return Seed(Target.from_dict(dict(self.about.explains)), self.about.seed)  # type: ignore[arg-type]

    @property
    def explained(self) -> fx.Node:
        """The node of the forward graph that is explained."""
        node = explained_value(self.forward)
        if node is None:
            raise InputError("This explainer does not say which of its values is explained: compile the model again.")
        return node

    def moved(self, module: fx.GraphModule, forward: fx.GraphModule) -> Artefact:
        """The same with other graphs."""
        return replace(self, module=module, forward=forward)
