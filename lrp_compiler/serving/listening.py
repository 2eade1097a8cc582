"""The socket that a server listens at: opened, and closed so that nobody who has connected is cut off."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

BACKLOG = 2048
SO_ATTACH_FILTER = 26
"""Linux's option of a socket: which of the packets that come it takes (a program of the classic packet filter)."""


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens at the address; port 0: at any that is free.

    Raises:
        OSError: it cannot, with the reason.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = str(error.strerror).partition(" (while ")[0]
        raise OSError(error.errno, f"cannot listen at {host}:{port}: {reason}") from error
    with listener:
        # asyncio does so for connections of listeners that it has made; without it each answer waits 40 ms for an ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        yield listener


def turn_away(listener: socket.socket) -> None:
    """Have the kernel drop who asks for a new connection, where it can (Linux): they ask again after a second, when the
    listener is closed and they are refused. Else one may be made between the last that is accepted and the close: what
    it sends is lost.
    """
    if sys.platform != "linux":
        return
    flags, syn, everything = 13, 0x02, 0xFFFFFFFF
    steps = (
        (0x30, 0, 0, flags),  # load the byte of a TCP segment that holds its flags
        (0x45, 0, 1, syn),  # go on at the next step if it has this one, else skip a step
        (0x06, 0, 0, 0),  # take no byte of it
        (0x06, 0, 0, everything),
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    with suppress(OSError):  # a sandbox may forbid it
        filter_ = struct.pack("HP", len(steps), ctypes.addressof(program))
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)
