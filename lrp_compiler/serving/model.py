"""An explainer as the protocol sees it: named tensors in, named tensors out, several requests in one run."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime

from lrp_compiler.base.errors import InputError, LrpError, did_you_mean
from lrp_compiler.base.latents import KINDS
from lrp_compiler.base.metadata import Metadata
from lrp_compiler.base.references import PREFIX
from lrp_compiler.base.specs import TensorSpec
from lrp_compiler.base.validate import check_option, whole_number
from lrp_compiler.check.random_inputs import random_inputs
from lrp_compiler.formats import stem_of
from lrp_compiler.runtime import OnnxExplainer

from .tensors import datatype

VERSION = "1"
"""Of every model: a server has one file."""
BATCH = "batch"
"""The open dim along which requests are put together."""


@dataclass(frozen=True)
class Work:
    """One request, checked.

    Args:
        feeds: what onnxruntime is given.
        names: of the results that are wanted.
        kind: equal for requests that may run together.
        rows: how many it has.
    """

    feeds: Mapping[str, np.ndarray]
    names: tuple[str, ...]
    kind: Hashable
    rows: int


class Model:
    """An explainer, opened, and what a request may say to it.

    Args:
        explainer: its ONNX file.
        name: that requests call it by; None: the file's, without endings.
        threads: of the session; None: as many as there are cores.
        check: whether the file is compared with the hash in its seal first.
        check_nan: refuse NaN in inputs.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is no explainer, or damaged.
    """

    def __init__(
        self,
        explainer: str | os.PathLike[str],
        name: str | None = None,
        *,
        threads: int | None = None,
        check: bool = True,
        check_nan: bool = False,
    ) -> None:
        check_option("name", name, name is None or is_model_name(name), "letters, digits, '.', '_' and '-'")
        fits = threads is None or (whole_number(threads) or 0) > 0
        check_option("threads", threads, fits, "a whole number from 1 up")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or 0
        self.name = name or model_name(explainer)
        self._explainer = OnnxExplainer(explainer, session_options=options, check=check)
        takes = self._explainer.takes
        self.about = replace(self._explainer.about, seed_inputs=takes[len(self._explainer.inputs) :])
        self._check_nan = check_nan
        self._latents = {entry.name: entry for entry in self.about.latents if entry.kind in KINDS.values()}
        self._results = {spec.name: spec for spec in self.about.returns}
        self._axes = batch_axes(self.about)
        self.grouped = self._axes is not None and self._rows_are_independent()

    def described(self) -> dict[str, Any]:
        """The protocol's metadata of the model; open sizes are −1, and inputs that may be left out say so."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "onnxruntime_onnx",
            "inputs": [
                _described(spec) | ({"parameters": {"optional": True}} if self._is_optional(spec) else {})
                for spec in self._given()
            ],
            "outputs": [_described(spec) for spec in self._results.values()],
        }

    def work(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None) -> Work:
        """What is to be done for a request.

        Args:
            inputs: by name.
            outputs: names of those that are wanted; None: all.

        Raises:
            InputError: they do not fit the explainer.
        """
        names = tuple(self._results if outputs is None else outputs)
        _check_names("output", names, self._results)
        _check_names("input", inputs, [spec.name for spec in self._given()])
        inside: dict[str, dict[str, Any]] = {argument: {} for argument in KINDS}
        own: dict[str, Any] = dict(inputs)
        for argument, kind in KINDS.items():
            for name in [name for name in own if name in self._latents and self._latents[name].kind == kind]:
                inside[argument][self._latents[name].path] = own.pop(name)
        for name, array in inputs.items():
            if self._check_nan and array.dtype.kind == "f" and np.isnan(array).any():
                raise InputError(f"Input {name!r} holds NaN.")
        feeds = self._explainer.feeds(**{argument: given or None for argument, given in inside.items()}, **own)
        if not self.grouped or self._axes is None:
            return Work(feeds, names, object(), 1)
        shapes = tuple((name, _without(array.shape, self._axes[name])) for name, array in feeds.items())
        first = self.about.inputs[0].name
        return Work(feeds, names, (names, shapes), feeds[first].shape[self._axes[first]])

    def run(self, batch: Sequence[Work]) -> list[dict[str, np.ndarray]]:
        """The results of requests of one kind, in one run: by name, in the order in which they are wanted.

        Raises:
            LrpError: onnxruntime failed on them.
        """
        names = batch[0].names
        if len(batch) == 1 or self._axes is None:
            return [self._explainer.results(one.feeds, names) for one in batch]
        axes = self._axes
        joined = {name: np.concatenate([one.feeds[name] for one in batch], axes[name]) for name in batch[0].feeds}
        results = self._explainer.results(joined, names)
        ends = np.cumsum([one.rows for one in batch])[:-1]
        pieces = {name: np.split(array, ends, axes[name]) for name, array in results.items()}
        return [{name: pieces[name][number] for name in names} for number in range(len(batch))]

    def close(self) -> None:
        """Release the session."""
        self._explainer.close()

    def __enter__(self) -> Model:
        """The model itself; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _given(self) -> list[TensorSpec]:
        """What a request may give: all inputs but those that follow from others."""
        follow = {entry.name for entry in self.about.latents} - self._latents.keys()
        return [spec for spec in self.about.takes if spec.name not in follow]

    def _is_optional(self, spec: TensorSpec) -> bool:
        reference = self.about.differences and spec.name.startswith(PREFIX) and spec.dtype.startswith("float")
        return reference or spec.name in self._latents

    def _rows_are_independent(self) -> bool:
        """Whether a row is explained alike beside another, on random inputs: a scale that is taken over a whole batch,
        as dynamic quantisation does, shows itself beside numbers ten times as large."""
        about = replace(self.about, sizes={**self.about.sizes, BATCH: 2})
        axes = self._axes or {}
        try:
            both = random_inputs(about, self.about.rows, np.random.default_rng(0))
            both = {name: array for name, array in both.items() if name not in self.about.defaults}
            for name, array in both.items():
                if array.dtype.kind == "f":
                    np.moveaxis(array, axes[name], 0)[1] *= 10
            alone = {name: array.take([0], axes[name]) for name, array in both.items()}
            names = list(self._results)
            beside, by_itself = (self._explainer.results(feeds, names) for feeds in (both, alone))
        except (LrpError, ValueError):
            return False
        return all(_alike(beside[name].take([0], axes[name]), by_itself[name], self.about.tolerance) for name in names)


def batch_axes(about: Metadata) -> dict[str, int] | None:
    """Name of every tensor → the axis of its rows; None: one has no rows, or relates them to each other."""
    specs = [*about.takes, *about.returns]
    if any(spec.shape.count(BATCH) != 1 for spec in specs):
        return None
    return {spec.name: spec.shape.index(BATCH) for spec in specs}


def model_name(explainer: str | os.PathLike[str]) -> str:
    """What a model is called after its file: the name without endings, of letters that an address takes."""
    return re.sub(r"[^\w.-]", "_", stem_of(explainer), flags=re.ASCII).lstrip(".-") or "model"


def is_model_name(name: object) -> bool:
    """Whether it can stand in an address, and be called a folder, as it is."""
    return isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name, re.ASCII) is not None


def _check_names(kind: str, given: Iterable[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"There is no {kind} {name!r}{did_you_mean(name, known)}: there are {', '.join(known)}.")


def _described(spec: TensorSpec) -> dict[str, Any]:
    shape = [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    return {"name": spec.name, "datatype": datatype(spec.dtype), "shape": shape}


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _alike(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    """Whether floats differ by no more than rounding of these sizes; whole numbers may be positions of equal values."""
    if one.dtype.kind != "f":
        return True
    least = max(tolerance, 4 * float(np.finfo(one.dtype).eps))
    one, other = one.astype(np.float64), other.astype(np.float64)
    return bool(np.abs(one - other).max(initial=0) <= least * np.abs(other).max(initial=0))
