"""Explanations as files: what was there is there again, from torch and from onnxruntime alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.small import small
from torch import nn

import lrp_compiler as lrp
from lrp_compiler.base.errors import FormatError, InputError
from lrp_compiler.base.metadata import METADATA_KEY
from lrp_compiler.explanation import Explanation
from lrp_compiler.runtime import OnnxExplainer

ENDINGS = (".npz", ".parquet")
FIELDS = ("relevance", "coefficients", "sums", "aggregate")
BATCH = ({0: torch.export.Dim("batch")},)


def same(found: Explanation[Any], expected: Explanation[Any]) -> None:
    """To the bit, in every field, with all that captions say."""
    for field in FIELDS:
        assert list(getattr(found, field)) == list(getattr(expected, field))
        for name, array in getattr(expected, field).items():
            np.testing.assert_array_equal(getattr(found, field)[name], array, strict=True)
    for part in ("inputs", "outputs", "choices"):
        for name, array in getattr(expected.run, part).items():
            np.testing.assert_array_equal(getattr(found.run, part)[name], array, strict=True)
    assert found.run.conditions == expected.run.conditions
    assert found.explained() == expected.explained()


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)).eval()


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "argmax": ({}, {}),
    "targets": ({"target": [0, (1, 2)]}, {}),
    "targets at run time": ({"target": "index"}, {"target": torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])}),
    "seed": ({"seed": "tensor"}, {"seed": torch.eye(4)}),
    "observed": ({"observe": "0", "form": "both"}, {}),
    "reduced": ({"reduce": ["signs", "float16"]}, {}),
    "conditions": ({"masks": "0"}, {"masks": {"0": torch.rand(3, 4, 5) > 0.5}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_comes_back_as_it_was(case: str, tmp_path: Path) -> None:
    options, choices = CASES[case]
    net, x = network(), torch.randn(4, 3)
    explanation = lrp.compile(net, (x,), composite="epsilon", dynamic_shapes=BATCH, **options)(x, **choices)

    for ending in ENDINGS:
        explanation.save(tmp_path / f"e{ending}")
        found = Explanation.load(tmp_path / f"e{ending}")

        same(found, explanation.to_numpy())
        for name, tensor in explanation.relevance.items():
            np.testing.assert_array_equal(found.relevance[name], tensor.numpy(), strict=True)
        np.testing.assert_array_equal(found.output, net(x).detach().numpy())
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"e{ending}" for ending in ENDINGS]


def test_what_torch_made_is_called_as_in_onnxruntime(tmp_path: Path) -> None:
    x = torch.randn(4, 3)
    explainer = lrp.compile(network(), (x,), composite="epsilon", dynamic_shapes=BATCH)
    explainer.to_onnx(tmp_path / "m.lrp.onnx")
    with OnnxExplainer(tmp_path / "m.lrp.onnx") as other:
        there = other(x.numpy())
    here = explainer(x).to_numpy()

    assert list(here.run.outputs) == list(there.run.outputs)
    np.testing.assert_allclose(here.relevance["input"], there.relevance["input"], rtol=3e-6, atol=1e-6)
    there.save(tmp_path / "e.npz")
    same(Explanation.load(tmp_path / "e.npz"), there)
    with np.load(tmp_path / "e.npz") as arrays:
        names = {entry.name for entry in (*explainer.about.takes, *explainer.about.returns)}
        assert {*arrays} == {*names, METADATA_KEY}
    rows = tmp_path / "e.parquet"
    there.save(rows)
    table = pq.read_table(rows)
    assert table.num_rows == 4
    np.testing.assert_array_equal(
        table["relevance.input"].combine_chunks().to_numpy_ndarray(), there.relevance["input"]
    )


def test_ids_masks_and_bfloat16(tmp_path: Path, explain: Callable[..., lrp.Explainer]) -> None:
    example = small("bert")
    explanation = explain("bert", "attnlrp")(*example.args, **example.kwargs, target=1)
    x = torch.randn(4, 3, dtype=torch.bfloat16)
    halved = lrp.compile(network().bfloat16(), (x,), composite="epsilon")(x)
    for ending in ENDINGS:
        explanation.save(tmp_path / f"e{ending}")
        same(Explanation.load(tmp_path / f"e{ending}"), explanation.to_numpy())
        halved.save(tmp_path / f"h{ending}")
        same(Explanation.load(tmp_path / f"h{ending}"), halved.to_numpy())


def test_what_has_no_rows_is_no_parquet(tmp_path: Path) -> None:
    x = torch.randn(4, 3)
    explanation = lrp.compile(network(), (x,), composite="epsilon", wrt=["input", "0.weight"])(x)
    with pytest.raises(InputError, match=r"has no row for each of the 4 of the batch.*save it as \.npz"):
        explanation.save(tmp_path / "e.parquet")
    assert list(tmp_path.iterdir()) == []
    explanation.save(tmp_path / "e.npz")
    same(Explanation.load(tmp_path / "e.npz"), explanation.to_numpy())


def test_other_files_are_no_explanations(tmp_path: Path) -> None:
    x = torch.randn(4, 3)
    explanation = lrp.compile(network(), (x,), composite="epsilon")(x)
    with pytest.raises(InputError, match=r"kept as \.npz or \.parquet, not as 'e\.csv'"):
        explanation.save(tmp_path / "e.csv")
    for ending in ENDINGS:
        path = tmp_path / f"e{ending}"
        with pytest.raises(FileNotFoundError):
            Explanation.load(path)
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(FormatError, match="holds no explanation"):
            Explanation.load(path)
        explanation.save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(FormatError, match="holds no explanation"):
            Explanation.load(path)
    np.savez(tmp_path / "e.npz", **{METADATA_KEY: np.array(explanation.run.about.to_json())})
    with pytest.raises(FormatError, match="it has no 'input'"):
        Explanation.load(tmp_path / "e.npz")
    newer = json.dumps({**explanation.run.about.to_dict(), "schema": 99})
    np.savez(tmp_path / "e.npz", **{METADATA_KEY: np.array(newer)})
    with pytest.raises(FormatError, match="newer lrp_compiler"):
        Explanation.load(tmp_path / "e.npz")
