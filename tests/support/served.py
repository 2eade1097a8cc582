"""A server in a process of its own, and what plain HTTP says to it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WITHOUT = """
import sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent)
from lrp_compiler.cli import main
raise SystemExit(main())
"""
"""The command line in a process where packages are absent."""


@dataclass
class Served:
    """A server that is running."""

    process: subprocess.Popen[str]
    port: int
    name: str

    @property
    def infer(self) -> str:
        return f"/v2/models/{self.name}/infer"

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of one request."""
        connection = self.connection()
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, content, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, json.loads(text) if text.startswith((b"{", b"[")) else text

    def refused(self, body: Any, path: str | None = None, method: str = "POST", **headers: str) -> tuple[int, str]:
        """Status and sentence of a request that is refused."""
        status, said = self.ask(method, path or self.infer, body, **headers)
        assert list(said) == ["error"]
        return status, sentence(said["error"])

    def stop(self) -> int:
        """Tell it to stop; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def sentence(text: str) -> str:
    """What is one sentence on one line."""
    assert text.endswith(".")
    assert "\n" not in text
    assert ". " not in text
    return text


@contextmanager
def served(explainer: Path, *options: str) -> Iterator[Served]:
    """`lrp-compiler serve`, once it answers; torch and onnx are not there."""
    start = [sys.executable, "-c", WITHOUT.format(absent=("torch", "onnx"))]
    command = [*start, "serve", str(explainer), "--port", "0", "--json", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipes) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            assert lines[0], process.stderr.read() if process.stderr else ""
            address, _, name = json.loads("".join(lines))["url"].partition("/v2/models/")
            yield Served(process, int(address.rpartition(":")[2]), name)
        finally:
            process.kill()


def tensor(name: str, array: np.ndarray, datatype: str = "FP32") -> dict[str, Any]:
    """An input of a request, in JSON."""
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.reshape(-1).tolist()}


def array(answer: dict[str, Any], name: str) -> np.ndarray:
    """An output of an answer in JSON."""
    output = next(output for output in answer["outputs"] if output["name"] == name)
    return np.array(output["data"], np.float32).reshape(output["shape"])
