"""Every error that the project raises on purpose: torch-free, importing nothing, so that every floor may import it.

Each message is one sentence that a user can act on; the command line prints it as it is.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple


class LrpError(Exception):
    """Base of all errors below: `except LrpError` catches everything that is raised on purpose."""


class LrpWarning(UserWarning):
    """Something that is right, and perhaps not what was meant: what is explained, or what takes no relevance."""


class InputError(LrpError, ValueError):
    """Wrong data for an explainer: shape, dtype, NaN, a missing or unknown input, a target out of range."""


class MissingNameError(InputError, KeyError):
    """A name that is looked up and not there: an `InputError` that is a `KeyError` as well."""

    __str__ = Exception.__str__  # a KeyError would put its sentence in quotes


class FormatError(LrpError):
    """A file that is no explainer: foreign, corrupted, truncated, or written in a newer schema."""


class CaptureError(LrpError):
    """A model that cannot be captured: in training mode, or not exportable (a data-dependent `if`, for example)."""


class CompositeError(LrpError, ValueError):
    """A composite that does not exist or does not fit: unknown name, unknown rule, parameter out of range."""


class InstallError(LrpError, ImportError):
    """What is asked for needs a package that is not installed, or what is installed does not fit together."""


class InternalError(LrpError):
    """A defect of lrp_compiler itself: what should have been an explainer, or one of the errors above."""


class UnsupportedNode(NamedTuple):
    """One node of the forward graph that has no relevance rule."""

    op: str
    """The ATen overload as torch prints it, such as `aten.cumprod.default`."""
    node: str
    """Name of the node in the forward graph."""
    module_path: str
    """Where in the model it is, such as `layers.0.mixer`; empty at the top."""
    source: str
    """The line of the model's source that made it, such as `model.py:12: return x.cumprod(0)`; empty if unknown."""


class UnsupportedOpError(LrpError):
    """Nodes without a relevance rule, all of them at once.

    Args:
        nodes: one `(op, node, module_path, source)` for each such node; kept as `UnsupportedNode`s in `.nodes`.
        advice: a sentence on what else can be done about them; kept in `.advice`.
    """

    def __init__(self, nodes: Iterable[tuple[object, str, str, str]], advice: str = "") -> None:
        """Keep the nodes; the message is made of them."""
        self.nodes = [UnsupportedNode(str(op), node, path or "", source or "") for op, node, path, source in nodes]
        self.advice = advice
        # What it was made of stays its arguments, so that the error can be pickled between processes.
        super().__init__(self.nodes, advice)

    def __str__(self) -> str:
        """Every node, and a rule for their ops that may be pasted: of functions of one operand, element by element."""
        ops = list(dict.fromkeys(node.op for node in self.nodes))
        count = "1 node has" if len(self.nodes) == 1 else f"{len(self.nodes)} nodes have"
        lines = [f"{count} no relevance rule:"]
        for op, name, path, source in self.nodes:
            lines.append(f"  {op}: node {name}{f' in {path}' if path else ''}{f', {source}' if source else ''}")
        lines += [self.advice] if self.advice else []
        lines.append("Register a rule for each op, then compile again:")
        lines += [f"  @lrp.rule({_python_name(op)})" for op in ops]
        return "\n".join([*lines, *RULE])


RULE = (
    "  def rule(op, relevance):",
    "      # One operand, element by element: it gets what arrives. Of several: a dict, name -> relevance.",
    "      return lrp.total(op.total(relevance))",
)
"""What the decorators stand above, as lines of a message."""


def _python_name(op: str) -> str:
    # Higher-order operators print as a bare name, without the namespace in which torch keeps them.
    return f"torch.ops.{op}" if "." in op else f"torch.ops.higher_order.{op}"


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """` (did you mean 'epsilon-plus'?)`, as a part of a sentence; empty where nothing is near."""
    import difflib  # rarely needed, and slow to import

    plain = {re.sub(r"[\W_]+", "", name).lower(): name for name in known}
    near = difflib.get_close_matches(re.sub(r"[\W_]+", "", str(given)).lower(), plain, n=1, cutoff=0.6)
    return f" (did you mean {plain[near[0]]!r}?)" if near else ""
