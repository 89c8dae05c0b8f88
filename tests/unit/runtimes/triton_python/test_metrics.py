"""``pb_utils.MetricFamily`` and ``Metric``."""

from __future__ import annotations

import pytest

from legato.runtimes.triton_python.errors import TritonModelException
from legato.runtimes.triton_python.metrics import MetricFamily, take_changed

COUNTER, GAUGE, HISTOGRAM = 0, 1, 2


@pytest.fixture(autouse=True)
def nothing_of_others():
    """What other tests measured is forgotten."""
    take_changed()


def test_only_what_changed_is_told_and_only_what_was_added() -> None:
    """A counter tells the difference, a gauge what it is."""
    counter = MetricFamily("calls", "d", COUNTER).Metric({"a": "b"})
    gauge = MetricFamily("level", "d", GAUGE).Metric()
    counter.increment(2)
    gauge.set(4)

    first = take_changed()
    counter.increment(3)
    second = take_changed()

    assert [(each["name"], each["value"]) for each in first] == [("calls", 2), ("level", 4)]
    assert [(each["name"], each["value"], each["labels"]) for each in second] == [
        ("calls", 3, {"a": "b"})
    ]
    assert take_changed() == []
    assert counter.value() == 5


def test_labels_name_one_metric_each() -> None:
    """Asked for again, it is the same."""
    family = MetricFamily("calls", "d", COUNTER)

    assert family.Metric({"a": "1", "b": "2"}) is family.Metric({"b": "2", "a": "1"})
    assert family.Metric({"a": "2"}) is not family.Metric({"a": "1"})


def test_histogram_counts_values_by_bound() -> None:
    """A value that equals a bound is below it."""
    histogram = MetricFamily("s", "d", HISTOGRAM).Metric(buckets=[1.0, 2.0])

    for value in (0.5, 2.0, 3.0):
        histogram.observe(value)

    (told,) = take_changed()
    assert (told["counts"], told["value"]) == ([1, 1, 1], 5.5)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: MetricFamily("x", "d", 9),
        lambda: MetricFamily("x", "d", COUNTER).Metric().increment(-1),
        lambda: MetricFamily("x", "d", COUNTER).Metric().set(1),
        lambda: MetricFamily("x", "d", GAUGE).Metric().observe(1),
        lambda: MetricFamily("x", "d", HISTOGRAM).Metric(),
        lambda: MetricFamily("x", "d", HISTOGRAM).Metric(buckets=[1]).value(),
    ],
)
def test_what_a_kind_does_not_have_is_refused(wrong) -> None:
    """As in Triton, by an exception of its name."""
    with pytest.raises(TritonModelException):
        wrong()
