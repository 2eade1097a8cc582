"""Run an explainer's ONNX file with numpy and onnxruntime alone; torch is never imported.

    from .runtime import OnnxExplainer

    with OnnxExplainer("m.lrp.onnx") as explainer:
        explanation = explainer(x)
    explanation.relevance["x"]                              # shaped like x

The file needs no wrapper; plain onnxruntime does the same, without the checks:

    session = onnxruntime.InferenceSession("m.lrp.onnx")
    output, relevance = session.run(["output", "relevance.x"], {"x": x})

Graph inputs are the model's own, plus `target` (int64 `[batch]`), `position` (int64 `[batch]`) or `seed` (float
`[batch, classes]`), or `weights` (float `[batch, sequence]`) of a text's tokens with `target` and `against` (int64
`[batch, sequence]`), if the explainer was compiled to take them, and `mask.<path>`, `past.<path>` and `seed.<path>` of
values inside the network, which may be left out; graph outputs are the model's own, plus `relevance.<input>` and
`coefficient.<path>`. The rest is in the file's metadata, as JSON under the key `lrp_compiler`:
`OnnxExplainer.metadata` says what it holds.
"""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import onnxruntime

from lrp_compiler.base.arrays import batch_axes, cut, holds_nan, joined, to_array
from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError, LrpError
from lrp_compiler.base.latents import check_spread, condition, conditions_of, latent_inputs, whole_shape
from lrp_compiler.base.metadata import METADATA_KEY, Metadata
from lrp_compiler.base.metadata_reading import read_metadata
from lrp_compiler.base.onnx_session import (
    check_names,
    format_errors,
    lean_options,
    open_session,
    run_session,
    runtime_inputs,
)
from lrp_compiler.base.opening import opened
from lrp_compiler.base.progress import row_bar
from lrp_compiler.base.references import bind_with_references
from lrp_compiler.base.results import ByName
from lrp_compiler.base.run import Run
from lrp_compiler.base.seal import check_pair, without_seal
from lrp_compiler.base.specs import TensorSpec
from lrp_compiler.base.validate import (
    EXTRAS,
    check,
    check_choice,
    check_option,
    check_rows,
    check_weights,
    count_from_end,
    own_inputs,
    several_given,
)

from .answering import ExplainsAnswers
from .answers import AnswerExplanation
from .explanation import Explanation

__all__ = ["AnswerExplanation", "Explanation", "OnnxExplainer", "lean_options", "open_split"]


class OnnxExplainer(ExplainsAnswers):
    """An explainer in an ONNX file.

    Thread-safe: several threads may call one explainer at the same time.

    Args:
        path_or_bytes: the file, or its content. A file with external data must be given as a path.
        providers: onnxruntime's execution providers, in order of preference; the CPU by default.
        session_options: onnxruntime's options (threads, memory, profiling), passed through; `lean_options()` makes
            those under which a memory budget shows.
        check: whether the content, that of the files beside it included, is compared with the hash in its seal first;
            0.6 seconds for each GB.
        optimised: whether what onnxruntime makes of the file on this machine is kept, in a folder beside it or in the
            one given, and opened from then on: a fraction of the time, for up to four times the file's size on the
            disk; its own checksums are compared then (`check`), not the file's hash. Another file, another version of
            onnxruntime or another processor is another entry. On the CPU, under onnxruntime's default options.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is not an explainer, or damaged, or written by a newer lrp_compiler.
    """

    @boundary("open the explainer")
    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes,
        *,
        providers: Sequence[Any] | None = None,
        session_options: onnxruntime.SessionOptions | None = None,
        check: bool = True,
        optimised: bool | str | os.PathLike[str] = False,
    ) -> None:
        """Open the file and read what it says about itself."""
        check_option(
            "path_or_bytes",
            path_or_bytes,
            isinstance(path_or_bytes, str | bytes | os.PathLike),
            "the path of an ONNX file, or its content",
        )
        fits = providers is None or isinstance(providers, list | tuple)
        check_option("providers", providers, fits, "a list of names")
        fits = isinstance(session_options, onnxruntime.SessionOptions | None)
        check_option("session_options", session_options, fits, "an onnxruntime.SessionOptions")
        fits = isinstance(optimised, bool | str | os.PathLike)
        check_option("optimised", optimised, fits, "True, False, or the path of a folder")
        if optimised and (isinstance(path_or_bytes, bytes) or providers or session_options):
            raise InputError("optimised=… goes with a file on the CPU, without providers and session_options.")
        self._opened = path_or_bytes, providers, session_options, check, optimised
        label = "the given bytes" if isinstance(path_or_bytes, bytes) else os.fspath(path_or_bytes)
        if not isinstance(path_or_bytes, bytes) and not os.path.isfile(path_or_bytes):
            raise FileNotFoundError(f"There is no file {label}.")
        session, vouched = opened(path_or_bytes, label, providers, session_options, check=check, optimised=optimised)
        with format_errors(label):
            self._session: onnxruntime.InferenceSession | None = session
            self._about = read_metadata(self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), label)
            taken = [spec for spec in self._about.seed_inputs if spec.name in self._about.defaults]
            self._inside = {spec.name: spec for spec in taken}
            self._extras = runtime_inputs(self._session, self._about.inputs, taken, label)
            check_names(self._session, self._about.returns, label)
        if not vouched:  # of a file of somebody else's, all the above said more
            raise without_seal(label)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs, in the order in which a call takes them; without `target`, `position` and `seed`."""
        return self._about.inputs

    @property
    def takes(self) -> tuple[TensorSpec, ...]:
        """All that the graph takes by name: the model's inputs, `target` and the like, masks and seeds."""
        return (*self._about.inputs, *self._extras.values(), *self._inside.values())

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs; without relevance."""
        return self._about.outputs

    @property
    def metadata(self) -> dict[str, Any]:
        """A copy of what the compiler wrote into the file.

        `schema`, `composite`, `target` and `seed` (the modes it was compiled for), `classes` (int or None),
        `inputs`, `outputs` and `relevance` (name, shape, dtype each), `versions`.
        """
        return copy.deepcopy(self._about.to_dict())

    @property
    def about(self) -> Metadata:
        """The same, typed."""
        return self._about

    @boundary("explain these inputs")
    def __call__(
        self,
        *arrays: Any,
        target: Any = None,
        seed: Any = None,
        position: Any = None,
        weights: Any = None,
        against: Any = None,
        masks: Mapping[str, Any] | None = None,
        seeds: Mapping[str, Any] | None = None,
        reference: Any = None,
        check_nan: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        **named_arrays: Any,
    ) -> Explanation[np.ndarray]:
        """Predict and explain.

        Args:
            arrays: the model's inputs by position: numpy arrays, or nested lists. A dtype that widens without loss
                is cast (int32 → int64, float16 → float32); narrowing (float64 → float32) is refused.
            target: the class to explain, if the explainer was compiled with `target="index"`: integers of shape
                `[batch]`, one integer for all rows, or `[targets, batch]` for several explanations: relevance then has
                the targets in front.
            seed: the relevance of the output, if it was compiled with `seed="tensor"`: float `[batch, classes]`.
            position: where in the sequence, if it was compiled with `Target(position="index")`: integers `[batch]`, or
                one for all rows.
            weights: how much each token of a text counts, if it was compiled with `lrp.Answer()`: numbers or flags
                `[batch, sequence]`, or `[spans, batch, sequence]` for several explanations.
            against: the token that another is compared with, if it was compiled with `lrp.Answer(against="index")`:
                integers `[batch, sequence]`, or one for all.
            masks: path → what the relevance that leaves this value is multiplied by, for values that it was compiled
                to take masks for: `[batch, channels]` (or as `lrp.Mask` says), numbers or flags; dims may be missing in
                front or have size 1. One dim more in front is several conditions: relevance then has it, too. What is
                not given is ones.
            seeds: path → relevance put on this value, in its shape; dims as for masks. What is not given is zeros.
            reference: what the inputs are compared with, if it was compiled with `composite="reference"`: an array that
                spreads to the input's shape, a number, or "blur" for pictures; a dict of such by input. Zeros, if it is
                not given, but of ids.
            check_nan: refuse NaN in the inputs.
            batch_size: run at most so many rows at a time, cutting every tensor along its dimension `batch`.
            progress: show a progress bar over the rows, on stderr; needs rich.
            named_arrays: the model's inputs by name. (One called like an argument above goes by position.)

        Returns:
            The model's output and the relevance of its inputs.

        Raises:
            InputError: an input, the target or the seed does not fit what the explainer takes.
            LrpError: onnxruntime failed on these inputs, or the explainer is closed.
        """
        session = self._session
        if session is None:
            raise LrpError("This explainer is closed.")
        choices = {"target": target, "seed": seed, "position": position, "weights": weights, "against": against}
        inner = {"masks": masks, "seeds": seeds, "reference": reference}
        bound, extras, inside = self._given(arrays, named_arrays, {**choices, **inner})
        several = {
            name: to_array(self._extras[name], extras[name])
            for name in several_given(extras, list(self._extras.values()))
        }
        count = conditions_of(self._about, {**inside, **several})
        has_nan = holds_nan if check_nan else None
        options = (batch_size, progress)
        if count is None:
            feeds, sizes = self._feeds(bound, extras, inside, has_nan)
            return self._explanation(feeds, self._results(session, feeds, sizes, *options))
        every = []
        for number in range(count):
            chosen = {**extras, **{name: array[number] for name, array in several.items()}}
            feeds, sizes = self._feeds(bound, chosen, condition(self._about, inside, number), has_nan)
            every.append(self._results(session, feeds, sizes, *options))
        own = {spec.name for spec in self._about.outputs}
        stacked = {
            name: array if name in own else np.stack([one[name] for one in every]) for name, array in every[0].items()
        }
        return self._explanation({**feeds, **several}, stacked, count)

    def _explain_arrays(self, **arrays: Any) -> Explanation[np.ndarray]:
        return self(**arrays)

    @boundary("read these inputs")
    def feeds(
        self,
        *,
        masks: Mapping[str, Any] | None = None,
        seeds: Mapping[str, Any] | None = None,
        reference: Any = None,
        **named_arrays: Any,
    ) -> dict[str, np.ndarray]:
        """What a call with these inputs gives to onnxruntime, by the names of the graph: checked, cast and spread.

        Args:
            masks: by path, as a call takes them.
            seeds: by path, likewise.
            reference: what the inputs are compared with, as a call takes it.
            named_arrays: the model's inputs, and `target`, `position`, `seed`, `weights` and `against`, by name.

        Raises:
            InputError: they do not fit.
        """
        choices = {name: named_arrays.pop(name, None) for name in EXTRAS}
        inner = {"masks": masks, "seeds": seeds, "reference": reference}
        bound, extras, inside = self._given((), named_arrays, {**choices, **inner})
        return self._feeds(bound, extras, inside, None)[0]

    @boundary("explain these inputs")
    def results(self, feeds: Mapping[str, np.ndarray], names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """What onnxruntime gives for what `feeds` returned, or for several such joined along the batch.

        Args:
            feeds: by the names of the graph; they are not checked again.
            names: of the outputs that are wanted, by the names of the graph: nothing else is calculated. None: all.

        Raises:
            LrpError: onnxruntime failed on these inputs, or the explainer is closed.
        """
        if self._session is None:
            raise LrpError("This explainer is closed.")
        return run_session(
            self._session, [spec.name for spec in self._about.returns] if names is None else names, feeds
        )

    def _given(
        self, arrays: Sequence[Any], named_arrays: Mapping[str, Any], choices: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
        """What a call gives: the model's inputs by name; target, position and seed; masks and seeds by input."""
        names = [spec.name for spec in self._about.inputs]
        extras, named_arrays = own_inputs(names, list(self._extras.values()), choices, named_arrays)
        given = latent_inputs(self._about, extras.pop("masks"), extras.pop("seeds"))
        inside = {name: to_array(self._inside[name], value) for name, value in given.items()}
        bound = bind_with_references(self._about, arrays, named_arrays, extras.pop("reference"))
        return bound, extras, inside

    def _results(
        self,
        session: onnxruntime.InferenceSession,
        feeds: Mapping[str, np.ndarray],
        sizes: Mapping[str, int],
        batch_size: int | None,
        progress: bool,
    ) -> Mapping[str, np.ndarray]:
        """All that the file returns, by name, so many rows at a time."""
        specs = self._about.returns
        names = [spec.name for spec in specs]
        rows = sizes.get("batch", 1)
        axes = {} if batch_size is None else batch_axes(batch_size, self.takes, specs, sizes)
        step = batch_size or rows
        pieces = []
        with row_bar(rows, progress) as advance:
            for start in range(0, rows, step):
                pieces.append(run_session(session, names, cut(feeds, axes, slice(start, start + step))))
                advance(min(step, rows - start))
        return joined(pieces, axes)

    def close(self) -> None:
        """Release the session and its memory; calls after it raise `LrpError`."""
        self._session = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its path (or content) and options: it is opened anew where it is unpickled.

        Raises:
            LrpError: it was given session options, which cannot be pickled, or is closed.
        """
        path_or_bytes, providers, session_options, check, optimised = self._opened
        if self._session is None:
            raise LrpError("This explainer is closed.")
        if session_options is not None:
            raise LrpError(
                "An explainer with session options cannot be pickled, because onnxruntime's options cannot: open it "
                "where it is needed."
            )
        place = path_or_bytes if isinstance(path_or_bytes, bytes) else os.path.abspath(path_or_bytes)
        return _reopened, (place, providers, check, optimised)

    def __enter__(self) -> "OnnxExplainer":
        """The explainer itself; leaving the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the explainer."""
        self.close()

    def __repr__(self) -> str:
        """What goes in, what comes out, and the modes it was compiled for."""
        takes = ", ".join(map(str, [*self._about.inputs, *self._extras.values()]))
        gives = ", ".join(map(str, self._about.returns))
        modes = f"target={self._about.target!r}, seed={self._about.seed!r}"
        return f"OnnxExplainer({takes} -> {gives}; {modes}{', closed' if self._session is None else ''})"

    def _feeds(
        self,
        bound: Mapping[str, Any],
        extras: Mapping[str, Any],
        inside: Mapping[str, np.ndarray],
        has_nan: Callable[[Any], bool] | None,
    ) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """The arrays for onnxruntime, checked and cast, and the sizes of the symbolic dimensions."""
        for name, value in extras.items():
            check_choice(name, value is not None, name in self._extras, self._about.target, self._about.explains_answer)
        arrays = {spec.name: to_array(spec, bound[spec.name]) for spec in self._about.inputs}
        sizes = check(self._about.inputs, arrays, has_nan=has_nan, ranges=self._about.ranges)
        check_rows(self._about.rows, arrays)
        for name, spec in self._extras.items():
            array = to_array(spec, extras[name])
            if name != "seed" and array.ndim == 0:
                array = np.full([sizes.get(dim, 1) if isinstance(dim, str) else dim for dim in spec.shape], array)
            if name == "weights" and array.dtype.kind in "biuf":
                array = array.astype(spec.dtype)
            sizes = check([spec], {name: array}, sizes=sizes, has_nan=None if name == "weights" else has_nan)
            if name == "weights":
                check_weights(spec, array, bool(np.isfinite(array).all()))
            most, tokens = self._about.most(name, sizes), self._about.explains_answer
            arrays[name] = array if name in ("seed", "weights") else count_from_end(name, array, most, tokens)
        for name, array in inside.items():
            spec = self._inside[name]
            whole = whole_shape(spec, sizes)
            check_spread(spec, array, whole)
            arrays[name] = np.broadcast_to(array, whole)
        specs = [*self._about.inputs, *self._extras.values(), *(self._inside[name] for name in inside)]
        return {spec.name: arrays[spec.name].astype(spec.dtype, copy=False) for spec in specs}, sizes

    def _explanation(
        self, feeds: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray], conditions: int | None = None
    ) -> Explanation[np.ndarray]:
        output = {spec.name: arrays[spec.name] for spec in self._about.outputs}
        found = self._about.by_form(arrays[entry.tensor.name] for entry in self._about.relevance)
        inputs, choices = (
            {spec.name: feeds[spec.name] for spec in specs} for specs in (self._about.inputs, self._extras.values())
        )
        run = Run(self._about, inputs, output, choices, conditions)
        first = next(iter(output.values())) if len(output) == 1 else ByName(output)
        return Explanation(first, run=run, **found)


def _reopened(
    path_or_bytes: str | bytes, providers: Sequence[Any] | None, check: bool, optimised: bool | str
) -> OnnxExplainer:
    return OnnxExplainer(path_or_bytes, providers=providers, check=check, optimised=optimised)


@boundary("open the parts")
def open_split(
    forward: str | os.PathLike[str],
    relevance: str | os.PathLike[str],
    *,
    providers: Sequence[Any] | None = None,
    session_options: onnxruntime.SessionOptions | None = None,
) -> tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession]:
    """Open the two parts that `Explainer.save_split` wrote as ONNX.

        forward, relevance = open_split("forward.onnx", "relevance.onnx")
        kept = [value.name for value in relevance.get_inputs() if value.name.startswith("kept.")]
        values = dict(zip(kept, forward.run(kept, {"x": x})))
        (R_x,) = relevance.run(["relevance.x"], values)  # and the target or seed, if it takes one

    Args:
        forward: the file of the forward.
        relevance: that of relevance.
        providers: as `OnnxExplainer` takes them.
        session_options: likewise.

    Returns:
        A session on each.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: a file is no such part, or damaged; or the two are not of one explainer.
    """
    check_pair(forward, relevance)
    sessions = []
    for path in (forward, relevance):
        with format_errors(os.fspath(path)):
            sessions.append(open_session(path, os.fspath(path), providers, session_options))
    return sessions[0], sessions[1]
