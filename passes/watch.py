"""Who watches the passes: progress, dumps, and the specification of every stage."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import fx

from lrp_compiler.passes.graph import graph_text

from .stages import Stage, check

CHECK = "LRP_COMPILER_CHECK"
"""Environment variable: set, every graph is checked, dumped or not."""


class Watch:
    """Told what the passes do.

    Args:
        folder: where each graph is written as text, numbered in the order of the passes; `None`: nowhere.
        progress: told the name of each stage of the compilation when it starts.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, progress: Callable[[str], None] | None = None
    ) -> None:
        self._folder = Path(folder) if folder else None
        self._count = 0
        self._checks = folder is not None or bool(os.environ.get(CHECK))
        self.starts = progress or (lambda stage: None)

    def sees(self, name: str, module: fx.GraphModule, stage: Stage, declined: Iterable[tuple[str, str]] = ()) -> None:
        """A pass is done.

        Args:
            name: of the pass.
            module: what it made.
            stage: what such a graph may contain.
            declined: nodes that it let be, and why.

        Raises:
            StageError: the graph is not what its stage promises.
        """
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._count += 1
            reasons = "".join(f"# {node} is left as it is: {reason}\n" for node, reason in declined)
            text = graph_text(module) + reasons
            (self._folder / f"{self._count:02d}_{name}.txt").write_text(text, encoding="utf-8")
        if self._checks:
            check(name, module, stage)
