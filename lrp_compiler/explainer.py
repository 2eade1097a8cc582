"""The explainer: the model's output and the relevance of its inputs, as one plain tensor program."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, fx

from lrp_compiler.answering import ExplainsAnswers
from lrp_compiler.artefact import Artefact
from lrp_compiler.artefact.calling import as_tensor, bound_inputs, run_of, saying_where, structured, value_of
from lrp_compiler.artefact.observing import observed
from lrp_compiler.artefact.storage import artefact_in, content_of, read_explainer
from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import FormatError, InputError, did_you_mean
from lrp_compiler.base.latents import condition, conditions_of, latent_inputs
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.specs import TensorSpec
from lrp_compiler.base.tables import as_html
from lrp_compiler.base.validate import check_names, check_option, own_inputs, several_given, shortened
from lrp_compiler.capture import refuse_other_files
from lrp_compiler.explanation import Explanation
from lrp_compiler.export.files import WritesFiles
from lrp_compiler.formats import runtime_of
from lrp_compiler.passes import ObservedForm
from lrp_compiler.passes.joint import split
from lrp_compiler.passes.promises import Plan
from lrp_compiler.views.audit import Precision, audit
from lrp_compiler.views.books import Audit
from lrp_compiler.views.difference import Difference, diff
from lrp_compiler.views.listing import Listing, show, summary_table


class Explainer(WritesFiles, ExplainsAnswers):
    """A compiled model: call it like the model, and get its output and the relevance of its inputs.

    Made by `lrp.compile` or `lrp.load`.

    Attributes:
        artefact: what was compiled.
        module: the joint graph (`GraphModule`): model inputs, seed inputs → flat outputs, relevance of each input.
        forward: the forward graph, every node annotated with its rule.
        metadata: plain data that goes into every file: composite, target, seed, inputs, outputs, versions.
    """

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact

    @property
    def module(self) -> fx.GraphModule:
        """The joint graph."""
        return self.artefact.module

    @property
    def forward(self) -> fx.GraphModule:
        """The forward graph."""
        return self.artefact.forward

    @property
    def about(self) -> Metadata:
        """The metadata, typed."""
        return self.artefact.about

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata as plain data, a copy."""
        return self.about.to_dict()

    @property
    def inputs(self) -> list[TensorSpec]:
        """The model's inputs: name, shape (symbolic dims by name) and dtype."""
        return list(self.about.inputs)

    @property
    def plan(self) -> Plan:
        """The promises, and how each is resolved: a table when printed, rows when iterated."""
        return self.artefact.plan

    @boundary("explain these inputs")
    def __call__(
        self,
        *args: Any,
        target: Any = None,
        seed: Tensor | None = None,
        position: Any = None,
        weights: Any = None,
        against: Any = None,
        masks: Mapping[str, Any] | None = None,
        seeds: Mapping[str, Any] | None = None,
        reference: Any = None,
        check_nan: bool = False,
        **kwargs: Any,
    ) -> Explanation[Tensor]:
        """Run the model and explain it.

        Args:
            args: the model's inputs.
            kwargs: the model's inputs by name.
            target: int64 `[batch]` (a single int counts for every row), or `[targets, batch]` for several at once:
                with `target="index"` only; with `lrp.Answer(tokens="index")` `[batch, sequence]`.
            seed: relevance put on the explained logits, `[batch, classes]`: with `seed="tensor"` only.
            position: int64 `[batch]` or a single int: with `lrp.Target(position="index")` only.
            weights: how much each token of a text counts, `[batch, sequence]`; `[spans, batch, sequence]` are several
                explanations from one forward: with `lrp.Answer()` only.
            against: int64 `[batch, sequence]`, or a single int: with `lrp.Answer(against="index")` only.
            masks: path → what the relevance that leaves this value is multiplied by, for values that `compile(masks=…)`
                named: `[batch, channels]` (or as `lrp.Mask` says), numbers or flags; dims may be missing in front or
                have size 1. One dim more in front is several conditions, `[conditions, batch, channels]`: relevance
                then has it, too, and the forward is run once for all of them. What is not given is ones.
            seeds: path → relevance put on this value, for those that `compile(seeds=…)` named, in the value's shape;
                dims as for masks. What is not given is zeros.
            reference: what the inputs are compared with, with `composite="reference"` only: a tensor that spreads to
                the input's shape, a number (of a mask token, say), or "blur" for pictures; a dict of such by input.
                Zeros, if it is not given, but of ids.
            check_nan: refuse inputs that hold a NaN.

        Raises:
            InputError: inputs, target, position, seed, weights, masks or seeds that do not fit; one sentence says what.
        """
        inside, reference, kwargs = self._inside(masks, seeds, reference, kwargs)
        choices = {"position": position, "target": target, "seed": seed, "weights": weights, "against": against}
        several = {name: as_tensor(name, choices[name]) for name in several_given(choices, self.about.seed_inputs)}
        count = conditions_of(self.about, {**inside, **several})

        def bound(number: int | None) -> tuple[list[Tensor], dict[str, int]]:
            chosen = {} if number is None else {name: tensor[number] for name, tensor in several.items()}
            given = inside if number is None else condition(self.about, inside, number)
            chosen = {**choices, **chosen}
            return bound_inputs(self.about, args, kwargs, chosen, check_nan and not number, given, reference)

        tensors, sizes = bound(None if count is None else 0)
        own = len(self.about.outputs)
        with torch.no_grad(), saying_where(self.artefact, tensors):
            if count is None:
                results = self.artefact.running(*tensors)
            else:
                results = self._each(tensors, [bound(number)[0] for number in range(1, count)])
        run = run_of(self.about, tensors, results[:own])
        if count is not None:
            run = replace(run, choices={**run.choices, **several}, conditions=count)
        output = structured(self.artefact, results[:own], sizes)
        return Explanation(output, run=run, **self.about.by_form(results[own:]))

    def _explain_arrays(self, **arrays: Any) -> Explanation[Tensor]:
        device = next((buffer.device for buffer in self.artefact.running.buffers()), torch.device("cpu"))
        placed: dict[str, Any] = {name: as_tensor(name, array).to(device) for name, array in arrays.items()}
        return self(**placed)

    def _inside(
        self, masks: Any, seeds: Any, reference: Any, kwargs: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], Any, dict[str, Any]]:
        """The masks and seeds of a call by name of the input, and its reference, unless the model has inputs of such a
        name itself."""
        names = {*self.about.arguments, *(spec.name for spec in self.about.inputs)}
        choices, kwargs = own_inputs(names, (), {"masks": masks, "seeds": seeds, "reference": reference}, kwargs)
        given = latent_inputs(self.about, choices["masks"], choices["seeds"])
        return {name: as_tensor(name, value) for name, value in given.items()}, choices["reference"], kwargs

    def _each(self, tensors: Sequence[Tensor], others: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Outputs, and the relevance of each condition, stacked: one run of the forward."""
        inputs, own = len(self.forward.graph.find_nodes(op="placeholder")), len(self.about.outputs)
        forward, relevance = self.artefact.parts
        first = forward(*tensors[:inputs])
        each = [relevance(*first[own:], *given[inputs:]) for given in (tensors, *others)]
        return [*first[:own], *map(torch.stack, zip(*each, strict=True))]

    @boundary("audit these inputs")
    def audit(
        self,
        *args: Any,
        target: Any = None,
        seed: Tensor | None = None,
        position: Any = None,
        weights: Any = None,
        against: Any = None,
        masks: Mapping[str, Any] | None = None,
        seeds: Mapping[str, Any] | None = None,
        reference: Any = None,
        precision: Precision = "float64",
        **kwargs: Any,
    ) -> Audit:
        """The books of one run: what flowed in, out and away at every node (see `Audit`).

        Takes the inputs of `__call__`, of several conditions one. What masks keep back is booked as "masked". The
        rules are run eagerly on the forward graph, with the same weights; all inputs take part, whatever `wrt` names.
        `precision="float64"` shows the rules without rounding, `precision="model"` what the model's own dtype makes of
        them.
        """
        if precision not in get_args(Precision):
            raise InputError(f"precision={precision!r}: choose 'float64' or 'model'.")
        inside, reference, kwargs = self._inside(masks, seeds, reference, kwargs)
        choices = {"position": position, "target": target, "seed": seed, "weights": weights, "against": against}
        tensors, _ = bound_inputs(self.about, args, kwargs, choices, False, inside, reference)
        _ = self.artefact.explained
        placeholders = self.forward.graph.find_nodes(op="placeholder")
        names = {node.name: spec.name for node, spec in zip(placeholders, self.about.inputs, strict=False)}
        given = dict(zip((spec.name for spec in self.about.seed_inputs), tensors[len(names) :], strict=True))
        latents = self.artefact.latents
        given |= {latent.name: given[known.name] for latent, known in zip(latents, self.about.latents, strict=True)}
        with saying_where(self.artefact, tensors):
            return audit(
                self.forward, tensors[: len(placeholders)], self.artefact.seed, given, names, latents, precision
            )

    @boundary("show the explainer")
    def show(self, only: str | Sequence[str] = (), rule: str | None = None, op: str | None = None) -> Listing:
        """The forward graph and the relevance graph, one line a node: text when printed, rows when iterated.

        Args:
            only: modules, as a composite names them: `*` stays between two dots, `**` does not, and a path names the
                module and everything in it. Several: nodes of any of them.
            rule: nodes that this rule made, and operations that it explains.
            op: nodes of this op (`conv2d`, `aten.conv2d.default`), and those that explain one.

        Raises:
            InputError: there is no such module, rule or op.
        """
        return show(self.artefact, check_names("only", only), _name("rule", rule), _name("op", op))

    @boundary("compare the explainers")
    def diff(
        self, other: Explainer, only: str | Sequence[str] = (), rule: str | None = None, op: str | None = None
    ) -> Difference:
        """What `other`, an explainer of the same model, does differently: operation by operation its rule, the promise
        of its value, and the nodes of the relevance graph that explain it. Filters are those of `show`.

        Raises:
            InputError: the two explain different models; or there is no such module, rule or op.
        """
        check_option("other", other, isinstance(other, Explainer), "an explainer")
        only = check_names("only", only)
        return diff(self.artefact, other.artefact, only, _name("rule", rule), _name("op", op))

    @boundary("calculate the activation")
    def activation(self, path: str, *args: Any, **kwargs: Any) -> Tensor:
        """What a value of the network holds for these inputs: one that is observed, masked or seeded.

        Args:
            path: the name that it goes by there.
            args: the model's inputs.
            kwargs: the model's inputs by name.

        Raises:
            InputError: the inputs do not fit, or nothing is said of such a value.
        """
        nodes = {entry.input: entry.node for entry in self.about.relevance if entry.node}
        nodes |= {latent.path: latent.node for latent in self.about.latents}
        if path not in nodes:
            hint = did_you_mean(path, nodes) if isinstance(path, str) else ""
            raise InputError(f"{path!r} is no value that this explainer observes, masks or seeds{hint}.")
        placeholders = self.forward.graph.find_nodes(op="placeholder")
        bare = replace(self.about, seed_inputs=(), latents=())
        tensors, _ = bound_inputs(bare, args, kwargs, {}, False)
        if len(placeholders) != len(tensors):
            raise InputError("This explainer takes a position at run time: activations are those of a fixed one.")
        with torch.no_grad(), saying_where(self.artefact, tensors):
            return value_of(self.forward, nodes[path], tensors)

    @boundary("observe these values")
    def observe(self, *patterns: str, form: ObservedForm = "total") -> Explainer:
        """An explainer that also returns the relevance of intermediate values; this one stays as it is.

            explainer.observe("encoder.layer.*")(x).relevance["encoder.layer.3"]

        What it already returns stays the same, number for number. The promises are planned anew, for the same budget.

        Args:
            patterns: modules, whose leaving values are meant (`encoder.layer.*`: `*` stays between two dots, `**` does
                not), or else nodes of the forward graph (`softmax*`; `show` lists them). Whole tensors are returned:
                of attention, heads keep their dim.
            form: "total": relevance; "unit": its coefficient g, of which relevance = value ⊙ g (RelP's, arXiv
                2508.21258), as `explanation.coefficients`; "both".

        Raises:
            InputError: a pattern that names nothing, or only what takes no relevance; a coefficient of whole numbers.
        """
        check_option("form", form, form in get_args(ObservedForm), "'total', 'unit' or 'both'")
        return Explainer(observed(self.artefact, check_names("A pattern", patterns), form))

    @boundary("split the explainer")
    def split(self) -> tuple[fx.GraphModule, fx.GraphModule]:
        """The explainer in two: run the forward once, then relevance as often as there are targets or seeds.

            forward, relevance = explainer.split()
            results = forward(x)
            outputs, kept = results[: len(forward.meta["outputs"])], results[len(forward.meta["outputs"]) :]
            (R_x,) = relevance(*kept, target)

        Returns:
            forward: `(model inputs) → (*outputs, *kept)`, flat; `.meta["outputs"]` and `.meta["kept"]` name them.
            relevance: `(*kept, run-time target or seed) → relevances`; `.meta["relevance"]` names them.

        Both are plain GraphModules; `save_split` writes them as `.pt2` or ONNX.
        """
        inputs = len(self.forward.graph.find_nodes(op="placeholder"))
        forward, relevance, kept = split(self.module, inputs, len(self.about.outputs))
        forward.meta |= {"outputs": [spec.name for spec in self.about.outputs], "kept": kept}
        relevance.meta |= {"relevance": [entry.key for entry in self.about.relevance]}
        return forward, relevance

    @property
    @boundary("make a program of the explainer")
    def program(self) -> torch.export.ExportedProgram:
        """The joint graph as an ExportedProgram; made when first asked for."""
        return self.artefact.program

    @boundary("move the explainer")
    def to(self, device: torch.device | str) -> Explainer:
        """Move the explainer's weights; returns itself.

        Raises:
            InputError: torch has no such device here, or it is none (a dtype is the model's: compile `model.double()`);
                nothing has moved then.
        """
        check_option("device", device, isinstance(device, str | torch.device), "a device, such as 'cuda'")
        try:
            if torch.device(device).type == "meta":
                raise InputError("An explainer on device 'meta' would have no weights to explain with.")
            self.artefact = self.artefact.moved(device)
        except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise InputError(f"The explainer cannot be moved to {str(device)!r}: {reason}.") from error
        return self

    @boundary("pickle the explainer")
    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the file that `save` writes, so that no code is pickled."""
        return _unpickled, (content_of(self.artefact),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Explainer:
        """One with weights of its own."""
        return Explainer(copy.deepcopy(self.artefact, memo))

    def __copy__(self) -> Explainer:
        """One that can be moved by itself; it shares the weights."""
        return Explainer(self.artefact)

    def __repr__(self) -> str:
        inputs = ", ".join(str(spec) for spec in self.inputs)
        explained = ", ".join(entry.key for entry in self.about.relevance)
        why = f" ({self.about.why})" if self.about.why else ""
        return (
            f"Explainer(({inputs}) → relevance of {explained}; composite {self.about.name!r}{why}, "
            f"target {self.about.target!r})"
        )

    def _repr_html_(self) -> str:
        return as_html(summary_table(self.artefact))


@boundary("load the explainer")
def load(path: str | os.PathLike[str], *, check: bool = True) -> Explainer:
    """Load an explainer that `Explainer.save` wrote. No code in the file is run.

    Args:
        path: the file.
        check: whether its content is compared with the hash in its seal first; 0.6 seconds for each GB.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: the file is no explainer, could run code, or is not what was written.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"load takes the path of a file, not {shortened(path)}.")
    if runtime_of(path) == "onnxruntime":
        raise FormatError(
            f"{os.fspath(path)!r} is an ONNX file, which has no forward graph: give the .lrp.pt2 file, or run it "
            "by lrp_compiler.runtime.OnnxExplainer."
        )
    if os.path.exists(path):
        refuse_other_files(path)
    return Explainer(read_explainer(path, check=check))


@boundary("load the parts")
def load_split(
    forward: str | os.PathLike[str], relevance: str | os.PathLike[str]
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Load the two parts that `Explainer.save_split` wrote as `.pt2`: what `Explainer.split` returns.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: a file is no such part, could run code, or is not what was written; the two are not of one pair.
    """
    from lrp_compiler.export.parts import read_split

    return read_split(forward, relevance)


@boundary("unpickle the explainer")
def _unpickled(content: bytes) -> Explainer:
    return Explainer(artefact_in(content))


def _name(option: str, value: Any) -> str | None:
    check_option(option, value, isinstance(value, str | None), "a name")
    name: str | None = value
    return name
