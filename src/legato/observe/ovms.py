"""What is counted, under the names of OpenVINO Model Server's metrics.

Only a server that was asked for them counts requests by interface and method; the rest
is read from what the engine counts anyway. The times of inferences and of waiting keep
the bounds of our own histograms.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import accumulate
from math import floor
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest

from legato.core.errors import UnknownModelError
from legato.core.types import Reply
from legato.engine.statistics import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence, Sized

    from prometheus_client.core import Metric

    from legato.core.types import Step
    from legato.engine.engine import Engine
    from legato.engine.statistics import ModelStatistics

TENSORFLOW: Final = "TensorFlowServing"
KSERVE_API: Final = "KServe"
INTERFACES: Final = ("gRPC", "REST")
TIME_BOUNDS_US: Final = tuple(float(floor(10 * 1.8**i)) for i in range(33))
_OF_MODEL: Final = ("name", "version")
_METHODS: Final = (
    (TENSORFLOW, "Predict"),
    (TENSORFLOW, "GetModelMetadata"),
    (TENSORFLOW, "GetModelStatus"),
    (KSERVE_API, "ModelInfer"),
)
_WITHOUT_VERSION: Final = ("GetModelStatus",)
_TOTAL = re.compile(rb"\b(ovms_\w+)_total\b")


class Counted(NamedTuple):
    """What tells counts of requests apart."""

    api: str
    interface: str
    method: str
    name: str
    version: str
    ok: bool


class ObservedModel(Protocol):
    """What is read of a model."""

    @property
    def name(self) -> str:
        """Model name."""

    @property
    def version(self) -> str:
        """Model version."""

    @property
    def statistics(self) -> ModelStatistics:
        """Running totals."""

    @property
    def instances(self) -> Sized:
        """Its loaded copies."""


class Observed(Protocol):
    """What is read of an engine."""

    def models(self) -> Sequence[ObservedModel]:
        """All loaded models."""


class Requests:
    """Counts of requests, and how long they took; of the whole server."""

    def __init__(self) -> None:
        self.counts: Counter[Counted] = Counter()
        self.times: dict[tuple[str, str, str], Histogram] = {}

    def of(self, api: str, interface: str) -> Counts:
        """Return what the front of one protocol counts with."""
        return Counts(self, api, interface)


class Counts:
    """Counts the requests of one interface of one protocol.

    Args:
        requests: Where the counts are.
        api: ``TensorFlowServing`` or ``KServe``.
        interface: ``gRPC`` or ``REST``.
    """

    __slots__ = ("_api", "_interface", "_requests")

    def __init__(self, requests: Requests, api: str, interface: str) -> None:
        self._requests = requests
        self._api = api
        self._interface = interface

    def count(self, method: str, name: str, version: str, *, ok: bool) -> None:
        """Count a request."""
        if method in _WITHOUT_VERSION:
            version = ""
        key = Counted(self._api, self._interface, method, name, version, ok)
        self._requests.counts[key] += 1

    def took(self, name: str, version: str, seconds: float) -> None:
        """Note how long a request took that went well."""
        key = (self._interface, name, version)
        times = self._requests.times.setdefault(key, Histogram(TIME_BOUNDS_US))
        times.observe(seconds * 1e6)


class CountingEngine:
    """An engine whose steps are counted for the protocol that hands them in.

    For KServe, whose own front knows nothing of these metrics. All but ``submit`` is the
    engine's.
    """

    def __init__(self, engine: Engine, counts: Counts) -> None:
        self._engine = engine
        self._counts = counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, step: Step) -> None:
        """Take a step; its answer is counted on its way to the protocol."""
        answer, began, counts = step.done, perf_counter(), self._counts

        def done(outcome: Any) -> None:
            if isinstance(outcome, Reply):
                counts.count("ModelInfer", step.model, outcome.version, ok=True)
                counts.took(step.model, outcome.version, perf_counter() - began)
            else:
                self._failed(step)
            answer(outcome)

        step.done = done
        self._engine.submit(step)

    def _failed(self, step: Step) -> None:
        try:
            version = self._engine.model(step.model, step.version).version
        except UnknownModelError:
            return  # there is nothing to count it for
        self._counts.count("ModelInfer", step.model, version, ok=False)


def counting(engine: Engine, requests: Requests | None, interface: str) -> Engine:
    """Return the engine for KServe's front on an interface; as it is, if nobody counts."""
    if requests is None:
        return engine
    return cast("Engine", CountingEngine(engine, requests.of(KSERVE_API, interface)))


def tensorflow(requests: Requests | None, interface: str) -> Counts | None:
    """Return what TensorFlow Serving's front on an interface counts with, if anybody counts."""
    return None if requests is None else requests.of(TENSORFLOW, interface)


# -- the page -------------------------------------------------------------------------------------


def render(engine: Observed, families: Sequence[str], requests: Requests) -> bytes:
    """Return the part of the metrics page that has Model Server's names.

    Args:
        engine: Whose models are told. Call on the event loop that owns it.
        families: Names of the metrics that are wanted.
        requests: What the fronts counted.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(OvmsCollector(engine, frozenset(families), requests))
    # Its counters do not end in "_total", which the library adds to all.
    return _TOTAL.sub(rb"\1", generate_latest(registry))


class OvmsCollector:
    """A prometheus_client collector of Model Server's metrics."""

    def __init__(self, engine: Observed, families: frozenset[str], requests: Requests) -> None:
        self._engine = engine
        self._families = families
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        """Yield every wanted family once."""
        models = self._engine.models()
        for family in (*self._counters(models), *_gauges(models), *self._times(models)):
            if family.name in self._families:
                yield family

    def _counters(self, models: Sequence[ObservedModel]) -> Iterator[Metric]:
        for name, text, ok in (
            ("ovms_requests_success", "Number of successful requests to a model.", True),
            ("ovms_requests_fail", "Number of failed requests to a model.", False),
        ):
            family = CounterMetricFamily(name, text)
            for key in dict.fromkeys(_kinds(models, ok=ok)):
                labels = {
                    "api": key.api, "interface": key.interface, "method": key.method,
                    "name": key.name, **({"version": key.version} if key.version else {}),
                }  # fmt: skip
                family.add_sample(f"{name}_total", labels, self._requests.counts[key])
            yield family

    def _times(self, models: Sequence[ObservedModel]) -> Iterator[Metric]:
        family = HistogramMetricFamily(
            "ovms_request_time_us",
            "Processing time of requests to a model.",
            labels=("interface", *_OF_MODEL),
        )
        empty = Histogram(TIME_BOUNDS_US)
        for model in models:
            for interface in INTERFACES:
                key = (interface, model.name, model.version)
                times = self._requests.times.get(key, empty)
                family.add_metric(key, _buckets(times, 1), times.total)
        yield family
        readings: list[tuple[str, str, Callable[[ModelStatistics], Histogram]]] = [
            ("ovms_inference_time_us", "Time of a model call.", lambda s: s.compute_s),
            (
                "ovms_wait_for_infer_req_time_us",
                "Request waiting time in the scheduling queue.",
                lambda s: s.queue_s,
            ),
        ]
        for name, text, read in readings:
            family = HistogramMetricFamily(name, text, labels=_OF_MODEL)
            for model in models:
                times = read(model.statistics)
                family.add_metric(
                    (model.name, model.version), _buckets(times, 1e6), times.total * 1e6
                )
            yield family


def _kinds(models: Sequence[ObservedModel], *, ok: bool) -> Iterator[Counted]:
    """Yield every kind of request to what is served, asked for or not."""
    for model in models:
        for api, method in _METHODS:
            version = "" if method in _WITHOUT_VERSION else model.version
            for interface in INTERFACES:
                yield Counted(api, interface, method, model.name, version, ok)


def _gauges(models: Sequence[ObservedModel]) -> Iterator[Metric]:
    readings: list[tuple[str, str, Callable[[ObservedModel], float]]] = [
        ("ovms_streams", "Number of execution streams.", lambda m: len(m.instances)),
        (
            "ovms_current_requests",
            "Number of requests being currently processed.",
            lambda m: m.statistics.queued + m.statistics.running,
        ),
        (
            "ovms_infer_req_queue_size",
            "Inference request queue size (number of parallel model calls).",
            lambda m: len(m.instances),
        ),
        (
            "ovms_infer_req_active",
            "Number of model calls in process.",
            lambda m: min(m.statistics.running, len(m.instances)),
        ),
    ]
    for name, text, read in readings:
        family = GaugeMetricFamily(name, text, labels=_OF_MODEL)
        for model in models:
            family.add_metric((model.name, model.version), read(model))
        yield family


def _buckets(histogram: Histogram, scale: float) -> list[tuple[str, float]]:
    """Turn counts by bound into Prometheus' running totals."""
    bounds = [f"{round(bound * scale, 3):.15g}" for bound in histogram.bounds]
    return list(zip([*bounds, "+Inf"], accumulate(histogram.counts), strict=True))
