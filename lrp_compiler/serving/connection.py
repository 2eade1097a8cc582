"""A connection whose next request has to have begun, and its head to have come, in time: uvicorn waits for ever."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """uvicorn's, with a limit in seconds from its opening, or a request's first byte, to the end of the head."""

    seconds = 30.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has connected."""
        super().connection_made(transport)
        self._watch()

    def on_message_begin(self) -> None:
        """The first byte of a request has come."""
        super().on_message_begin()
        if self._late is None:
            self._watch()

    def on_headers_complete(self) -> None:
        """All of a request's head has come."""
        self._watched()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        self._watched()
        super().connection_lost(exc)

    def _watch(self) -> None:
        self._late = self.loop.call_later(self.seconds, self._too_late)

    def _watched(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._watch()  # the answer to the request before is still being sent
            return
        said = {"error": f"The request's head did not come within {self.seconds:g} seconds."}
        body = json.dumps(said).encode()
        head = f"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        self.transport.close()


def patient(seconds: float) -> type[Connection]:
    """The class with its limit, as uvicorn's configuration takes one."""
    return type("Connection", (Connection,), {"seconds": seconds})
