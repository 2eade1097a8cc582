"""The protocol's addresses, and what is refused at them: an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lrp_compiler.base.counted import counted
from lrp_compiler.base.errors import InternalError, LrpError
from lrp_compiler.base.version import __version__

from .batching import Batcher, Busy
from .limits import Limits
from .messages import JSON_LENGTH, TooLong, read_request, write_answer
from .metrics import Metrics
from .model import VERSION, Model, Work

EXTENSIONS = ["binary_tensor_data"]
CLOSE = {"Connection": "close"}


class Service:
    """A model behind the protocol's addresses.

    Args:
        model: what is served; it is closed by whoever opened it.
        limits: of rows, bodies, the queue and time.
    """

    def __init__(self, model: Model, limits: Limits) -> None:
        self._model, self._limits = model, limits
        self._batcher: Batcher[Work, dict[str, np.ndarray]] = Batcher(self._run, limits.rows, limits.waiting)
        self._metrics = Metrics(lambda: self._batcher.waiting)
        self.stopping = False
        """Whether the server says that it is not ready, and asks clients to connect anew, which is to say elsewhere."""

    def application(self) -> Starlette:
        """As an ASGI server runs it."""
        of_model = [f"/v2/models/{{name}}{version}" for version in ("", "/versions/{version}")]
        routes = [
            Route("/v2", self._about_server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            *(Route(path, self._about_model) for path in of_model),
            *(Route(f"{path}/ready", self._model_ready) for path in of_model),
            *(Route(f"{path}/infer", self._infer, methods=["POST"]) for path in of_model),
            Route("/metrics", self._text_of_metrics),
        ]
        return Starlette(
            routes=routes,
            exception_handlers={HTTPException: self._refused, Exception: self._failed},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, application: Starlette) -> AsyncIterator[None]:
        yield
        self._batcher.close()

    async def _about_server(self, request: Request) -> Response:
        return JSONResponse({"name": "lrp-compiler", "version": __version__, "extensions": EXTENSIONS})

    async def _live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def _ready(self, request: Request) -> Response:
        return JSONResponse({"ready": not self.stopping}, 503 if self.stopping else 200)

    async def _about_model(self, request: Request) -> Response:
        self._check_name(request)
        return JSONResponse(self._model.described())

    async def _model_ready(self, request: Request) -> Response:
        self._check_name(request)
        said = {"name": self._model.name, "ready": not self.stopping}
        return JSONResponse(said, 503 if self.stopping else 200)

    async def _text_of_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def _infer(self, request: Request) -> Response:
        start = perf_counter()
        code = 500
        try:
            response = await self._answer(request)
            code = response.status_code
            return response
        except HTTPException as error:
            code = error.status_code
            raise
        finally:
            self._metrics.requests.labels(code).inc()
            self._metrics.seconds.observe(perf_counter() - start)

    async def _answer(self, request: Request) -> Response:
        self._check_name(request)
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise HTTPException(415, "Compressed requests are not taken: send the body as it is.")
        body = await self._body(request)
        try:
            asked = read_request(body, request.headers.get(JSON_LENGTH), self._limits.json)
            work = self._model.work(asked.inputs, None if asked.outputs is None else list(asked.outputs))
            if self._model.grouped and work.rows > self._limits.rows:
                taken = counted(self._limits.rows, "row is|rows are")
                said = f"The request has {counted(work.rows, 'row')}, and {taken} taken at a time: send several."
                raise HTTPException(400, said)
            async with asyncio.timeout(self._limits.seconds):
                results = await self._batcher(work, work.kind, work.rows)
            content, headers = write_answer(asked, self._model.name, VERSION, results)
        except Busy:
            said = f"{self._limits.waiting} requests wait already: try again."
            raise HTTPException(503, said, {"Retry-After": "1"}) from None
        except TimeoutError:
            said = f"There was no answer within {self._limits.seconds:g} seconds: the server is busy."
            raise HTTPException(503, said, {"Retry-After": "1"}) from None
        except TooLong as error:
            raise HTTPException(413, str(error)) from None
        except LrpError as error:
            raise HTTPException(500 if isinstance(error, InternalError) else 400, str(error)) from error
        return Response(content, headers=headers | (CLOSE if self.stopping else {}))

    async def _body(self, request: Request) -> bytearray:
        """All of a request's body, if it is not too large and comes in time."""
        most, seconds = self._limits.body, self._limits.seconds
        large = HTTPException(413, f"The request's body has more than {most} bytes.")
        declared = request.headers.get("Content-Length", "")
        if declared.isdigit() and (len(declared) > len(str(most)) or int(declared) > most):
            raise large
        body = bytearray()
        try:
            async with asyncio.timeout(seconds):
                async for piece in request.stream():
                    body += piece
                    if len(body) > most:
                        raise large
        except TimeoutError:
            raise HTTPException(408, f"The request's body did not come within {seconds:g} seconds.", CLOSE) from None
        except ClientDisconnect:
            raise HTTPException(400, "The request's body is not complete.", CLOSE) from None
        return body

    def _check_name(self, request: Request) -> None:
        given, version = request.path_params["name"], request.path_params.get("version", VERSION)
        if given != self._model.name:
            raise HTTPException(404, f"There is no model {given!r}: this server has {self._model.name!r}.")
        if version != VERSION:
            raise HTTPException(404, f"There is no version {version!r} of {given!r}: there is {VERSION!r}.")

    def _run(self, batch: Sequence[Work]) -> list[dict[str, np.ndarray]]:
        self._metrics.rows.observe(sum(one.rows for one in batch))
        with self._metrics.runs.time():
            return self._model.run(batch)

    async def _refused(self, request: Request, error: Any) -> Response:
        """What is wrong, as the protocol says it; also of addresses that there are not."""
        said = {404: "There is nothing at this address.", 405: "This address does not take this method."}
        bare = error.detail in ("Not Found", "Method Not Allowed")
        headers: Mapping[str, str] = {**(error.headers or {}), **(CLOSE if self.stopping else {})}
        text = said.get(error.status_code, error.detail) if bare else error.detail
        return JSONResponse({"error": text}, error.status_code, headers)

    async def _failed(self, request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "The server failed on this request, by a defect of its own."}, 500)
