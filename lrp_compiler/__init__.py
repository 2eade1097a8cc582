"""Compile a PyTorch model into its explainer: Layer-wise Relevance Propagation as one standalone graph.

    import lrp_compiler as lrp

    explainer = lrp.compile(model, (x,))
    explanation = explainer(x)                  # .output, .relevance["x"]
    explainer.to_onnx("model.lrp.onnx")         # runs in onnxruntime, without torch

Names are resolved when they are first used, so that `lrp_compiler.runtime` can be imported where torch is absent.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lrp_compiler.base.installed import check_versions, lacking, say_what_is_left_out
from lrp_compiler.base.version import __version__ as __version__

if TYPE_CHECKING:
    from lrp_compiler.answers import AnswerExplanation
    from lrp_compiler.base.errors import (
        CaptureError,
        CompositeError,
        FormatError,
        InputError,
        InstallError,
        InternalError,
        LrpError,
        LrpWarning,
        UnsupportedOpError,
    )
    from lrp_compiler.check.coverage_report import coverage
    from lrp_compiler.check.verify import verify
    from lrp_compiler.compiler import compile
    from lrp_compiler.explainer import Explainer, load, load_split
    from lrp_compiler.explanation import Explanation
    from lrp_compiler.generation import explain_answer
    from lrp_compiler.onnx_in import from_onnx
    from lrp_compiler.passes.forward import Answer, Target
    from lrp_compiler.passes.relevance import Mask, Put
    from lrp_compiler.peers import captum, quantus
    from lrp_compiler.rules import Op, Relevance, composites, rule, total, unit
    from lrp_compiler.rules.composite import Composite, Entry
    from lrp_compiler.runtime import OnnxExplainer, open_split
    from lrp_compiler.tuning.tune import tune
    from lrp_compiler.tuning.tuned import Tuned
    from lrp_compiler.website.page import page

_HOMES = {
    "Answer": "lrp_compiler.passes.forward",
    "AnswerExplanation": "lrp_compiler.answers",
    "CaptureError": "lrp_compiler.base.errors",
    "Composite": "lrp_compiler.rules.composite",
    "CompositeError": "lrp_compiler.base.errors",
    "Entry": "lrp_compiler.rules.composite",
    "Explainer": "lrp_compiler.explainer",
    "Explanation": "lrp_compiler.explanation",
    "FormatError": "lrp_compiler.base.errors",
    "InputError": "lrp_compiler.base.errors",
    "InstallError": "lrp_compiler.base.errors",
    "InternalError": "lrp_compiler.base.errors",
    "LrpError": "lrp_compiler.base.errors",
    "LrpWarning": "lrp_compiler.base.errors",
    "Mask": "lrp_compiler.passes.relevance",
    "OnnxExplainer": "lrp_compiler.runtime",
    "Op": "lrp_compiler.rules",
    "Put": "lrp_compiler.passes.relevance",
    "Relevance": "lrp_compiler.rules",
    "Target": "lrp_compiler.passes.forward",
    "Tuned": "lrp_compiler.tuning.tuned",
    "UnsupportedOpError": "lrp_compiler.base.errors",
    "compile": "lrp_compiler.compiler",
    "coverage": "lrp_compiler.check.coverage_report",
    "explain_answer": "lrp_compiler.generation",
    "from_onnx": "lrp_compiler.onnx_in",
    "load": "lrp_compiler.explainer",
    "load_split": "lrp_compiler.explainer",
    "open_split": "lrp_compiler.runtime",
    "page": "lrp_compiler.website.page",
    "rule": "lrp_compiler.rules",
    "total": "lrp_compiler.rules",
    "tune": "lrp_compiler.tuning.tune",
    "unit": "lrp_compiler.rules",
    "verify": "lrp_compiler.check.verify",
}
"""Name → the module that has it."""
_MODULES = {
    "captum": "lrp_compiler.peers.captum",
    "composites": "lrp_compiler.rules.composites",
    "quantus": "lrp_compiler.peers.quantus",
}
"""Name → the module that it stands for."""

__all__ = [
    "Answer",
    "AnswerExplanation",
    "CaptureError",
    "Composite",
    "CompositeError",
    "Entry",
    "Explainer",
    "Explanation",
    "FormatError",
    "InputError",
    "InstallError",
    "InternalError",
    "LrpError",
    "LrpWarning",
    "Mask",
    "OnnxExplainer",
    "Op",
    "Put",
    "Relevance",
    "Target",
    "Tuned",
    "UnsupportedOpError",
    "captum",
    "compile",
    "composites",
    "coverage",
    "explain_answer",
    "from_onnx",
    "load",
    "load_split",
    "open_split",
    "page",
    "quantus",
    "rule",
    "total",
    "tune",
    "unit",
    "verify",
]


check_versions()
say_what_is_left_out()


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name) or _MODULES.get(name)
    if home is None:
        raise AttributeError(f"module 'lrp_compiler' has no attribute {name!r}")
    try:
        module = importlib.import_module(home)
    except ImportError as error:
        absent = lacking(error, f"use lrp_compiler.{name}")
        if absent is None:
            raise
        raise absent from error
    value = module if name in _MODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
