"""What onnxruntime's optimisers write is read as onnxruntime runs it."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from support.onnx_graphs import in_onnxruntime, model, node

import lrp_compiler as lrp
from lrp_compiler.errors import CaptureError

pytestmark = pytest.mark.sampled(4)

MICROSOFT = "com.microsoft"
RANDOM = np.random.default_rng(0)


def of(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return node(op, inputs, outputs, domain=MICROSOFT, **attributes)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def integers(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


V, GAMMA, BETA, BIAS = floats(8), np.abs(floats(8)), floats(8), floats(8)
QKV = {"w": floats(8, 24), "b": floats(24)}
KEYS = {"k": floats(2, 5, 8), "v": floats(2, 5, 8)}
PAST = {"pk": floats(2, 2, 3, 4), "pv": floats(2, 2, 3, 4)}
MASK = integers([1, 1, 1, 1, 0], [1, 1, 1, 0, 0])
HALVES = {"cos": np.cos(floats(16, 2)), "sin": np.sin(floats(16, 2))}
CACHES = {"cos": np.cos(floats(16, 8)), "sin": np.sin(floats(16, 8))}
WIDE = {"k": floats(2, 5, 32), "v": floats(2, 5, 32)}
NO_PAST = {"pk": np.zeros((2, 2, 0, 16), np.float32), "pv": np.zeros((2, 2, 0, 16), np.float32)}
FAR = {"pk": floats(2, 2, 3, 16), "pv": floats(2, 2, 3, 16)}
LENGTHS = {"n": integers(4, 4), "t": integers(5)[0]}
TABLES = {"ids": integers([1, 2, 3, 4, 0], [4, 3, 2, 1, 9]), "kind": integers([0, 0, 1, 1, 1], [0, 1, 1, 0, 0])}
IMAGE = {"w": floats(5, 3, 3, 3), "b": floats(5), "z": floats(2, 5, 6, 6)}
X = [2, 5, 8]

CASES: dict[str, tuple[onnx.NodeProto, list[int], dict[str, Any]]] = {
    "convolution and sum and relu": (
        of("FusedConv", "x w b z", activation="Relu", pads=[1, 1, 1, 1]),
        [2, 3, 6, 6],
        IMAGE,
    ),
    "convolution and clip": (
        of("FusedConv", "x w b", activation="Clip", activation_params=[-0.5, 0.7]),
        [2, 3, 6, 6],
        IMAGE,
    ),
    "convolution and hard sigmoid": (
        of("FusedConv", "x w", activation="HardSigmoid", activation_params=[0.3, 0.4]),
        [2, 3, 6, 6],
        IMAGE,
    ),
    "convolution and leaky": (
        of("FusedConv", "x w b", activation="LeakyRelu", activation_params=[0.2]),
        [2, 3, 6, 6],
        IMAGE,
    ),
    "dense and leaky": (
        of("FusedGemm", "x w b", activation="LeakyRelu", activation_alpha=0.3, alpha=0.7, beta=0.3),
        [5, 8],
        QKV,
    ),
    "dense and sigmoid": (of("FusedGemm", "x w b", activation="Sigmoid"), [5, 8], QKV),
    "product of transposed": (of("FusedMatMul", "x a", transA=1, transB=1, alpha=0.3), X, {"a": floats(2, 3, 5)}),
    "product of batches behind": (
        of("FusedMatMul", "x a", transBatchA=1),
        [4, 2, 5],
        {"a": floats(2, 5, 3)},
    ),
    "gelu": (of("Gelu", "x"), X, {}),
    "gelu of a sum": (of("BiasGelu", "x b"), X, {"b": BIAS}),
    "fast gelu": (of("FastGelu", "x b"), X, {"b": BIAS}),
    "fast gelu alone": (of("FastGelu", "x"), X, {}),
    "quick gelu": (of("QuickGelu", "x", alpha=1.5), X, {}),
    "norm of a sum": (
        of("SkipLayerNormalization", "x s g e b", "y _ _ h", epsilon=1e-5),
        X,
        {"s": floats(2, 5, 8), "g": GAMMA, "e": BETA, "b": BIAS},
    ),
    "norm of a sum for all rows": (
        of("SkipLayerNormalization", "x s g e"),
        X,
        {"s": floats(5, 8), "g": GAMMA, "e": BETA},
    ),
    "root norm": (node("SimplifiedLayerNormalization", "x g", epsilon=1e-5), X, {"g": GAMMA}),
    "root norm of a sum": (
        of("SkipSimplifiedLayerNormalization", "x s g b", "y _ _ h", epsilon=1e-5),
        X,
        {"s": floats(2, 5, 8), "g": GAMMA, "b": BIAS},
    ),
    "attention": (of("Attention", "x w b", num_heads=2), X, QKV),
    "attention of other values": (
        of("Attention", "x w b", num_heads=2, qkv_hidden_sizes=[8, 8, 4], scale=0.3),
        X,
        {"w": floats(8, 20), "b": floats(20)},
    ),
    "attention, masked": (of("Attention", "x w b m", num_heads=2), X, QKV | {"m": MASK}),
    "attention, masked by a matrix": (
        of("Attention", "x w b m", num_heads=2),
        X,
        QKV | {"m": np.tril(np.ones((2, 5, 5), np.int32))},
    ),
    "attention up to an end": (of("Attention", "x w b m", num_heads=2), X, QKV | {"m": integers(4, 3)}),
    "attention between ends": (of("Attention", "x w b m", num_heads=2), X, QKV | {"m": integers(5, 4, 1, 2)}),
    "attention to the past": (of("Attention", "x w b", num_heads=2, unidirectional=1), X, QKV),
    "attention with a past": (
        of("Attention", "x w b m p", "y h", num_heads=2, unidirectional=1),
        X,
        QKV | {"p": floats(2, 2, 2, 3, 4), "m": np.ones((2, 8), np.int32)},
    ),
    "attention with a bias": (
        of("Attention", "x w b _ _ a", num_heads=2),
        X,
        QKV | {"a": floats(1, 2, 5, 5)},
    ),
    "heads": (of("MultiHeadAttention", "x k v b", num_heads=2), X, KEYS | {"b": floats(24)}),
    "heads, masked": (of("MultiHeadAttention", "x k v b m", num_heads=2), X, KEYS | {"b": floats(24), "m": MASK}),
    "heads with a bias": (
        of("MultiHeadAttention", "x k v _ _ a", num_heads=2, scale=0.2),
        X,
        KEYS | {"a": floats(2, 1, 5, 5)},
    ),
    "heads to the past": (of("MultiHeadAttention", "x k v", num_heads=2, unidirectional=1), X, KEYS),
    "heads, crossing": (
        of("MultiHeadAttention", "x k v", num_heads=2),
        X,
        {"k": floats(2, 2, 7, 4), "v": floats(2, 2, 7, 4)},
    ),
    "heads with a past": (
        of("MultiHeadAttention", "x k v _ _ _ pk pv", "y h i", num_heads=2),
        X,
        KEYS | PAST,
    ),
    "grouped heads": (
        of("GroupQueryAttention", "x k v pk pv n t", "y h i", num_heads=4, kv_num_heads=2),
        [2, 5, 64],
        WIDE | NO_PAST | LENGTHS,
    ),
    "grouped heads, packed, turned, in a window": (
        of(
            "GroupQueryAttention",
            "x _ _ pk pv n t cos sin",
            "y h i",
            num_heads=4,
            kv_num_heads=2,
            do_rotary=1,
            local_window_size=3,
            softcap=5.0,
        ),
        [2, 5, 128],
        NO_PAST | LENGTHS | CACHES,
    ),
    "grouped heads with a past": (
        of("GroupQueryAttention", "x k v pk pv n t cos sin", "y h i", num_heads=4, kv_num_heads=2, do_rotary=1),
        [2, 1, 64],
        {"k": floats(2, 1, 32), "v": floats(2, 1, 32), "n": integers(3, 3), "t": integers(4)[0]} | FAR | CACHES,
    ),
    "turned": (of("RotaryEmbedding", "x p cos sin"), X, HALVES | {"p": np.array([3])}),
    "turned by places": (
        of("RotaryEmbedding", "x p cos sin", interleaved=1),
        [2, 3, 5, 4],
        HALVES | {"p": RANDOM.integers(0, 16, (2, 5))},
    ),
    "turned in part": (
        of("RotaryEmbedding", "x p cos sin", rotary_embedding_dim=4, num_heads=1),
        X,
        HALVES | {"p": RANDOM.integers(0, 16, (2, 5))},
    ),
    "words, places and segments": (
        of("EmbedLayerNormalization", "ids kind x p s g e m", "y n h"),
        [10, 8],
        TABLES | {"p": floats(12, 8), "s": floats(2, 8), "g": GAMMA, "e": BETA, "m": MASK},
    ),
    "words at places": (
        of("EmbedLayerNormalization", "ids _ x p _ g e _ at", "y n", epsilon=1e-5),
        [10, 8],
        TABLES | {"p": floats(12, 8), "g": GAMMA, "e": BETA, "at": integers([2, 3, 4, 5, 6])},
    ),
    "inverse": (of("Inverse", "x"), [2, 4, 4], {}),
    "distances": (of("CDist", "x a", metric="euclidean"), [5, 8], {"a": floats(3, 8)}),
    "triangle": (of("Trilu", "x k", upper=0), [2, 4, 4], {"k": np.array(1)}),
    "one more dim": (of("ExpandDims", "x a"), X, {"a": integers(1)[0]}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fused_operator_is_onnxruntimes(name: str) -> None:
    one, shape, constants = CASES[name]
    given = {n: np.asarray(a) for n, a in constants.items() if n in one.input}
    names = ["" if output == "_" else output for output in one.output]
    outputs = [output for output in names if output]
    del one.output[:]
    one.output.extend(names)
    dtypes = {"n": TensorProto.INT32}
    proto = model([one], {"x": shape}, outputs, given, dtypes=dtypes, domains=[MICROSOFT])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = in_onnxruntime(proto, {"x": x})

    found = lrp.from_onnx(proto)(x)

    for got, want in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_packed_queries_keys_and_values_are_the_same_side_by_side() -> None:
    """onnxruntime runs them on GPUs alone."""
    q, k, v = (torch.randn(2, 5, 8) for _ in range(3))
    alone = model([of("MultiHeadAttention", "x k v", num_heads=2)], {n: [2, 5, 8] for n in "xkv"}, domains=[MICROSOFT])
    want = in_onnxruntime(alone, {"x": q, "k": k, "v": v})[0]
    q, k, v = (one.unflatten(-1, (2, 4)) for one in (q, k, v))
    all_in_one = model([of("MultiHeadAttention", "x", num_heads=2)], {"x": [2, 5, 2, 3, 4]}, domains=[MICROSOFT])
    two_in_one = model(
        [of("MultiHeadAttention", "x k", num_heads=2)], {"x": [2, 5, 8], "k": [2, 5, 2, 2, 4]}, domains=[MICROSOFT]
    )

    torch.testing.assert_close(lrp.from_onnx(all_in_one)(torch.stack([q, k, v], 3)), want)
    torch.testing.assert_close(lrp.from_onnx(two_in_one)(q.flatten(2), torch.stack([k, v], 3)), want)


BITS = {
    "4 bits": {"bits": 4},
    "4 bits, zero points": {"bits": 4, "zeros": True},
    "8 bits, zero points": {"bits": 8, "zeros": True},
    "2 bits": {"bits": 2},
    "4 bits, a rest": {"bits": 4, "zeros": True, "K": 40},
    "4 bits, a bias": {"bits": 4, "bias": True},
}


@pytest.mark.sampled(16)
@pytest.mark.parametrize("name", BITS)
def test_weights_of_few_bits_are_onnxruntimes(name: str) -> None:
    options = BITS[name]
    bits, K, N, block = int(options["bits"]), int(options.get("K", 64)), 6, 16
    blocks = -(-K // block)
    constants = {
        "w": RANDOM.integers(0, 256, (N, blocks, block * bits // 8)).astype(np.uint8),
        "s": RANDOM.uniform(0.01, 0.1, (N, blocks)).astype(np.float32),
    }
    inputs = "x w s"
    if options.get("zeros"):
        inputs += " z"
        constants["z"] = RANDOM.integers(0, 256, (N, -(-blocks * bits // 8))).astype(np.uint8)
    if options.get("bias"):
        inputs += " _ _ b"
        constants["b"] = floats(N)
    one = of("MatMulNBits", inputs, K=K, N=N, bits=bits, block_size=block)
    proto = model([one], {"x": ["batch", 3, K]}, constants=constants, domains=[MICROSOFT])
    x = torch.randn(2, 3, K)

    explainer = lrp.compile(proto, (x,), target=lrp.Target(1, position=0))

    want = in_onnxruntime(proto, {"x": x})[0]
    torch.testing.assert_close(lrp.from_onnx(proto)(x), want, rtol=1e-5, atol=1e-5)
    bias = 0 if "b" not in constants else float(constants["b"][1])
    torch.testing.assert_close(explainer(x).relevance["x"].sum((1, 2)), want[:, 0, 1] - bias, rtol=1e-5, atol=1e-5)
    assert sum(one.numel() for one in explainer.module.buffers() if one.dtype == torch.uint8) >= constants["w"].size


REFUSED = {
    "g_idx": of("MatMulNBits", "x w s _ g", K=16, N=2, bits=4, block_size=16),
    "do_rotary": of("Attention", "x w b", num_heads=2, do_rotary=1),
    "BeamSearch": of("BeamSearch", "x a a a a"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_gets_a_sentence(name: str) -> None:
    constants = {
        "w": np.zeros((2, 1, 8), np.uint8) if name == "g_idx" else floats(8, 24),
        "b": floats(24),
        "s": floats(2, 1),
        "g": np.zeros(16, np.int32),
        "a": integers(1),
    }
    given = {n: a for n, a in constants.items() if n in REFUSED[name].input}
    proto = model([REFUSED[name]], {"x": [2, 3, 16 if name == "g_idx" else 8]}, constants=given, domains=[MICROSOFT])

    with pytest.raises(CaptureError, match=name):
        lrp.compile(proto)
