"""A model as its explainer, in torch and in onnxruntime, and what the one says of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

import lrp_compiler as lrp
from benchmarks.base.places import BUILD
from lrp_compiler.base.run import Explained as Case
from lrp_compiler.explanation import Explanation
from lrp_compiler.runtime import OnnxExplainer

EXPLAINERS = BUILD / "pictures"
Report = Callable[[str], None]


class Explained:
    """A model as its explainer, in torch and in onnxruntime."""

    def __init__(self, name: str, report: Report, model: torch.nn.Module, **options: Any) -> None:
        report(f"compile {name}")
        self.torch = lrp.compile(model, **options)
        report(f"write {name} to ONNX")
        EXPLAINERS.mkdir(parents=True, exist_ok=True)
        path = EXPLAINERS / f"{name}.lrp.onnx"
        self.torch.to_onnx(path)
        report(f"load {name} in onnxruntime")
        self.onnx = OnnxExplainer(path)

    def explain(self, tensors: Mapping[str, torch.Tensor]) -> Explanation[np.ndarray]:
        """All rows, in onnxruntime, a few at a time."""
        return self.onnx(**{name: tensor.numpy() for name, tensor in tensors.items()}, batch_size=3)

    def figures(
        self,
        report: Report,
        explanation: Explanation[np.ndarray],
        tensors: Mapping[str, torch.Tensor],
        labels: Any,
        every: int = 1,
    ) -> Iterator[dict[str, Any]]:
        """Row by row what was explained; of `every` so many rows what torch says, and the books of all targets."""
        cases = explanation.explained(labels)
        for row in range(len(next(iter(tensors.values())))):
            mine = [case for case in cases if case.row == row]
            found: dict[str, Any] = {
                "explained": [{"target": c.name, "logit": c.logit, "relevance": c.relevance} for c in mine]
            }
            if row % every == 0:
                report(f"check {mine[0].name}")
                one = {name: tensor[row : row + 1] for name, tensor in tensors.items()}
                absorbed, left = self.torch.audit(**one).absorbed, sum((case.logit or 0.0) - case.sum for case in mine)
                found |= {
                    "absorbed": absorbed,
                    "balance_error": left - sum(absorbed.values()),
                    "onnxruntime_against_torch": _difference(explanation, mine, self.torch(**one)),
                }
            yield found


def _difference(found: Explanation[np.ndarray], mine: list[Case], checked: Explanation[torch.Tensor]) -> float:
    """The largest between a row's explanations, as a share of its largest relevance."""
    differences = []
    for case, again in zip(mine, checked.explained(), strict=True):
        for name in case.relevance:
            values = found.of(case, name)
            differences.append(np.abs(values - checked.of(again, name)).max() / np.abs(values).max())
    return float(max(differences))
