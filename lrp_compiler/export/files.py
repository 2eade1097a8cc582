"""The files that an explainer writes of itself, each in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import fx

from lrp_compiler.artefact import Artefact
from lrp_compiler.artefact.reducing import reduced
from lrp_compiler.artefact.storage import write_explainer
from lrp_compiler.base.boundary import boundary
from lrp_compiler.base.reductions import check_reductions
from lrp_compiler.views.books import Audit
from lrp_compiler.views.graph_data import GraphData, graph_data
from lrp_compiler.views.model_explorer import write_model_explorer
from lrp_compiler.views.viewer import write_viewer

from . import aoti

# What writes ONNX is imported where it is used: its libraries take as long to import as a small model to compile.
if TYPE_CHECKING:
    from .onnx import Profile, Weights


class WritesFiles:
    """What torch's explainer writes of itself.

    Attributes:
        artefact: what was compiled.
    """

    artefact: Artefact

    def split(self) -> tuple[fx.GraphModule, fx.GraphModule]:
        """Itself in two."""
        raise NotImplementedError

    def audit(self, *args: Any, **kwargs: Any) -> Audit:
        """The books of one run."""
        raise NotImplementedError

    @boundary("write the two parts")
    def save_split(
        self, forward: str | os.PathLike[str], relevance: str | os.PathLike[str], *, opset: int = 20
    ) -> None:
        """Write the two parts of `split`, each as ONNX or `.pt2`, by the ending of its path.

        Names are those of `.meta`: the kept values are outputs of the first file and inputs of the second. Each file
        knows the other by its content: `load_split` (`.pt2`) and `runtime.open_split` (ONNX) refuse two that do not
        belong together. In a folder of their own (made if it is not there) the two appear in one step, in place of an
        earlier pair; beside other files a kill may leave the new forward without its relevance, but never beside an
        old one.
        """
        from . import parts

        parts.write_split(self.artefact, *self.split(), forward, relevance, opset=opset)

    @boundary("save the explainer")
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the explainer as a `.pt2` file (torch.export's format) that `lrp.load` and torch.export.load read.

        Sample inputs are zeros, no code is pickled, and the file appears whole or not at all.
        """
        write_explainer(self.artefact, path)

    @boundary("write the explainer as ONNX")
    def to_onnx(
        self,
        path: str | os.PathLike[str],
        *,
        opset: int = 20,
        dtype: Weights = "model",
        profile: Profile = "fast",
        reduce: str | Sequence[str] = (),
    ) -> None:
        """Write the explainer as an ONNX file of default-domain ops that onnxruntime runs without torch.

        Graph inputs are the model's own, plus `target` or `seed` where the explainer takes one; outputs are the model's
        own, plus `relevance.<input>`. The file appears whole or not at all.

        Args:
            path: where to; above 2 GB the weights are put beside it, in files of 2 GB at most, named after their
                content.
            opset: 18 to 23.
            dtype: how weights are stored: "model": as the model has them; "float16": in half the bytes, rounded to 11
                bits, while what is calculated stays float32 (for arithmetic in float16 compile `model.half()`).
            profile: "fast", or "small": no transposed copy of a weight matrix is made, and the weights lie beside the
                file, where onnxruntime reads them in place. Open such a file with `lean_options()`.
            reduce: as `lrp.compile` takes it: of what is written, not of this explainer.

        Raises:
            LrpError: the opset is none of these, dtype or profile is unknown, the model calculates in bfloat16, or the
                exporter has no translation for an op.
        """
        artefact = self.artefact if not reduce else reduced(self.artefact, check_reductions(reduce))
        from . import onnx

        onnx.write_explainer(artefact, path, opset=opset, dtype=dtype, profile=profile)

    @boundary("write the page of the graphs")
    def to_html(
        self,
        path: str | os.PathLike[str],
        *args: Any,
        title: str = "",
        dagre: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a page that shows both graphs, the promises and, of a run, where relevance went: one file, offline.

        Args:
            path: of the page.
            args: inputs of a run, as `audit` takes them; without any, the page has no statistics.
            title: of the page; by default the name of the model's class, or else of the composite.
            dagre: folder with the unpacked npm package @dagrejs/dagre; by default npm fetches it once.
            kwargs: inputs, `target`, `seed` and `position` of the run by name.

        Raises:
            InputError: inputs that do not fit, or `dagre` is not that package.
            LrpError: npm is not there, or fails.
            OSError: the file cannot be written.
        """
        write_viewer(self._described(args, kwargs), path, title=title, dagre=dagre)

    @boundary("write the graphs for Model Explorer")
    def to_model_explorer(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> list[Path]:
        """Write both graphs as JSON for Google's Model Explorer, and the relevance of a run as its node data.

        Args:
            path: of the graph, ending in `.json`; node data lies beside it, ending in `.relevance.json`.
            args: inputs of a run, as `audit` takes them; without any, there is no node data.
            kwargs: inputs, `target`, `seed` and `position` of the run by name.

        Returns:
            The files.

        Raises:
            InputError: inputs that do not fit.
            OSError: a file cannot be written.
        """
        return write_model_explorer(self._described(args, kwargs), path)

    def _described(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> GraphData:
        return graph_data(self.artefact, self.audit(*args, **kwargs) if args or kwargs else None)

    @boundary("write the AOTInductor package")
    def to_aoti(self, path: str | os.PathLike[str]) -> None:
        """Compile the explainer into an AOTInductor package, machine code that C++ runs without Python.

        Inputs and outputs are those of `to_onnx`, by position; the loaders' metadata has what the other files carry.
        It runs on processors like this one, and in C++ and Python alike only with the version of torch that made it:
        `torch::inductor::AOTIModelPackageLoader`, `torch._inductor.aoti_load_package`. The file appears whole or not
        at all.

        Args:
            path: where to, ending in `.pt2`; `model.lrp.aoti.pt2` tells it from what `save` writes.

        Raises:
            LrpError: the path ends otherwise, there is no C++ compiler, or AOTInductor fails.
        """
        aoti.write_explainer(self.artefact, path)
