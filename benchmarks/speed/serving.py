"""A server under load: 64 clients for a minute, batches of mixed sizes, beside a loop over the bare session.

    python -m benchmarks.speed.serving

Every answer is compared with that of a serial call. The loop runs right before and right after, on the same rows.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

import lrp_compiler as lrp
from benchmarks.base.places import RESULTS
from lrp_compiler.runtime import OnnxExplainer

NAMES = ["output", "relevance.input"]
SIDE, LARGEST = 32, 8
"""Of the pictures, and rows of a request."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        explainer = _explainer(Path(folder) / "m.lrp.onnx")
        requests = _requests(explainer)
        loops = [_loop(explainer, requests)]
        found = _load(explainer, requests, arguments.clients, arguments.seconds)
        loops.append(_loop(explainer, requests))
    _write(found, loops, arguments)


def _explainer(path: Path) -> Path:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 6 * 6, 128), nn.ReLU(), nn.Linear(128, 10)).eval()
    sizes = ({0: torch.export.Dim("batch")},)
    lrp.compile(net, (torch.randn(2, 3, SIDE, SIDE),), composite="epsilon-plus", dynamic_shapes=sizes).to_onnx(path)
    return path


def _requests(explainer: Path) -> list[tuple[np.ndarray, bytes, int, list[np.ndarray]]]:
    """Rows, body, length of its JSON, and what a serial call answers."""
    random, made = np.random.default_rng(0), []
    with OnnxExplainer(explainer) as alone:
        for number in range(64):
            x = random.standard_normal((1 + number % LARGEST, 3, SIDE, SIDE)).astype(np.float32)
            entry = {"name": "input", "shape": list(x.shape), "datatype": "FP32"}
            head = {"inputs": [{**entry, "parameters": {"binary_data_size": x.nbytes}}]}
            text = json.dumps({**head, "parameters": {"binary_data_output": True}}).encode()
            made.append((x, text + x.tobytes(), len(text), list(alone.results({"input": x}, NAMES).values())))
    return made


def _loop(explainer: Path, requests: list[Any], seconds: float = 10) -> float:
    """Rows a second of the bare session, request by request."""
    session = onnxruntime.InferenceSession(explainer, providers=["CPUExecutionProvider"])
    start, rows, number = time.perf_counter(), 0, 0
    while (elapsed := time.perf_counter() - start) < seconds:
        x = requests[number % len(requests)][0]
        session.run(NAMES, {"input": x})
        rows, number = rows + len(x), number + 1
    return rows / elapsed


def _load(explainer: Path, requests: list[Any], clients: int, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "lrp_compiler", "serve", str(explainer), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = json.loads("".join(server.stdout.readline() for _ in range(3)))["url"]
        port = int(url.split(":")[2].partition("/")[0])
        load = [sys.executable, "-c", "from benchmarks.speed.serving import client_process; client_process()"]
        tests = {"port": port, "clients": clients, "seconds": seconds, "explainer": str(explainer)}
        done = subprocess.run([*load, json.dumps(tests)], capture_output=True, text=True, check=True)
        server.send_signal(signal.SIGTERM)
        found: dict[str, Any] = json.loads(done.stdout) | {"exit": server.wait(30)}
    return found


def client_process() -> None:
    """All clients, a thread each, in a process beside the server's."""
    asked = json.loads(sys.argv[1])
    requests = _requests(Path(asked["explainer"]))
    end = time.perf_counter() + asked["seconds"]
    times: list[float] = []
    rows, errors, difference = [0], [], [0.0]

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", asked["port"], timeout=60)
        turn = number
        while time.perf_counter() < end:
            x, body, length, wanted = requests[turn % len(requests)]
            turn += 1
            start = time.perf_counter()
            connection.request("POST", "/v2/models/m/infer", body, {"Inference-Header-Content-Length": str(length)})
            response = connection.getresponse()
            content = response.read()
            times.append(time.perf_counter() - start)
            if response.status != 200:
                errors.append(content.decode(errors="replace"))
                continue
            rows[0] += len(x)
            values = np.frombuffer(content[int(response.headers["Inference-Header-Content-Length"]) :], np.float32)
            parts = np.split(values, [wanted[0].size])
            for part, array in zip(parts, wanted, strict=True):
                gap = np.abs(part - array.reshape(-1)).max() / np.abs(array).max()
                difference[0] = max(difference[0], float(gap))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(asked["clients"])]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    quantiles = {f"p{share}": float(np.percentile(times, share)) for share in (50, 99)}
    said = {"requests": len(times), "errors": len(errors), "rate": rows[0] / seconds, "difference": difference[0]}
    print(json.dumps(said | quantiles))


def _write(found: dict[str, Any], loops: list[float], arguments: argparse.Namespace) -> None:
    loop, cores = float(np.mean(loops)), os.cpu_count()
    times = " | ".join(f"{1e3 * found[name]:.0f} ms" for name in ("p50", "p99"))
    around = " and ".join(f"{rate:,.0f}" for rate in loops)
    lines = [
        f"# A server under load: {arguments.clients} clients for {arguments.seconds:g} seconds",
        "",
        f"`python -m benchmarks.speed.serving`: a convolutional network on {SIDE} × {SIDE}, `epsilon-plus`; requests",
        f"of 1 to {LARGEST} rows with binary tensors; each client sends its next one when it has the answer, so that",
        f"all wait for all others. Clients and server share {cores} cores with whatever else runs: the ratio says",
        "more than the rates.",
        "",
        "| | requests | errors | rows a second | of the loop | p50 | p99 | largest difference, of the largest value |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        f"| server | {found['requests']:,} | {found['errors']} | {found['rate']:,.0f} | {found['rate'] / loop:.2f} "
        f"| {times} | {found['difference']:.1e} |",
        f"| bare session, request by request, before and after | | | {around} | 1 | | | |",
    ]
    (RESULTS / "serving.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), found)


if __name__ == "__main__":
    main()
