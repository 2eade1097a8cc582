"""A model of more than 4 GB, from compilation to an explanation: seconds and peak memory of every step.

Llama 3.2 1B at its published width and depth, random weights, float32, one prompt of 128 tokens. Each step is a process
of its own; peak is its resident memory at most (VmHWM), weights and libraries included.

    compile   torch.export and the passes
    save      … and the explainer's .pt2 file
    onnx      … and its ONNX file, the weights beside it
    load      lrp.load of the .pt2 file, an explanation in torch
    fast      the ONNX file in onnxruntime, by default options
    small     that of the `small` profile, under `lean_options`: weights are read where they lie

Results are kept in results/large.json, the table in results/large.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.base import processes, reporting
from benchmarks.base.places import BUILD, RESULTS

TOKENS = 128
STEPS = ("compile", "save", "onnx", "load", "fast", "small")


def ids() -> Any:
    import numpy as np

    return np.random.default_rng(3).integers(0, 32000, (1, TOKENS))


def made() -> Any:
    """The explainer of the last token's prediction."""
    import torch

    import lrp_compiler as lrp
    from benchmarks.networks.published import PUBLISHED

    network = PUBLISHED["llama"]
    example = {"input_ids": torch.as_tensor(ids())}
    return lrp.compile(network.build(), kwargs=example, composite=network.composite, target=lrp.Target("argmax"))


def compile_only(folder: Path) -> Any:
    return made()


def save(folder: Path) -> None:
    made().save(folder / "llama.lrp.pt2")


def onnx(folder: Path) -> None:
    explainer = made()
    explainer.to_onnx(folder / "fast.lrp.onnx")
    explainer.to_onnx(folder / "small.lrp.onnx", profile="small")


def load(folder: Path) -> Any:
    import torch

    import lrp_compiler as lrp

    return lrp.load(folder / "llama.lrp.pt2")(torch.as_tensor(ids())).relevance["input_ids"].numpy()


def fast(folder: Path) -> Any:
    return in_onnxruntime(folder / "fast.lrp.onnx", None)


def small(folder: Path) -> Any:
    from lrp_compiler.runtime import lean_options

    return in_onnxruntime(folder / "small.lrp.onnx", lean_options())


def in_onnxruntime(path: Path, options: Any) -> Any:
    from lrp_compiler.runtime import OnnxExplainer

    with OnnxExplainer(path, session_options=options) as explainer:
        return explainer(ids()).relevance["input_ids"]


def step(name: str, folder: Path) -> None:
    """Run one step in this process and print what it took."""
    import numpy as np

    functions: dict[str, Callable[[Path], Any]] = {
        "compile": compile_only,
        "save": save,
        "onnx": onnx,
        "load": load,
        "fast": fast,
        "small": small,
    }
    start = time.perf_counter()
    result = functions[name](folder)
    seconds = time.perf_counter() - start
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    row: dict[str, Any] = {"seconds": round(seconds, 1), "peak GB": round(int(peak.split()[1]) / 1e6, 2)}
    if isinstance(result, np.ndarray):
        np.save(folder / f"{name}.npy", result)
    print(json.dumps(row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step(options.step[0], Path(options.step[1]))
        return
    import numpy as np

    console = reporting.console()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=BUILD) as text:
        folder = Path(text)
        for name in STEPS:
            command = processes.command("benchmarks.memory.large", "--step", name, folder, quiet=True)
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=processes.environment())
            rows[name] = json.loads(done.stdout.splitlines()[-1])
            console.print(name, rows[name], highlight=False)
        files = {"load": ["llama.lrp.pt2"], "fast": ["fast.lrp.onnx*"], "small": ["small.lrp.onnx*"]}
        expected = np.load(folder / "load.npy")
        for name, patterns in files.items():
            found = [file.stat().st_size for pattern in patterns for file in folder.glob(pattern)]
            rows[name]["file GB"] = round(sum(found) / 1e9, 2)
            off = np.abs(np.load(folder / f"{name}.npy") - expected).max() / np.abs(expected).max()
            rows[name]["off from torch"] = float(off)
    RESULTS.joinpath("large.json").write_text(json.dumps(rows, indent=1) + "\n")
    reporting.write(RESULTS / "large.md", markdown(rows))


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The table."""
    columns = ("seconds", "peak GB", "file GB", "off from torch")
    lines = ["| step | " + " | ".join(columns) + " |", "|---" + "|---:" * len(columns) + "|"]
    for name, row in rows.items():
        cells = [f"{row[key]:.1e}" if key == "off from torch" else str(row[key]) for key in columns if key in row]
        lines.append(f"| {name} | " + " | ".join(cells + ["–"] * (len(columns) - len(cells))) + " |")
    about = (
        "Llama 3.2 1B, random weights, float32, 128 tokens. "
        "Written by `python -m benchmarks.memory.large`; its docstring says what the steps are."
    )
    return "\n\n".join(["# A large model", about, "\n".join(lines)]) + "\n"


if __name__ == "__main__":
    BUILD.mkdir(exist_ok=True)
    main()
