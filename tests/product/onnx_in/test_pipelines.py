"""`ai.onnx.ml`: every operator says what onnxruntime says, on random columns, with every attribute."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.onnx_graphs import in_onnxruntime, model, node

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


EXPORTED = ("scaler", "missing", "length", "categories", "labels", "classifier 1 LOGISTIC", "svc of 3 SOFTMAX")
"""That they are exported takes a while; all of them would say the same."""


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_operator_of_pipelines_says_what_onnxruntime_says(name: str) -> None:
    op, inputs, attributes = CASES[name]
    proto = pipeline(op, inputs, attributes)
    tensors = tuple(torch.from_numpy(array) for array in inputs)
    module = lrp.from_onnx(proto)

    found = [module(*tensors)]
    if name in EXPORTED:
        found.append(torch.export.export(module, tensors).module()(*tensors))

    for results in found:
        returned = results if isinstance(results, tuple) else (results,)
        for got, want in zip(returned, expected(proto, inputs), strict=True):
            assert got.shape == want.shape
            assert got.numpy().dtype == want.dtype
            torch.testing.assert_close(got, torch.from_numpy(want), rtol=2e-6, atol=2e-6)


def test_operators_that_mean_nothing_are_named_all_at_once() -> None:
    nodes = [
        node("TreeEnsembleRegressor", "x", "a", domain=ML),
        node("SVMRegressor", "x", "b", domain=ML, kernel_type="RBF", rho=[0.0], coefficients=[1.0]),
        node("SVMClassifier", "x", "c d", domain=ML, rho=[0.0], coefficients=[1.0], prob_a=[1.0], prob_b=[1.0]),
        node("OneHotEncoder", "x", "e", domain=ML, cats_strings=["a"]),
        node("Sum", "a b d e"),
    ]

    with pytest.raises(CaptureError) as caught:
        lrp.from_onnx(model(nodes, {"x": ["n", 4]}, domains=[ML]))

    for said in ("4 operators", "TreeSHAP", "kernel that is not linear", "decision function", "handles text"):
        assert said in str(caught.value)


def test_text_is_refused_as_an_input() -> None:
    proto = model([node("Identity", "x")], {"x": ["n"]}, dtypes={"x": TensorProto.STRING, "y": TensorProto.STRING})

    with pytest.raises(CaptureError, match="no tensor of scores"):
        lrp.from_onnx(proto)
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(FormatError, match="is text, which carries no relevance"):
        lrp.from_onnx(proto)


def classifier(*, text: bool, last: str = "ZipMap") -> onnx.ModelProto:
    """A pipeline as converters write it: a label, and a map from labels to probabilities."""
    classes: dict[str, Any] = {"classlabels_strings": ["a", "b", "c"]} if text else {"classlabels_ints": [3, 4, 5]}
    named = {"classlabels_int64s" if name.endswith("ints") else name: value for name, value in classes.items()}
    nodes = [
        node("Scaler", "x", "z", domain=ML, offset=flat(X[0]), scale=[2.0] * 4),
        node("LinearClassifier", "z", "label p", domain=ML, **linear(3, post_transform="SOFTMAX", **classes)),
        node("Normalizer", "p", "q", domain=ML, norm="L1"),
        node(last, "q", "scores", domain=ML if last == "ZipMap" else "", **(named if last == "ZipMap" else {})),
    ]
    dtypes = {"label": TensorProto.STRING if text else TensorProto.INT64}
    proto = model(nodes, {"x": ["n", 4]}, ("label", "scores"), dtypes=dtypes)
    proto.opset_import.append(helper.make_opsetid(ML, 3))
    if last == "ZipMap":
        key = TensorProto.STRING if text else TensorProto.INT64
        value = helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        proto.graph.output[1].type.CopyFrom(helper.make_sequence_type_proto(value))
    return proto


@pytest.mark.parametrize("last", ["ZipMap", "Identity"])
def test_a_label_that_is_text_is_left_out_and_a_map_is_its_tensor(last: str) -> None:
    proto = classifier(text=True, last=last)
    before = proto.SerializeToString()

    with pytest.warns(LrpWarning, match="'label' is left out"):
        module = lrp.from_onnx(proto)

    assert module.output_names == ["scores"]
    assert proto.SerializeToString() == before
    z = (torch.from_numpy(X) - torch.from_numpy(X[0])) * 2
    want = torch.softmax(z @ torch.from_numpy(W).T + torch.from_numpy(B), -1)
    torch.testing.assert_close(module(torch.from_numpy(X)), want, rtol=1e-5, atol=1e-6)


def test_a_label_that_is_a_number_stays() -> None:
    proto = classifier(text=False, last="Identity")

    label, scores = lrp.from_onnx(proto)(torch.from_numpy(X))

    want = in_onnxruntime(proto, {"x": torch.from_numpy(X)})
    assert torch.equal(label, want[0])
    torch.testing.assert_close(scores, want[1], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::lrp_compiler.errors.LrpWarning")
def test_relevance_of_a_pipeline_is_its_weights_times_its_columns() -> None:
    explainer = lrp.compile(
        classifier(text=True), composite=lrp.composites.epsilon(epsilon=1e-9), target=1, observe="Scaler_0"
    )

    found = explainer(torch.from_numpy(X)).relevance

    scaled = torch.from_numpy((X - X[0]) * 2)
    torch.testing.assert_close(found["x"], torch.from_numpy(2 * W[1] * X), rtol=1e-5, atol=1e-5)
    (inside,) = (value for name, value in found.items() if name != "x")
    torch.testing.assert_close(inside, torch.from_numpy(W[1]) * scaled, rtol=1e-5, atol=1e-5)


def test_what_is_missing_gets_no_relevance() -> None:
    nodes = [
        node("Imputer", "x", "filled", domain=ML, imputed_value_floats=flat(X[0]), replaced_value_float=float("nan")),
        node("LinearRegressor", "filled", domain=ML, **linear(3, targets=3)),
    ]
    proto = model(nodes, {"x": ["n", 4]}, domains=[ML])

    found = lrp.compile(proto, composite=lrp.composites.epsilon(epsilon=1e-9), target=2)(torch.from_numpy(MISSING))

    want = torch.from_numpy(np.nan_to_num(MISSING * W[2]))
    torch.testing.assert_close(found.relevance["x"], want, rtol=1e-5, atol=1e-6)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_the_norm_of_a_row_is_held_fixed(norm: str) -> None:
    nodes = [
        node("Normalizer", "x", "unit", domain=ML, norm=norm),
        node("LinearRegressor", "unit", domain=ML, **linear(3, targets=3)),
    ]
    proto = model(nodes, {"x": ["n", 4]}, domains=[ML])

    found = lrp.compile(proto, composite=lrp.composites.epsilon(epsilon=1e-9), target=2)(torch.from_numpy(X))

    size = np.abs(X).sum(1, keepdims=True) if norm == "L1" else np.sqrt((X * X).sum(1, keepdims=True))
    torch.testing.assert_close(found.relevance["x"], torch.from_numpy(X / size * W[2]), rtol=1e-5, atol=1e-6)
