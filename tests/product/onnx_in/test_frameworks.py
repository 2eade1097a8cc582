"""Files that scikit-learn, Keras and JAX wrote: the forward and the relevance are what these frameworks say.

`python -m benchmarks.sound.frameworks.run --keep` makes the files, and says how.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import lrp_compiler as lrp
from lrp_compiler.errors import LrpWarning

FOLDER = Path(__file__).parents[2] / "fixtures" / "frameworks"
FILES = sorted(FOLDER.glob("*.onnx"))
ORDINARY = ("logistic_text", "logistic_two_0", "one_vs_rest", "mlp_two_0", "keras_depthwise_keras", "jax_cnn")
"""Those that the ordinary run reads: one of each kind."""


@pytest.mark.parametrize(
    "path",
    [pytest.param(one, marks=[] if one.stem.endswith(ORDINARY) else pytest.mark.heavy) for one in FILES],
    ids=lambda path: path.stem,
)
def test_a_file_is_explained_as_its_framework_does_it(path: Path) -> None:
    said = json.loads(path.with_suffix(".json").read_text())
    arrays = dict(np.load(path.with_suffix(".npz")))
    inputs = {name.removeprefix("input:"): array for name, array in arrays.items() if name.startswith("input:")}
    composite = lrp.composites.epsilon(epsilon=1e-9) if said["composite"] == "epsilon" else said["composite"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LrpWarning)  # labels that are left out, logits behind probabilities
        explainer = lrp.compile(path, composite=composite, target=said["target"])
    found = explainer(*(torch.from_numpy(array) for array in inputs.values()))

    returned = found.output if isinstance(found.output, tuple) else (found.output,)
    scores = next(value for value in returned if value.is_floating_point())
    _same(scores, arrays["output"])
    for name in inputs:
        _same(found.relevance[name], arrays[f"relevance:{name}"])


def _same(found: torch.Tensor, want: np.ndarray) -> None:
    expected = torch.from_numpy(want).double().reshape(found.shape)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
