"""`tune`: the options of a composite under which relevance is most faithful to the model, by ABPC."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError, LrpError
from lrp_compiler.base.validate import check_names, check_option
from lrp_compiler.capture import Model
from lrp_compiler.passes.forward import Target
from lrp_compiler.rules.composite import Composite

from .calibration import Sample, Study
from .flipping import MEASURES
from .tuned import Tuned
from .variants import variants


@boundary("tune the composite")
def tune(
    model: Model,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    composite: str | Composite | Callable[..., Composite] = "auto",
    options: Mapping[str, Any] | None = None,
    grid: Mapping[str, Iterable[Any]] | None = None,
    target: str | int | Tensor | Target = "argmax",
    wrt: str | None = None,
    features: str | int | Tensor | None = None,
    baseline: str | float | Tensor | None = None,
    aggregate: str | Sequence[str] = (),
    measure: str = "probability",
    steps: int = 20,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Tuned:
    """Choose a composite's options by how faithful relevance is to the model on your own inputs.

        best = lrp.tune(model, (x,), composite="epsilon-gamma-box", options={"low": -1, "high": 1})
        print(best)  # every setting with its score, and what may be concluded
        explainer = lrp.compile(model, (x[:2],), composite=best.composite, aggregate=best.aggregate)
        # where the best is `reference`: explainer(x, reference=best.reference), or "blur" for pictures

    The score is the area between perturbation curves (ABPC, −1 to 1; a random order: 0) of the probability of each
    input's class, averaged over inputs. It needs nothing of this library; for each setting, and each input `x`:

        order = features of x by relevance under the setting, most relevant first
        for share in 0, 1/steps, …, 1:
            morf[share] = softmax(model(x with the first share of the order replaced by the baseline))[class]
            lerf[share] = softmax(model(x with the last share of the order replaced by the baseline))[class]
        abpc = area under lerf − area under morf

    and the setting of the largest mean ABPC is the best one. It depends on the baseline and on the features, and the
    largest of many is flattered by chance: compare on inputs that were not used here (`Tuned.held_out_gain` estimates
    what is left there).

    The model is captured once, compiled for each setting, and asked `inputs × 2 (steps − 1)` times for each setting
    whose rules differ. It is not modified.

    Args:
        model: as `compile` takes it; of a program with a fixed batch size, that many rows are run at once.
        args: the calibration inputs, `[inputs, …]` each: dozens, like those to be explained later.
        kwargs: the same by name.
        composite: a name, a function that makes composites, or a Composite (its options are then those of its entries:
            "gamma", or "linear.gamma" of one kind; α takes β = α − 1 along). "auto" has one option, "composite": the
            name of the composite in place of the one that the model's structure chooses.
        options: options of that composite that are settled, such as low and high of "epsilon-gamma-box".
        grid: option → values to try; all combinations are. The default is always tried too. By default every option
            that leads to a γ (0, 0.05, 0.25, 1, 4) or an α (1, 1.5, 2, 3) of a rule that this model meets; if there is
            none, ε (1e-6 to 1); of "auto" the composites that need to be told nothing, `reference` among them.
        target: the class that is explained and measured: "argmax" (of the input as it is), a class number, int64
            `[inputs]`, or a `Target` with one of the first two (and output and position).
        wrt: the input whose features are replaced; needed where several carry relevance.
        features: what is replaced together: "elements"; "pixels" (all channels); k (patches of k × k pixels);
            "tokens" (a position of dim 1; those that an `attention_mask` hides stay); or integers that broadcast to
            the input, negative where an element always stays. Default: pixels of images, tokens of integers, else
            elements.
        baseline: what replaced elements show: a number (a token id), a tensor that broadcasts to the input, "mean", or
            "blur" for images. Default: "blur" for images, "mean" for other floats; token ids need one. Composites of
            differences (`reference`) compare with the input that shows this everywhere.
        aggregate: values, named as `compile` takes them: every setting is measured a second time with relevance summed
            over them. Where that is best, `Tuned.aggregate` names them; a map of places has no elements, so features
            are what lies at a place, or more of it.
        measure: "probability" (softmax; of a single logit its sigmoid) or "logit", for outputs that are no logits.
        steps: how many times features are replaced on the way from all to none.
        batch_size: rows at once; default 16.
        seed: of the order among equals and of the bootstrap: the same seed, the same result.
        progress: called with the name of each step when it starts.

    Raises:
        InputError: inputs, target, features, baseline or numbers that do not fit.
        CompositeError: an unknown composite or option, an empty grid, or nothing to tune.
        LrpError: no setting gives finite relevance on every input.
        CaptureError, UnsupportedOpError, FormatError: as `compile` raises them.
    """
    if measure not in MEASURES:
        raise InputError(f"Unknown measure {measure!r}: choose {' or '.join(map(repr, MEASURES))}.")
    for name, number in (("steps", steps), ("batch_size", 1 if batch_size is None else batch_size), ("seed", seed)):
        if not isinstance(number, int) or number < (name != "seed"):
            raise InputError(f"{name} is a whole number{' from 1 up' * (name != 'seed')}, not {number!r}.")
    for option, given in (("options", options), ("grid", grid)):
        check_option(option, given, isinstance(given, Mapping | None), "a dict by the names of options")
    report = progress or (lambda step: None)
    choices = variants(composite, options)
    # What cannot be tuned is refused before the model is captured.
    settings = choices.settings(choices.default_grid() if grid is None else grid)
    wanted, chosen = _target(target)
    summed = check_names("aggregate", aggregate)
    report("capture")
    study = Study(Sample.of(model, args, kwargs, batch_size), choices, wanted, wrt, summed)
    unused: tuple[str, ...] = ()
    refused: list[str] = []
    own = grid is None
    if grid is None:
        report("find the options that matter")
        grid, unused = study.default_grid()
        settings = choices.settings(grid)
    report("ask the model")
    flipping = study.flipping(chosen, features, baseline, measure, steps, seed)
    sound = flipping.sound.cpu()
    if not sound.any():
        raise InputError(
            "The model's answer is not finite on any input, as it is or with everything replaced, or there is nothing "
            "to replace: check inputs, features and baseline."
        )
    trials = study.trials(flipping, settings, list(grid), sound, seed, report, refused if own else None)
    if all(trial.failed for trial in trials):
        raise LrpError("Under every setting the relevance of some inputs is not finite: leave them out, or raise ε.")
    numbers = torch.arange(len(sound))
    left_out = tuple(numbers[~sound].tolist())
    reference = study.reference
    if bool((reference == reference[:1]).all()):
        reference = reference[:1]
    return Tuned(tuple(trials), tuple(numbers[sound].tolist()), left_out, unused, seed, tuple(refused), reference)


def _target(target: Any) -> tuple[Target, Tensor | None]:
    """The target with its class given at run time, and the class if it is known before the model is asked."""
    if isinstance(target, Tensor):
        return Target("index"), target
    one = "tune explains one class of each input: target is 'argmax', a class number, or int64 of shape [inputs]"
    if callable(target) or isinstance(target, (list, tuple)):
        raise InputError(f"{one}.")
    whole = Target.of(target)
    if isinstance(whole.classes, (list, tuple)) or whole.classes == "index":
        raise InputError(f"{one}.")
    if whole.position == "index":
        raise InputError("tune explains one position of all inputs: give lrp.Target(position=…) a number or 'last'.")
    chosen = None if whole.classes == "argmax" else torch.tensor(whole.classes)
    return replace(whole, classes="index"), chosen
