"""Keras 3 on TensorFlow, by Keras's own export and by tf2onnx. Runs in the environment `keras`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
from keras import layers

from benchmarks.sound.frameworks.cases import write

TOOL = f"Keras {keras.__version__}, TensorFlow {tf.__version__}, tf2onnx {tf2onnx.__version__}"
RANDOM = np.random.default_rng(0)
ROWS, OPSET = 7, 15
BY_GRADIENT = "gradient × input, tf.GradientTape"
GATES_HELD = "gradient × input, gates and tanh(x)/x held by tf.stop_gradient"


def lively(model: keras.Model) -> keras.Model:
    """Random biases, and statistics as training leaves them: what is 0 or 1 at first hides errors."""
    for layer in model.layers:
        found = []
        for weight in layer.get_weights():
            if weight.ndim != 1:
                found.append(weight)
            elif isinstance(layer, layers.BatchNormalization):
                found.append(RANDOM.uniform(0.5, 1.5, weight.shape) * (1 if len(found) in (0, 3) else 0.3))
            else:
                found.append(weight + RANDOM.normal(size=weight.shape) * 0.1)
        layer.set_weights(found)
    return model


def gradients(function: Callable[..., Any], inputs: list[np.ndarray], target: int) -> list[np.ndarray]:
    """Gradient × input of one class."""
    tensors = [tf.constant(array) for array in inputs]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        score = tf.reduce_sum(function(*tensors)[:, target])
    return [grad.numpy() * array for grad, array in zip(tape.gradient(score, tensors), inputs, strict=True)]


def exported(model: keras.Model, by: str) -> bytes:
    """The ONNX file, by Keras's own export or by tf2onnx."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if by == "keras":
            model.export(path, format="onnx", verbose=False)
        else:
            signature = [tf.TensorSpec([None, *one.shape[1:]], tf.float32, name=one.name) for one in model.inputs]
            called = tf.function(lambda *values: model(list(values) if len(values) > 1 else values[0]))
            tf2onnx.convert.from_function(called, input_signature=signature, opset=OPSET, output_path=str(path))
        return path.read_bytes()


def names_in(model: bytes) -> list[str]:
    """How the file calls its inputs."""
    import onnx

    return [value.name for value in onnx.load_from_string(model).graph.input]


def held_lstm(layer: layers.LSTM, x: Any) -> Any:
    """The last state of an LSTM, with gates, and the quotients of tanh, that no gradient passes."""
    kernel, recurrent, bias = (tf.constant(weight) for weight in layer.get_weights())
    held = tf.stop_gradient

    def squashed(value: Any) -> Any:
        return value * held(tf.tanh(value) / value)

    h = c = tf.zeros([x.shape[0], layer.units])
    for step in range(x.shape[1]):
        gate_in, forget, candidate, gate_out = tf.split(x[:, step] @ kernel + h @ recurrent + bias, 4, axis=1)
        if step:
            c = held(tf.sigmoid(forget)) * c + held(tf.sigmoid(gate_in)) * squashed(candidate)
        else:
            c = held(tf.sigmoid(gate_in)) * squashed(candidate)
        h = held(tf.sigmoid(gate_out)) * squashed(c)
    return h


def main(folder: Path) -> None:
    keras.utils.set_random_seed(0)

    def save(name: str, model: keras.Model, what: str, logits: Callable[..., Any], oracle: str, **more: Any) -> None:
        arrays = [RANDOM.normal(size=(ROWS, *one.shape[1:])).astype(np.float32) for one in model.inputs]
        output = model(arrays if len(arrays) > 1 else arrays[0]).numpy()  # Keras exports what was called once
        found = gradients(logits, arrays, more.get("target", 0))
        for by in ("keras", "tf2onnx"):
            proto = exported(model, by)
            names = names_in(proto)
            write(
                folder,
                f"{name}_{by}",
                proto,
                dict(zip(names, arrays, strict=True)),
                output,
                dict(zip(names, found, strict=True)),
                what=f"{what}; {'Keras’ own export' if by == 'keras' else 'tf2onnx'}",
                oracle=oracle,
                tool=TOOL,
                **more,
            )

    def in_front_of_softmax(model: keras.Model) -> keras.Model:
        return keras.Model(model.inputs, model.layers[-2].output)

    x = keras.Input([12, 12, 3], name="image")
    hidden = x
    for width in (4, 6):
        hidden = layers.Conv2D(width, 3, padding="same", use_bias=False)(hidden)
        hidden = layers.MaxPooling2D()(layers.ReLU()(layers.BatchNormalization()(hidden)))
    scores = layers.Dense(3)(layers.Flatten()(hidden))
    cnn = lively(keras.Model(x, layers.Softmax()(scores)))
    save("cnn", cnn, "CNN with batch norm and softmax", in_front_of_softmax(cnn), BY_GRADIENT, target=1)

    x = keras.Input([9, 9, 2], name="image")
    hidden = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, strides=2, padding="same")(x)))
    inner = layers.DepthwiseConv2D(3, padding="same")(hidden)
    inner = layers.LeakyReLU(negative_slope=0.1)(layers.BatchNormalization()(inner))
    hidden = layers.Add()([hidden, layers.Conv2D(4, 1)(inner)])
    hidden = layers.GlobalAveragePooling2D()(layers.AveragePooling2D(2, padding="same")(hidden))
    small = lively(keras.Model(x, layers.Dense(3)(hidden)))
    save("depthwise", small, "CNN, depthwise, residual, strided", small, BY_GRADIENT, target=2)

    picture, columns = keras.Input([8, 8, 1], name="picture"), keras.Input([5], name="columns")
    left = layers.Flatten()(layers.Conv2D(3, 3, strides=2, activation="relu")(picture))
    right = layers.Dense(6, activation="relu")(columns)
    both = layers.Dense(8, activation="relu")(layers.Concatenate()([left, right]))
    two = lively(keras.Model([picture, columns], layers.Dense(3)(both)))
    save("two_inputs", two, "functional, two inputs", lambda *values: two(list(values)), BY_GRADIENT, target=1)

    x = keras.Input([5, 4], name="steps")
    lstm, head = layers.LSTM(6), layers.Dense(3)
    recurrent = lively(keras.Model(x, head(lstm(x))))

    def held(value: Any) -> Any:
        return held_lstm(lstm, value) @ tf.constant(head.get_weights()[0])

    save("lstm", recurrent, "LSTM", held, GATES_HELD, target=1, composite="cp-lrp")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
