"""What is promised of every model: a right result in every form, or an `LrpError` when it is compiled.

Each promise is asked in turn, and what is not kept is raised as `Broken`. Numbers are compared in float64, where two
ways to the same relevance differ by rounding alone; how much rounding may come to is seen from the graph in float32.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import InternalError, LrpError
from lrp_compiler.passes.graph import Float64
from lrp_compiler.runtime import OnnxExplainer
from lrp_compiler.torch_private import pytree

BOOKS = 1e-9
"""What the books may leave over in float64, as a share of the largest relevance in them."""
SAME = 1e-9
"""How far two ways to the same relevance may lie apart in float64, where rounding is not magnified."""
MAGNIFIED = 1e4 * 2.0**-29
"""And as a multiple of what float32 loses: float64 rounds 2²⁹ times finer."""
SLACK, FLOOR = 3.0, 1e-6
"""onnxruntime's error as a multiple of torch's own in float32, and what counts as none."""
MANY = 15
"""Times as many inputs, where the errors on a few are too far apart."""
PROMISES = ("output", "books", "graph", "plain", "budget", "split", "observe", "saved", "onnx")

Inputs = tuple[Any, ...]
Make = Callable[[int], Inputs]
"""`rows → inputs`: fresh ones at every call."""


def warm_up() -> None:
    """Import whatever is imported when it is first needed, so that children of this process have it."""
    model = nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(9, 3)).eval()
    hold(Asked(model, lambda rows: (torch.randn(rows, 2, 4),)))


class Broken(Exception):
    """A promise that was not kept.

    Args:
        kind: "wrong number", "raw error", "late refusal" (a compiled explainer that refuses what it should take) or
            "not finite".
        promise: which.
        detail: what was seen.
    """

    def __init__(self, kind: str, promise: str, detail: str, where: str = "") -> None:
        super().__init__(kind, promise, detail, where)
        self.kind, self.promise, self.detail, self.where = kind, promise, detail, where

    @property
    def signature(self) -> tuple[str, ...]:
        """Equal for failures of one kind."""
        first = self.detail.partition(":")[0] if self.kind != "wrong number" else ""
        return (self.kind, self.promise, self.where or first)


class Refused(Exception):
    """`compile`, or the exporter, said no in a sentence."""

    def __init__(self, promise: str, error: LrpError) -> None:
        super().__init__(promise, str(error))
        self.promise, self.error = promise, error


def refusal(promise: str, error: LrpError) -> Refused | Broken:
    """What an `LrpError` means: a refusal, or a defect that owns up to being one."""
    if not isinstance(error, InternalError):
        return Refused(promise, error)
    cause = error.__cause__ or error
    return Broken("raw error", promise, said(cause), where(cause))


class NoCase(Exception):
    """The model itself does not run, or its output is not finite."""


@dataclass
class Asked:
    """A model and what is asked of it.

    Args:
        model: in eval mode.
        make: makes inputs.
        rows: of the example.
        options: of `lrp.compile`; `dynamic_shapes` among them makes other batch sizes possible.
        told: number of rows that the model returns → what the explainer is told at run time.
        promises: which are asked.
        kwargs: whether `make` returns a dict of inputs by name, as its only element.
    """

    model: nn.Module
    make: Make
    options: Mapping[str, Any] = field(default_factory=dict)
    told: Callable[[int], dict[str, Any]] = lambda rows: {}
    promises: tuple[str, ...] = PROMISES
    rows: int = 2
    other_rows: tuple[int, ...] = (3, 5)
    figures: dict[str, float] = field(default_factory=dict)

    def fresh(self, rows: int, seed: int) -> Inputs:
        """Inputs drawn with a seed."""
        torch.manual_seed(seed)
        return self.make(rows)


def hold(asked: Asked) -> list[LrpError]:
    """Ask every promise; returns what was refused on the way with good reason: an exporter's `LrpError`.

    Raises:
        NoCase: the model itself does not run on its inputs.
        Refused: `compile` said no.
        Broken: a promise was not kept.
    """
    example = asked.fresh(asked.rows, 1)
    expected = _model(asked.model, example)
    weights = {name: tensor.clone() for name, tensor in asked.model.state_dict().items() if isinstance(tensor, Tensor)}
    explainer = _compile(asked, example, **asked.options)
    for name, tensor in asked.model.state_dict().items():
        if isinstance(tensor, Tensor) and not torch.equal(tensor.nan_to_num(), weights[name].nan_to_num()):
            raise Broken("wrong number", "output", f"compile changed the model's {name}")
    run = _Run(asked, explainer, example, asked.told(_rows(expected)))
    with _guarded("output"):
        run.output(expected)
    refusals: list[LrpError] = []
    for promise in asked.promises:
        if promise == "output":
            continue
        with _guarded(promise):
            try:
                getattr(run, promise)()
            except Refused as refused:
                refusals.append(refused.error)
    return refusals


class _guarded:
    """What is raised inside becomes `Broken`, unless it is meant."""

    def __init__(self, promise: str) -> None:
        self.promise = promise

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, Broken | Refused | NoCase) or not isinstance(error, Exception):
            return
        if isinstance(error, InternalError):
            raise refusal(self.promise, error) from error
        sort = "late refusal" if isinstance(error, LrpError) else "raw error"
        raise Broken(sort, self.promise, said(error), where(error)) from error


def said(error: BaseException) -> str:
    """Type and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def where(error: BaseException) -> str:
    """The innermost line of the library's own in the traceback, as `file:function`."""
    found, trace = "", error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if {"passes", "rules", "lrp_compiler"} & set(path.parts[-4:]) and "site-packages" not in path.parts:
            found = f"{path.name}:{trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return f"{type(error).__name__} in {found}" if found else ""


def _model(model: nn.Module, inputs: Inputs) -> Any:
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad():
            args, kwargs = _given(inputs)
            output = model(*args, **kwargs)
            for name, buffer in model.named_buffers():  # some write their buffers
                buffer.copy_(state[name]) if buffer.shape == state[name].shape else None
    except Exception as error:
        raise NoCase(said(error)) from error
    floats = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not all(leaf.isfinite().all() for leaf in floats):
        raise NoCase("its output is not finite")
    return output


def _rows(output: Any) -> int:
    """Of the logits, which come first: a model may make more of its batch, or less."""
    logits = next(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))
    return int(logits.shape[0]) if logits.dim() else 1


def _given(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional ones and named ones, copied: a model may write into them."""
    copied = pytree.tree_map_only(Tensor, torch.clone, inputs)
    return (copied[:-1], dict(copied[-1])) if copied and isinstance(copied[-1], _Named) else (copied, {})


class _Named(dict[str, Any]):
    pass


pytree.register_pytree_node(_Named, lambda d: (list(d.values()), list(d)), lambda v, k: _Named(zip(k, v, strict=True)))


def named(inputs: Mapping[str, Any]) -> Inputs:
    """Inputs by name, as `Asked.make` returns them."""
    return (_Named(inputs),)


def _compile(asked: Asked, example: Inputs, **options: Any) -> lrp.Explainer:
    args, kwargs = _given(example)
    with _guarded("compile"):
        try:
            return lrp.compile(asked.model, args, kwargs or None, **options)
        except LrpError as error:
            raise refusal("compile", error) from error


class _Run:
    """One explainer under examination."""

    def __init__(self, asked: Asked, explainer: lrp.Explainer, example: Inputs, told: dict[str, Any]) -> None:
        self.asked, self.explainer, self.example, self.told = asked, explainer, example, told
        self.names = [entry.input for entry in explainer.about.relevance]
        self.own = len(explainer.about.outputs)
        self.exact_relevance: list[Tensor] = []
        self.tolerance = SAME

    def explain(self, explainer: lrp.Explainer, inputs: Inputs | None = None, told: Any = None) -> Any:
        args, kwargs = _given(self.example if inputs is None else inputs)
        return explainer(*args, **kwargs, **(self.told if told is None else told))

    def tensors(self, inputs: Inputs, told: dict[str, Any]) -> list[Tensor]:
        """What the graph takes, in order."""
        run = self.explain(self.explainer, inputs, told).run
        given = {**run.inputs, **run.choices}
        return [given[spec.name] for spec in self.explainer.about.takes]

    def flat(self, explainer: lrp.Explainer, exact: bool = True, tensors: list[Tensor] | None = None) -> list[Tensor]:
        """Outputs and relevance of the example, in float64 or as they are."""
        tensors = self.tensors(self.example, self.told) if tensors is None else tensors
        with torch.no_grad():
            copies = [tensor.clone() for tensor in tensors]
            return list(Float64(explainer.module).run(*copies) if exact else explainer.module(*copies))

    def output(self, expected: Any) -> None:
        """The model's own output, finite relevance of the right shapes, the same twice."""
        explanation = self.explain(self.explainer)
        _compare_trees(explanation.output, expected, self)
        taken = {spec.name: spec for spec in self.explainer.about.inputs}
        given = dict(zip(taken, self.tensors(self.example, self.told), strict=False))
        for name, relevance in explanation.relevance.items():
            lead = explanation.run.several is not None
            if name in given and relevance.shape[lead:] != given[name].shape:
                raise Broken("wrong number", "output", f"relevance of {name} is {list(relevance.shape)}")
            if not relevance.isfinite().all():
                raise Broken("not finite", "output", f"relevance of {name}")
        flat = self.flat(self.explainer, exact=False)
        again = self.flat(self.explainer, exact=False)
        if not all(torch.equal(one, two) for one, two in zip(flat, again, strict=True)):
            raise Broken("wrong number", "output", "a second run differs")
        self.exact_relevance = self.flat(self.explainer)[self.own :]
        noise = max(map(_apart, flat[self.own :], self.exact_relevance), default=0.0)
        self.asked.figures["float32"] = noise
        self.tolerance = max(SAME, min(noise, 1.0) * MAGNIFIED)
        if self.explainer.about.inputs and "float64" in {spec.dtype for spec in self.explainer.about.inputs}:
            self.tolerance = max(self.tolerance, 1e-7)

    def books(self) -> None:
        """seed = Σ inputs + Σ absorbed, in all and node by node."""
        _check_books(self, self.explainer, "books")

    def graph(self) -> None:
        """The graph's relevance sums to what the rules, run one by one, hand to the inputs."""
        books = self._audit(self.explainer)
        scale = max([books.magnitude, *(abs(entry.relevance_in) for entry in books.entries)], default=0.0)
        sums = dict(zip(self.names, self.exact_relevance, strict=True))
        for name, total in books.inputs.items():
            if name in sums and not abs(float(sums[name].sum()) - total) <= 10 * self.tolerance * scale:
                raise Broken(
                    "wrong number", "graph", f"Σ {name} is {float(sums[name].sum()):.9g}, by the books {total:.9g}"
                )

    def plain(self) -> None:
        """`optimise=False` gives the same."""
        self._other("plain", optimise=False)

    def budget(self) -> None:
        """A quarter of the memory gives the same."""
        self._other("budget", memory_budget=0.25)

    def _other(self, promise: str, **options: Any) -> None:
        other = _compile(self.asked, self.example, **{**self.asked.options, **options})
        self._same(promise, self.flat(other)[self.own :], self.exact_relevance)

    def _same(self, promise: str, found: list[Tensor], expected: list[Tensor]) -> None:
        for name, one, two in zip(self.names, found, expected, strict=True):
            off = _apart(one, two)
            if not off <= self.tolerance:
                raise Broken(
                    "wrong number", promise, f"relevance of {name} is off by {off:.1e} (allowed {self.tolerance:.0e})"
                )

    def split(self) -> None:
        """Both halves give the same."""
        forward, relevance = self.explainer.split()
        tensors = self.tensors(self.example, self.told)
        inputs = len(forward.graph.find_nodes(op="placeholder"))
        results = Float64(forward).run(*(tensor.clone() for tensor in tensors[:inputs]))
        kept = list(results[len(forward.meta["outputs"]) :])
        takes = len(relevance.graph.find_nodes(op="placeholder")) - len(kept)
        found = Float64(relevance).run(*kept, *tensors[len(tensors) - takes :])
        self._same("split", list(found), self.exact_relevance)

    def observe(self) -> None:
        """Looking inside does not change what the inputs get."""
        modules = [name for name, module in self.asked.model.named_modules() if name and "." not in name]
        patterns = [name for name in modules if not isinstance(self.asked.model.get_submodule(name), nn.ModuleList)]
        for pattern in patterns[-2:]:
            try:
                observed = self.explainer.observe(pattern)
            except LrpError as error:
                raise refusal("observe", error) from error
            explanation = self.explain(observed)
            if not all(value.isfinite().all() for value in explanation.relevance.values()):
                raise Broken("not finite", "observe", f"relevance of {pattern}")
            found = dict(
                zip((entry.input for entry in observed.about.relevance), self.flat(observed)[self.own :], strict=True)
            )
            self._same("observe", [found[name] for name in self.names], self.exact_relevance)

    def saved(self) -> None:
        """What was saved loads, and gives the same, the books included."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "explainer.lrp.pt2"
            try:
                self.explainer.save(path)
            except LrpError as error:
                raise refusal("saved", error) from error
            loaded = lrp.load(path)
            self._same("saved", self.flat(loaded)[self.own :], self.exact_relevance)
            _compare_trees(self.explain(loaded).output, self.explain(self.explainer).output, self)
            _check_books(self, loaded, "saved")

    def onnx(self) -> None:
        """onnxruntime, on fresh inputs, errs at most three times as much as torch in float32.

        The largest errors on a few inputs are compared; where they are further apart, the medians on many, for each
        number of rows: how far rounding carries is a matter of chance where two scores of a maximum are all but equal,
        or a sum is all but 0.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "explainer.lrp.onnx"
            try:
                self.explainer.to_onnx(path)
            except LrpError as error:
                raise refusal("onnx", error) from error
            with OnnxExplainer(path) as session:
                open_batch = "batch" in self.explainer.about.sizes
                rows = (self.asked.rows, *(self.asked.other_rows if open_batch else (self.asked.rows,) * 2))
                failed = _beyond(self._errors(session, rows), max)
                if failed:
                    failed = _beyond(self._errors(session, rows * MANY, by_rows=True), statistics.median)
        for name, (ours, theirs) in failed.items():
            raise Broken("wrong number", "onnx", f"{name} is off by {ours:.1e}, in torch by {theirs:.1e}")

    def _errors(
        self, session: OnnxExplainer, sizes: Sequence[int], by_rows: bool = False
    ) -> dict[str, list[tuple[float, float]]]:
        """Result → the errors on fresh inputs of so many rows: of onnxruntime, of torch in float32."""
        errors: dict[str, list[tuple[float, float]]] = {}
        for seed, rows in enumerate(sizes):
            inputs = self.asked.fresh(rows, 10 + seed)
            try:
                told = self.asked.told(_rows(_model(self.asked.model, inputs)))
            except NoCase:
                continue
            tensors = self.tensors(inputs, told)
            exact, single = self.flat(self.explainer, True, tensors), self.flat(self.explainer, False, tensors)
            names = [spec.name for spec in self.explainer.about.takes]
            feeds = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
            explanation = session(**feeds)
            arrays = {**explanation.run.outputs, **{f"relevance.{k}": v for k, v in explanation.relevance.items()}}
            labels = [*explanation.run.outputs, *(f"relevance.{name}" for name in self.names)]
            for label, true, mine in zip(labels, exact, single, strict=True):
                place = f"{label} of {rows} rows" if by_rows else label
                errors.setdefault(place, []).append((_apart(torch.as_tensor(arrays[label]), true), _apart(mine, true)))
        return errors

    def _audit(self, explainer: lrp.Explainer) -> Any:
        args, kwargs = _given(self.example)
        return explainer.audit(*args, **kwargs, **self.told)


def _check_books(run: _Run, explainer: lrp.Explainer, promise: str) -> None:
    books = run._audit(explainer)
    scale = max([books.magnitude, *(abs(entry.relevance_in) for entry in books.entries)], default=0.0)
    allowed = BOOKS * max(scale, 1e-30)
    if not abs(books.error) <= allowed:
        raise Broken("wrong number", promise, f"{books.error:.1e} of {scale:.1e} is not accounted for")
    for entry in books.entries:
        if not abs(entry.error) <= allowed:
            text = f"{entry.op} leaves {entry.error:.1e} of {scale:.1e} under {entry.rule}"
            raise Broken("wrong number", promise, text, f"{entry.op} {entry.rule}")


def _beyond(
    errors: Mapping[str, Sequence[tuple[float, float]]], of_several: Callable[[Iterable[float]], float]
) -> dict[str, tuple[float, float]]:
    """The results of which onnxruntime's error is too many times torch's → both."""
    both = {
        name: (of_several([ours for ours, _ in pairs]), of_several([theirs for _, theirs in pairs]))
        for name, pairs in errors.items()
    }
    return {name: (ours, theirs) for name, (ours, theirs) in both.items() if not ours <= SLACK * max(theirs, FLOOR)}


def _apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest value; infinite where they cannot be compared."""
    if found.shape != expected.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    kind = torch.complex128 if expected.is_complex() else torch.float64
    one, two = found.to(kind), expected.to(kind)
    both = one.isnan() & two.isnan() | (one == two)
    difference = torch.where(both, torch.zeros_like(one).abs(), (one - two).abs())
    largest = float(two[two.isfinite()].abs().max()) if two.isfinite().any() else 0.0
    worst = float(difference.max())
    if worst == 0:
        return 0.0
    return worst / largest if largest > 0 else (0.0 if worst < 1e-12 else float("inf"))


def _compare_trees(found: Any, expected: Any, run: _Run) -> None:
    """Outputs are the model's own; float32 may differ by rounding."""
    ours, theirs = (list(_tensors(tree)) for tree in (found, expected))
    if len(ours) != len(theirs):
        raise Broken("wrong number", "output", f"{len(ours)} tensors instead of {len(theirs)}")
    for one, two in zip(ours, theirs, strict=True):
        loose = 1e-10 if two.dtype is torch.float64 else 1e-2 if two.dtype in (torch.float16, torch.bfloat16) else 2e-4
        off = _apart(one.detach(), two.detach())
        if not off <= loose:
            raise Broken("wrong number", "output", f"the model's output is off by {off:.1e}")


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))
