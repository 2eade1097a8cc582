"""What a server counts, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Of one server.

    Args:
        waiting: tells how many requests wait.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "lrp_requests", "Requests to explain, by the status of the answer.", ["code"], registry=registry
        )
        self.seconds = Histogram(
            "lrp_request_seconds", "From the head of a request to its answer.", buckets=SECONDS, registry=registry
        )
        self.runs = Histogram(
            "lrp_run_seconds", "Of the explainer alone, batch by batch.", buckets=SECONDS, registry=registry
        )
        self.rows = Histogram("lrp_batch_rows", "Rows that ran together.", buckets=ROWS, registry=registry)
        Gauge("lrp_requests_waiting", "Requests in the queue.", registry=registry).set_function(waiting)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
