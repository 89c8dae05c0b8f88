"""Prometheus text of what an engine counts.

Nothing is counted here: each rendering reads the engine's own statistics, so the
hot path knows nothing of Prometheus. Names end in their unit; labels are model,
version and short fixed words, never a correlation id.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from legato import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from legato.engine.statistics import Histogram, ModelStatistics
    from legato.stores.base import StoreStatistics

MODEL_LABELS = ("model", "version")


class ObservedModel(Protocol):
    """What is read of a model."""

    @property
    def name(self) -> str:
        """Model name."""

    @property
    def version(self) -> str:
        """Model version."""

    @property
    def ready(self) -> bool:
        """Steps are taken."""

    @property
    def statistics(self) -> ModelStatistics:
        """Running totals."""


class ObservedStore(Protocol):
    """What is read of a store."""

    @property
    def name(self) -> str:
        """Kind of store."""

    def statistics(self) -> StoreStatistics:
        """Counts, sizes and health."""


class Observed(Protocol):
    """What is read of an engine."""

    @property
    def ready(self) -> bool:
        """Steps are taken."""

    @property
    def draining(self) -> bool:
        """Nothing new is taken."""

    @property
    def store(self) -> ObservedStore:
        """Where committed state lives."""

    def models(self) -> Sequence[ObservedModel]:
        """All loaded models."""


def render(engine: Observed, *, restarts: int = 0) -> tuple[bytes, str]:
    """Return the metrics page and its content type.

    Args:
        engine: Whose counts are told. Call on the event loop that owns it.
        restarts: How often the serving process was started again after a death.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(EngineCollector(engine, restarts))
    ProcessCollector(registry=registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST


class EngineCollector:
    """A prometheus_client collector over one engine."""

    def __init__(self, engine: Observed, restarts: int = 0) -> None:
        self._engine = engine
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family once."""
        models = self._engine.models()
        yield from self._server()
        yield from _gauges(models)
        yield from _counters(models)
        yield from _histograms(models)
        yield from _store(self._engine.store)
        yield from _own(models)

    def _server(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("legato_build_info", "Always 1.", labels=["release"])
        build.add_metric([__version__], 1)
        yield build
        yield GaugeMetricFamily(
            "legato_server_ready", "1 while steps are taken.", value=int(self._engine.ready)
        )
        yield GaugeMetricFamily(
            "legato_server_draining",
            "1 while the server finishes what it has and takes nothing new.",
            value=int(self._engine.draining),
        )
        yield CounterMetricFamily(
            "legato_restarts",
            "Starts of the serving process after it had died.",
            value=self._restarts,
        )


def _own(models: Sequence[ObservedModel]) -> Iterator[Metric]:
    """Yield the metrics that Triton's Python models made for themselves; a name is one family."""
    families: dict[str, Metric] = {}
    kinds = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    for model in models:
        own = getattr(model, "own_metrics", None)
        for series in () if own is None else own.series():
            kind = kinds[series.kind]
            family = families.setdefault(series.name, kind(series.name, series.description))
            if type(family) is not kind:
                continue  # another model gave the name to something else
            for suffix, labels, value in series.samples():
                family.add_sample(family.name + suffix, labels, value)
    yield from families.values()


def _gauges(models: Sequence[ObservedModel]) -> Iterator[Metric]:
    readings: list[tuple[str, str, Callable[[ObservedModel], float]]] = [
        ("legato_model_ready", "1 while the model takes steps.", lambda m: int(m.ready)),
        (
            "legato_sequences_live",
            "Sequences that have begun and not ended.",
            lambda m: m.statistics.live,
        ),
        (
            "legato_sequences_resident",
            "Sequences whose state is in memory.",
            lambda m: m.statistics.resident,
        ),
        (
            "legato_sequences_running",
            "Sequences with a step in a model call or commit.",
            lambda m: m.statistics.running,
        ),
        (
            "legato_sequences_queued",
            "Sequences with a step that waits for its turn.",
            lambda m: m.statistics.waiting,
        ),
        (
            "legato_sequences_backlog",
            "New sequences that wait for room; more than that are refused.",
            lambda m: m.statistics.backlog,
        ),
        ("legato_steps_queued", "Steps that wait for their turn.", lambda m: m.statistics.queued),
        (
            "legato_state_bytes",
            "Bytes of resident state, without overhead.",
            lambda m: m.statistics.state_bytes,
        ),
        (
            "legato_last_step_timestamp_seconds",
            "Unix time of the last applied step, 0 for never.",
            lambda m: m.statistics.last_step_at,
        ),
    ]
    for name, text, read in readings:
        family = GaugeMetricFamily(name, text, labels=MODEL_LABELS)
        for model in models:
            family.add_metric([model.name, model.version], read(model))
        yield family


def _counters(models: Sequence[ObservedModel]) -> Iterator[Metric]:
    steps = CounterMetricFamily(
        "legato_steps",
        "Steps answered: applied, replayed (from a receipt), or the code of the error.",
        labels=[*MODEL_LABELS, "outcome"],
    )
    opened = CounterMetricFamily("legato_sequences_opened", "Sequences begun.", labels=MODEL_LABELS)
    ended = CounterMetricFamily(
        "legato_sequences_ended", "Sequences over, by reason.", labels=[*MODEL_LABELS, "reason"]
    )
    retried = CounterMetricFamily(
        "legato_retried_rows",
        "Rows run again alone because a row beside them failed their batch.",
        labels=MODEL_LABELS,
    )
    for model in models:
        labels, counts = [model.name, model.version], model.statistics
        outcomes = {"applied": counts.applied, "replayed": counts.replayed, **counts.failed}
        for outcome, count in outcomes.items():
            steps.add_metric([*labels, outcome], count)
        opened.add_metric(labels, counts.opened)
        for reason, count in counts.ended.items():
            ended.add_metric([*labels, reason], count)
        retried.add_metric(labels, counts.retried_rows)
    yield from (steps, opened, ended, retried)


def _histograms(models: Sequence[ObservedModel]) -> Iterator[Metric]:
    readings: list[tuple[str, str, Callable[[ModelStatistics], Histogram]]] = [
        ("legato_batch_size_rows", "Rows of a model call.", lambda s: s.batch_size),
        (
            "legato_queue_seconds",
            "From the arrival of a step to the start of its model call.",
            lambda s: s.queue_s,
        ),
        ("legato_compute_seconds", "Length of a model call.", lambda s: s.compute_s),
        ("legato_commit_seconds", "Length of the commit of a batch.", lambda s: s.commit_s),
    ]
    for name, text, read in readings:
        family = HistogramMetricFamily(name, text, labels=MODEL_LABELS)
        for model in models:
            histogram = read(model.statistics)
            family.add_metric(
                [model.name, model.version], _buckets(histogram), sum_value=histogram.total
            )
        yield family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Turn counts by bound into Prometheus' running totals."""
    bounds = [f"{bound:g}" for bound in histogram.bounds]
    return list(zip([*bounds, "+Inf"], accumulate(histogram.counts), strict=True))


def _store(store: ObservedStore) -> Iterator[Metric]:
    counts = store.statistics()
    readings = [
        ("legato_store_sequences", "Live records in the store.", counts.live),
        ("legato_store_tombstones", "Records kept of ended sequences.", counts.tombstones),
        ("legato_store_bytes", "Bytes that the store takes.", counts.stored_bytes),
        ("legato_store_writable", "1 while commits are taken.", int(counts.writable)),
    ]
    for name, text, value in readings:
        family = GaugeMetricFamily(name, text, labels=["store"])
        family.add_metric([store.name], value)
        yield family
