"""A process that answers until it is told to stop, and then what has come."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn

from lrp_compiler.base.validate import check_option, whole_number

from .application import Service
from .connection import patient
from .limits import Limits
from .listening import BACKLOG, listening, turn_away
from .model import Model

HANDSHAKE = 0.05
"""Seconds for which connections that are being made are waited for when nobody else is let in."""
STOP = (signal.SIGTERM, signal.SIGINT)


def run(model: Model, limits: Limits, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        model: what is served.
        limits: of the server.
        host: the address to listen at.
        port: 0: any that is free.
        ready: is told the model's address once requests are answered.

    Raises:
        InputError: there is no such port.
        OSError: the address cannot be listened at.
    """
    number = whole_number(port)
    check_option("port", port, number is not None and 0 <= number < 1 << 16, "a whole number from 0 to 65535")
    service = Service(model, limits)
    with listening(host, port) as listener, _signals_end_quietly():
        options: Any = {"log_level": "error", "access_log": False, "ws": "none", "backlog": BACKLOG}
        config = uvicorn.Config(service.application(), http=patient(limits.seconds), **options)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}/v2/models/{model.name}"
        _Server(config, service, limits, lambda: ready(address)).run([listener])


class _Server(uvicorn.Server):
    """uvicorn's, that loses nothing when it stops.

    uvicorn closes the listener and every connection that has no request in hand: who has just connected, or has sent
    what is not read yet, is cut off. So before that clients are asked to leave (`Connection: close` in every answer,
    "not ready" to probes), all that have connected are let in, and connections are waited for as long as an idle one
    is kept alive.
    """

    def __init__(self, config: uvicorn.Config, service: Service, limits: Limits, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._limits, self._ready = service, limits, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, as the class says."""
        self._service.stopping = True
        await self._wait(self._limits.grace, lambda: False)
        await self._close(sockets or [])
        await self._wait(self.config.timeout_keep_alive, lambda: not self.server_state.connections)
        await super().shutdown(sockets)

    async def _close(self, sockets: Sequence[socket.socket]) -> None:
        """Close the listener, and take what had connected and was not accepted yet, which is reset otherwise."""
        state = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        protocol = partial(self.config.http_protocol_class, **state)
        loop = asyncio.get_running_loop()
        for listener in sockets:
            turn_away(listener)
        await asyncio.sleep(HANDSHAKE)
        came: list[socket.socket] = []  # nothing else is done until the listener is closed
        for listener in sockets:
            listener.setblocking(False)
            try:
                while len(came) < BACKLOG:
                    came.append(listener.accept()[0])
            except OSError:  # nobody else is there
                continue
        for server in self.servers:
            server.close()
        for connection in came:
            await loop.connect_accepted_socket(protocol, connection)

    async def _wait(self, seconds: float, until: Callable[[], bool]) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while not until() and not self.force_exit and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """uvicorn raises the signal that ended it once more when it has stopped; that is no error here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
