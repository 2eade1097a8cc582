"""Open an explainer's ONNX file in onnxruntime and compare its graph with its metadata. Torch-free."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from .errors import FormatError, LrpError
from .onnx_steps import refuse_repetition
from .specs import TensorSpec

# onnxruntime's exceptions share no base class of their own.
ONNXRUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    value
    for value in vars(onnxruntime_pybind11_state).values()
    if isinstance(value, type) and issubclass(value, Exception)
)
# Damage shows itself as these too: a name that is no text, a check inside onnxruntime.
_DAMAGE: tuple[type[Exception], ...] = (*ONNXRUNTIME_ERRORS, RuntimeError, UnicodeDecodeError)
# What an explainer can take at run time, in onnxruntime's words.
_DTYPES = {
    "tensor(int64)": "int64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
}


def open_session(
    path_or_bytes: str | os.PathLike[str] | bytes,
    label: str,
    providers: Sequence[Any] | None,
    session_options: onnxruntime.SessionOptions | None,
) -> onnxruntime.InferenceSession:
    """A session on a file or its content, without onnxruntime's own fallback; `label` names it in messages."""
    if session_options is None:
        session_options = onnxruntime.SessionOptions()
        # Fatal only: what onnxruntime would log about a failing run is in the exception as well.
        session_options.log_severity_level = 4
    refuse_repetition(path_or_bytes, label)
    # onnxruntime looks for weights beside the link, if the file is one.
    source = path_or_bytes if isinstance(path_or_bytes, bytes) else os.path.realpath(path_or_bytes)
    # The fallback prints to stdout, and it changes the session while other threads may be running it.
    providers = providers or ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(source, session_options, providers, enable_fallback=0)


def exact_options() -> onnxruntime.SessionOptions:
    """Session options under which 8-bit products are added up exactly, where onnxruntime can, on every processor.

    On x86 processors without VNNI it adds pairs of them in 16 bits otherwise, which overflow. Some files it refuses.
    """
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def lean_options(*, fold_weights: bool = True) -> onnxruntime.SessionOptions:
    """Session options under which a run holds little more than what it still needs.

    By default onnxruntime keeps a value's memory for a later value of the same size, however much later: what a memory
    budget let go of stays taken. Its memory pattern takes a run's total at once, and it packs weights into copies of
    its own; without these it reads the weights of a file of the `small` profile where they lie. Its arena stays: it
    keeps what a run took for the next one, but takes less than the process's own heap would, and is faster.

    Args:
        fold_weights: whether what follows from weights alone (W⁺ and |W| of z⁺ and γ, kernels turned round) is made
            when the file is loaded, and kept. `False`: it is made in every run, for as long as it is needed. Least
            memory; about twice the time where there are convolutions.
    """
    options = onnxruntime.SessionOptions()
    options.enable_mem_reuse = options.enable_mem_pattern = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    if not fold_weights:
        options.add_session_config_entry("optimization.disable_specified_optimizers", "ConstantFolding")
    options.log_severity_level = 4
    return options


@contextmanager
def format_errors(label: str) -> Iterator[None]:
    """Turn what onnxruntime raises about a damaged file into one `FormatError`."""
    try:
        yield
    except _DAMAGE as error:
        raise FormatError(f"{label} is not a sound ONNX file: {first_line(error)}") from error


def runtime_inputs(
    session: onnxruntime.InferenceSession, inputs: Sequence[TensorSpec], latents: Sequence[TensorSpec], label: str
) -> dict[str, TensorSpec]:
    """The graph's inputs beyond the model's own that every call gives: `target`, `position`, `seed`, `weights` and
    `against`, as the graph declares them.

    Args:
        session: on the file.
        inputs: of the model.
        latents: of the masks and seeds, which have defaults.
        label: how to call the file in a message.

    Raises:
        FormatError: an input of the model is not there, or one is there that nobody knows.
    """
    graph = {value.name: value for value in session.get_inputs()}
    missing = [spec.name for spec in inputs if not _is_like(graph.get(spec.name), spec)]
    extra = [name for name in graph if name not in [spec.name for spec in inputs]]
    # onnxruntime gives None for a dimension that is neither fixed nor named.
    known = all(graph[name].type in _DTYPES and None not in graph[name].shape for name in extra)
    optional = {value.name: value for value in session.get_overridable_initializers()}
    missing += [spec.name for spec in latents if not _is_like(optional.get(spec.name), spec)]
    if missing or not known or not set(extra) <= {"target", "seed", "position", "weights", "against"}:
        raise FormatError(f"The graph of {label} does not take the inputs that its metadata lists.")
    return {name: TensorSpec(name, tuple(graph[name].shape), _DTYPES[graph[name].type]) for name in extra}


def check_names(session: onnxruntime.InferenceSession, specs: Sequence[TensorSpec], label: str) -> None:
    """Refuse a graph that lacks one of the results; raises `FormatError`."""
    graph = {value.name: value for value in session.get_outputs()}
    if not all(_is_like(graph.get(spec.name), spec) for spec in specs):
        raise FormatError(f"The graph of {label} does not give the outputs that its metadata lists.")


def _is_like(value: Any, spec: TensorSpec) -> bool:
    """Whether a value of the graph has the dims that the metadata lists: as many, and where both are fixed the same."""
    if value is None or len(value.shape) != len(spec.shape):
        return False
    pairs = zip(value.shape, spec.shape, strict=True)
    return all(mine == theirs or not (isinstance(mine, int) and isinstance(theirs, int)) for mine, theirs in pairs)


def first_line(error: BaseException) -> str:
    """An error's message without onnxruntime's codes and without the lines that follow."""
    text = str(error).removeprefix("[ONNXRuntimeError]").strip().partition("\n")[0]
    # "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code ..."
    return text.split(" : ", 2)[-1] if text.startswith(": ") else text


def run_session(
    session: onnxruntime.InferenceSession, names: Sequence[str], feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What a session gives for these inputs, by name; raises `LrpError` where onnxruntime fails on them."""
    try:
        return dict(zip(names, session.run(list(names), dict(feeds)), strict=True))
    except ONNXRUNTIME_ERRORS as error:
        raise LrpError(f"The explainer failed on these inputs in onnxruntime: {first_line(error)}") from error
