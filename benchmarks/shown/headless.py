"""A headless Chromium: pages handed out by Python's own server, and what they asked for, showed and calculated."""

from __future__ import annotations

import base64
import functools
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lrp_compiler.runtime import OnnxExplainer

LONGEST = 120_000  # milliseconds for anything that the page does


@dataclass
class Visit:
    """A page in the browser. Invariant: `requests` has every address that anything in it asked for."""

    page: Any
    """Playwright's."""
    address: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings of its console, blocked requests included."""

    def wait(self) -> None:
        """Wait for an explanation or for an error."""
        # Not wait_for_function: the page's policy allows no eval.
        self.page.wait_for_selector("html:is([data-state=done], [data-state=error])", state="attached", timeout=LONGEST)

    def after(self, action: Callable[[], Any]) -> Run:
        """Do something, and return the run that follows."""
        self.page.evaluate("() => { window.lrp = undefined; document.documentElement.dataset.state = 'waiting' }")
        action()
        self.wait()
        return self.run()

    def run(self) -> Run:
        """The last run, from `window.lrp`."""
        self.wait()
        found = self.page.evaluate(_PACK)
        if found is None:
            raise AssertionError(self.page.locator("#error").text_content())
        return Run(
            {name: _array(tensor) for name, tensor in found["inputs"].items()},
            _array(found["output"]),
            _array(found["relevance"]),
            found["target"],
            found["seconds"],
        )

    def foreign(self) -> list[str]:
        """Requests to anywhere else; `blob:` and `data:` addresses never leave the page."""
        own = self.address.split("/", 3)[:3]
        return [url for url in self.requests if not url.startswith(("blob:", "data:")) and url.split("/", 3)[:3] != own]


@dataclass
class Run:
    """What `window.lrp` held."""

    inputs: dict[str, np.ndarray]
    output: np.ndarray
    relevance: np.ndarray
    target: int
    seconds: float

    def differences(self, explainer: OnnxExplainer, name: str) -> dict[str, float]:
        """Largest errors against onnxruntime in Python, as shares of the largest output and the largest relevance."""
        there = explainer(**self.inputs, target=self.target)
        pairs = {"output": (self.output, there.output[0]), "relevance": (self.relevance, there.relevance[name])}
        return {what: float(np.abs(a - b).max() / np.abs(b).max()) for what, (a, b) in pairs.items()}


_PACK = """() => {
  const pack = ({ data, dims }) => {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    let text = "";
    for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
    return { data: btoa(text), dims, dtype: data instanceof BigInt64Array ? "int64" : "float32" };
  };
  const run = window.lrp;
  if (!run) return null;
  const inputs = Object.fromEntries(Object.entries(run.inputs).map(([name, tensor]) => [name, pack(tensor)]));
  const output = pack({ data: run.output, dims: [run.output.length] });
  return { inputs, output, relevance: pack(run.relevance), target: run.target, seconds: run.seconds };
}"""


def _array(packed: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["data"]), packed["dtype"]).reshape(packed["dims"])


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that closes breaks its downloads off."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Hand `folder` out by Python's own web server; yields its address, without a slash at the end."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def chromium() -> str | None:
    """Where the system's chromium is."""
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    return next((path for path in found if path), None)


@contextmanager
def browser() -> Iterator[Any]:
    """Playwright's handle on a headless chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium())
        yield started
        started.close()


@contextmanager
def visit(started: Any, address: str, **options: Any) -> Iterator[Visit]:
    """A page at this address in a context of its own; `options` are playwright's, such as `viewport`."""
    context = started.new_context(**options)
    visited = Visit(context.new_page(), address)
    context.on("request", lambda request: visited.requests.append(request.url))
    visited.page.on("pageerror", lambda error: visited.complaints.append(str(error)))
    visited.page.on(
        "console",
        lambda message: visited.complaints.append(message.text) if message.type in ("error", "warning") else None,
    )
    visited.page.goto(address)
    yield visited
    context.close()
