"""Metrics that models make for themselves: summed, bounded, and never the server's own."""

from __future__ import annotations

import pytest

from legato.engine import own_metrics
from legato.engine.own_metrics import OwnMetrics


def sample(name: str = "calls", kind: str = "counter", value: float = 1.0, **changes):
    plain = {"labels": {}, "description": "d", "buckets": [], "counts": [0]}
    return {"name": name, "kind": kind, "value": value, **plain, **changes}


def shown(metrics: OwnMetrics) -> list[tuple]:
    return [
        (series.name + suffix, labels, value)
        for series in metrics.series()
        for suffix, labels, value in series.samples()
    ]


def test_counters_add_up_over_workers_and_gauges_do_not() -> None:
    """A worker tells what it added, or what a gauge is."""
    metrics = OwnMetrics("m")

    metrics.take([sample(value=2), sample("level", "gauge", 7)])
    metrics.take([sample(value=3), sample("level", "gauge", 5)])

    assert shown(metrics) == [("calls_total", {}, 5.0), ("level", {}, 5)]


def test_histograms_count_up_to_each_bound() -> None:
    """Buckets hold everything below them, as Prometheus wants it."""
    metrics = OwnMetrics("m")
    bounds = {"buckets": [1.0, 2.0], "labels": {"a": "b"}}

    metrics.take([sample("s", "histogram", 1.5, counts=[1, 1, 0], **bounds)])
    metrics.take([sample("s", "histogram", 9.0, counts=[0, 0, 1], **bounds)])

    assert shown(metrics) == [
        ("s_bucket", {"a": "b", "le": "1.0"}, 1),
        ("s_bucket", {"a": "b", "le": "2.0"}, 2),
        ("s_bucket", {"a": "b", "le": "+Inf"}, 3),
        ("s_count", {"a": "b"}, 3),
        ("s_sum", {"a": "b"}, 10.5),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        sample("no spaces"),
        sample("legato_steps"),
        sample("nv_inference_count"),
        sample(labels={"0": "x"}),
        sample("calls", "gauge"),
    ],
    ids=["name", "ours", "tritons", "label", "kind"],
)
def test_what_cannot_be_shown_is_left_out(wrong) -> None:
    """Everything else goes on."""
    metrics = OwnMetrics("m")
    metrics.take([sample()])

    metrics.take([wrong, sample()])

    assert shown(metrics) == [("calls_total", {}, 2.0)]


def test_number_of_series_is_bounded(monkeypatch) -> None:
    """A label with a value for each request cannot fill the memory."""
    monkeypatch.setattr(own_metrics, "MOST_SERIES", 3)
    metrics = OwnMetrics("m")

    metrics.take([sample(labels={"request": str(n)}) for n in range(10)])

    assert len(metrics.series()) == 3
