"""What Prometheus scrapes: counters of requests and refusals, and the session's status as gauges."""

from __future__ import annotations

import re
from collections import Counter as Tally
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from collabsecure_cli.status import PHASES, STANDINGS, Status

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_MOST_CLIENTS = 100  # beyond it, one time series for each client is more than it is worth
_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 30, 120)  # a long poll takes up to 25


class Metrics:
    """One aggregator's counters, in a registry of their own. Labels are few: what peers make up is `other`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "collabsecure_requests_total", "Requests answered", ("method", "code"), registry=self._registry
        )
        self._seconds = Histogram(
            "collabsecure_request_seconds",
            "From a request's headers to the end of its answer, waiting in long polls included",
            ("method",),
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._refused = Counter(
            "collabsecure_refused_total",
            "What was refused, by the check in secagg.md that it failed",
            ("check",),
            registry=self._registry,
        )
        ProcessCollector(namespace="collabsecure", registry=self._registry)

    def request(self, method: str, code: int, seconds: float) -> None:
        """A request was answered with status `code`, after so many seconds."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, str(code)).inc()
        self._seconds.labels(known).observe(seconds)

    def refused(self, check: str) -> None:
        """A message was refused; `check` as in `RemoteProtocolError.check`."""
        self._refused.labels(check if re.fullmatch(r"[A-Z]\d{2}", check) else "other").inc()

    def render(self, status: Status) -> tuple[bytes, str]:
        """The body of /metrics, and its content type."""
        now = CollectorRegistry()
        now.register(_Together((self._registry, _Snapshot(status))))
        return generate_latest(now), CONTENT_TYPE_LATEST


class _Together(Collector):
    def __init__(self, sources: Iterable[Collector]) -> None:
        self._sources = tuple(sources)

    def collect(self) -> Iterator[Metric]:
        for source in self._sources:
            yield from source.collect()


class _Snapshot(Collector):
    """A status, as gauges."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        standings = Tally(client.standing for client in status.clients)
        yield _gauge(
            "info", "The session and who serves it", {(status.session, status.version): 1}, "session", "version"
        )
        yield _gauge("phase", "1 for the phase it is in", {(p,): int(p == status.phase) for p in PHASES}, "phase")
        yield _gauge("clients", "Clients by standing", {(s,): standings[s] for s in STANDINGS}, "standing")
        yield _gauge("sum_index", "The sum it is at, from 0", {(): status.sum_index})
        yield _gauge("sums", "Sums of the session", {(): status.num_sums})
        yield _gauge("running_seconds", "Since this process started to serve", {(): status.running_seconds})
        if status.seconds_left is not None:
            yield _gauge("phase_left_seconds", "Until the phase's time is up", {(): status.seconds_left})
        yield _gauge("over", "1 once it has an outcome", {(): int(status.outcome is not None)})
        yield _gauge("finished", "1 once it has a result", {(): int(status.finished)})
        yield CounterMetricFamily("collabsecure_received_bytes", "From authentic clients", value=status.bytes_received)
        if len(status.clients) <= _MOST_CLIENTS:
            each = CounterMetricFamily(
                "collabsecure_client_received_bytes", "From each client, by its number", labels=("client",)
            )
            for client in status.clients:
                each.add_metric((str(client.number),), client.bytes_received)
            yield each


def _gauge(name: str, text: str, values: dict[tuple[str, ...], float], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"collabsecure_{name}", text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
