"""What a server takes: rows, bytes, requests and seconds."""

from __future__ import annotations

from dataclasses import dataclass

from lrp_compiler.base.validate import check_option, is_number, whole_number


@dataclass(frozen=True)
class Limits:
    """Of a server.

    Args:
        rows: that run at once, and that one request may have.
        waiting: requests that wait while others run; more are turned away.
        body: bytes of a request.
        json: bytes of a request's JSON. While it is read, nothing else is: some 15 ms for a megabyte. Tensors that are
            sent as binary data are no part of it.
        seconds: that a request's head may take to arrive, then its body, and then the answer.
        grace: seconds for which, once the server is told to stop, it still takes new connections, while it says that it
            is not ready: as long as a load balancer needs to see that.

    Raises:
        InputError: one is no such number.
    """

    rows: int = 32
    waiting: int = 256
    body: int = 64_000_000
    json: int = 8_000_000
    seconds: float = 30.0
    grace: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rows", "waiting", "body", "json"):
            value = getattr(self, name)
            check_option(name, value, (whole_number(value) or 0) > 0, "a whole number from 1 up")
        check_option("seconds", self.seconds, is_number(self.seconds) and self.seconds > 0, "a number above 0")
        check_option("grace", self.grace, is_number(self.grace) and self.grace >= 0, "a number from 0 up")
