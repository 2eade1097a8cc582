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
    from lrp_compiler.check.coverage_report import coverage
    from lrp_compiler.compiler import compile
    from lrp_compiler.explainer import Explainer, load, load_split
    from lrp_compiler.generation import explain_answer
    from lrp_compiler.onnx_in import from_onnx
    from lrp_compiler.passes.forward import Answer, Target
    from lrp_compiler.passes.relevance import Mask, Put
    from lrp_compiler.rules import Op, Relevance, rule, total, unit
    from lrp_compiler.rules import composite as composites
    from lrp_compiler.rules.composite import Composite, Entry
    from lrp_compiler.tuning.tune import tune
    from lrp_compiler.tuning.tuned import Tuned

_HOMES = {
    "Answer": "lrp_compiler.passes.forward",
    "Composite": "lrp_compiler.rules.composite",
    "Entry": "lrp_compiler.rules.composite",
    "Explainer": "lrp_compiler.explainer",
    "Mask": "lrp_compiler.passes.relevance",
    "Op": "lrp_compiler.rules",
    "Put": "lrp_compiler.passes.relevance",
    "Relevance": "lrp_compiler.rules",
    "Target": "lrp_compiler.passes.forward",
    "Tuned": "lrp_compiler.tuning.tuned",
    "compile": "lrp_compiler.compiler",
    "composites": "lrp_compiler.rules.composite",
    "coverage": "lrp_compiler.check.coverage_report",
    "explain_answer": "lrp_compiler.generation",
    "from_onnx": "lrp_compiler.onnx_in",
    "load": "lrp_compiler.explainer",
    "load_split": "lrp_compiler.explainer",
    "rule": "lrp_compiler.rules",
    "total": "lrp_compiler.rules",
    "tune": "lrp_compiler.tuning.tune",
    "unit": "lrp_compiler.rules",
}

__all__ = [
    "Answer",
    "Composite",
    "Entry",
    "Explainer",
    "Mask",
    "Op",
    "Put",
    "Relevance",
    "Target",
    "Tuned",
    "compile",
    "composites",
    "coverage",
    "explain_answer",
    "from_onnx",
    "load",
    "load_split",
    "rule",
    "total",
    "tune",
    "unit",
]


check_versions()
say_what_is_left_out()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lrp_compiler' has no attribute {name!r}")
    try:
        module = importlib.import_module(_HOMES[name])
    except ImportError as error:
        absent = lacking(error, f"use lrp_compiler.{name}")
        if absent is None:
            raise
        raise absent from error
    value = module if name == "composites" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
