"""What an explainer takes and returns, one tensor each: name, shape, dtype, and what it is. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .errors import FormatError

SUM, ABSORBED = "sum", "absorbed"
"""Forms of what is returned beside reduced relevance."""
AGGREGATE = "aggregate"
"""The form of what is summed over values of the network: a score, no relevance that adds up."""
COEFFICIENT = "coefficient."
"""What the relevance of a value in unit form is called, in front of the value's name."""
_IN_FRONT = {"unit": COEFFICIENT, SUM: "sum.", AGGREGATE: "aggregate."}


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of one input or output; prints as `x: float32[batch, 3, 224, 224]`."""

    name: str
    shape: tuple[int | str, ...]
    """An int is a fixed size, a str a symbolic one: equal symbols have equal sizes within one call."""
    dtype: str
    """As numpy names it, such as `float32`."""

    def __str__(self) -> str:
        """Name, dtype and shape."""
        return f"{self.name}: {self.dtype}{brackets(self.shape)}"

    def to_dict(self) -> dict[str, Any]:
        """The spec as it stands in a file's metadata."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> TensorSpec:
        """Read `to_dict`'s result; raises `FormatError` if it is none."""
        try:
            name, given, dtype = entry["name"], entry["shape"], entry["dtype"]
        except (KeyError, TypeError) as error:
            raise FormatError(f"The explainer's metadata describes a tensor incompletely: {entry!r}.") from error
        # bool is an int to Python, never to a shape; and a text is no list of its letters.
        shape = tuple(given) if isinstance(given, list | tuple) else (None,)
        sound = all(isinstance(dim, int | str) and not isinstance(dim, bool) for dim in shape)
        if not (sound and isinstance(name, str) and isinstance(dtype, str)):
            raise FormatError(f"The explainer's metadata describes a tensor wrongly: {entry!r}.")
        return cls(name, shape, dtype)


def brackets(shape: Sequence[object]) -> str:
    """A shape as it is written: `[batch, 3]`."""
    return f"[{', '.join(map(str, shape))}]"


@dataclass(frozen=True)
class RelevanceSpec:
    """A relevance that the explainer returns.

    Args:
        tensor: its name in the file (`relevance.x`), shape and dtype.
        input: of what it is: an input, a parameter, a module's value or a node.
        node: the node of the forward graph whose relevance it is; "" in files of an earlier release.
        form: "total", or "unit": its coefficient g, of which R = value ⊙ g; where relevance is reduced also "sum": Σ
            relevance of an input for every row, and "absorbed": what else took a share of what was put on the output;
            "aggregate": relevance of values of the network, summed into one map of the input, which is a score.
        part: of relevance that is reduced to several tensors, which of them: "positive", "values", …
        channels: dim of the channels of a value inside the network, as a mask of it has them; None: none is known.
    """

    tensor: TensorSpec
    input: str
    node: str = ""
    form: str = "total"
    part: str = ""
    channels: int | None = None

    @property
    def key(self) -> str:
        """What tells it from all others: a coefficient from the relevance of the same value."""
        part = f".{self.part}" if self.part else ""
        return ABSORBED if self.form == ABSORBED else f"{_IN_FRONT.get(self.form, '')}{self.input}{part}"

    @property
    def called(self) -> str:
        """What a file calls it, unless something else has the name."""
        return f"relevance.{self.key}" if self.form == "total" else self.key

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a file's metadata."""
        form = {} if self.form == "total" else {"form": self.form}
        part = {"part": self.part} if self.part else {}
        channels = {} if self.channels is None else {"channels": self.channels}
        return {**self.tensor.to_dict(), "input": self.input, "node": self.node, **form, **part, **channels}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> RelevanceSpec:
        """Read `to_dict`'s result; raises `FormatError` if it is none."""
        if not isinstance(entry, Mapping) or not isinstance(entry.get("input"), str):
            raise FormatError("The explainer's metadata is damaged: a relevance does not name its input.")
        form, part, channels = str(entry.get("form", "total")), str(entry.get("part", "")), entry.get("channels")
        if channels is not None and type(channels) is not int:
            raise FormatError("The explainer's metadata is damaged: the channels of a value are no number of a dim.")
        return cls(TensorSpec.from_dict(entry), entry["input"], str(entry.get("node") or ""), form, part, channels)


@dataclass(frozen=True)
class LatentSpec:
    """A run-time input at a value inside the network, which may be left out of a call.

    Args:
        name: of the input in the file: `mask.features.28`, `past.features.28`, `seed.features.28`.
        kind: "mask" (relevance that leaves the value is multiplied by it), "past" (what by-passes it is) or "seed" (it
            is added to what arrives there).
        path: the name that the value goes by.
        node: of the forward graph.
        dim: of a mask: the dim besides the batch that it tells apart; None: all.
        form: of a seed: "total" or "unit".
    """

    name: str
    kind: str
    path: str
    node: str
    dim: int | None = None
    form: str = "total"

    @property
    def default(self) -> float:
        """What holds where it is not given."""
        return 0.0 if self.kind == "seed" else 1.0

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a file's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> LatentSpec:
        """Read `to_dict`'s result; raises `FormatError` if it is none."""
        texts = [entry.get(key) for key in ("name", "kind", "path", "node", "form")] if isinstance(entry, dict) else []
        dim = entry.get("dim") if texts else ""
        sound = bool(texts) and all(isinstance(text, str) for text in texts) and (dim is None or type(dim) is int)
        if not sound or entry["kind"] not in ("mask", "past", "seed") or entry["form"] not in ("total", "unit"):
            raise FormatError("The explainer's metadata is damaged: it describes a mask or a seed wrongly.")
        return cls(**{key: entry[key] for key in ("name", "kind", "path", "node", "dim", "form")})
