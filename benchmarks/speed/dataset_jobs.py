"""The processes that `datasets` measures: a job over a data set, and a loop over the bare session. Torch-free.

python -m benchmarks.speed.dataset_jobs job|bare JSON
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet as pq

from lrp_compiler.data import explain
from lrp_compiler.runtime import OnnxExplainer

BATCH, WINDOW = 32, 4096
"""Rows of a run; texts of one window are sorted by length, as the engine does it."""


def job(asked: dict[str, Any]) -> None:
    """All rows, by one of the engines."""
    explain(asked["explainer"], asked["data"], asked["output"], batch_size=BATCH, **asked["options"])


def bare(asked: dict[str, Any]) -> None:
    """onnxruntime's session on arrays that lie ready, over and over; how many rows are done stands in a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(asked["explainer"], options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    batches = prepared(asked, min(WINDOW, asked["rows"]))
    done = np.memmap(asked["counter"], np.int64, "r+")
    while True:
        for feeds in batches:
            session.run(names, feeds)
            done[0] += len(next(iter(feeds.values())))


def prepared(asked: dict[str, Any], rows: int) -> list[dict[str, np.ndarray]]:
    """The session's feeds for the first rows, batch by batch."""
    return [feeds for _, feeds in numbered(asked, np.arange(rows))]


def numbered(asked: dict[str, Any], chosen: np.ndarray) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Numbers of rows, and their feeds: made here, without the library's own reading, scaling and filling up."""
    data, how = Path(asked["data"]), asked["options"]
    if data.suffix == ".npy":
        pixels = np.load(data, mmap_mode="r")
        found = []
        for at in range(0, len(chosen), BATCH):
            part = chosen[at : at + BATCH]
            scaled = (pixels[part].astype(np.float32) / np.float32(255) - np.float32(how["mean"])) / np.float32(
                how["std"]
            )
            found.append((part, {"input": scaled}))
        return found
    from tokenizers import Tokenizer

    texts = pq.read_table(data, columns=["text"])["text"].take(chosen).to_pylist()
    ids = [one.ids for one in Tokenizer.from_file(how["tokenizer"]).encode_batch(texts)]
    order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
    found = []
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        tokens = np.zeros((len(part), len(ids[part[-1]])), np.int64)
        for row, at in enumerate(part):
            tokens[row, : len(ids[at])] = ids[at]
        mask = np.arange(tokens.shape[1]) < np.array([[len(ids[at])] for at in part])
        found.append((chosen[part], {"input_ids": tokens, "attention_mask": mask.astype(np.int64)}))
    return found


def in_memory(asked: dict[str, Any], chosen: np.ndarray) -> dict[int, np.ndarray]:
    """Number of a row → its relevance, by the runtime, in this process."""
    found: dict[int, np.ndarray] = {}
    with OnnxExplainer(asked["explainer"]) as explainer:
        for part, feeds in numbered(asked, chosen):
            relevance = explainer(*feeds.values()).relevance
            (values,) = relevance.values()
            lengths = feeds["attention_mask"].sum(1) if "attention_mask" in feeds else [None] * len(part)
            found |= {int(row): value[:end] for row, value, end in zip(part, values, lengths, strict=True)}
    return found


if __name__ == "__main__":
    {"job": job, "bare": bare}[sys.argv[1]](json.loads(sys.argv[2]))
