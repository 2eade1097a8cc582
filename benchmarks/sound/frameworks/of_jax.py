"""JAX with Flax (nnx), by jax2onnx. Runs in the environment `jax`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax2onnx import to_onnx

from benchmarks.sound.frameworks.cases import write

TOOL = f"JAX {jax.__version__}, Flax {version('flax')}, jax2onnx {version('jax2onnx')}"
RANDOM = np.random.default_rng(0)
ROWS, OPSET = 7, 21
BY_GRADIENT = "gradient × input, jax.grad"
HELD = "gradient × input, patterns, gates and deviations held by jax.lax.stop_gradient"
Array = Any


class Cnn(nnx.Module):
    """Convolutions, batch norms, pools, dense layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.second = nnx.Conv(4, 6, (3, 3), strides=(2, 2), padding="VALID", rngs=rngs)
        self.inner, self.head = nnx.Linear(24, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.max_pool(nnx.relu(self.norm(self.first(x))), window_shape=(2, 2), strides=(2, 2))
        x = nnx.relu(self.second(x))
        x = x.reshape(x.shape[0], -1)
        return self.head(nnx.relu(self.inner(x)))


class Block(nnx.Module):
    """A transformer block with its head: attention, GELU, layer norms before them."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm, self.between, self.last = (nnx.LayerNorm(8, rngs=rngs) for _ in range(3))
        self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs, decode=False)
        self.up, self.down, self.head = (nnx.Linear(*s, rngs=rngs) for s in ((8, 16), (16, 8), (8, 3)))

    def __call__(self, x: Array) -> Array:
        x = x + self.attention(self.norm(x))
        x = x + self.down(nnx.gelu(self.up(self.between(x))))
        return self.head(self.last(x).mean(1))


def held_norm(norm: nnx.LayerNorm, x: Array) -> Array:
    """A layer norm with its deviation held."""
    centred = x - x.mean(-1, keepdims=True)
    factor = jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + norm.epsilon)
    return centred * jax.lax.stop_gradient(factor) * norm.scale[...] + norm.bias[...]


def held_attention(attention: nnx.MultiHeadAttention, x: Array) -> Array:
    """Attention with its patterns held."""
    q, k, v = (part(x) for part in (attention.query, attention.key, attention.value))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    pattern = jax.lax.stop_gradient(jax.nn.softmax(scores, -1))
    return attention.out(jnp.einsum("bhqk,bkhd->bqhd", pattern, v))


def held_block(block: Block, x: Array) -> Array:
    """The block with all held that LRP holds there."""
    x = x + held_attention(block.attention, held_norm(block.norm, x))
    inner = block.up(held_norm(block.between, x))
    x = x + block.down(inner * jax.lax.stop_gradient(nnx.gelu(inner) / inner))
    return block.head(held_norm(block.last, x).mean(1))


def lively(model: nnx.Module) -> nnx.Module:
    """Random biases, and statistics as training leaves them."""
    state = nnx.state(model)

    def fresh(path: Any, leaf: Array) -> Array:
        name = jax.tree_util.keystr(path)
        if leaf.ndim != 1 or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        low, high = (0.5, 1.5) if "scale" in name or "var" in name else (-0.3, 0.3)
        return jnp.asarray(RANDOM.uniform(low, high, leaf.shape), leaf.dtype)

    nnx.update(model, jax.tree_util.tree_map_with_path(fresh, state))
    return model


def main(folder: Path) -> None:
    def save(
        name: str, model: Any, shape: list[int | str], what: str, scores: Callable[..., Any], oracle: str, **more: Any
    ) -> None:
        sizes = [ROWS, *(5 if isinstance(size, str) else size for size in shape)]
        x = RANDOM.normal(size=sizes).astype(np.float32)
        target = more["target"]
        gradient = jax.grad(lambda value: scores(value)[:, target].sum())(jnp.asarray(x))
        proto = to_onnx(model, [("B", *shape)], opset=OPSET, input_names=["x"])
        write(
            folder,
            name,
            proto.SerializeToString(),
            {"x": x},
            np.asarray(model(jnp.asarray(x))),
            {"x": np.asarray(gradient) * x},
            what=what,
            oracle=oracle,
            tool=TOOL,
            **more,
        )

    rngs = nnx.Rngs(0)
    cnn = lively(Cnn(rngs))
    save("cnn", cnn, [10, 10, 3], "CNN with batch norm", cnn, BY_GRADIENT, target=1)
    block = lively(Block(rngs))
    what = "transformer block with its head"
    save("block", block, [5, 8], what, lambda x: held_block(block, x), HELD, target=2, composite="cp-lrp")
    save(
        "block_open",
        block,
        ["T", 8],
        f"{what}, open length",
        lambda x: held_block(block, x),
        HELD,
        target=2,
        composite="cp-lrp",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
