"""Does the captured graph say what the model says? Asked of every compilation, on the example inputs."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from lrp_compiler.base.boundary import reason_of
from lrp_compiler.base.errors import CaptureError, LrpWarning
from lrp_compiler.base.quiet import quiet
from lrp_compiler.passes.forward import Captured, Example
from lrp_compiler.passes.graph import Float64, module_calls
from lrp_compiler.torch_private import pytree

ROOM = 10.0
"""How many times the root of its dtype's rounding a value may be off, as a share of the largest: rewrites round in
another order, and a deep network makes more of it."""
SHARE_OF_ROUNDING = 3.0
"""How many times the model's own distance from float64 the graph may be from the model: either rounds in its order."""


def run_model(
    model: torch.nn.Module | ExportedProgram, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Any] | None:
    """What the model itself returns, flat; it runs on copies of the inputs and of its buffers.

    Returns:
        The outputs; None where the inputs have no values (on device "meta").

    Raises:
        Exception: whatever the model raises.
    """
    if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in pytree.tree_leaves((args, kwargs))):
        return None
    given, named = pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), (tuple(args), dict(kwargs)))
    with quiet(output=True), torch.no_grad():
        module: Any = model.module() if isinstance(model, ExportedProgram) else model
        held = {name: buffer.clone() for name, buffer in module.named_buffers()}
        result = torch.func.functional_call(module, held, given, named)
    flat: list[Any] = pytree.tree_leaves(result)
    return flat


def same(got: Any, want: Any) -> bool:
    """Whether an output is the model's own but for rounding; what is no tensor is not looked at."""
    if not isinstance(got, Tensor) or not isinstance(want, Tensor):
        return True
    return got.shape == want.shape and got.dtype == want.dtype and difference(got, want) <= room(want)


def check_same_output(captured: Captured, forward: fx.GraphModule) -> None:
    """Compare the forward graph's outputs with the model's own, if they are known.

    Raises:
        CaptureError: the graph does not run on the inputs, or the outputs differ by more than rounding; the sentence
            names the first module that does.

    Warns:
        LrpWarning: the outputs differ, and rounding alone explains it.
    """
    example = captured.example
    if example is None:
        return
    expected = [example.outputs[position] for position in captured.positions]
    try:
        found = outputs_of_graph(forward, example.tensors)
    except (RuntimeError, IndexError, ValueError) as error:
        raise CaptureError(
            f"What was captured does not run on the example inputs, on which the model does ({reason_of(error)}): it "
            "branches on values, perhaps, and torch.export took another branch."
        ) from error
    rounding: float | None = None
    for got, want in zip(found, expected, strict=True):
        if not isinstance(got, Tensor) or not isinstance(want, Tensor):
            continue
        off = difference(got, want)
        if off <= room(want):
            continue
        rounding = _rounding(captured, example) if rounding is None else rounding
        if off <= SHARE_OF_ROUNDING * rounding:
            continue
        raise CaptureError(
            "What was captured is not what the model calculates on the example inputs: outputs differ by "
            f"{off:.0e} of the largest value{_first_place(forward, example)}. Does the model keep something from "
            "call to call, or change its own weights as it runs? Move that out of forward."
        )
    if rounding:
        warnings.warn(
            f"The model's output is off by about {rounding:.0e} of the largest value through rounding alone, in the "
            "precision that it has, and an explanation can be no better: compile model.double() for an exact one.",
            LrpWarning,
            stacklevel=4,
        )


def _rounding(captured: Captured, example: Example) -> float:
    """How far the model's outputs are from its own in float64; 0 where it does not run in float64, or gives something
    else each time."""

    def double(tensor: Tensor) -> Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    args, kwargs = pytree.tree_map_only(Tensor, double, (tuple(example.args), dict(example.kwargs)))
    try:
        again = run_model(example.model, example.args, example.kwargs)
        if isinstance(example.model, ExportedProgram):
            leaves = pytree.tree_leaves((args, kwargs))
            module = example.model.module(check_guards=False)  # those of dtypes, too
            with quiet(output=True), torch.no_grad():
                exact: list[Any] | None = pytree.tree_leaves(Float64(module).run(*leaves, enable_io_processing=False))
        else:
            exact = run_model(copy.deepcopy(example.model).double(), args, kwargs)
    except Exception:  # it has a precision of its own
        return 0.0
    if again is None or exact is None or _apart(again, example.outputs, captured) > 0:
        return 0.0
    return _apart(example.outputs, exact, captured)


def _apart(found: Sequence[Any], expected: Sequence[Any], captured: Captured) -> float:
    """The largest difference of the outputs that are tensors."""
    pairs = [(found[position], expected[position]) for position in captured.positions]
    return max(difference(got, want) for got, want in pairs if isinstance(got, Tensor) and isinstance(want, Tensor))


def outputs_of_graph(
    forward: fx.GraphModule, inputs: Sequence[Tensor], seen: dict[fx.Node, Any] | None = None
) -> list[Any]:
    """What the graph returns on these inputs; `seen` takes the value of every node."""

    class Recorder(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            value = super().run_node(node)
            if seen is not None:
                seen[node] = value
            return value

    # Positions and tokens that are given at run time come last, and are read behind the outputs alone.
    placeholders = forward.graph.find_nodes(op="placeholder")
    pairs = [(node.meta["val"].shape, tensor.shape) for node, tensor in zip(placeholders, inputs, strict=False)]
    sizes = {str(size): known for shape, given in pairs for size, known in zip(shape, given, strict=False)}
    extra = [
        torch.zeros([sizes.get(str(size), 1) for size in node.meta["val"].shape], dtype=torch.int64)
        for node in placeholders[len(inputs) :]
    ]
    extra = [zeros.to(inputs[0].device) for zeros in extra]
    with torch.no_grad():
        found = Recorder(forward, garbage_collect_values=seen is None).run(
            *(t.detach().clone() for t in inputs), *extra
        )
    return list(found)


def _first_place(forward: fx.GraphModule, example: Example) -> str:
    """`, first in layers.2.mixer`; empty where that cannot be told."""
    if isinstance(example.model, ExportedProgram):
        return ""
    seen: dict[fx.Node, Any] = {}
    with contextlib.suppress(Exception):  # an aid: without it the sentence is as true
        outputs_of_graph(forward, example.tensors, seen)
        ours = {path: seen[node] for node in seen for call, path in module_calls(node).items() if "@" not in call}
        with _watched(example.model) as theirs:
            run_model(example.model, example.args, example.kwargs)
        for path, value in theirs.items():
            got = ours.get(path)
            if path and isinstance(got, Tensor) and got.shape == value.shape and difference(got, value) > room(value):
                return f", first in {path}"
    return ""


@contextlib.contextmanager
def _watched(model: torch.nn.Module) -> Iterator[dict[str, Tensor]]:
    """The first value that leaves each module, in the order in which they leave."""
    found: dict[str, Tensor] = {}
    hooks = []
    for path, module in model.named_modules():

        def keep(module: torch.nn.Module, given: Any, result: Any, path: str = path) -> None:
            if isinstance(result, Tensor):
                found.setdefault(path, result.detach().clone())

        hooks.append(module.register_forward_hook(keep))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def difference(got: Tensor, want: Tensor) -> float:
    """The largest difference as a share of the largest value; infinite where only one of the two is a number."""
    if got.shape != want.shape:
        return float("inf")
    if not (want.is_floating_point() or want.is_complex()) or not want.numel():
        return 0.0
    known = torch.isfinite(want)
    if not torch.equal(known, torch.isfinite(got)):
        return float("inf")
    exact = torch.complex128 if want.is_complex() else torch.float64
    a, b = got[known].to(exact), want[known].to(exact)
    return float((a - b).abs().max() / (float(b.abs().max()) or 1.0)) if b.numel() else 0.0


def room(value: Tensor) -> float:
    """What rounding may make of a value, as a share of the largest."""
    return ROOM * float(torch.finfo(value.dtype).eps) ** 0.5 if value.is_floating_point() or value.is_complex() else 0.0
