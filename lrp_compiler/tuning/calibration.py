"""What `tune` works with: a model captured once, with its inputs, then compiled and measured setting by setting."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lrp_compiler.artefact.shapes import tensor_specs
from lrp_compiler.base.counted import counted
from lrp_compiler.base.errors import InputError, LrpError
from lrp_compiler.base.quiet import quiet
from lrp_compiler.base.references import PREFIX
from lrp_compiler.base.validate import bind, check, count_from_end
from lrp_compiler.capture import Model, capture
from lrp_compiler.compiler import choose_output, compile
from lrp_compiler.explainer import Explainer
from lrp_compiler.passes.forward import MASK, Captured, Target, select_explained, unlift
from lrp_compiler.passes.graph import assignment
from lrp_compiler.rules.composite import Composite
from lrp_compiler.torch_private import pytree

from .flipping import NEVER, Curves, Flipping, batches, feature_map, replacement
from .tuned import Trial, as_words, bootstrap
from .variants import Variants

BATCH = 16
"""Rows at once where nothing is said."""
AGGREGATE = "aggregate"
"""The option of whether relevance is summed over layers."""
SEQUENCE = 3
"""Dims of a batch of sequences of features; what has more has its channels in front."""


@dataclass(frozen=True)
class Sample:
    """A captured model, and the calibration inputs.

    Args:
        captured: the model, for `batch_size` rows.
        inputs: by name, a row of each for every sample.
        batch_size: rows at once.
    """

    captured: Captured
    inputs: dict[str, Tensor]
    batch_size: int

    @classmethod
    def of(cls, model: Model, args: Any, kwargs: Mapping[str, Any] | None, batch_size: int | None) -> Sample:
        """Capture a model for the first inputs; see `tune`."""
        args, kwargs = (args,) if isinstance(args, Tensor) else tuple(args), dict(kwargs or {})
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not tensors or not all(tensor.dim() and len(tensor) for tensor in tensors):
            raise InputError("There are no calibration inputs: give a tensor [inputs, …] for each input of the model.")
        counts = sorted({len(tensor) for tensor in tensors})
        if len(counts) > 1:
            raise InputError(
                f"The inputs have different numbers of rows ({', '.join(map(str, counts))}): one for each is wanted."
            )
        size = min(batch_size or BATCH, counts[0])
        head = pytree.tree_map_only(Tensor, lambda tensor: tensor[:size], (args, kwargs))
        captured = capture(model, *head) if isinstance(model, torch.nn.Module) else capture(model)
        nodes = {node.name: node for node in captured.program.graph.find_nodes(op="placeholder")}
        specs = tensor_specs([nodes[name] for name in captured.inputs], list(captured.inputs.values())).tensors
        fixed = specs[0].shape[0] if specs and specs[0].shape else size
        if isinstance(fixed, int) and batch_size not in (None, fixed) and fixed != size:
            raise InputError(
                f"The program takes batches of {counted(fixed, 'row')}: leave batch_size out, or export it anew."
            )
        inputs = bind(specs, (), _named(captured.arguments, args, kwargs))
        sample = cls(
            captured, {name: x.detach() for name, x in inputs.items()}, fixed if isinstance(fixed, int) else size
        )
        rows, _ = next(sample.batches())
        check(specs, {name: x[rows] for name, x in sample.inputs.items()})
        return sample

    def batches(self) -> Iterator[tuple[Tensor, int]]:
        """Numbers of the inputs, in parts of `batch_size`, and how many of each part count."""
        first = next(iter(self.inputs.values()))
        return batches(torch.arange(len(first), device=first.device), self.batch_size)

    def rows(self, rows: Tensor) -> dict[str, Tensor]:
        """Some of the inputs."""
        return {name: tensor[rows] for name, tensor in self.inputs.items()}


def _named(arguments: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by the names that the explainer gives its inputs: nested ones are dotted."""
    if len(args) > len(arguments):
        given = counted(len(args), "input was|inputs were")
        raise InputError(f"The model takes {', '.join(arguments)}, but {given} given by position.")
    found = {}
    for root, value in [*zip(arguments, args, strict=False), *kwargs.items()]:
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            if isinstance(leaf, Tensor):
                steps = (str(getattr(step, "key", getattr(step, "idx", step))) for step in path)
                found[".".join([root, *steps])] = leaf
    return found


class Study:
    """Compiles a captured model under one setting after the other, and measures each.

    Args:
        sample: the model and the inputs.
        choices: the composite with its options open.
        target: what is explained, its class given at run time.
        wrt: the input whose features are replaced.
        aggregate: values whose relevance is summed, as a second way to read every setting.
    """

    def __init__(
        self, sample: Sample, choices: Variants, target: Target, wrt: str | None, aggregate: Sequence[str]
    ) -> None:
        self._sample, self._choices, self._target = sample, choices, target
        self._ways = ((), tuple(aggregate)) if aggregate else ((),)
        if isinstance(wrt, list | tuple) and len(wrt) == 1:
            (wrt,) = wrt
        if wrt is not None and not (isinstance(wrt, str) and wrt in sample.inputs):
            names = ", ".join(sample.inputs)
            raise InputError(f"wrt names the input whose features are replaced, one of {names}: not {wrt!r}.")
        self._wrt = None if wrt is None else [wrt]
        self._default = self._compile(choices.make({}))
        carry = [entry.input for entry in self._default.about.relevance if entry.form == "total"]
        if len(carry) > 1:
            raise InputError(f"Several inputs carry relevance ({', '.join(carry)}): say by wrt whose are replaced.")
        self.name = carry[0]
        self._predict = _classifier(sample.captured, target)

    def _compile(self, composite: Composite) -> Explainer:
        return compile(
            self._sample.captured.program,
            composite=composite,
            target=self._target,
            wrt=self._wrt,
            aggregate=self._ways[-1],
        )

    def default_grid(self) -> tuple[dict[str, tuple[Any, ...]], tuple[str, ...]]:
        """The composite's default grid, and the options of it that are left out: they change no rule of this model.

        Raises:
            CompositeError: the composite has nothing to tune.
            InputError: none of its options changes anything.
        """
        grid, plain, unused = self._choices.default_grid(), _rules(self._default), []
        for option, values in grid.items():
            others = (value for value in values if value != self._choices.defaults[option])
            if all(self._explained_alike({option: other}, plain) for other in others):
                unused.append(option)
        if len(unused) == len(grid):
            raise InputError(
                f"{' and '.join(unused)} of the composite {self._choices.name!r} change nothing in this model: choose "
                "another composite, or a grid of other options."
            )
        return {option: values for option, values in grid.items() if option not in unused}, tuple(unused)

    def _explained_alike(self, setting: Mapping[str, Any], plain: str) -> bool:
        try:
            return _rules(self._compile(self._choices.make(setting))) == plain
        except LrpError:  # told where it is tried
            return False

    @torch.inference_mode()
    def flipping(
        self, chosen: Tensor | None, features: Any, baseline: Any, measure: str, steps: int, seed: int
    ) -> Flipping:
        """What measures the settings: see `tune`; `chosen` are the classes, None for the model's own."""
        sample, x = self._sample, self._sample.inputs[self.name]
        logits = torch.cat([self._logits(sample.rows(rows))[:count] for rows, count in sample.batches()])
        self.classes = _classes(logits, chosen)
        groups = feature_map(x, features)
        masks = [m for name, m in sample.inputs.items() if name.endswith(MASK) and m.shape == x.shape[:2]]
        if masks and (features is None or isinstance(features, str)):
            shown = (masks[0] != 0).cpu().view(*masks[0].shape, *[1] * (x.dim() - 2))
            groups = torch.where(shown, groups, NEVER)
        replaced = replacement(x, baseline)
        self.reference = torch.where((groups == NEVER).to(x.device), x, replaced)
        return Flipping(
            self._logits,
            sample.inputs,
            self.name,
            self.classes,
            groups,
            replaced,
            measure=measure,
            steps=steps,
            batch_size=sample.batch_size,
            seed=seed,
        )

    def trials(
        self,
        flipping: Flipping,
        settings: Sequence[Mapping[str, Any]],
        options: Sequence[str],
        sound: Tensor,
        seed: int,
        report: Callable[[str], None],
        refused: list[str] | None,
    ) -> list[Trial]:
        """Every setting measured on the sound inputs; those under which no rule differs are measured once.

        Args:
            flipping: what measures.
            settings: of the composite, the default first.
            options: that are tuned.
            sound: which inputs count.
            seed: of the bootstrap.
            report: is told of each step.
            refused: takes a sentence for each setting that does not fit this model; None: that is an error.
        """
        measured: dict[str, list[Curves]] = {}
        trials: list[Trial] = []
        for number, setting in enumerate(settings, 1):
            named = {option: setting.get(option, self._choices.defaults[option]) for option in options}
            say = f"{number} of {len(settings)}, {as_words(named)}"
            report(f"{say}: compile")
            composite = self._choices.make(setting)
            try:
                explainer = self._compile(composite) if setting else self._default
            except LrpError as error:
                if refused is None:
                    raise
                refused.append(f"{as_words(named)} does not fit this model: {error}")
                continue
            # Rules that are functions of the user's own are told apart by which object they are.
            own = [id(entry.rule) for entry in composite.entries if callable(entry.rule)]
            rules = f"{_rules(explainer)}{own}"
            if rules not in measured:
                report(f"{say}: explain and flip")
                measured[rules] = self._curves(explainer, flipping)
            for way, curves in zip(self._ways, measured[rules], strict=True):
                samples = curves.abpc[sound].cpu().numpy()
                means = [curve[sound].mean(0).cpu().numpy() for curve in (curves.fractions, curves.morf, curves.lerf)]
                gain = samples - (trials[0].samples if trials else samples)
                shown = named | ({AGGREGATE: "yes" if way else "no"} if len(self._ways) > 1 else {})
                scores = bootstrap(samples, seed), bootstrap(gain, seed)
                trials.append(Trial(shown, composite, way, samples, *scores, *means))
        return trials

    @torch.inference_mode()
    def _curves(self, explainer: Explainer, flipping: Flipping) -> list[Curves]:
        """By the relevance itself, and by its sum over layers, if that is asked for."""
        found: list[list[Tensor]] = [[] for _ in self._ways]
        x = self._sample.inputs[self.name]
        takes = {spec.name for spec in explainer.about.inputs}
        for rows, count in self._sample.batches():
            given: dict[str, Any] = {**self._sample.rows(rows), "target": self.classes[rows]}
            if explainer.about.differences:  # what is not replaced stays as it is
                others = {name: value for name, value in given.items() if f"{PREFIX}{name}" in takes}
                given["reference"] = others | {self.name: self.reference[rows]}
            explanation = explainer(**given)
            found[0].append(explanation.relevance[self.name][:count])
            for parts in found[1:]:
                parts.append(_over_channels(explanation.aggregate[self.name][:count], x))
        return [flipping.curves(torch.cat(parts)) for parts in found]

    def _logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        try:
            logits: Tensor = self._predict(*inputs.values())
        except IndexError as error:
            raise InputError(
                f"The model fails where features are replaced ({error}): choose another baseline, of ids one that "
                "it has."
            ) from error
        return logits


def _over_channels(summed: Tensor, x: Tensor) -> Tensor:
    """A map of places, as `compile(aggregate=…)` makes it, in the input's shape: each channel has its place's score."""
    image = x.dim() > SEQUENCE
    spread = summed[:, None] if image and summed.dim() < x.dim() else summed
    return spread.view(*spread.shape, *[1] * (x.dim() - spread.dim())).expand(len(summed), *x.shape[1:])


def _rules(explainer: Explainer) -> str:
    """Which rule, with which options, explains which operation: what two settings may have in common."""
    given = ((node.name, assignment(node)) for node in explainer.forward.graph.nodes)
    return json.dumps([(name, a.kind, a.rule, dict(a.options)) for name, a in given if a is not None], default=str)


def _classifier(captured: Captured, target: Target) -> fx.GraphModule:
    """The model itself as a function of its tensors, in order, to the explained logits, `[batch, classes]`."""
    with quiet():
        module = unlift(captured.program.run_decompositions({}))
        output = choose_output(captured, target.output)
        explained = select_explained(module, output, captured.outputs[output], target)
    module.graph.output_node().args = (explained,)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _classes(logits: Tensor, chosen: Tensor | None) -> Tensor:
    """The class of each row, int64 `[inputs]`."""
    if chosen is None:
        # A NaN would be the largest: such rows are left out later, whatever their class.
        return logits.nan_to_num().argmax(-1)
    if chosen.is_floating_point() or chosen.dtype is torch.bool or chosen.shape not in ((), logits.shape[:1]):
        raise InputError(
            f"The target has shape {list(chosen.shape)} and dtype {chosen.dtype}: int64 of shape [{len(logits)}] is "
            "wanted, one class for each input."
        )
    chosen = count_from_end("target", chosen, logits.shape[-1])
    return chosen.to(device=logits.device, dtype=torch.int64).expand(len(logits)).contiguous()
