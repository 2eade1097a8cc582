"""Keep torch's own noise off the terminal; what matters is raised."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

LOGGERS = ("torch.export", "torch.fx", "torch._dynamo", "torch._export", "torch.onnx", "onnxscript", "onnx_ir")


@contextlib.contextmanager
def quiet(*, output: bool = False) -> Iterator[None]:
    """Silence torch's loggers and warnings about its own internals inside the block.

    Args:
        output: swallow what is printed, too: a failing export dumps the whole graph.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=r"(torch|copyreg|onnxscript|onnx_ir)(\.|$)")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        if output:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
