"""`serve`: an explainer behind an endpoint, until the process is told to stop."""

import argparse
import math
import sys

from ..options import add_served_explainer
from ..paths import must_be_onnx
from ..reporting import report

PURPOSE = "answer requests over HTTP: Open Inference Protocol v2, as Triton's and KServe's clients speak it"
EXAMPLE = (
    "lrp-compiler serve image.lrp.onnx --port 8000\n"
    "  lrp-compiler serve text.lrp.onnx --name reviews --host 0.0.0.0 --max-rows 64 --timeout 10 --grace 5\n"
    "  curl localhost:8000/v2/models/image    # its tensors; POST to …/image/infer, numbers for Prometheus at "
    "/metrics\n\n"
    "Requests that wait run together if their shapes are equal. On SIGTERM and Ctrl+C those that have come\n"
    "are answered first. There is no password and no TLS: put a proxy in front where others can reach it."
)


def add_options(command: argparse.ArgumentParser) -> None:
    """The explainer, where it is served, and the limits."""
    add_served_explainer(command)
    command.add_argument(
        "--host", default="127.0.0.1", help="to listen at; 0.0.0.0: for other machines (default: %(default)s)"
    )
    command.add_argument("--port", type=int, default=8000, help="0: any that is free (default: %(default)s)")
    command.add_argument(
        "--max-waiting",
        type=int,
        default=256,
        metavar="N",
        help="requests in the queue, at most (default: %(default)s)",
    )
    command.add_argument(
        "--max-body", type=float, default=64, metavar="MB", help="of a request, at most (default: %(default)s)"
    )
    command.add_argument(
        "--max-json",
        type=float,
        default=8,
        metavar="MB",
        help="of a request's JSON, without binary data: others wait while it is read (default: %(default)s)",
    )
    command.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds that a request may take to arrive, and then to be answered (default: %(default)s)",
    )
    command.add_argument(
        "--grace",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds after SIGTERM in which new connections are still taken, while probes hear that the server is not "
        "ready (default: 0)",
    )
    command.add_argument("--threads", type=int, metavar="N", help="of onnxruntime (default: one for each core)")
    command.add_argument("--check-nan", action="store_true", help="refuse NaN in the inputs")


def do(arguments: argparse.Namespace) -> None:
    """Serve the explainer until the process is told to stop."""
    must_be_onnx(arguments.explainer, "serving")
    from lrp_compiler.serving import Limits, serve

    def ready(url: str) -> None:
        report(arguments, {"url": url}, f"serving {url}")
        sys.stdout.flush()

    given = {"body": arguments.max_body, "json": arguments.max_json}
    sizes = {name: int(size * 1e6) if math.isfinite(size) else size for name, size in given.items()}
    limits = Limits(
        arguments.max_rows, arguments.max_waiting, seconds=arguments.timeout, grace=arguments.grace, **sizes
    )
    options = {name: getattr(arguments, name) for name in ("host", "port", "threads", "check", "check_nan")}
    serve(arguments.explainer, name=arguments.called, limits=limits, ready=ready, **options)
