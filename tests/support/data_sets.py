"""Explainers of pictures, rows and texts that are small, their data, and what stands in an output folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

import lrp_compiler as lrp
from lrp_compiler.runtime import OnnxExplainer

ROWS, BAD = 3000, 1234
"""Of a job, and which row of it holds NaN."""
BATCH, SEQUENCE = torch.export.Dim("batch"), torch.export.Dim("sequence")
WORDS = ["[PAD]", "[UNK]", "a", "fine", "film", "that", "nobody", "saw", "but", "me", "and", "you", "it", "is", "not"]
WORDS += ["so", "bad"]


class Text(nn.Module):
    """A bag of words, each seen beside the one before it; what is masked counts for nothing."""

    def __init__(self, masked: bool = True) -> None:
        super().__init__()
        self.words = nn.Embedding(32, 8)
        self.hidden, self.classes = nn.Linear(8, 8), nn.Linear(8, 3)
        self.masked = masked

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = torch.relu(self.hidden(self.words(input_ids)))
        if attention_mask is None:
            return self.classes(hidden.mean(1))
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return self.classes((hidden * mask).sum(1) / mask.sum(1))


def of_rows(path: Path, **options: Any) -> Path:
    """An explainer of `input: float32[batch, 2, 3]`."""
    return _copied(path, "rows", repr(sorted(options.items())), lambda: _of_rows(**options))


def of_pictures(path: Path) -> Path:
    """An explainer of `input: float32[batch, 3, 8, 12]`."""
    return _copied(path, "pictures", "", _of_pictures)


def of_texts(path: Path, masked: bool = True, length: int | None = None, **more: Any) -> Path:
    """An explainer of `input_ids`, and of `attention_mask` if it is masked; of one length, or any."""
    return _copied(path, "texts", f"{masked} {length} {more}", lambda: _of_texts(masked, length, **more))


_MADE: dict[tuple[str, str], bytes] = {}


def _copied(path: Path, kind: str, options: str, make: Callable[[], lrp.Explainer]) -> Path:
    """Write an explainer that is compiled once in a process."""
    if (kind, options) not in _MADE:
        make().to_onnx(path)
        _MADE[kind, options] = path.read_bytes()
    path.write_bytes(_MADE[kind, options])
    return path


def _of_rows(rows: int = 2, dynamic_shapes: Any = ({0: BATCH},), **options: Any) -> lrp.Explainer:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    given = {"composite": "epsilon", "dynamic_shapes": dynamic_shapes, **options}
    return lrp.compile(net, (torch.randn(rows, 2, 3),), **given)


def _of_pictures() -> lrp.Explainer:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 10, 3)).eval()
    return lrp.compile(net, (torch.randn(2, 3, 8, 12),), composite="epsilon-plus", dynamic_shapes=({0: BATCH},))


def _of_texts(masked: bool, length: int | None, **more: Any) -> lrp.Explainer:
    torch.manual_seed(0)
    ids = torch.randint(2, 16, (2, length or 6))
    args: tuple[Tensor, ...] = (ids, torch.ones_like(ids)) if masked else (ids,)
    shape = {0: BATCH} if length else {0: BATCH, 1: SEQUENCE}
    options: dict[str, Any] = {"composite": "epsilon"} | ({"fixed": ["attention_mask"]} if masked else {}) | more
    model = Text(masked).eval()
    return lrp.compile(model, args, dynamic_shapes=tuple(shape for _ in args), **options)


def tokenizer(path: Path) -> Path:
    """A tokenizer that knows `WORDS`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.save(str(path))
    return path


def rows(number: int, seed: int = 0) -> np.ndarray:
    """`x` for the explainer of rows."""
    return np.random.default_rng(seed).standard_normal((number, 2, 3)).astype(np.float32)


def written(folder: Path) -> pa.Table:
    """All that was explained."""
    return pq.read_table(folder / "relevance.parquet")


def errors(folder: Path) -> dict[int, str]:
    """Row → what is wrong with it."""
    if not (folder / "errors.parquet").exists():
        return {}
    return {entry["row"]: entry["error"] for entry in pq.read_table(folder / "errors.parquet").to_pylist()}


def tensors(table: pa.Table, name: str) -> np.ndarray:
    """A column of Arrow's tensors."""
    array: np.ndarray = table[name].combine_chunks().to_numpy_ndarray()
    return array


JOB = """
import json
import sys
from lrp_compiler.data import explain
if __name__ == "__main__":
    more = json.loads(sys.argv[6]) if sys.argv[6:] else {}
    explain(*sys.argv[1:4], shard_rows=int(sys.argv[4]), workers=int(sys.argv[5]), batch_size=8, **more)
"""


def started(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A job in a process of its own, which leads a group of its own: explainer, data, output, shard_rows, workers, and
    if there are any, more options as JSON."""
    script = folder / "job.py"
    script.write_text(JOB)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *arguments]
    return subprocess.Popen(command, start_new_session=True, env=environment, stderr=subprocess.PIPE)


def killed_when(process: subprocess.Popen[bytes], ready: Callable[[], bool], victim: Callable[[], int]) -> bool:
    """Kill a process, or one that it started, once it is time; whether it had not ended before."""
    while not ready() and process.poll() is None:
        time.sleep(0.002)
    if alive := process.poll() is None:
        os.kill(victim(), signal.SIGKILL)
    return alive


def children(process: int) -> list[int]:
    """The processes that a process has started, of Linux."""
    text = Path(f"/proc/{process}/task/{process}/children")
    return [int(number) for number in text.read_text().split()] if text.exists() else []


def descendants(process: int) -> list[int]:
    """The processes that a process has started, those that these have started, and so on, of Linux."""
    found = children(process)
    return found + [one for child in found for one in descendants(child)]


def command_line(process: int) -> str:
    """How a process was started, or calls itself; "" if it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def a_job(folder: Path) -> Path:
    """Lay an explainer, `m.lrp.onnx`, and its data, `x.npy`, into a folder."""
    of_rows(folder / "m.lrp.onnx")
    x = rows(ROWS)
    x[BAD, 0, 0] = np.nan
    np.save(folder / "x.npy", x)
    return folder


def is_whole(folder: Path, output: Path) -> None:
    """Every row once, with the relevance that the runtime gives; nothing else in the folders."""
    table = written(output)
    good = np.delete(np.arange(ROWS), BAD)
    assert table["id"].to_pylist() == good.tolist()
    assert pq.read_table(output / "errors.parquet")["row"].to_pylist() == [BAD]
    with OnnxExplainer(folder / "m.lrp.onnx") as opened:
        expected = opened(np.load(folder / "x.npy")[good]).relevance["input"]
    relevance = table["relevance.input"].combine_chunks().to_numpy_ndarray()
    np.testing.assert_allclose(relevance, expected, rtol=1e-5, atol=1e-6)  # other batch sizes, other kernels
    for kind in ("relevance.parquet", "errors.parquet"):
        assert [path.name for path in (output / kind).iterdir() if not path.name.startswith("part-")] == []
