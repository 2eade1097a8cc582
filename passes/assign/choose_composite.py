"""What `auto` is: a composite chosen from the structure of the forward graph, by what was measured.

    softmax(x Wq · Wk x) · x Wv            →  attnlrp
    conv → relu → conv → … (18 in a row)   →  epsilon-plus

The first line of `CHOICES` whose structure the graph has decides. Structure is that of the operations which relevance
passes on its way from the explained value to the inputs: no names, no sizes of maps, no weights. What was measured, and
where structure cannot tell, is shown by `python -m benchmarks.faithful.chosen` (benchmarks/results/chosen.md).

Every composite here is of rules alone (nothing is held fixed, no module is explained as a whole), so that the choice
can wait until it is known where relevance flows, and refuses nothing that operators' own rules explain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from torch import fx

from lrp_compiler.passes.graph import Scan, assignment
from lrp_compiler.rules import READOUT, find
from lrp_compiler.rules.composite import Composite
from lrp_compiler.rules.composites import attnlrp, attnlrp_gamma, epsilon, epsilon_plus

CONVOLUTION = "convolution"
DEEP = 12
"""So many convolutions in a row, and more, are many: eight were few in what was measured, eighteen many."""


@dataclass(frozen=True)
class Structure:
    """What a composite is chosen by.

    Args:
        kinds: how many operations of each kind relevance passes.
        chain: convolutions in a row: how many there are on the way through the network that has most of them.
    """

    kinds: Mapping[str, int]
    chain: int


@dataclass(frozen=True)
class Choice:
    """A line of the table.

    Args:
        composite: what is chosen.
        why: in words; `{chain}` stands for the number of convolutions in a row.
        kinds: kinds of operations that the graph must have, all of them.
        chain: least number of convolutions in a row.
    """

    composite: Composite
    why: str
    kinds: frozenset[str] = frozenset()
    chain: int = 0

    def fits(self, structure: Structure) -> bool:
        """Whether graphs of that structure are explained so."""
        return structure.kinds.keys() >= self.kinds and structure.chain >= self.chain


CHOICES: tuple[Choice, ...] = (
    # Mamba: where gates of a deep scan take a share, relevance grows with every layer, until float32 does not hold it.
    Choice(
        replace(attnlrp(gates="signal"), name="attnlrp(gates='signal')"),
        "a state is read by what gates it, as in state-space models, and gates are held fixed",
        frozenset({READOUT}),
    ),
    # The most faithful of all single explanations on MiniLM and SmolLM2, on the ViT 0.006 of ABPC behind the first.
    Choice(attnlrp(), "it has attention", frozenset({"softmax", "matmul"})),
    # Within 0.006 of ABPC of the first on EfficientNet-Lite0, 1, 2 and SqueezeNet; on a row of 18 that was trained on
    # small images it is not, and nothing in the two graphs tells why.
    Choice(epsilon_plus(), "its longest row of convolutions is {chain}, which is long", chain=DEEP),
    # Ahead of epsilon, epsilon-plus and larger γ on networks of two to eight convolutions.
    Choice(
        replace(attnlrp_gamma(0.1, 0.01), name="attnlrp-gamma(0.1, 0.01)"),
        "its longest row of convolutions is {chain}, which is short",
        chain=1,
    ),
    Choice(epsilon(), "it has neither attention nor convolutions"),
)
"""The first that fits decides; the last one fits everything."""


def choose_composite(composite: Composite, module: fx.GraphModule, needed: Set[fx.Node]) -> Composite:
    """The composite itself; or, of one that stands for others (`by_structure`), the one that this graph is given.

    Args:
        composite: what was asked for.
        module: the forward graph, active nodes annotated.
        needed: those that relevance reaches.
    """
    if not composite.by_structure:
        return composite
    structure = structure_of(module, needed)
    choice = next(choice for choice in CHOICES if choice.fits(structure))
    return replace(choice.composite, why=f"{composite.name}: {choice.why.format(chain=structure.chain)}")


def structure_of(module: fx.GraphModule, needed: Set[fx.Node]) -> Structure:
    """The kinds of the operations that relevance passes, and how many convolutions it passes in a row at most.

    One step of a loop counts, as often as it may run.
    """
    kinds: Counter[str] = Counter()
    behind: dict[fx.Node, int] = {}
    within: dict[fx.Node, int] = {}
    for node in module.graph.nodes:
        if isinstance(node.target, Scan) and not needed.isdisjoint(node.users):
            body = node.target.body
            step = structure_of(body, set(body.graph.nodes))
            kinds.update(step.kinds)
            within[node] = step.chain
        given = assignment(node)
        if given is not None and node in needed:
            operator = find(given.op(node))
            kind = "" if operator is None else operator.kind
            kinds[kind] += 1
            before = max((behind.get(given.operand(name), 0) for name in given.active), default=0)
            inside = within.get(node.args[0], 0) if node.args else 0
            behind[node] = before + (kind == CONVOLUTION) + inside
    return Structure(kinds, max(behind.values(), default=0))
