"""`Explain`: a batch of rows in, their explanations out. A callable class, as engines that map batches take one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa

from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.errors import InputError, LrpError
from lrp_compiler.base.references import PREFIX
from lrp_compiler.base.run import Run
from lrp_compiler.base.validate import check_option, whole_number
from lrp_compiler.runtime import OnnxExplainer

from .batches import batches, shapes_of, stacked
from .columns import ABSORBED, PREDICTION, TARGET, TOKENS, Column, batch_axis, is_open, layout
from .inputs import Inputs, Values
from .preparation import Preparation
from .text import IDS, length_bounds, may_be_filled_up
from .window import Window

ERROR = "error"
"""The column that says what is wrong with a row: "" where nothing is."""
BATCH = 32


class Explain:
    """Explains batches of rows; its session is made where it is made, or unpickled.

    Args:
        explainer: the path of an explainer's ONNX file.
        preparation: how columns become inputs; None: by their names, as they are.
        batch_size: how many rows run at once, at most.
        threads: of the session; None: as many as there are cores.
        check: whether the file is compared with the hash in its seal first.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is no explainer, or damaged.
        InputError: the preparation does not fit the explainer, or what it returns is not made row by row.
    """

    @boundary("open the explainer")
    def __init__(
        self,
        explainer: str | os.PathLike[str],
        preparation: Preparation | None = None,
        *,
        batch_size: int = BATCH,
        threads: int | None = None,
        check: bool = True,
    ) -> None:
        check_option("batch_size", batch_size, (whole_number(batch_size) or 0) > 0, "a whole number from 1 up")
        check_option(
            "threads", threads, threads is None or (whole_number(threads) or 0) > 0, "a whole number from 1 up"
        )
        how = preparation or Preparation()
        self._made_of = explainer, how, batch_size, threads, check
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or 0
        self._explainer = OnnxExplainer(explainer, session_options=options, check=check)
        self.about = self._explainer.about
        self.inputs = Inputs(self.about, how)
        # The largest, and sums of neighbours, would be looked for in what fills a row up as well.
        alone = any(step.startswith(("top:", "patch:")) for step in self.about.reduce)
        self._filled_up = may_be_filled_up(self.about, self.inputs.texts) and not alone
        self._fixed = None if is_open(self.about) else int(self.about.inputs[0].shape[0])
        self._batch = self._fixed or batch_size
        self._cut = self._where_cut()
        self._ids = [name for name, kind in self.inputs.texts.items() if kind == IDS]
        self.columns = layout(self.about, self._cut, self._ids)

    @boundary("explain these rows")
    def __call__(self, batch: Any) -> Any:
        """Explain a batch.

        Args:
            batch: an Arrow table or record batch, a dict of arrays or lists, or a pandas DataFrame.

        Returns:
            The same kind: `id` (if there is such a column), the columns of `columns`, and `error`. A row that cannot be
            explained says so there; in the others it has −1 and NaN, in Arrow null.

        Raises:
            InputError: it is wrong with all rows: a column is missing, or of another shape.
        """
        if hasattr(batch, "iloc"):
            # Arrow would take NaN inside its values for nothing at all.
            found = self({name: batch[name].to_numpy() for name in batch.columns})
            return type(batch)({name: list(values) for name, values in found.items()})
        if isinstance(batch, pa.Table):
            whole = batch.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], batch.schema)]
            return pa.Table.from_batches([self(whole[0])])
        given = (
            dict(zip(batch.schema.names, batch.columns, strict=True)) if isinstance(batch, pa.RecordBatch) else batch
        )
        if not isinstance(given, Mapping) or not given:
            raise InputError(
                "A batch is an Arrow table or record batch, a DataFrame, or a dict, column → values, of one column at "
                "least."
            )
        rows = len(next(iter(given.values())))
        found, errors = self.rows(Window(given, given.get("id"), np.arange(rows)))
        said = [errors.get(row, "") for row in range(rows)]
        ids = {"id": given["id"]} if "id" in given else {}
        if not isinstance(batch, pa.RecordBatch):
            return {**ids, **found, ERROR: np.array(said, object)}
        good = np.array([row for row in range(rows) if row not in errors], np.int64)
        place = np.full(rows, -1)
        place[good] = np.arange(len(good))
        back = pa.array(place, mask=place < 0)
        arrays = [column.array(found[column.name][good]).take(back) for column in self.columns]
        names = [*ids, *(column.name for column in self.columns), ERROR]
        return pa.RecordBatch.from_arrays([*ids.values(), *arrays, pa.array(said)], names=names)

    def each(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Batch after batch, as Spark's `mapInArrow` hands them over."""
        return map(self, batches)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by what it was made of: its session is opened anew where it is unpickled."""
        return self.elsewhere(self._made_of[3])

    def elsewhere(self, threads: int | None) -> tuple[Callable[..., Explain], tuple[Any, ...]]:
        """A function and its arguments that make the same in another process, its session with so many threads."""
        explainer, preparation, batch_size, _, check = self._made_of
        return _made, (os.path.abspath(explainer), preparation, batch_size, threads, check)

    def rows(self, window: Window) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """Explain the rows of a window.

        Returns:
            Name of a column → `[rows, *shape]`, −1 and NaN (of open dims None) in rows that cannot be explained; and
            place → what is wrong with a row.

        Raises:
            InputError: it is wrong with all rows.
        """
        errors = dict(window.errors)
        found = {column.name: column.empty(len(window)) for column in self.columns}
        if not len(window):
            return found, errors
        given = self.inputs.of(window, errors)
        sound = [row for row in range(len(window)) if row not in errors]
        for rows in batches(shapes_of(given, len(window)), sound, self._batch, self._filled_up):
            self._explain(given, rows, found, errors)
        return found, errors

    def _explain(
        self, given: Mapping[str, Values], rows: list[int], found: dict[str, np.ndarray], errors: dict[int, str]
    ) -> None:
        """Run a batch; of one that fails each half by itself, until the row is found that it fails for."""
        try:
            lengths, values = self._run(given, rows)
        except LrpError as error:
            if len(rows) == 1:
                errors[rows[0]] = str(error)
                return
            middle = len(rows) // 2
            for half in (rows[:middle], rows[middle:]):
                self._explain(given, half, found, errors)
            return
        sums = [values[column.name] for column in self.columns if column.name.startswith("sum.")]
        wrong = _any(sums, lambda array: ~np.isfinite(array), len(rows))
        for place, row in enumerate(rows):
            if wrong[place]:
                errors[row] = "The relevance is not finite: numbers of this row are too large, or not finite."
        sound = np.flatnonzero(~wrong)
        put = np.asarray(rows)[sound]
        for column in self.columns:
            if not column.known:
                continue
            if column.whole:
                found[column.name][put] = values[column.name][sound]
                continue
            kept = self._without_filling(column, values[column.name], lengths)
            for place, row in zip(sound.tolist(), put.tolist(), strict=True):
                found[column.name][row] = kept[place]

    def _run(self, given: Mapping[str, Values], rows: list[int]) -> tuple[list[int], dict[str, np.ndarray]]:
        """The lengths of the rows' texts, and what is written of them: `[rows, …]`."""
        texts, spec_of = self.inputs.texts, {spec.name: spec for spec in self.inputs.specs}
        lengths = [0] * len(rows)
        whole = rows + rows[-1:] * ((self._fixed or len(rows)) - len(rows))
        arrays = {}
        for name, values in given.items():
            filling = length = None
            kind = texts.get(name.removeprefix(PREFIX) if name in self.inputs.references else name)
            if kind is not None and self._filled_up and not isinstance(values, np.ndarray):
                pad = self.inputs.tokenizer.pad if self.inputs.tokenizer is not None else 0
                filling = pad if kind == IDS else 0
                length = length_bounds(self.about, spec_of[name])[0]
            if name in texts:
                lengths = [len(values[row]) for row in rows]
            arrays[name] = stacked(values, whole, filling, length)
            if arrays[name].dtype.kind == "f" and _any([arrays[name]], np.isnan, len(whole)).any():
                raise InputError(f"Input {name!r} holds NaN.")
        apart = self.inputs.references
        names = [spec.name for spec in self.about.inputs if spec.name not in apart]
        choices: dict[str, Any] = {name: array for name, array in arrays.items() if name not in names}
        if apart:
            said = {name: value for name, value in apart.items() if value is not None and name not in arrays}
            choices["reference"] = {name.removeprefix(PREFIX): value for name, value in said.items()} or None
        explanation = self._explainer(*(arrays[name] for name in names), **choices)
        tokens = {f"{TOKENS}{name}": arrays[name].astype(np.int32) for name in self._ids}
        found = {**_classes(explanation.run), **self._relevance(explanation), **tokens}
        return lengths, {name: values[: len(rows)] for name, values in found.items()}

    def _relevance(self, explanation: Any) -> dict[str, np.ndarray]:
        """By column, rows first."""
        by_form = {
            "total": explanation.relevance,
            "unit": explanation.coefficients,
            "aggregate": explanation.aggregate,
        }
        found = {}
        for column in self.columns:
            entry = column.entry
            if entry is None:
                continue
            key = entry.key if entry.form in ("total", ABSORBED) else entry.input
            array = np.moveaxis(by_form.get(entry.form, explanation.sums)[key], batch_axis(self.about, entry), 0)
            if column.name == f"sum.{entry.input}" and entry.form == "total":
                kept = 1 + (self.about.several is not None)
                array = array.sum(tuple(range(kept, array.ndim)), dtype=np.float64)
            found[column.name] = array
        return found

    def _where_cut(self) -> dict[str, tuple[int, ...]]:
        """Relevance of a text → the dims of a row that are cut where the text ends."""
        if not self._filled_up:
            return {}
        sequence = next(spec.shape[1] for spec in self.about.inputs if spec.name in self.inputs.texts)
        found = {}
        for entry in self.about.relevance:
            shape = list(entry.tensor.shape)
            del shape[batch_axis(self.about, entry)]
            dims = tuple(dim for dim, size in enumerate(shape) if size == sequence)
            if isinstance(sequence, int):  # of other values a dim may be as large by chance
                dims = dims[-1:] if entry.input in self.inputs.texts else ()
            if dims:
                found[entry.called] = dims
        return found | {f"{TOKENS}{name}": (0,) for name, kind in self.inputs.texts.items() if kind == IDS}

    def _without_filling(self, column: Column, values: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
        """Of each row its value, cut where its text ends; a copy, so that it does not hold what is cut off."""
        cut = self._cut.get(column.name, ())
        if cut == (0,):  # all rows at once: a copy for each is what short texts would wait for
            width = values.shape[1]
            ends = np.minimum(lengths, width)
            flat, stops = values[np.arange(width) < ends[:, None]], np.cumsum(ends).tolist()
            return [flat[start:stop] for start, stop in pairwise([0, *stops])]
        dims = range(values.ndim - 1)
        cuts = [tuple(slice(0, length) if dim in cut else slice(None) for dim in dims) for length in lengths]
        return [value[at].copy() for value, at in zip(values, cuts, strict=True)]


def _made(explainer: str, preparation: Preparation, batch_size: int, threads: int | None, check: bool) -> Explain:
    return Explain(explainer, preparation, batch_size=batch_size, threads=threads, check=check)


def _classes(run: Run) -> dict[str, np.ndarray]:
    """What is predicted, what is explained, and its logit (or what the model returns of it), for every row."""
    z = run.logits()
    if z is None:
        return {}
    about, rows = run.about, np.arange(len(z))
    found = {PREDICTION: z.argmax(1)}
    if about.seed == "tensor" or about.picks is None:
        return found
    several = isinstance(about.picks, list)
    picks = [
        pick["pair"] if isinstance(pick, Mapping) else [pick] for pick in (about.picks if several else [about.picks])
    ]
    pairs = any(len(pick) == 2 for pick in picks)
    targets, logits = [], []
    for pick in picks:
        both = [_number(one, found[PREDICTION], run.choices, rows) for one in pick]
        logits.append(z[rows, both[0]] - (z[rows, both[1]] if len(both) == 2 else 0))
        targets.append(np.stack([*both, *[np.full(len(z), -1)] * (2 - len(both))], -1) if pairs else both[0])
    found[TARGET] = np.stack(targets, 1) if several else targets[0]
    found[about.score.replace("-", "_")] = np.stack(logits, 1) if several else logits[0]
    return found


def _number(pick: Any, predicted: np.ndarray, choices: Mapping[str, Any], rows: np.ndarray) -> np.ndarray:
    """The class of every row that a pick means."""
    if pick == "argmax":
        return predicted
    return np.asarray(choices["target"]) if pick == "index" else np.full(len(rows), pick, np.int64)


def _any(arrays: Sequence[np.ndarray], wrong: Callable[[np.ndarray], np.ndarray], rows: int) -> np.ndarray:
    """Of each row, whether something is wrong with a number in it."""
    found = np.zeros(rows, bool)
    for array in arrays:
        found |= wrong(array.reshape(rows, -1)).any(1)
    return found
