"""The metrics page tells what the engine counted, in valid Prometheus text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from legato.engine.statistics import ModelStatistics
from legato.observe.metrics import render
from legato.stores.base import StoreStatistics


@dataclass
class FakeModel:
    name: str
    version: str = "1"
    ready: bool = True
    statistics: ModelStatistics = field(default_factory=ModelStatistics)


@dataclass
class FakeStore:
    name: str = "log"
    counts: StoreStatistics = field(default_factory=lambda: StoreStatistics(7, 3, 4096, True))

    def statistics(self) -> StoreStatistics:
        return self.counts


@dataclass
class FakeEngine:
    served: list[FakeModel] = field(default_factory=list)
    store: FakeStore = field(default_factory=FakeStore)
    ready: bool = True
    draining: bool = False

    def models(self) -> list[FakeModel]:
        return self.served


def samples(engine: FakeEngine, **options: int) -> dict[str, float]:
    """Render, parse and flatten to ``name{label="value"}: number``."""
    page, content_type = render(engine, **options)
    assert content_type.startswith("text/plain")
    return {
        sample.name
        + "{"
        + ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
        + "}": sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_every_count_of_a_model_is_told() -> None:
    """Gauges and counters carry model and version, and the statistics' own values."""
    counts = ModelStatistics(
        applied=10,
        replayed=2,
        opened=4,
        retried_rows=5,
        last_step_at=1e9,
        live=3,
        resident=2,
        waiting=4,
        queued=6,
        running=1,
        state_bytes=2048,
    )
    counts.failed["step_gap"] = 1
    counts.ended["expired"] = 1

    found = samples(FakeEngine([FakeModel("vad", "2", statistics=counts)]))

    at = "{model=vad,version=2}"
    assert found["legato_model_ready" + at] == 1
    assert found["legato_sequences_live" + at] == 3
    assert found["legato_sequences_resident" + at] == 2
    assert found["legato_sequences_running" + at] == 1
    assert found["legato_sequences_queued" + at] == 4
    assert found["legato_steps_queued" + at] == 6
    assert found["legato_state_bytes" + at] == 2048
    assert found["legato_sequences_opened_total" + at] == 4
    assert found["legato_retried_rows_total" + at] == 5
    assert found["legato_last_step_timestamp_seconds" + at] == 1e9
    assert found["legato_steps_total{model=vad,outcome=applied,version=2}"] == 10
    assert found["legato_steps_total{model=vad,outcome=replayed,version=2}"] == 2
    assert found["legato_steps_total{model=vad,outcome=step_gap,version=2}"] == 1
    assert found["legato_sequences_ended_total{model=vad,reason=expired,version=2}"] == 1


def test_histograms_are_running_totals() -> None:
    """A bucket counts all values up to its bound; sum and count belong to all."""
    counts = ModelStatistics()
    for rows in (1, 2, 2, 1000):
        counts.batch_size.observe(rows)
    counts.queue_s.observe(0.02, times=3)

    found = samples(FakeEngine([FakeModel("vad", statistics=counts)]))

    def bucket(name: str, bound: str) -> float:
        return found[f"legato_{name}_bucket{{le={bound},model=vad,version=1}}"]

    assert bucket("batch_size_rows", "1") == 1
    assert bucket("batch_size_rows", "2") == 3
    assert bucket("batch_size_rows", "512") == 3
    assert bucket("batch_size_rows", "+Inf") == 4
    assert found["legato_batch_size_rows_sum{model=vad,version=1}"] == 1005
    assert found["legato_batch_size_rows_count{model=vad,version=1}"] == 4
    assert bucket("queue_seconds", "0.01") == 0
    assert bucket("queue_seconds", "0.025") == 3
    assert found["legato_compute_seconds_count{model=vad,version=1}"] == 0
    assert found["legato_commit_seconds_count{model=vad,version=1}"] == 0


def test_store_and_server_are_told() -> None:
    """Health of the store, the server's phase and its restarts have their gauges."""
    engine = FakeEngine(
        store=FakeStore(counts=StoreStatistics(7, 3, 4096, writable=False, problem="disk full")),
        ready=False,
        draining=True,
    )

    found = samples(engine, restarts=2)

    assert found["legato_store_sequences{store=log}"] == 7
    assert found["legato_store_tombstones{store=log}"] == 3
    assert found["legato_store_bytes{store=log}"] == 4096
    assert found["legato_store_writable{store=log}"] == 0
    assert found["legato_server_ready{}"] == 0
    assert found["legato_server_draining{}"] == 1
    assert found["legato_restarts_total{}"] == 2
    assert found["process_resident_memory_bytes{}"] > 0


def test_odd_model_names_keep_the_page_valid() -> None:
    """Quotes, backslashes and line ends in a name are escaped, not printed."""
    name = 'a"b\\c\nd'

    found = samples(FakeEngine([FakeModel(name)]))

    assert found["legato_sequences_live{model=" + name + ",version=1}"] == 0


def test_labels_never_hold_a_correlation_id() -> None:
    """The label names are a closed set: their number does not grow with traffic."""
    counts = ModelStatistics()
    counts.failed["step_gap"] = 1
    counts.ended["ended"] = 1
    page, _type = render(FakeEngine([FakeModel("vad", statistics=counts)]))

    labels = set(re.findall(r'[{,]([a-z_]+)="', page.decode()))

    assert labels == {"model", "version", "outcome", "reason", "le", "store", "release"}
