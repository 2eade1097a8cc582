"""What an explainer's file says about itself: JSON under one key of the file's metadata. Torch-free.

The writer and the runtime both take the key, the schema's number and the fields from here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from .errors import FormatError, InputError
from .validate import TensorSpec

METADATA_KEY = "lrp_compiler"
FORWARD_KEY = "lrp_compiler.forward"
"""Of a `.pt2` file: the forward graph with its rules, as JSON."""
JOINT_KEY = "lrp_compiler.joint"
"""Of a `.pt2` file: the joint graph's nodes, as JSON, to be run at once."""
PART_KEY = "lrp_compiler.part"
"""Of a `.pt2` file that is one of the two parts of an explainer: the names of what it returns, as JSON."""
OPSETS = range(18, 24)
"""Of ONNX files: what torch.onnx writes and onnxruntime runs."""
SCHEMA = 1
TOLERANCE = 1e-3
"""What seed − Σ inputs − Σ absorbed may be in float32, as a share of Σ|R|; in float64 it is rounding alone."""
FUNCTION = "function"
"""What the metadata calls a target that is a function of the outputs."""
ANSWER = "answer"
"""What it calls one of the tokens of a text."""

SUM, ABSORBED = "sum", "absorbed"
"""Forms of what is returned beside reduced relevance."""
AGGREGATE = "aggregate"
"""The form of what is summed over values of the network: a score, no relevance that adds up."""
COEFFICIENT = "coefficient."
"""What the relevance of a value in unit form is called, in front of the value's name."""
_IN_FRONT = {"unit": COEFFICIENT, SUM: "sum.", AGGREGATE: "aggregate."}


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


@dataclass(frozen=True)
class Metadata:
    """What a file says about itself.

    Args:
        composite: as plain data (`Composite.to_dict`).
        target: what is explained, in short: "argmax", a class number, "index", "function", ….
        seed: what is put on it: "value", "one" or "tensor".
        classes: how many there are; None: open.
        inputs: the model's own.
        outputs: the model's own tensors, flat.
        others: what the model returns besides, each with its position among all that it returns (`at`), its `name`, and
            its `value` or `size`, an expression of the open sizes.
        relevance: what else it returns.
        versions: of lrp_compiler, torch and Python.
        seed_inputs: what it takes besides at run time: `target`, `position`, `seed`, and the latents.
        latents: of those that may be left out, masks and seeds at values of the network, what they are.
        explains: the target as plain data (`Target.to_dict`).
        arguments: names of the model's arguments, in order.
        constants: inputs that are plain values, and were baked in.
        explained: which of the outputs is explained.
        scale: what the explained output is of what is explained: the "logit" itself, or its "probability" or
            "log-probability".
        kind: what the explained value is itself: a "logit", or the
            "probability" or "log-probability" that is asked for.
        fixed: names of the inputs that are held constant.
        spliced: paths of the modules behind which dictionaries are spliced in.
        plan: the promises as plain data (`Plan.to_dict`); None in files of an earlier release.
        optimise: whether the same is calculated with fewer operations.
        output_structure: the model's own structure of its outputs, as torch's pytree writes it.
        source: SHA-256 of the captured model.
        rules: rules in use, each with kind, options and the number of nodes.
        sizes: the example's, of every open size.
        ranges: least and greatest of open sizes that have bounds, each None where there is none.
        reduce: names of what relevance is reduced by before it is returned, in order.
        aggregate: patterns of the values over which relevance is summed into a map of the input: a score, of which
            nothing adds up.
        rows: of inputs that are looked up in tables of known size, how many rows the smallest one has.
        tolerance: of the books in float32, as a share of Σ|R|.
        weights: of an ONNX file, how they are stored.
        profile: of an ONNX file.
        schema: number of this list of fields.
    """

    composite: Mapping[str, Any]
    target: Any
    seed: str
    classes: int | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    relevance: tuple[RelevanceSpec, ...]
    versions: Mapping[str, Any]
    seed_inputs: tuple[TensorSpec, ...] = ()
    latents: tuple[LatentSpec, ...] = ()
    others: tuple[Mapping[str, Any], ...] = ()
    explains: Mapping[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    explained: int = 0
    scale: str = "logit"
    kind: str = "logit"
    fixed: tuple[str, ...] = ()
    spliced: tuple[str, ...] = ()
    plan: Mapping[str, Any] | None = None
    optimise: bool = True
    output_structure: str | None = None
    source: str | None = None
    rules: tuple[Mapping[str, Any], ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    reduce: tuple[str, ...] = ()
    aggregate: tuple[str, ...] = ()
    rows: Mapping[str, int] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    weights: str | None = None
    profile: str | None = None
    schema: int = SCHEMA

    @property
    def name(self) -> str:
        """The composite's name."""
        return str(self.composite.get("name", "without a name"))

    @property
    def why(self) -> str:
        """Of a composite that was chosen from the model's structure: what chose it, and why."""
        return str(self.composite.get("why", ""))

    @property
    def named_why(self) -> str:
        """The composite's name, and why it was chosen, if it was."""
        return f"{self.name} ({self.why})" if self.why else self.name

    @property
    def score(self) -> str:
        """What the explained output holds for each class: its "logit", "probability" or "log-probability"."""
        return self.kind if self.scale == "logit" else self.scale

    @property
    def differences(self) -> bool:
        """Whether relevance is of differences from a reference, which inputs `reference.<input>` take."""
        return bool(self.composite.get("differences"))

    @property
    def picks(self) -> Any:
        """The explained classes as plain data: one, or a list."""
        return self.explains.get("classes", self.target)

    @property
    def explains_answer(self) -> bool:
        """Whether it explains the tokens of a text (`lrp.Answer`)."""
        return bool(self.explains.get("kind") == ANSWER)

    @property
    def choices(self) -> tuple[TensorSpec, ...]:
        """Of what it takes at run time, what every call gives: `target`, `position`, `seed`."""
        optional = {latent.name for latent in self.latents}
        return tuple(spec for spec in self.seed_inputs if spec.name not in optional)

    @property
    def defaults(self) -> dict[str, float]:
        """What the inputs hold that may be left out, by name."""
        return {latent.name: latent.default for latent in self.latents}

    @property
    def several(self) -> int | None:
        """How many targets come in front of the batch of relevance, masks and seeds; None: there is no such dim."""
        classes = self.explains.get("classes")
        count: int | None = len(classes) if isinstance(classes, list) else self.explains.get("count")
        return count

    @property
    def takes(self) -> tuple[TensorSpec, ...]:
        """All that it takes, in order."""
        return (*self.inputs, *self.seed_inputs)

    @property
    def returns(self) -> tuple[TensorSpec, ...]:
        """All that it returns, in order."""
        return (*self.outputs, *(entry.tensor for entry in self.relevance))

    def most(self, choice: str, sizes: Mapping[str, int]) -> int | None:
        """How many classes ("target", "against") or positions ("position") there are to choose from; None if it is not
        known."""
        if choice != "position":
            return self.classes
        shape = self.outputs[self.explained].shape if self.explained < len(self.outputs) else ()
        class_dim = self.explains.get("class_dim")
        places = [dim for number, dim in enumerate(shape) if number and number != (class_dim or -1) % len(shape)]
        dim = places[0] if len(places) == 1 else None
        return sizes.get(dim) if isinstance(dim, str) else dim

    def by_form(self, values: Iterable[Any]) -> dict[str, dict[str, Any]]:
        """Of the relevances that it returns, in order, those of each field of `Results`, by name."""
        pairs = list(zip(self.relevance, values, strict=True))
        total = {entry.key: value for entry, value in pairs if entry.form == "total"}
        coefficients, sums, aggregate = (
            {entry.input: value for entry, value in pairs if entry.form in forms}
            for forms in (("unit",), (SUM, ABSORBED), (AGGREGATE,))
        )
        return {"relevance": total, "coefficients": coefficients, "sums": sums, "aggregate": aggregate}

    def to_dict(self) -> dict[str, Any]:
        """As plain data, in a file's JSON."""
        plain: dict[str, Any] = {}
        for key in (each.name for each in fields(self)):
            value = getattr(self, key)
            if key in _SPECS:
                value = [entry.to_dict() for entry in value]
            elif isinstance(value, tuple):
                value = list(value)
            if value != _LEFT_OUT.get(key, plain):
                plain[key] = value
        return plain

    def to_json(self) -> str:
        """As it stands in a file: the same text for the same content."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def stored(self, weights: str, profile: str) -> Metadata:
        """Of an ONNX file with such weights."""
        return replace(self, weights=weights, profile=profile)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Metadata:
        """The inverse of `to_dict`; raises `FormatError` if a part of it is wrong."""
        known = {each.name for each in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        for key, read in _SPECS.items():
            if key in values:
                values[key] = tuple(map(read, values[key]))
        for key in ("arguments", "rules", "others", "spliced", "reduce", "aggregate"):
            if key in values:
                values[key] = tuple(values[key])
        if "ranges" in values:
            values["ranges"] = {name: tuple(bounds) for name, bounds in values["ranges"].items()}
        if values.get("explains") is None:
            values.pop("explains", None)
        return cls(**values)


_LEFT_OUT: dict[str, Any] = {
    "scale": "logit",
    "kind": "logit",
    "fixed": [],
    "weights": None,
    "profile": None,
    "optimise": True,
    "others": [],
    "ranges": {},
    "reduce": [],
    "aggregate": [],
    "rows": {},
    "latents": [],
    "spliced": [],
}
"""Fields that are not written where they have this value."""
_SPECS: dict[str, Any] = {
    "inputs": TensorSpec.from_dict,
    "outputs": TensorSpec.from_dict,
    "seed_inputs": TensorSpec.from_dict,
    "latents": LatentSpec.from_dict,
    "relevance": RelevanceSpec.from_dict,
}
_SECTIONS: dict[str, type] = {"composite": dict, "inputs": list, "outputs": list, "relevance": list, "versions": dict}
_OPTIONAL: dict[str, type | tuple[type, ...]] = {
    "seed_inputs": list,
    "latents": list,
    "spliced": list,
    "others": list,
    "explains": dict,
    "arguments": list,
    "constants": dict,
    "explained": int,
    "scale": str,
    "kind": str,
    "fixed": list,
    "plan": dict,
    "optimise": bool,
    "output_structure": str,
    "source": str,
    "rules": list,
    "sizes": dict,
    "ranges": dict,
    "reduce": list,
    "aggregate": list,
    "rows": dict,
    "tolerance": (int, float),
    "weights": str,
    "profile": str,
}
_VALUES = ("target", "seed", "classes")
_COUNT = range(1, 1 << 48)
"""What a size or a number of classes may be."""
_FITS: dict[str, Callable[[Any], bool]] = {
    "classes": lambda given: given is None or _is_count(given),
    "rules": lambda given: all(isinstance(entry, dict) and isinstance(entry.get("rule"), str) for entry in given),
    "sizes": lambda given: all(map(_is_count, given.values())),
    "rows": lambda given: all(map(_is_count, given.values())),
    "arguments": lambda given: all(isinstance(name, str) for name in given),
    "reduce": lambda given: all(isinstance(name, str) for name in given),
    "aggregate": lambda given: all(isinstance(name, str) for name in given),
    "explains": lambda given: (
        (given.get("count") is None or _is_count(given["count"]))
        and (given.get("classes") is None or isinstance(given["classes"], str) or _are_classes(given["classes"]))
    ),
    "tolerance": lambda given: 0 < given < 1,
}
"""What must hold besides, of those that are not None."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in _COUNT


def _is_class(value: Any) -> bool:
    """One of several: a number, or `{"pair": [a, b]}`."""
    pair = value.get("pair") if isinstance(value, dict) else [value]
    return isinstance(pair, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in pair)


def _are_classes(value: Any) -> bool:
    return all(map(_is_class, value if isinstance(value, list) else [value]))


def _numbers(picks: Any) -> list[int]:
    """All class numbers in what is picked."""
    parts = picks if isinstance(picks, list) else picks.values() if isinstance(picks, dict) else ()
    return [picks] if isinstance(picks, int) else [number for part in parts for number in _numbers(part)]


def check_opset(opset: Any) -> None:
    """Refuse an opset that ONNX files are not written in; raises `InputError`."""
    if isinstance(opset, bool) or not isinstance(opset, int) or opset not in OPSETS:
        raise InputError(f"Opset {opset} is not supported: choose {OPSETS[0]} to {OPSETS[-1]}.")


def read_metadata(text: str | None, label: str) -> Metadata:
    """Parse the metadata of one file.

    Args:
        text: what stands under `METADATA_KEY`; None if the file has no such key.
        label: how to call the file in a message.

    Raises:
        FormatError: no metadata, broken JSON, a part that is missing, or a schema newer than `SCHEMA`.
    """
    if text is None:
        raise FormatError(f"{label} was not written by lrp_compiler: it has no explainer metadata.")
    damaged = f"The explainer metadata of {label} is damaged"
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"{damaged}: {error}.") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise FormatError(f"{damaged}: it names no schema.")
    if schema > SCHEMA:
        raise FormatError(f"{label} was written by a newer lrp_compiler (schema {schema}; this one reads {SCHEMA}).")
    wrong = [key for key, kind in _SECTIONS.items() if not isinstance(data.get(key), kind)]
    wrong += [key for key in _VALUES if key not in data]
    wrong += [key for key, kind in _OPTIONAL.items() if data.get(key) is not None and not isinstance(data[key], kind)]
    wrong = wrong or [key for key, fits in _FITS.items() if data.get(key) is not None and not fits(data[key])]
    if wrong:
        raise FormatError(f"{damaged}: {wrong[0]!r} is missing or of a wrong kind.")
    found = Metadata.from_dict({key: value for key, value in data.items() if value is not None or key in _VALUES})
    if not {latent.name for latent in found.latents} <= {spec.name for spec in found.seed_inputs}:
        raise FormatError(f"{damaged}: 'latents' is missing or of a wrong kind.")
    if found.classes is not None and any(not -found.classes <= one < found.classes for one in _numbers(found.picks)):
        raise FormatError(f"{damaged}: it explains a class that the model does not have.")
    classes = found.explains.get("classes")
    # Several targets come first in each relevance.
    if isinstance(classes, list) and any(entry.tensor.shape[:1] != (len(classes),) for entry in found.relevance):
        raise FormatError(f"{damaged}: 'explains' is missing or of a wrong kind.")
    return found
