"""Explainers behind an endpoint, or as a model repository for Triton. Torch-free.

    from lrp_compiler.serving import Limits, serve, triton_repository

    serve("m.lrp.onnx", port=8000)                       # speaks the Open Inference Protocol v2, until SIGTERM
    triton_repository("m.lrp.onnx", "repository/")       # what Triton and KServe serve themselves

The protocol is in `messages.py` and `tensors.py`, pure functions; `model.py` is what it is spoken about; `batching.py`
puts requests together; `application.py` and `server.py` are HTTP. That is done by starlette on uvicorn, by the extra
`serve`: an ASGI server whose shutdown can be taken apart is all that is needed, and it adds a few MB to numpy and
onnxruntime. Ray Serve and mlserver bring clusters, processes and batching of their own, hundreds of MB and pins of
other packages, and neither lets a batch be put together by equal shapes, nor a stop wait for every request.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from lrp_compiler.base.boundary import boundary

from .limits import Limits
from .triton import triton_repository

__all__ = ["Limits", "serve", "triton_repository"]


@boundary("serve the explainer")
def serve(
    explainer: str | os.PathLike[str],
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    threads: int | None = None,
    check: bool = True,
    check_nan: bool = False,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer requests until the process is told to stop, by SIGTERM or Ctrl+C; those that have come are answered first.

    Open Inference Protocol v2 over REST with the binary tensor extension: `v2`, `v2/health/live`, `v2/health/ready`,
    `v2/models/NAME[/versions/1]`, its `/ready` and its `/infer`; `metrics` in Prometheus' format. Requests that wait
    while another one runs are run together if all their shapes are equal; nothing is ever filled up. A row's answer is
    then that of a call with more rows: the same within float32's rounding, since products of matrices add up in
    another order; with `Limits(rows=1)` it is the same to the bit. Whether rows are independent of each other is tried
    when the server starts, and if they are not (dynamic quantisation), each request runs alone.

    Args:
        explainer: its ONNX file.
        name: of the model; by default the file's, without endings.
        host: the address to listen at: "0.0.0.0" for other machines.
        port: 0: any that is free.
        limits: of rows, bodies, the queue and time; None: `Limits()`.
        threads: of onnxruntime's session; None: as many as there are cores.
        check: whether the file is compared with the hash in its seal first.
        check_nan: refuse NaN in inputs; otherwise it runs, as in `OnnxExplainer`.
        ready: is told the model's address once requests are answered.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is no explainer, or damaged.
        InputError: an option does not fit.
        OSError: the address cannot be listened at.
    """
    from .model import Model
    from .server import run

    with Model(explainer, name, threads=threads, check=check, check_nan=check_nan) as model:
        run(model, limits or Limits(), host, port, ready)
