"""What an explainer's file says about itself: JSON under one key of the file's metadata. Torch-free.

The writer and the runtime both take the key, the schema's number and the fields from here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from .errors import InputError
from .specs import ABSORBED, AGGREGATE, SUM, LatentSpec, RelevanceSpec, TensorSpec

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


def check_opset(opset: Any) -> None:
    """Refuse an opset that ONNX files are not written in; raises `InputError`."""
    if isinstance(opset, bool) or not isinstance(opset, int) or opset not in OPSETS:
        raise InputError(f"Opset {opset} is not supported: choose {OPSETS[0]} to {OPSETS[-1]}.")
