"""Prometheus metrics of the server: latencies, results, loaded versions."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from keras_dlrm.data.preprocessor.unseen import Unseen
from keras_dlrm.serving.versions.served_model import ServedModel
from keras_dlrm.serving.wire.errors import ServingError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


@dataclass
class Measured:
    """One request while it runs. Names stay empty until they are found: a client cannot make new time series."""

    model: str = ""
    signature: str = ""


class Metrics(Collector):
    """The metrics of one server; `models` gives what is served now, `unseen` the counted values of its columns.

    Example:

    >>> metrics = Metrics(lambda: [])
    >>> with metrics.measure("rest", "predict") as measured:
    ...     measured.model = "clicks"
    >>> b'requests_total{method="predict",model="clicks",protocol="rest",signature="",status="OK"} 1.0' in metrics.text()
    True
    """

    def __init__(
        self, models: Callable[[], Iterable[ServedModel]], unseen: Callable[[], Iterable[tuple[str, Unseen]]] = tuple
    ) -> None:
        self._models, self._unseen, self._registry = models, unseen, CollectorRegistry()
        labels = ["protocol", "method", "model", "signature"]
        self._latency = Histogram(
            "keras_dlrm_serving_request_seconds", "Time inside the server, from the parsed address to the answer.",
            labels, registry=self._registry, buckets=_BUCKETS,
        )  # fmt: skip
        self._requests = Counter(
            "keras_dlrm_serving_requests", "Requests by gRPC status.", [*labels, "status"], registry=self._registry
        )
        self._registry.register(self)

    @contextmanager
    def measure(self, protocol: str, method: str) -> Iterator[Measured]:
        """Time the block, of a protocol (`"rest"` or `"grpc"`) and a method such as `"predict"`, and count how it ends."""
        measured, status, start = Measured(), "OK", time.perf_counter()
        try:
            yield measured
        except ServingError as error:
            status = error.code
            raise
        except BaseException:
            status = "INTERNAL"
            raise
        finally:
            labels = (protocol, method, measured.model, measured.signature)
            self._latency.labels(*labels).observe(time.perf_counter() - start)
            self._requests.labels(*labels, status).inc()

    def refused(self, protocol: str, error: ServingError) -> ServingError:
        """Count a request that was sent away before it was read, and give its error back to be raised."""
        self._requests.labels(protocol, "", "", "", error.code).inc()
        return error

    def text(self) -> bytes:
        """All of them in Prometheus's text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """State when Prometheus asks for it: there is nothing to keep in step, and no client can make new time series."""
        labels = ["model", "version"]
        available = GaugeMetricFamily(
            "keras_dlrm_serving_version_available", "1 where a version answers requests, 0 where it is broken or gone.",
            labels=labels,
        )  # fmt: skip
        in_flight = GaugeMetricFamily("keras_dlrm_serving_in_flight", "Requests that run now.", labels=labels)
        for served in self._models():
            for version in served.versions:
                available.add_metric([served.config.name, str(version.number)], float(version.state == "AVAILABLE"))
                in_flight.add_metric([served.config.name, str(version.number)], version.in_flight)
        labels = ["model", "column"]
        values = CounterMetricFamily("keras_dlrm_serving_values", "Categorical values that requests had.", labels=labels)
        unseen = CounterMetricFamily(
            "keras_dlrm_serving_unseen_values", "Those of them that the model's vocabulary does not have.", labels=labels
        )
        for model, counted in self._unseen():
            values.add_metric([model, counted.column], counted.values)
            unseen.add_metric([model, counted.column], counted.unseen)
        return [available, in_flight, values, unseen]
