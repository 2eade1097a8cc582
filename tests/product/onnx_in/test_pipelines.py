"""`ai.onnx.ml`: every operator says what onnxruntime says, on random columns, with every attribute."""

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.onnx_graphs import model, node

import lrp_compiler as lrp
from lrp_compiler.errors import CaptureError, FormatError, LrpWarning

ML = "ai.onnx.ml"
DTYPES = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE, np.int64: TensorProto.INT64}
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(5, 4)).astype(np.float32)
SHARES = RANDOM.uniform(0.1, 0.9, size=(5, 3)).astype(np.float32)
W, B = RANDOM.normal(size=(3, 4)).astype(np.float32), RANDOM.normal(size=3).astype(np.float32)
VECTORS, WEIGHTS = RANDOM.normal(size=(8, 4)).astype(np.float32), RANDOM.normal(size=(3, 8)).astype(np.float32)
UNIT = np.eye(3, dtype=np.float32)
MISSING = np.where(RANDOM.uniform(size=X.shape) < 0.3, np.nan, X).astype(np.float32)
ZEROS = np.array([[1, -2, 3, 0], [0, 0, 0, 0], [-1, -5, -2, -3]], np.float32)
KERNEL = {"kernel_type": "LINEAR", "kernel_params": [0.5, 0.1, 3.0]}


def flat(array: np.ndarray) -> list[float]:
    return [float(number) for number in array.ravel()]


def linear(rows: int, **more: Any) -> dict[str, Any]:
    """Coefficients of a linear model."""
    return {"coefficients": flat(W[:rows]), "intercepts": flat(B[:rows]), **more}


def machine(*counts: int, weights: np.ndarray = WEIGHTS) -> dict[str, Any]:
    """A support vector machine for so many classes, with so many vectors each."""
    total, classes = sum(counts), len(counts)
    return {
        "vectors_per_class": list(counts),
        "support_vectors": flat(VECTORS[:total]),
        "coefficients": flat(weights[: classes - 1, :total]),
        "rho": flat(RANDOM.normal(size=classes * (classes - 1) // 2)),
        "classlabels_ints": list(range(classes)),
        **KERNEL,
    }


CASES: dict[str, tuple[str, tuple[np.ndarray, ...], dict[str, Any]]] = {
    "scaler": ("Scaler", (X,), {"offset": flat(B[:1]), "scale": [2.0]}),
    "scaler by columns": ("Scaler", (X,), {"offset": flat(X[0]), "scale": flat(X[1])}),
    "scaler of float64": ("Scaler", (X.astype(np.float64),), {"offset": flat(X[0]), "scale": flat(X[1])}),
    "scaler of whole numbers": ("Scaler", (ZEROS.astype(np.int64),), {"offset": flat(X[0]), "scale": flat(X[1])}),
    "largest": ("Normalizer", (ZEROS,), {}),
    "sum of amounts": ("Normalizer", (ZEROS,), {"norm": "L1"}),
    "length": ("Normalizer", (ZEROS,), {"norm": "L2"}),
    "length of whole numbers": ("Normalizer", (ZEROS.astype(np.int64),), {"norm": "L2"}),
    "missing": (
        "Imputer",
        (MISSING,),
        {"imputed_value_floats": flat(X[0]), "replaced_value_float": float("nan")},
    ),
    "missing, one value": (
        "Imputer",
        (MISSING,),
        {"imputed_value_floats": [7.0], "replaced_value_float": float("nan")},
    ),
    "zeros stand for missing": ("Imputer", (ZEROS,), {"imputed_value_floats": [7.0], "replaced_value_float": 0.0}),
    "columns": ("ArrayFeatureExtractor", (X, np.array([2, 0, 2])), {}),
    "columns of a row": ("ArrayFeatureExtractor", (X[0], np.array([2, 0])), {}),
    "columns of three dims": ("ArrayFeatureExtractor", (np.stack([X, -X]), np.array([[2, 0]])), {}),
    "above a threshold": ("Binarizer", (X,), {"threshold": 0.3}),
    "side by side": ("FeatureVectorizer", (X, ZEROS[[0, 1, 2, 0, 1]]), {"inputdimensions": [4, 4]}),
    "cut and filled up": ("FeatureVectorizer", (X, X), {"inputdimensions": [2, 6]}),
    "categories": ("OneHotEncoder", (np.array([[1, 2], [3, 9]]),), {"cats_int64s": [1, 2, 3]}),
    "categories of floats": ("OneHotEncoder", (np.array([1.0, 2.5], np.float32),), {"cats_int64s": [1, 2, 3]}),
    "labels": (
        "LabelEncoder",
        (np.array([1, 2, 9]),),
        {"keys_int64s": [1, 2], "values_floats": [0.5, 0.7], "default_float": -3.0},
    ),
    "labels of floats": (
        "LabelEncoder",
        (np.array([1, np.nan, 9], np.float32),),
        {"keys_floats": [1.0, float("nan")], "values_floats": [0.5, 0.7]},
    ),
    "labels by tensors": (
        "LabelEncoder",
        (np.array([1, np.nan, 9], np.float32),),
        {
            "keys_tensor": numpy_helper.from_array(np.array([1, np.nan], np.float32)),
            "values_tensor": numpy_helper.from_array(np.array([0.5, 0.7], np.float32)),
            "default_tensor": numpy_helper.from_array(np.array([-3], np.float32)),
        },
    ),
    "svr": ("SVMRegressor", (X,), {"coefficients": flat(W[0]), "rho": [0.5], "n_supports": 0, **KERNEL}),
    "svr of vectors": (
        "SVMRegressor",
        (X,),
        {"coefficients": flat(B), "support_vectors": flat(W), "rho": [0.5], "n_supports": 3, **KERNEL},
    ),
    "one class": (
        "SVMRegressor",
        (X,),
        {"coefficients": flat(B), "support_vectors": flat(W), "rho": [-0.5], "n_supports": 3, "one_class": 1, **KERNEL},
    ),
    "svc of pairs of four": ("SVMClassifier", (X,), machine(2, 1, 2, 3)),
    "svc of whole numbers": ("SVMClassifier", (ZEROS.astype(np.int64),), machine(2, 1, 2)),
}
for how in ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"):
    for rows in (1, 2, 3):
        labels = list(range(5, 5 + max(rows, 2)))
        CASES[f"classifier {rows} {how}"] = (
            "LinearClassifier",
            (X,),
            linear(rows, classlabels_ints=labels, post_transform=how, multi_class=rows % 2),
        )
        CASES[f"regressor {rows} {how}"] = ("LinearRegressor", (X,), linear(rows, targets=rows, post_transform=how))
        CASES[f"svc of weights {rows} {how}"] = (
            "SVMClassifier",
            (X,),
            {
                "coefficients": flat(W[: max(rows, 2)]),
                "rho": [0.1] * max(rows, 2),
                "classlabels_ints": labels,
                "post_transform": how,
                **KERNEL,
            },
        )
    for counts in ((2, 2), (3, 1, 2)):
        CASES[f"svc of {len(counts)} {how}"] = ("SVMClassifier", (X,), machine(*counts) | {"post_transform": how})
    positive = machine(2, 3, weights=np.abs(WEIGHTS)) | {"post_transform": how}
    CASES[f"svc of positive weights {how}"] = ("SVMClassifier", (X,), positive)
some = {"coefficients": flat(UNIT), "intercepts": [0.0] * 3, "post_transform": "PROBIT"}
CASES["classifier PROBIT"] = ("LinearClassifier", (SHARES,), some | {"classlabels_ints": [0, 1, 2]})
CASES["regressor PROBIT"] = ("LinearRegressor", (SHARES,), some | {"targets": 3})
CASES["softmax of zeros"] = (
    "LinearRegressor",
    (np.array([[1, 0, -2], [0, 0.5, 0]], np.float32),),
    some | {"targets": 3, "post_transform": "SOFTMAX_ZERO"},
)


def pipeline(op: str, inputs: tuple[np.ndarray, ...], attributes: dict[str, Any]) -> onnx.ModelProto:
    """One operator as a model; of a classifier both what it says."""
    names = [f"x{place}" for place in range(len(inputs))]
    outputs = ("label", "scores") if op.endswith("Classifier") else ("y",)
    proto = model(
        [helper.make_node(op, names, outputs, domain=ML, **attributes)],
        {name: ["n", *array.shape[1:]] for name, array in zip(names, inputs, strict=True)},
        outputs,
        dtypes={name: DTYPES[array.dtype.type] for name, array in zip(names, inputs, strict=True)}
        | {"label": TensorProto.INT64},
    )
    proto.opset_import.append(helper.make_opsetid(ML, 4 if "keys_tensor" in attributes else 3))
    return proto


def expected(proto: onnx.ModelProto, inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """What onnxruntime says."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {value.name: array for value, array in zip(session.get_inputs(), inputs, strict=True)}
    found: list[np.ndarray] = session.run(None, feeds)
    return found


@pytest.mark.parametrize("name", CASES)
def test_an_operator_of_pipelines_says_what_onnxruntime_says(name: str) -> None:
    op, inputs, attributes = CASES[name]
    proto = pipeline(op, inputs, attributes)
    tensors = tuple(torch.from_numpy(array) for array in inputs)
    module = lrp.from_onnx(proto)

    found = module(*tensors)
    again = torch.export.export(module, tensors).module()(*tensors)

    for results in (found, again):
        for got, want in zip(results if isinstance(results, tuple) else (results,), expected(proto, inputs)):
            assert got.shape == want.shape and got.numpy().dtype == want.dtype
            torch.testing.assert_close(got, torch.from_numpy(want), rtol=2e-6, atol=2e-6)
