"""scikit-learn's linear models, networks and pipelines, by skl2onnx. Runs in the environment `scikit-learn`.

scikit-learn has no gradients: those of its networks are worked out here from their weights, in float64.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import skl2onnx
import sklearn
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC

from benchmarks.sound.frameworks.cases import write

TOOL = f"scikit-learn {sklearn.__version__}, skl2onnx {skl2onnx.__version__}"
RANDOM = np.random.default_rng(0)
FEATURES, CLASSES, ROWS = 6, 3, 7
CENTRES = RANDOM.normal(size=(CLASSES, FEATURES)) * 2
LABELS = RANDOM.integers(0, CLASSES, size=300)
DATA = (CENTRES[LABELS] + RANDOM.normal(size=(300, FEATURES))) * [1, 5, 0.2, 1, 10, 3] + [0, 10, 1, -3, 40, 2]
GIVEN = DATA[:ROWS].astype(np.float32)
NUMBERS = DATA @ RANDOM.normal(size=(FEATURES, 2)) / 10 + np.abs(DATA[:, :2])
BY_HAND = "w · x by hand"
BY_GRADIENT = "gradient × input, from its weights"


def network(model: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a ReLU network its outputs in front of their last function, and their gradients: [rows, outputs, inputs]."""
    value, gradient = x, np.broadcast_to(np.eye(x.shape[1]), (len(x), x.shape[1], x.shape[1]))
    for place, (weight, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        value, gradient = value @ weight + bias, np.einsum("io,nij->noj", weight, gradient)
        if place < len(model.coefs_) - 1:
            gradient = gradient * (value > 0)[:, :, None]
            value = np.maximum(value, 0)
    return value, gradient


def standard(scaler: StandardScaler) -> np.ndarray:
    """What a column is multiplied by."""
    return 1 / scaler.scale_


def main(folder: Path) -> None:
    x = GIVEN.astype(np.float64)

    def save(name: str, model: Any, what: str, weights: np.ndarray, oracle: str = BY_HAND, **more: Any) -> None:
        """Write a model whose relevance is `weights · x`: [inputs], or of each row its own."""
        options = more.pop("options", None)
        output = more.pop("output", None)
        given = more.pop("given", GIVEN)
        if output is None:
            output = model.predict_proba(given) if hasattr(model, "predict_proba") else model.predict(given)
        proto = to_onnx(model, GIVEN[:1], options=options, target_opset={"": 18, "ai.onnx.ml": 3})
        relevance = np.nan_to_num(weights * given.astype(np.float64))
        write(
            folder,
            name,
            proto.SerializeToString(),
            {"X": given},
            np.asarray(output),
            {"X": relevance},
            what=what,
            oracle=oracle,
            tool=TOOL,
            **more,
        )

    linear = LinearRegression().fit(DATA, NUMBERS[:, 0])
    save("linear_regression", linear, "LinearRegression", linear.coef_)
    both = LinearRegression().fit(DATA, NUMBERS)
    save("linear_regression_2", both, "LinearRegression, two targets", both.coef_[1], target=1)

    pipe = make_pipeline(StandardScaler(), LogisticRegression()).fit(DATA, LABELS)
    coefficients = pipe[-1].coef_
    z = pipe[0].transform(x)
    save(
        "logistic",
        pipe,
        "StandardScaler → LogisticRegression, three classes",
        coefficients[2] * standard(pipe[0]),
        target=2,
        observed={"Scaler": coefficients[2] * z},
    )
    names = np.array(["no", "maybe", "yes"])[LABELS]
    text = make_pipeline(StandardScaler(), LogisticRegression()).fit(DATA, names)
    save(
        "logistic_text",
        text,
        "the same, classes that are text, a map of probabilities",
        text[-1].coef_[2] * standard(text[0]),
        target=2,
    )
    two = make_pipeline(StandardScaler(), LogisticRegression()).fit(DATA[LABELS < 2], LABELS[LABELS < 2])
    for target, sign in ((0, -1), (1, 1)):
        save(
            f"logistic_two_{target}",
            two,
            f"StandardScaler → LogisticRegression, two classes, class {target}",
            sign * two[-1].coef_[0] * standard(two[0]),
            target=target,
            options={id(two): {"zipmap": False}},
        )
    rest = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression())).fit(DATA, LABELS)
    save(
        "one_vs_rest",
        rest,
        "StandardScaler → one LogisticRegression a class",
        rest[-1].estimators_[1].coef_[0] * standard(rest[0]),
        target=1,
    )
    raw = make_pipeline(MinMaxScaler(), LogisticRegression()).fit(DATA, LABELS)
    save(
        "raw_scores",
        raw,
        "MinMaxScaler → LogisticRegression, its scores",
        raw[-1].coef_[0] * raw[0].scale_,
        options={id(raw[-1]): {"raw_scores": True, "zipmap": False}},
        output=raw.decision_function(GIVEN),
    )

    holes = GIVEN.copy()
    holes[0, 1] = holes[3, 4] = np.nan
    impute = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(DATA, LABELS)
    save(
        "imputed",
        impute,
        "SimpleImputer → StandardScaler → LogisticRegression, values missing",
        np.where(np.isnan(holes), 0, impute[-1].coef_[0] * standard(impute[1])),
        given=holes,
    )
    columns = ColumnTransformer(
        [("a", StandardScaler(), [4, 1]), ("b", MinMaxScaler(), [0]), ("c", "passthrough", [5])]
    )
    mixed = make_pipeline(columns, LinearRegression()).fit(DATA, NUMBERS[:, 0])
    weights, parts = np.zeros(FEATURES), mixed[0].named_transformers_
    weights[[4, 1]] = mixed[-1].coef_[:2] * standard(parts["a"])
    weights[0], weights[5] = mixed[-1].coef_[2] * parts["b"].scale_[0], mixed[-1].coef_[3]
    save("columns", mixed, "ColumnTransformer → LinearRegression", weights)

    machine = make_pipeline(StandardScaler(), SVC(kernel="linear")).fit(DATA[LABELS < 2], LABELS[LABELS < 2])
    save(
        "svc",
        machine,
        "StandardScaler → SVC, linear, two classes",
        machine[-1].coef_[0] * standard(machine[0]),
        options={id(machine): {"zipmap": False, "raw_scores": True}},
        # What the file calls the score of the first class is the decision function, which speaks for the second.
        output=np.stack([machine.decision_function(GIVEN), -machine.decision_function(GIVEN)], 1),
    )
    straight = LinearSVC().fit(DATA, LABELS)  # a pipeline that ends in one is what skl2onnx cannot convert
    save(
        "linear_svc",
        straight,
        "LinearSVC, three classes",
        straight.coef_[1],
        target=1,
        options={id(straight): {"raw_scores": True}},
        output=straight.decision_function(GIVEN),
    )
    vectors = make_pipeline(StandardScaler(), SVR(kernel="linear")).fit(DATA[:100], NUMBERS[:100, 0])
    save("svr", vectors, "StandardScaler → SVR, linear", vectors[-1].coef_[0] * standard(vectors[0]))

    trained = {"max_iter": 300, "random_state": 0, "hidden_layer_sizes": (16, 8)}
    scaled = make_pipeline(StandardScaler(), MLPClassifier(**trained)).fit(DATA, LABELS)
    gradient = network(scaled[-1], scaled[0].transform(x))[1][:, 1] * standard(scaled[0])
    save("mlp_classifier", scaled, "StandardScaler → MLPClassifier, three classes", gradient, BY_GRADIENT, target=1)
    pair = make_pipeline(StandardScaler(), MLPClassifier(**trained)).fit(DATA[LABELS < 2], LABELS[LABELS < 2])
    gradient = network(pair[-1], pair[0].transform(x))[1][:, 0] * standard(pair[0])
    for target, sign in ((0, -1), (1, 1)):
        what = f"StandardScaler → MLPClassifier, two classes, class {target}"
        save(f"mlp_two_{target}", pair, what, sign * gradient, BY_GRADIENT, target=target)
    # Of one target: the file of several returns all rows' as one column, which is not what scikit-learn says.
    numbers = make_pipeline(StandardScaler(), MLPRegressor(**trained)).fit(DATA, NUMBERS[:, 0])
    gradient = network(numbers[-1], numbers[0].transform(x))[1][:, 0] * standard(numbers[0])
    save("mlp_regressor", numbers, "StandardScaler → MLPRegressor", gradient, BY_GRADIENT)
    reduced = make_pipeline(PCA(4), MLPClassifier(**trained)).fit(DATA, LABELS)
    gradient = network(reduced[-1], reduced[0].transform(x))[1][:, 2] @ reduced[0].components_
    save("pca_mlp", reduced, "PCA → MLPClassifier", gradient, BY_GRADIENT, target=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
