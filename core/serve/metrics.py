"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The figures of one server. Labels are statuses and names that there are: nothing that clients make up."""

    def __init__(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        """``waiting`` and ``running`` tell how many requests there are now."""
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "olivepress_requests",
            "Requests that were answered or refused, by status (499: the client had gone).",
            ("endpoint", "status"),
            registry=registry,
        )
        self.tokens = Counter(
            "olivepress_tokens",
            "Tokens by model and kind: prompt, cached (of the prompt), answer.",
            ("model", "kind"),
            registry=registry,
        )
        self.waited = Histogram(
            "olivepress_queue_seconds",
            "Seconds until a request's turn came.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.first = Histogram(
            "olivepress_first_token_seconds",
            "Seconds from the arrival of a request to its first piece of an answer.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.took = Histogram(
            "olivepress_request_seconds",
            "Seconds from the arrival of a request to its end.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.starts = Counter(
            "olivepress_model_starts", "How often the model's process was started.", registry=registry
        )
        Gauge(
            "olivepress_requests_waiting", "Requests that wait for their turn.", registry=registry
        ).set_function(waiting)
        Gauge(
            "olivepress_requests_running", "Requests that are being answered.", registry=registry
        ).set_function(running)

    def text(self) -> bytes:
        """All figures in the text format."""
        return generate_latest(self._registry)
